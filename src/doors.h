/*-------------------------------------------------------------------------
 *
 * doors.h
 *		What the doors offer to each other; init.c registers the first two.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_DOORS_H
#define PG_TOPICS_DOORS_H

/* ---- transaction.c ---- */

extern void topics_transaction_init(void);

/* ---- hooks.c ---- */

extern void topics_hooks_init(void);
extern bool topics_hooks_is_dropping_extension(void);

/* ---- protect.c ---- */

extern void topics_protect_from_drop(Oid relid);
extern void topics_protect_from_truncate(Oid relid);
extern void topics_protect_check(Node *statement);

#endif							/* PG_TOPICS_DOORS_H */
