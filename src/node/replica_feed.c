/*-------------------------------------------------------------------------
 *
 * replica_feed.c
 *		On the leader: give a follower what it lacks, and hear what it has.
 *
 * A follower calls topic_log.replica_fetch() again and again: Kafka's replica
 * fetch, with an incremental fetch session (KIP-227).  The backend that serves
 * it keeps, for each partition, how far the follower has been given its log.
 * A call takes a request and gives a response; both are bytes, in network byte
 * order:
 *
 *	request		version, leader set, node, cluster id, epoch, its id, position that comes with what
 *				the follower has; whether the session begins;
 *				the mark of the cut that is durable on the follower, or NO_CUT; how
 *				long to wait for news; and of partitions where the follower's log ends: all that it
 *				has when the session begins, later those that have moved, or
 *				PAUSED_PARTITION
 *	response	epoch, its id, position in WAL; the cut: its number, and the newest
 *				mark in it; the mark up to which the follower may show what it has;
 *				whether the cut is complete with this response; and of partitions
 *				where the leader's log starts and ends, how far this response brings
 *				the follower, and the records.  Of one that the cut is given without it
 *				says only that there is more.
 *
 * A CUT is made under the lock of the publications (shared/replica_cut.c): the
 * ends at a moment, so of each transaction all records or none.  It is given
 * in as many responses as it takes.  Each is about RESPONSE_BYTES long, so a
 * follower that is far behind, or a transaction of a million records, costs
 * memory for one.
 *
 * WHY THE FOLLOWER'S LOG IS A PREFIX OF THE LEADER'S.  What a response brings
 * begins where the follower's log ends, which the follower checks under the
 * append lock, and goes no further than the cut.  All records below were
 * committed when the cut was made, and the snapshot that reads them is later.
 * So what is not found is not there any more: it was compacted, or is below
 * the log start.
 *
 * WHY NO FOLLOWER HAS WHAT THE LEADER CAN LOSE.  Before records are given, WAL
 * is flushed up to their commits, here and on the synchronous standbys, if
 * there are any: one of these may take this server's place, and a follower
 * that is ahead of it would not follow.
 *
 * WHY NO FOLLOWER GOES ON FROM WHAT THE LEADER HAS LOST.  A leader that was
 * restored to an earlier state, or is a standby that was promoted, may lack
 * records that a follower has, and give their offsets to others.  So each
 * start of a server that leads, and writes, is an epoch, with an id of its own
 * (node/membership.c); the metadata say where in WAL it has started.  A
 * follower keeps, with the records and in the same commit, the epoch and a
 * position in WAL behind all that it was given, which is flushed.  A session
 * begins only if the leader has that epoch, and the next start came behind
 * that position.
 *
 * WHAT IS CONFIRMED.  The follower says that a cut is durable when it is
 * complete, and flushed.  So it has all that was published up to the cut's
 * mark, but of partitions that are paused, which it has said before: what it
 * confirms is not about these, until it confirms a cut that has them again.
 *
 * The call holds no snapshot while it waits, and a partition that others have
 * locked is left for later: until then the cut is not complete, but the other
 * partitions go on.  After PATIENCE_MS it is left out, as one that is paused;
 * and so is at once one that cannot be read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_check_follower);
PG_FUNCTION_INFO_V1(topics_replica_fetch);

#define RESPONSE_BYTES (4 * 1024 * 1024)	/* about so many, or one record */
#define RETRY_LOCKED_MS 50		/* for a partition that others have locked */
#define PATIENCE_MS 1000		/* until cuts go on without it */
#define RETRY_EXCUSED_MS 1000	/* for what they do without */
#define MAX_FETCH_WAIT_MS 60000
#define UUID_TEXT 37			/* bytes of its text form */
#define FIRST_PARTITIONS 64		/* room for as many at first */
#define FETCH_PROCEDURE "topic_log.replica_fetch()"

/* How far a follower has been given a partition. */
typedef struct FedPartition
{
	TopicPartition id;			/* hash key */
	int64		given;			/* its log ends there, or will */
	int64		start_told;		/* log start that it was told */
	int64		start;			/* of the cut */
	int64		end;			/* of the cut */
	bool		is_told;		/* anything in this session */
	bool		is_paused;		/* by the follower */
	bool		is_excused;		/* it cannot be given now, and is excluded */
	bool		is_left_out;	/* the follower knows that there is more of it
								 * than it is given */
	MonotonicTime stuck_since;	/* it could not be given; 0: it could */
	bool		is_pending;		/* is in the list of those that are to be
								 * given */
	int64		term_start;		/* where the term began, to a follower that is
								 * not in it */
} FedPartition;

/* The follower's session that this backend serves, if it does. */
static struct
{
	bool		is_open;
	int			set;			/* the leader set that it is about */
	char		node[MAX_NODE_NAME + 1];
	char		incarnation[UUID_TEXT];
	int			follower;		/* its number */
	bool		counts;			/* it counts as a copy */
	int64		metadata_id;	/* the topic's id */
	uint64		generation;		/* as what this node serves it */
	int64		term;
	bool		is_before_term; /* the follower is not in it yet */
	int64		epoch;
	char		epoch_id[UUID_TEXT];
	bool		has_epoch;		/* that of this start of the server */
	XLogRecPtr	position;		/* all that was given is below, and flushed */
	XLogRecPtr	on_standbys;	/* likewise all that is pending, if it was
								 * waited for; or PG_UINT64_MAX */
	MemoryContext cxt;			/* of all that follows */
	HTAB	   *partitions;		/* of FedPartition */
	List	   *pending;		/* of FedPartition: of the cut, not given yet */
	List	   *locked;			/* likewise, which others have locked */
	List	   *unknown;		/* whose ends have to be looked up */
	List	   *excluded;		/* that the follower's confirmations were not
								 * about */
	MonotonicTime retry_at;		/* when these two are tried again */
	MonotonicTime wait_until;	/* how long to wait for news */
	FollowerCut cut;
	MonotonicTime cut_made;		/* when */
}			session;

/* before_shmem_exit: the follower is not connected any more. */
static void
end_session(int code, Datum arg)
{
	topics_follower_end_session();
}

/* ----------------------------------------------------------------
 *		The request
 * ----------------------------------------------------------------
 */

/* What a follower asks. */
typedef struct FetchRequest
{
	int			set;			/* the leader set that it follows in */
	const char *node;
	const char *incarnation;
	const char *cluster_id;
	int64		epoch;
	const char *epoch_id;		/* or "": of a follower that has nothing */
	int64		term;			/* of that; 0: it has nothing */
	int64		promised_term;	/* it takes nothing of a lower one */
	XLogRecPtr	position;		/* behind all that it has of the epoch */
	bool		is_first;
	int64		durable_mark;	/* of the cut that is durable there, or NO_CUT */
	int32		max_wait_ms;
} FetchRequest;

/* Read a request, but for the ends in it, which begin at the cursor then. */
static void
read_request(StringInfo message, FetchRequest *request)
{
	int			version = pq_getmsgint(message, sizeof(int16));

	if (version != REPLICA_PROTOCOL)
		ereport(ERROR,
				(errcode(ERRCODE_VERSION_MISMATCH),
				 errmsg("a follower speaks version %d of the replication protocol, this node version %d",
						version, REPLICA_PROTOCOL),
				 errhint("Install the same version of pg_topics on all nodes.")));
	request->set = pq_getmsgint(message, sizeof(int16));
	if (request->set >= MAX_LEADER_SETS)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("a follower's request cannot be read")));
	request->node = pq_getmsgstring(message);
	request->incarnation = pq_getmsgstring(message);
	request->cluster_id = pq_getmsgstring(message);
	request->epoch = pq_getmsgint64(message);
	request->epoch_id = pq_getmsgstring(message);
	request->term = pq_getmsgint64(message);
	request->promised_term = pq_getmsgint64(message);
	request->position = pq_getmsgint64(message);
	request->is_first = pq_getmsgbyte(message) != 0;
	request->durable_mark = pq_getmsgint64(message);
	request->max_wait_ms = pq_getmsgint(message, sizeof(int32));
}

/*
 * Require this node to have all that a follower has.  "has_epoch": this start
 * of the server has begun one.
 */
static void
check_history(const FetchRequest *request, bool has_epoch)
{
	XLogRecPtr	ended_at;

	if (*request->epoch_id == '\0' || request->term != session.term)
		return;
	if (topics_metadata_find_epoch(request->epoch_id, &ended_at))
	{
		if (ended_at == InvalidXLogRecPtr)
			ended_at = has_epoch ? PG_UINT64_MAX : topics_mark_slot_start_position();
		if (request->position <= ended_at)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("node \"%s\" has records that this node does not have any more", request->node),
			 errdetail("FENCED_LEADER_EPOCH: it has followed this node in epoch " INT64_FORMAT " up to %X/%X, which is not in this node's history. This server was restored to an earlier state, or is a standby that was promoted.",
					   request->epoch, LSN_FORMAT_ARGS(request->position)),
			 errhint("Have that node leave the cluster and lead what it has, or remove it with topics.remove_node(), drop its topics, and add it again.")));
}

/* Read which epoch this node leads in, for the follower to be told. */
static void
read_epoch(void)
{
	ClusterRow	row;

	topics_cluster_attend();
	/* before the row: an epoch that comes now is read the next time */
	session.has_epoch = topics_mark_slot_has_epoch();
	topics_cluster_require_row(&row);
	session.epoch = row.epoch;
	session.term = row.term;
	strlcpy(session.epoch_id, row.epoch_id, sizeof(session.epoch_id));
}

/*
 * Require the caller to have what a node's role needs, and this node to be of
 * that cluster, which "node" is of.
 */
void
topics_replica_feed_check_role(const char *node, const char *cluster_id)
{
	ClusterRow	row;

	if (!has_rolreplication(GetUserId()) ||
		!has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_DATA))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to replicate topics"),
				 errhint("A node's role needs the attribute REPLICATION, and membership in pg_read_all_data.")));
	if (RecoveryInProgress() || !topics_cluster_read_row(&row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database leads no cluster")));
	if (strcmp(cluster_id, row.cluster_id) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" is of another cluster", node)));
}

/* The same, and this node to lead. */
static void
check_caller(const char *command, const char *node, const char *cluster_id)
{
	topics_replica_feed_check_role(node, cluster_id);
	topics_cluster_require_leader(command);
}

/*
 * Require the caller to be a node of the cluster that this node leads, which
 * has promised nobody a higher term.  Return true if it counts as a copy.
 */
static bool
check_node(const char *name, const char *incarnation, int64 term, int64 promised_term)
{
	const MetadataNode *node = topics_metadata_find_node(name);
	ClusterRow	row;

	if (node == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNKNOWN_MEMBER),
				 errmsg("node \"%s\" is not in the cluster", name),
				 errhint("If it was removed, run SELECT topic_log.leave_cluster() there.")));
	if (strcmp(node->incarnation, incarnation) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNKNOWN_MEMBER),
				 errmsg("node \"%s\" is another database by now", name),
				 errhint("Run SELECT topic_log.leave_cluster() in the one that is not in the cluster any more.")));
	topics_cluster_require_row(&row);
	if (topics_max(term, promised_term) > row.term)
	{
		topics_mark_slot_note_higher_term(topics_max(term, promised_term));
		ereport(ERROR,
				(errcode(ERRCODE_NOT_LEADER),
				 errmsg("node \"%s\" is in term " INT64_FORMAT ", or has promised it, and this node leads in term " INT64_FORMAT,
						name, topics_max(term, promised_term), row.term)));
	}
	return node->counts;
}

void
topics_replica_feed_check_node(const char *node, const char *incarnation, const char *server,
							   const char *cluster_id, int64 term, int64 promised_term)
{
	check_caller("topic_log.find_divergence()", node, cluster_id);
	if (topics_admission_is_replaced(node, incarnation, server))
		ereport(ERROR,
				(errcode(ERRCODE_UNKNOWN_MEMBER),
				 errmsg("another server was admitted as node \"%s\"", node),
				 errhint("Start that one again, or remove the node with topics.remove_node(), and add it with nothing.")));
	(void) check_node(node, incarnation, term, promised_term);
}

/* Require this node to lead the one that asks, and to have all that it has. */
static void
check_request(const FetchRequest *request)
{
	check_caller(FETCH_PROCEDURE, request->node, request->cluster_id);
	session.counts = check_node(request->node, request->incarnation, request->term, request->promised_term);
	read_epoch();
	check_history(request, session.has_epoch);
}

/*
 * check_follower(node, cluster_id): whether a node that is to come may ask, by
 * the role that it has connected as
 */
Datum
topics_check_follower(PG_FUNCTION_ARGS)
{
	check_caller("topic_log.check_follower()", topics_argument_get_text(fcinfo, 0),
				 topics_argument_get_text(fcinfo, 1));
	PG_RETURN_VOID();
}

static FedPartition *
get_partition(const TopicPartition *id)
{
	bool		found;
	FedPartition *fed = hash_search(session.partitions, id, HASH_ENTER, &found);

	if (!found)
		memset((char *) fed + sizeof(TopicPartition), 0, sizeof(FedPartition) - sizeof(TopicPartition));
	return fed;
}

/* Add a partition to a list of the session. */
static void
add_to(List **list, FedPartition *fed)
{
	MemoryContext old = MemoryContextSwitchTo(session.cxt);

	*list = list_append_unique_ptr(*list, fed);
	MemoryContextSwitchTo(old);
}

/*
 * A partition cannot be given now.  It is tried again; after a while, or at
 * once, cuts go on without it, and what the follower confirms is not about it.
 */
static void
put_off(List **list, FedPartition *fed, bool at_once)
{
	PartitionState *state = topics_partition_state_find(&fed->id);
	MonotonicTime now = topics_clock_now();

	if (fed->stuck_since == 0)
		fed->stuck_since = now;
	add_to(list, fed);
	if (fed->is_excused || (!at_once && now - fed->stuck_since < PATIENCE_MS * INT64CONST(1000)))
		return;
	fed->is_excused = true;
	if (state)
		topics_replica_cut_exclude(session.follower, state);
	add_to(&session.excluded, fed);
}

/* Return true if nothing in a list keeps a cut from being complete. */
static bool
are_all_excused(const List *list)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		if (!((FedPartition *) lfirst(lc))->is_excused)
			return false;
	}
	return true;
}

/*
 * Find what the follower's confirmations are not about, since an earlier
 * session.
 */
static void
note_excluded(void)
{
	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		PartitionState *state = topics_partition_state_at(i);

		if (state->id.database == MyDatabaseId && state->set == topics_leader_set &&
			(state->excluded_by & (1 << session.follower)) != 0)
			add_to(&session.excluded, get_partition(&state->id));
	}
}

/*
 * The follower is not in this node's term: until it has all that there was
 * when that began, and has said so, it is given no more.
 */
static void
note_term_starts(void)
{
	const MetadataEpoch *began = topics_metadata_find_term(session.term);
	ListCell   *lc;

	if (began == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the node that leads has not begun its term yet")));
	foreach(lc, topics_log_ends_list(began->ends))
	{
		const LogEnd *end = lfirst(lc);
		TopicPartition id = {MyDatabaseId, end->partition, end->topic_id};

		get_partition(&id)->term_start = end->log_end;
	}
}

/* Begin a session: the follower has said nothing yet. */
static void
begin_session(const FetchRequest *request)
{
	static bool is_registered = false;
	HASHCTL		ctl = {.keysize = sizeof(TopicPartition),.entrysize = sizeof(FedPartition)};
	bool		is_new;

	if (!is_registered)
		before_shmem_exit(end_session, 0);
	is_registered = true;
	topics_cluster_attend();
	session.generation = topics_mark_slot_generation();
	check_request(request);
	if (session.cxt == NULL)
		session.cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics follower's session",
											ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(session.cxt);
	session.is_open = false;
	session.pending = session.locked = session.unknown = session.excluded = NIL;
	session.retry_at = 0;
	session.position = InvalidXLogRecPtr;
	memset(&session.cut, 0, sizeof(session.cut));
	session.cut.wants_all = true;
	ctl.hcxt = session.cxt;
	session.partitions = hash_create("pg_topics fed partitions", FIRST_PARTITIONS, &ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	session.set = request->set;
	strlcpy(session.node, request->node, sizeof(session.node));
	strlcpy(session.incarnation, request->incarnation, sizeof(session.incarnation));
	session.metadata_id = topics_metadata_topic()->topic_id;
	session.follower = topics_follower_begin(request->node, &is_new);
	if (session.follower < 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many followers"),
				 errdetail("A node has up to %d.", MAX_FOLLOWERS)));
	/* one that has taken its place is served by another session, or will be */
	check_request(request);
	/* what it has confirmed so far may not be there any more */
	topics_replica_cut_forget_follower(session.follower);
	if (is_new)
		topics_partition_state_forget_follower(topics_leader_set, session.follower);
	note_excluded();
	session.is_before_term = request->term < session.term;
	if (session.is_before_term)
		note_term_starts();
	session.is_open = true;
}

/* Note where the follower's logs end, as the rest of a request says. */
static void
read_ends(StringInfo message, bool is_first)
{
	int			count = pq_getmsgint(message, sizeof(int32));

	if (count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("a follower's request cannot be read")));
	for (int i = 0; i < count; i++)
	{
		TopicPartition id = {.database = MyDatabaseId};
		FedPartition *fed;
		PartitionState *state;
		int64		end;

		id.topic_id = pq_getmsgint64(message);
		id.partition = pq_getmsgint(message, sizeof(int32));
		end = pq_getmsgint64(message);
		fed = get_partition(&id);
		fed->is_paused = end == PAUSED_PARTITION;
		state = topics_partition_state_find(&id);
		if (fed->is_paused)
		{
			if (state)
				topics_replica_cut_exclude(session.follower, state);
			add_to(&session.excluded, fed);
			continue;
		}
		/* what is on the way will be there, too */
		fed->given = is_first ? end : Max(fed->given, end);
		if (state && state->set == topics_leader_set)
			pg_atomic_write_u64(&state->follower_end[session.follower], end);
	}
	pq_getmsgend(message);
}

/* What the follower is about to confirm is about all that it was given. */
static void
include_partitions(void)
{
	ListCell   *lc;

	foreach(lc, session.excluded)
	{
		FedPartition *fed = lfirst(lc);
		PartitionState *state = topics_partition_state_find(&fed->id);

		/* of what is gone there is nothing to be had */
		if (state && (fed->is_paused || fed->is_excused))
			continue;
		if (state)
			topics_replica_cut_include(session.follower, state);
		session.excluded = foreach_delete_current(session.excluded, lc);
	}
}

/*
 * Return true if the follower has been given all of the last cut, but for what
 * it does not confirm.
 */
static bool
is_cut_given(void)
{
	return session.pending == NIL && are_all_excused(session.locked) &&
		are_all_excused(session.unknown);
}

/* Require this node to lead as it did when the session began. */
static void
require_generation(void)
{
	if (topics_mark_slot_kind() != CLUSTER_LEADER ||
		topics_mark_slot_generation() != session.generation)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_LEADER),
				 errmsg("this node does not lead any more")));
}

/*
 * The follower has come into the term.  It is told of all partitions again: of
 * those that were made since the term began it could not know yet what they
 * are of.
 */
static void
enter_term(void)
{
	HASH_SEQ_STATUS seq;
	FedPartition *fed;

	session.is_before_term = false;
	session.cut.wants_all = true;
	hash_seq_init(&seq, session.partitions);
	while ((fed = hash_seq_search(&seq)) != NULL)
		fed->is_told = false;
}

/* Hear what the follower says, and what it confirms. */
static void
hear_follower(StringInfo message)
{
	FetchRequest request;
	bool		confirms;

	read_request(message, &request);
	(void) topics_mark_slot_act_for(request.set);
	if (request.is_first)
		begin_session(&request);
	else if (!session.is_open || session.set != request.set || strcmp(session.node, request.node) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this session is not of node \"%s\"", request.node)));
	else
		require_generation();
	read_ends(message, request.is_first);

	/*
	 * what it has before it is in the term says nothing of what is of the
	 * term
	 */
	confirms = !request.is_first && !session.is_before_term && is_cut_given() &&
		request.durable_mark == (int64) session.cut.mark;
	if (!topics_follower_note(session.node, session.counts, confirms ? session.cut_made : 0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("node \"%s\" is served by another session, or was removed", session.node)));
	if (confirms)
		include_partitions();

	/*
	 * who does not count is in no election's quorum: it confirms for nobody
	 * before it counts
	 */
	if (confirms && session.excluded == NIL && !session.counts)
	{
		session.counts = topics_membership_count_node(session.node, session.incarnation, session.follower);
	}
	if (confirms && session.counts)
		topics_replica_cut_confirm(session.follower, session.cut.mark, session.generation);
	if (session.is_before_term && request.term == session.term)
		enter_term();
	session.wait_until = topics_clock_in(Min(Max(request.max_wait_ms, 0), MAX_FETCH_WAIT_MS));
}

/* ----------------------------------------------------------------
 *		Cuts
 * ----------------------------------------------------------------
 */

/* Return true if a partition is there, as far as shared memory knows. */
static bool
is_there(const FedPartition *fed)
{
	return topics_partition_state_find(&fed->id) != NULL;
}

/* Return true if shared memory knows a partition's ends. */
static bool
are_ends_known(PartitionState *state)
{
	return pg_atomic_read_u64(&state->log_start_offset) != UNKNOWN_OFFSET &&
		pg_atomic_read_u64(&state->next_offset) != UNKNOWN_OFFSET;
}

/*
 * Work that concerns one partition, in a subtransaction: an error there costs
 * this partition its turn, and no other.
 */
typedef struct PartitionWork
{
	FedPartition *fed;
	StringInfo	out;
	int			count;			/* partitions that are written there */
	bool		is_done;
} PartitionWork;

/* Do a work.  Return false if that has failed, which is logged once. */
static bool
try_partition(Work work, PartitionWork *arg)
{
	ErrorData  *error = topics_subtransaction_try(work, arg);

	if (error == NULL)
		return true;
	if (topics_subtransaction_must_raise(error))
		ReThrowError(error);
	if (!arg->fed->is_excused)
		ereport(LOG,
				(errmsg("pg_topics: node \"%s\" is not given %s, and the other partitions without it",
						session.node, topics_catalog_describe(arg->fed->id.topic_id, arg->fed->id.partition)),
				 errdetail_internal("%s", error->message)));
	FreeErrorData(error);
	return false;
}

/*
 * Work: have a partition's ends known to shared memory, and so to the next
 * cut, if nobody has locked it.
 */
static void
look_up_ends(void *arg)
{
	PartitionWork *work = arg;
	const TopicPartition *id = &work->fed->id;
	Topic	   *topic = topics_catalog_by_id(id->topic_id);
	Partition	partition = {.topic = topic,.number = id->partition};

	work->is_done = false;
	if (topic == NULL || id->partition >= topic->partitions ||
		!ConditionalLockRelationOid(topic->root_relid, AccessShareLock))
		return;
	if (topics_catalog_try_open_partition(&partition, AccessShareLock))
	{
		(void) topics_log_next_offset(&partition);
		(void) topics_log_start(partition.state);
		work->is_done = are_ends_known(partition.state);
		topics_catalog_close_partition(&partition, AccessShareLock);
	}
	UnlockRelationOid(topic->root_relid, AccessShareLock);
}

/*
 * Have a partition's ends known.  One that nobody has ever looked up, whose
 * topic is not there for us, is being made: its first commit will tell of it.
 */
static void
have_ends(FedPartition *fed)
{
	PartitionState *state = topics_partition_state_find(&fed->id);
	PartitionWork work = {.fed = fed};

	if (state == NULL)
		return;					/* it is gone */
	if (are_ends_known(state))
		/* the next cut has it, whoever has looked it up */
		topics_replica_cut_note_moved(state);
	else if (pg_atomic_read_u64(&state->next_offset) == UNKNOWN_OFFSET &&
			 pg_atomic_read_u64(&state->log_start_offset) == UNKNOWN_OFFSET &&
			 topics_catalog_by_id(fed->id.topic_id) == NULL)
		return;
	else if (!try_partition(look_up_ends, &work))
		put_off(&session.unknown, fed, true);
	else if (!work.is_done)
		put_off(&session.unknown, fed, false);
	else
		topics_replica_cut_note_moved(state);
}

/* Look up the ends of all partitions, when a session begins. */
static void
look_up_all_ends(void)
{
	ListCell   *lc;

	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		for (int32 number = 0; topic && number < topic->partitions; number++)
		{
			TopicPartition id = {MyDatabaseId, number, topic->topic_id};
			PartitionState *state = topics_catalog_partition_state(topic, number);

			CHECK_FOR_INTERRUPTS();
			if (state->set == topics_leader_set && !are_ends_known(state))
				have_ends(get_partition(&id));
		}
	}
}

/* Try again what was locked, and look up the ends that are not known. */
static void
retry_partitions(void)
{
	List	   *unknown = session.unknown;
	ListCell   *lc;

	foreach(lc, session.locked)
		add_to(&session.pending, lfirst(lc));
	list_free(session.locked);
	session.locked = session.unknown = NIL;
	foreach(lc, unknown)
		have_ends(lfirst(lc));
	list_free(unknown);
	session.retry_at = topics_clock_in(are_all_excused(session.unknown) && are_all_excused(session.pending) ?
									   RETRY_EXCUSED_MS : RETRY_LOCKED_MS);
}

/* Note what a cut says of a partition. */
static void
note_ends(const PartitionEnds *ends)
{
	FedPartition *fed = get_partition(&ends->id);
	MemoryContext old;

	if (ends->log_start == UNKNOWN_OFFSET || ends->log_end == UNKNOWN_OFFSET)
	{
		/* at once the first time, and then as retry_partitions says */
		if (!list_member_ptr(session.unknown, fed))
			session.retry_at = fed->stuck_since == 0 ? 0 : session.retry_at;
		add_to(&session.unknown, fed);
		return;
	}
	fed->start = ends->log_start;
	fed->end = session.is_before_term ? topics_min(ends->log_end, fed->term_start) : ends->log_end;
	if (fed->is_pending || fed->is_paused ||
		(fed->is_told && !fed->is_excused && fed->end <= fed->given && fed->start <= fed->start_told))
		return;
	fed->is_pending = true;
	old = MemoryContextSwitchTo(session.cxt);
	if (fed->id.topic_id == session.metadata_id)
		session.pending = lcons(fed, session.pending);
	else
		session.pending = lappend(session.pending, fed);
	MemoryContextSwitchTo(old);
}

/* Make a cut. */
static void
make_cut(void)
{
	FollowerCut *cut = &session.cut;
	MonotonicTime now = topics_clock_now();

	do
	{
		cut->room = topics_replica_cut_room(cut);
		cut->ends = palloc(sizeof(PartitionEnds) * cut->room);
	} while (!topics_replica_cut_make(cut));
	for (int i = 0; i < cut->count; i++)
		note_ends(&cut->ends[i]);
	pfree(cut->ends);
	session.cut_made = now;
}

/*
 * Make the next cut, if the last one is given but for what others have locked:
 * when there is anything new, or the time is over.
 */
static void
have_news(FunctionCallInfo fcinfo)
{
	bool		is_first = session.cut.wants_all;

	if (session.pending != NIL)
		return;
	if (is_first)
		look_up_all_ends();
	else
	{
		MonotonicTime until = is_cut_given() ? session.wait_until :
			topics_min(session.wait_until, session.retry_at);

		topics_wakeup_release_snapshots(fcinfo, FETCH_PROCEDURE);
		topics_replica_cut_wait(&session.cut, until);
		topics_wakeup_restore_snapshot();
	}
	make_cut();
	if (is_first)
		TEST_POINT("replica-first-cut");
	if (session.retry_at <= topics_clock_now() && (session.unknown != NIL || session.locked != NIL))
	{
		retry_partitions();
		make_cut();
	}
}

/* ----------------------------------------------------------------
 *		The response
 * ----------------------------------------------------------------
 */

/* Overwrite what was sent before, at a place. */
static void
set_int32(StringInfo out, int place, int32 value)
{
	uint32		sent = pg_hton32((uint32) value);

	memcpy(out->data + place, &sent, sizeof(sent));
}

static void
set_int64(StringInfo out, int place, int64 value)
{
	uint64		sent = pg_hton64((uint64) value);

	memcpy(out->data + place, &sent, sizeof(sent));
}

/*
 * Write records from an offset up to another, until the response is long
 * enough.  Return the offset up to which the log is written then; *first is
 * set to that of the first record, or to the same if there is none.
 */
static int64
write_records(StringInfo out, const Partition *partition, int64 from, int64 upto, int64 *first)
{
	Topic	   *topic = partition->topic;
	ValueWriter key;
	ValueWriter value;
	ValueWriter headers;
	Snapshot	snapshot;
	LogReader  *reader;
	TupleTableSlot *slot;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics record",
											  ALLOCSET_DEFAULT_SIZES);
	bool		before = topics_read_cut_show_all(true);

	topics_replica_value_set_writer(&key, topic->key.base_type);
	topics_replica_value_set_writer(&value, topic->value.base_type);
	topics_replica_value_set_writer(&headers, JSONBOID);
	pq_sendbyte(out, key.as_text);
	pq_sendbyte(out, value.as_text);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	reader = topics_log_reader_open(partition->rel, from, upto, snapshot, false);
	*first = upto;
	while ((slot = topics_log_reader_next(reader)) != NULL)
	{
		int64		offset = topics_log_get_offset(slot);
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (out->len >= RESPONSE_BYTES)
		{
			upto = offset;
			break;
		}
		*first = Min(*first, offset);
		old = MemoryContextSwitchTo(cxt);
		slot_getallattrs(slot);
		pq_sendint64(out, offset);
		pq_sendint64(out, DatumGetTimestampTz(slot->tts_values[Anum_log_timestamp - 1]));
		topics_replica_value_write(out, &key, slot->tts_values[Anum_log_key - 1], slot->tts_isnull[Anum_log_key - 1]);
		topics_replica_value_write(out, &value, slot->tts_values[Anum_log_value - 1], slot->tts_isnull[Anum_log_value - 1]);
		topics_replica_value_write(out, &headers, slot->tts_values[Anum_log_headers - 1], slot->tts_isnull[Anum_log_headers - 1]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	topics_log_reader_close(reader);
	UnregisterSnapshot(snapshot);
	pq_sendint64(out, END_OF_RECORDS);
	*first = Min(*first, upto);
	(void) topics_read_cut_show_all(before);
	MemoryContextDelete(cxt);
	return upto;
}

/*
 * Find below which offset a follower must not end, if it has anything:
 * tombstones were removed there.
 */
static int64
find_tombstones_below(const Partition *partition)
{
	PartitionRow row;

	if (!partition->topic->settings.compact)
		return 0;
	(void) topics_log_start_read_row(&partition->state->id, NULL, &row);
	return row.tombstones_below;
}

/*
 * Write what comes before a partition's records.  Return the place of its log
 * start.
 */
static int
write_head(StringInfo out, const FedPartition *fed, int64 end, int64 tombstones_below)
{
	int			start_place;

	pq_sendint64(out, fed->id.topic_id);
	pq_sendint32(out, fed->id.partition);
	pq_sendbyte(out, fed->id.topic_id == session.metadata_id);
	start_place = out->len;
	pq_sendint64(out, fed->start);
	pq_sendint64(out, end);
	pq_sendint64(out, tombstones_below);
	pq_sendint64(out, fed->given);
	return start_place;
}

/*
 * Work: write what the follower lacks of a partition.  It is not done if
 * nothing could be written, since others have locked it, or we have not heard
 * of its topic yet: a commit is published before its invalidations are sent.
 * A partition that is gone counts as given: the metadata say so.
 */
static void
write_partition(void *arg)
{
	PartitionWork *work = arg;
	StringInfo	out = work->out;
	FedPartition *fed = work->fed;
	Topic	   *topic = topics_catalog_by_id(fed->id.topic_id);
	Partition	partition = {.topic = topic,.number = fed->id.partition};
	int64		from = topics_max(fed->given, fed->start);
	int64		end = fed->end;
	int64		upto;
	int			start_place;
	int			place;

	work->is_done = !is_there(fed);
	if (topic == NULL || fed->id.partition >= topic->partitions)
		return;
	if (from < end && !ConditionalLockRelationOid(topic->root_relid, AccessShareLock))
		return;
	if (from < end && !topics_catalog_try_open_partition(&partition, AccessShareLock))
	{
		UnlockRelationOid(topic->root_relid, AccessShareLock);
		return;
	}
	start_place = write_head(out, fed, end, from < end ? find_tombstones_below(&partition) : 0);
	place = out->len;
	pq_sendint64(out, 0);
	upto = Min(from, end);
	pq_sendint32(out, 0);
	if (from < end)
	{
		XLogRecPtr	position = pg_atomic_read_u64(&partition.state->commit_lsn);
		int64		first;

		topics_log_flush_published(partition.state);
		session.position = Max(session.position, Min(position, session.on_standbys));
		upto = write_records(out, &partition, from, end, &first);

		/*
		 * what has expired since the cut was made, and was dropped, is no
		 * gap: the log starts behind it
		 */
		fed->start = topics_max(fed->start, topics_min(topics_log_start(partition.state), first));
		set_int64(out, start_place, fed->start);
		topics_catalog_close_partition(&partition, AccessShareLock);
		/* the follower may take its time to read */
		UnlockRelationOid(topic->root_relid, AccessShareLock);
		set_int32(out, place + sizeof(int64),
				  out->len - place - (int) (sizeof(int64) + sizeof(int32)));
	}
	set_int64(out, place, upto);
	work->count++;
	work->is_done = true;
	fed->is_told = true;
	fed->start_told = fed->start;
	fed->given = topics_max(fed->given, upto);
	fed->stuck_since = 0;
	fed->is_excused = fed->is_left_out = false;
}

/* Forget a partition that is gone. */
static void
forget_partition(FedPartition *fed)
{
	if (!list_member_ptr(session.excluded, fed) && !list_member_ptr(session.unknown, fed))
		hash_search(session.partitions, &fed->id, HASH_REMOVE, NULL);
}

/*
 * Write the partition that is pending first.  Return false if the rest of it
 * comes with the next response.
 */
static bool
write_next_pending(PartitionWork *work)
{
	StringInfo	out = work->out;
	FedPartition *fed = linitial(session.pending);
	const int	length = out->len;
	bool		failed;

	work->fed = fed;
	work->is_done = true;
	failed = !fed->is_paused && !try_partition(write_partition, work);
	if (failed)
		out->len = length;
	else if (work->is_done && !fed->is_paused && fed->given < fed->end && out->len >= RESPONSE_BYTES)
		return false;
	session.pending = list_delete_first(session.pending);
	if (failed || !work->is_done)
		put_off(&session.locked, fed, failed);
	else
	{
		fed->is_pending = false;
		if (!is_there(fed))
			forget_partition(fed);
	}
	return true;
}

/*
 * Wait until the synchronous standbys have what is pending.  Return false if
 * they do not have it in time: the follower hears that this node is there, and
 * asks again.
 */
static bool
wait_for_standbys(void)
{
	XLogRecPtr	position;
	ListCell   *lc;

	session.on_standbys = PG_UINT64_MAX;
	if (session.pending == NIL || !topics_high_watermark_has_standbys())
		return true;
	/* what is older than the server's start has no position of its own */
	position = topics_mark_slot_start_position();
	foreach(lc, session.pending)
	{
		PartitionState *state = topics_partition_state_find(&((FedPartition *) lfirst(lc))->id);
		XLogRecPtr	commit = state ? pg_atomic_read_u64(&state->commit_lsn) : InvalidXLogRecPtr;

		position = Max(position, commit);
	}
	if (!topics_high_watermark_wait_for_standbys(position, session.wait_until))
		return false;
	session.on_standbys = position;
	return true;
}

/* Write what is pending, as much as fits.  Return how many partitions. */
static int
write_pending(StringInfo out)
{
	PartitionWork work = {.out = out};

	if (!wait_for_standbys())
		return 0;
	while (session.pending != NIL && out->len < RESPONSE_BYTES)
	{
		CHECK_FOR_INTERRUPTS();
		if (!write_next_pending(&work))
			break;
	}
	return work.count;
}

/*
 * A cut is given without partitions that are paused, or cannot be read here:
 * write of which of these there is more, unless the follower knows.  Return
 * how many they are.
 */
static int
write_left_out(StringInfo out)
{
	int			count = 0;
	ListCell   *lc;

	foreach(lc, session.excluded)
	{
		FedPartition *fed = lfirst(lc);
		bool		is_unknown;

		if (fed->is_left_out || !(fed->is_paused || fed->is_excused) || !is_there(fed))
			continue;
		is_unknown = list_member_ptr(session.unknown, fed);
		if (!is_unknown && fed->end <= fed->given)
			continue;
		fed->is_left_out = true;
		write_head(out, fed, is_unknown ? PG_INT64_MAX : fed->end, 0);
		pq_sendint64(out, fed->given);
		pq_sendint32(out, 0);
		count++;
	}
	return count;
}

/* Answer a request. */
static Datum
answer(PG_FUNCTION_ARGS)
{
	bytea	   *request;
	StringInfoData message;
	StringInfoData out;
	TupleDesc	tupdesc;
	Datum		result;
	bool		isnull = false;
	int			position_place;
	int			place;
	int			count;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, 1);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	request = PG_GETARG_BYTEA_PP(0);
	initStringInfo(&message);
	appendBinaryStringInfo(&message, VARDATA_ANY(request), VARSIZE_ANY_EXHDR(request));
	hear_follower(&message);
	have_news(fcinfo);
	require_generation();
	/* the cut may have records of a new one */
	if (unlikely(session.has_epoch != topics_mark_slot_has_epoch()))
		read_epoch();

	initStringInfo(&out);
	appendStringInfoSpaces(&out, VARHDRSZ);
	pq_sendint64(&out, session.term);
	pq_sendint64(&out, session.epoch);
	appendBinaryStringInfo(&out, session.epoch_id, strlen(session.epoch_id) + 1);
	position_place = out.len;
	pq_sendint64(&out, 0);
	pq_sendint64(&out, session.cut.mark);
	pq_sendint64(&out, session.cut.newest_mark);
	pq_sendint64(&out, session.cut.confirmed);
	place = out.len;
	/* these two are known when the rest is written */
	pq_sendbyte(&out, 0);
	pq_sendint32(&out, 0);
	count = write_pending(&out);
	if (is_cut_given())
		count += write_left_out(&out);
	set_int64(&out, position_place, session.position);
	out.data[place] = is_cut_given();
	set_int32(&out, place + 1, count);
	SET_VARSIZE(out.data, out.len);
	result = PointerGetDatum(out.data);
	/* the follower may take its time to read: VACUUM does not wait for that */
	topics_read_cut_forget();
	topics_wakeup_release_snapshots(fcinfo, FETCH_PROCEDURE);
	topics_wakeup_restore_snapshot();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), &result, &isnull)));
}

/*
 * replica_fetch(request, response): see above.  The request says of which
 * leader set.
 */
Datum
topics_replica_fetch(PG_FUNCTION_ARGS)
{
	return topics_leader_set_call_any(fcinfo, answer);
}
