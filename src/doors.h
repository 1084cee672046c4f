/*-------------------------------------------------------------------------
 *
 * doors.h
 *		What the doors offer to each other; init.c registers the other two.
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
