/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between the supported PostgreSQL majors (15 to 19).
 *
 * The rest of the sources is written for the newest server.  Each wrapper here
 * has that name, or a name of ours where an argument list changed, and says
 * which upstream commit made it necessary.  No other file tests PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_COMPAT_H
#define PG_TOPICS_COMPAT_H

#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"	/* c65bc2e1d14a (18) */
#endif
#if PG_VERSION_NUM >= 190000
#include "commands/repack.h"	/* was cluster.h (19) */
#else
#include "commands/cluster.h"
#endif
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/rel.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"				/* not by postgres.h any more: d952373a987b
								 * (16) */
#endif

#if PG_VERSION_NUM < 150000
#error "pg_topics needs PostgreSQL 15 or newer"
#endif

/* pg_noreturn: was pg_attribute_noreturn(), at another place (18) */
#if PG_VERSION_NUM < 180000
#define pg_noreturn _Noreturn
#endif

/* object_aclcheck and object_ownercheck: c727f511bd7b (16) */
#if PG_VERSION_NUM < 160000
static inline AclResult
object_aclcheck(Oid classid, Oid objectid, Oid roleid, AclMode mode)
{
	if (classid == NamespaceRelationId)
		return pg_namespace_aclcheck(objectid, roleid, mode);
	if (classid == ProcedureRelationId)
		return pg_proc_aclcheck(objectid, roleid, mode);
	Assert(classid == TypeRelationId);
	return pg_type_aclcheck(objectid, roleid, mode);
}

static inline bool
object_ownercheck(Oid classid, Oid objectid, Oid roleid)
{
	if (classid == DatabaseRelationId)
		return pg_database_ownercheck(objectid, roleid);
	if (classid == TypeRelationId)
		return pg_type_ownercheck(objectid, roleid);
	Assert(classid == RelationRelationId);
	return pg_class_ownercheck(objectid, roleid);
}

/* RelFileLocator replaces RelFileNode: b0a55e43299c (16) */
typedef RelFileNode RelFileLocator;
#define rd_locator rd_node
#define relNumber relNode
#define relation_set_new_filelocator relation_set_new_filenode
#define RelFileLocatorEquals(a, b) RelFileNodeEquals(a, b)
#endif

/* databases that DROP DATABASE has left invalid: c66a7d75e652 (17, 15.4) */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB (-2)
#endif

/* transaction_timeout, a row of a table of settings: 51efe38cb92f (17) */
#if PG_VERSION_NUM >= 170000
#define TOPICS_SETTING_TRANSACTION_TIMEOUT {"transaction_timeout", "0"},
#else
#define TOPICS_SETTING_TRANSACTION_TIMEOUT
#endif

/* options of the insert callbacks became unsigned (19) */
#if PG_VERSION_NUM >= 190000
typedef uint32 TableInsertOptions;
#else
typedef int TableInsertOptions;
#endif

/* the scan functions take flags of the caller's (19) */
static inline TableScanDesc
topics_beginscan_tidrange(Relation rel, Snapshot snapshot,
						  ItemPointer mintid, ItemPointer maxtid)
{
#if PG_VERSION_NUM >= 190000
	return table_beginscan_tidrange(rel, snapshot, mintid, maxtid, 0);
#else
	return table_beginscan_tidrange(rel, snapshot, mintid, maxtid);
#endif
}

static inline TableScanDesc
topics_beginscan(Relation rel, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 190000
	return table_beginscan(rel, snapshot, 0, NULL, 0);
#else
	return table_beginscan(rel, snapshot, 0, NULL);
#endif
}

/* DefineIndex: total_parts, 27f5c712b2c5 (16); ParseState (19) */
static inline ObjectAddress
topics_define_index(Oid relid, IndexStmt *stmt)
{
#if PG_VERSION_NUM >= 190000
	return DefineIndex(NULL, relid, stmt, InvalidOid, InvalidOid, InvalidOid, -1,
					   false, false, true, false, true);
#elif PG_VERSION_NUM >= 160000
	return DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid, -1,
					   false, false, true, false, true);
#else
	return DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid,
					   false, false, true, false, true);
#endif
}

/* ShmemInitHash lost its initial size (19) */
static inline HTAB *
topics_shmem_init_hash(const char *name, long nelems, HASHCTL *ctl, int flags)
{
#if PG_VERSION_NUM >= 190000
	return ShmemInitHash(name, nelems, ctl, flags);
#else
	return ShmemInitHash(name, nelems, nelems, ctl, flags);
#endif
}

/* build_expression_pathkey lost the nullable relids: b448f1c8d83f (16) */
#if PG_VERSION_NUM >= 160000
#define topics_build_expression_pathkey(root, expr, opno, relids) \
	build_expression_pathkey(root, expr, opno, relids, false)
#else
#define topics_build_expression_pathkey(root, expr, opno, relids) \
	build_expression_pathkey(root, expr, NULL, opno, relids, false)
#endif

/* a CustomScan's own kind of slot: cee120951427 (16) */
#if PG_VERSION_NUM >= 160000
#define topics_custom_scan_slot_ops(css, ops) ((css)->slotOps = (ops))
#define topics_custom_scan_init_slot(css, estate, ops) ((void) (ops))
#else
#define topics_custom_scan_slot_ops(css, ops) ((void) (ops))
#define topics_custom_scan_init_slot(css, estate, ops) \
	do { \
		ScanState  *ss_ = &(css)->ss; \
		ExecInitScanTupleSlot(estate, ss_, RelationGetDescr(ss_->ss_currentRelation), ops); \
		ExecAssignScanProjectionInfo(ss_); \
		ss_->ps.qual = ExecInitQual(ss_->ps.plan->qual, &ss_->ps); \
	} while (0)
#endif

/* a signal handler's arguments, for another one: the sender (19) */
#if PG_VERSION_NUM >= 190000
#define TOPICS_SIGNAL_PASS postgres_signal_arg, pg_siginfo
#else
#define TOPICS_SIGNAL_PASS postgres_signal_arg
#endif

/* a process that serves no client: another flag (18), its type (19) */
#if PG_VERSION_NUM >= 190000
#define topics_is_background(proc) ((proc)->backendType != B_BACKEND)
#elif PG_VERSION_NUM >= 180000
#define topics_is_background(proc) (!(proc)->isRegularBackend)
#else
#define topics_is_background(proc) ((proc)->isBackgroundWorker)
#endif

/* LockAcquireExtended: logLockFailure, 6d376c3b0d1e (18) */
#if PG_VERSION_NUM >= 180000
#define topics_lock_acquire(tag, mode, locallock) \
	LockAcquireExtended(tag, mode, false, false, true, locallock, false)
#else
#define topics_lock_acquire(tag, mode, locallock) \
	LockAcquireExtended(tag, mode, false, false, true, locallock)
#endif

/* MyProc->lxid moved: 28f3915b73f7 (17) */
#if PG_VERSION_NUM >= 170000
#define topics_lxid() (MyProc->vxid.lxid)
#else
#define topics_lxid() (MyProc->lxid)
#endif

/* tuplesort_getdatum: "copy", 9c08ea2b1cce (16) */
#if PG_VERSION_NUM >= 160000
#define topics_tuplesort_getdatum(sort, val, isnull) \
	tuplesort_getdatum(sort, true, false, val, isnull, NULL)
#else
#define topics_tuplesort_getdatum(sort, val, isnull) \
	tuplesort_getdatum(sort, true, val, isnull, NULL)
#endif

/* argument lists of table access method callbacks */
#if PG_VERSION_NUM >= 190000
#define TOPICS_TUPLE_DELETE_ARGS \
	Relation rel, ItemPointer tid, CommandId cid, uint32 options, Snapshot snapshot, \
	Snapshot crosscheck, bool wait, TM_FailureData *tmfd
#define TOPICS_TUPLE_UPDATE_ARGS \
	Relation rel, ItemPointer otid, TupleTableSlot *slot, CommandId cid, uint32 options, \
	Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd, \
	LockTupleMode *lockmode, TU_UpdateIndexes *update_indexes
#define TOPICS_VACUUM_PARAMS const VacuumParams
#define TOPICS_COPY_SNAPSHOT_ARG Snapshot copy_snapshot,
#define TOPICS_COPY_SNAPSHOT copy_snapshot,
#else
#define TOPICS_TUPLE_DELETE_ARGS \
	Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot, \
	Snapshot crosscheck, bool wait, TM_FailureData *tmfd, bool changing_part
#if PG_VERSION_NUM >= 160000
#define TOPICS_UPDATE_INDEXES TU_UpdateIndexes
#else
#define TOPICS_UPDATE_INDEXES bool
#endif
#define TOPICS_TUPLE_UPDATE_ARGS \
	Relation rel, ItemPointer otid, TupleTableSlot *slot, CommandId cid, \
	Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd, \
	LockTupleMode *lockmode, TOPICS_UPDATE_INDEXES *update_indexes
#define TOPICS_VACUUM_PARAMS VacuumParams
#define TOPICS_COPY_SNAPSHOT_ARG
#define TOPICS_COPY_SNAPSHOT
#endif
#define TOPICS_TUPLE_LOCK_ARGS \
	Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot, CommandId cid, \
	LockTupleMode mode, LockWaitPolicy wait_policy, uint8 flags, TM_FailureData *tmfd

/* bitmap scans find their pages themselves: 2b73a8cd33b7, 6377e12a5a5b (18) */
#if PG_VERSION_NUM >= 180000
#define TOPICS_BITMAP_NEXT_TUPLE_ARGS \
	TableScanDesc scan, TupleTableSlot *slot, bool *recheck, \
	uint64 *lossy_pages, uint64 *exact_pages
#define TOPICS_BITMAP_NEXT_TUPLE scan, slot, recheck, lossy_pages, exact_pages
#else
#define TOPICS_BITMAP_NEXT_TUPLE_ARGS \
	TableScanDesc scan, struct TBMIterateResult *tbmres, TupleTableSlot *slot
#define TOPICS_BITMAP_NEXT_TUPLE scan, tbmres, slot
#endif

/* finish_heap_swap was told whether to reindex (19) */
static inline void
topics_finish_heap_swap(Oid old_relid, Oid new_relid, TransactionId frozen_xid,
						MultiXactId min_multi, char persistence)
{
#if PG_VERSION_NUM >= 190000
	finish_heap_swap(old_relid, new_relid, false, false, false, true, true,
					 frozen_xid, min_multi, persistence);
#else
	finish_heap_swap(old_relid, new_relid, false, false, false, true,
					 frozen_xid, min_multi, persistence);
#endif
}

/*
 * sync_standbys_defined became bits, in minor releases too: 2258e76f90bf.
 * Until the checkpointer has set them, the setting says.
 */
#define topics_sync_standbys_set() \
	(SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0')
#ifdef SYNC_STANDBY_DEFINED
#define topics_sync_standbys_defined() \
	((WalSndCtl->sync_standbys_status & SYNC_STANDBY_INIT) != 0 ? \
	 (WalSndCtl->sync_standbys_status & SYNC_STANDBY_DEFINED) != 0 : topics_sync_standbys_set())
#else
#define topics_sync_standbys_defined() (WalSndCtl->sync_standbys_defined)
#endif

/* ExecutorRun: without execute_once, 3eea7a0c97e9 (18) */
#if PG_VERSION_NUM >= 180000
#define TOPICS_EXECUTOR_RUN_ARGS QueryDesc *query, ScanDirection direction, uint64 count
#define TOPICS_EXECUTOR_RUN query, direction, count
#else
#define TOPICS_EXECUTOR_RUN_ARGS QueryDesc *query, ScanDirection direction, uint64 count, \
	bool execute_once
#define TOPICS_EXECUTOR_RUN query, direction, count, execute_once
#endif

/* parseTypeString: soft errors, c60488b4744a (16) */
#if PG_VERSION_NUM >= 160000
#define topics_parse_type(name, type, typmod) \
	(void) parseTypeString(name, type, typmod, NULL)
#else
#define topics_parse_type(name, type, typmod) \
	parseTypeString(name, type, typmod, false)
#endif

/* not-null constraints became objects, 14e87ffa5c54 (18) */
static inline Constraint *
topics_not_null_constraint(void)
{
	Constraint *constraint = makeNode(Constraint);

	constraint->contype = CONSTR_NOTNULL;
	constraint->location = -1;
	constraint->initially_valid = true;
#if PG_VERSION_NUM >= 180000
	constraint->is_enforced = true;
#endif
	return constraint;
}

/* a process's place among all has a name of its own: 024c52111757 (17) */
#if PG_VERSION_NUM < 170000
#define MyProcNumber (MyProc->pgprocno)
#endif

/* a wait event with a name: c9af05465307, af720b4c50a1 (17) */
#if PG_VERSION_NUM < 170000
#define WaitEventExtensionNew(name) PG_WAIT_EXTENSION
#endif

/* VacuumParams.log_min_duration got a twin for ANALYZE (19) */
#if PG_VERSION_NUM >= 190000
#define log_min_duration log_vacuum_min_duration
#endif

/* a worker that gives way to database commands by itself (19) */
#ifndef BGWORKER_INTERRUPTIBLE
#define BGWORKER_INTERRUPTIBLE 0
#endif

/* PlannedStmt's list of tables that are written to became a set (19) */
static inline Bitmapset *
topics_result_relations(const PlannedStmt *stmt)
{
#if PG_VERSION_NUM >= 190000
	return stmt->resultRelationRelids;
#else
	Bitmapset  *result = NULL;
	ListCell   *lc;

	foreach(lc, stmt->resultRelations)
		result = bms_add_member(result, lfirst_int(lc));
	return result;
#endif
}

/* the hook on a relation's planner information became one on RelOptInfo (19) */
#if PG_VERSION_NUM >= 190000
#define topics_relation_hook build_simple_rel_hook
#define topics_relation_hook_type build_simple_rel_hook_type
#define TOPICS_RELATION_HOOK_ARGS PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte
#define TOPICS_RELATION_HOOK_PASS root, rel, rte
#define TOPICS_RELATION_HOOK_PARENT \
	(rte->rtekind == RTE_RELATION && rte->inh ? rte->relid : InvalidOid)
#else
#define topics_relation_hook get_relation_info_hook
#define topics_relation_hook_type get_relation_info_hook_type
#define TOPICS_RELATION_HOOK_ARGS \
	PlannerInfo *root, Oid relid, bool inhparent, RelOptInfo *rel
#define TOPICS_RELATION_HOOK_PASS root, relid, inhparent, rel
#define TOPICS_RELATION_HOOK_PARENT (inhparent ? relid : InvalidOid)
#endif

/*
 * Where this process's commits come from, by PostgreSQL's replication origins.
 */
#if PG_VERSION_NUM >= 190000
#define TopicsOriginId ReplOriginId
#define topics_replorigin_id replorigin_xact_state.origin
#define topics_replorigin_lsn replorigin_xact_state.origin_lsn
#else
#define TopicsOriginId RepOriginId
#define topics_replorigin_id replorigin_session_origin
#define topics_replorigin_lsn replorigin_session_origin_lsn
#endif
#if PG_VERSION_NUM >= 160000
#define topics_replorigin_session_setup(id) replorigin_session_setup(id, 0)
#else
#define topics_replorigin_session_setup(id) replorigin_session_setup(id)
#endif

#endif							/* PG_TOPICS_COMPAT_H */
