/*-------------------------------------------------------------------------
 *
 * doors.h
 *		What the other two doors offer to init.c, which registers them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_DOORS_H
#define PG_TOPICS_DOORS_H

/* ---- transaction.c ---- */

extern void topics_transaction_init(void);

/* ---- hooks.c ---- */

extern void topics_hooks_init(void);

#endif							/* PG_TOPICS_DOORS_H */
