/*-------------------------------------------------------------------------
 *
 * replicator.c
 *		A process that brings a follower's partitions on, by asking the leader.
 *
 * A database that is in a cluster has one for each leader set
 * (node/leader_set.c); the worker finds that it is wanted, and the launcher
 * starts it, as a compactor.  It ends when the database does not follow any
 * more.
 *
 * In a session with the leader it asks for what is new, again and again
 * (node/replica_fetch.c), and appends what comes: the cluster's metadata
 * first, after which the catalogue follows them (node/metadata.c), then the
 * other partitions.  A response is appended in one transaction, and the next
 * one is on the way meanwhile.  When a cut of the leader's is complete, and
 * flushed, the next request says so.
 *
 * WHAT READERS SEE moves when a cut is complete (shared/replica_cut.c), so of
 * each transaction of the leader's all records or none, however many responses
 * it took; and no further than the leader says.
 *
 * AN ERROR costs the session.  In the next one each partition is appended by
 * itself until a cut is complete, and one that fails is paused: the leader
 * sends nothing of it, the others go on, and what is confirmed is not about
 * it.  backoff.c decides when it is tried again, in a new session, and what is
 * logged.  So it is with a topic that cannot be had.  Where the leader cannot
 * be reached, that alone is tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/origin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "node/node.h"
#include "serve/serve.h"
#include "pg_topics.h"

#define LOOK_MS 1000			/* between two looks at what this node is */
#define RETRY_MS 200			/* after an error, at least */
#define MIN_PATIENCE_MS 1000	/* with a node that is silent */
#define WAIT_LOOK_MS 100		/* between two looks whether there is to be
								 * another try */
#define TOPIC_PATIENCE_MS 5000	/* with a topic that is not here yet */
#define TOPIC_LOOK_MS 5
#define MAX_TOGETHER 50			/* partitions in one transaction: so few do
								 * not keep others' producers away */

PGDLLEXPORT void topics_replicator_main(Datum main_arg);

/* What the launcher gives along. */
typedef struct ReplicatorArgs
{
	int			slot;
	Oid			database;
	int			set;			/* the leader set that it is for */
} ReplicatorArgs;

/* A partition that the leader sends nothing of, in this session. */
typedef struct PausedPartition
{
	LogEnd		end;			/* of no offset */
	bool		has_failed;		/* the piece that follows */
	WorkPiece	piece;
} PausedPartition;

/* A session with the leader. */
typedef struct Session
{
	MemoryContext cxt;			/* of all that follows */
	MemoryContext row_cxt;		/* of this */
	NodeView	node;			/* what this one is */
	char		leader[MAX_NODE_NAME + 1];	/* that the session is with */
	uint32		row_changes_held;	/* after which it was that still */
	bool		has_ended;		/* this node follows another one: it takes,
								 * and confirms, nothing more */
	MonotonicTime look_at;		/* when to look again what this node is */
	Divergence *divergence;		/* from the leader */
	bool		was_heard;		/* the leader has answered */
	bool		is_removed;		/* ... that this is no node any more */
	bool		is_careful;		/* each partition is appended by itself */
	List	   *paused;			/* of PausedPartition */
	MonotonicTime retry_at;		/* when these are to be tried again */
	List	   *stopped;		/* LogEnd: of which the leader has more, and
								 * cuts go on without it */
	bool		stopped_changed;	/* since that was noted */
	List	   *moved;			/* partitions with records that were not shown
								 * yet: PartitionState */
	int64		moved_mark;		/* the leader's, up to which these are */
	uint32		grown_states;	/* a bit for each StateKind that has come */
	FetchResponse *response;	/* that has come, and is not appended yet */
	MemoryContext response_cxt;
	XLogRecPtr	flush_to;		/* what was appended ends there */
} Session;

static WorkerSlot *replicator_slot = NULL;
static bool finished = false;	/* this database does not follow */
static Peer *leader = NULL;		/* the connection to it, if there is one */
static Session session;
static bool has_origin = false; /* this process has taken it */
static bool fails = false;		/* the last session ended with an error */

/* A part of a cut is here, as topic_log.unfinished_cut has it. */
static bool has_unfinished = true;

/*
 * When to compare the catalogue with the metadata: at once if these have
 * changed, else from time to time, since a role may have come that they name.
 */
static MonotonicTime compare_at = 0;

/* ----------------------------------------------------------------
 *		In the launcher
 * ----------------------------------------------------------------
 */

/*
 * Start a replicator for a leader set of a database, by its slot.  The result
 * is palloc'd; NULL if there is no process to be had.
 */
BackgroundWorkerHandle *
topics_replicator_start(int slot, Oid database, int set)
{
	ReplicatorArgs args = {slot, database, set};

	return topics_background_start("topics_replicator_main", "pg_topics replicator",
								   &args, sizeof(args));
}

/* ----------------------------------------------------------------
 *		The replicator
 * ----------------------------------------------------------------
 */

/* Get what this process is among those of its database. */
static ServeKind
get_own_kind(void)
{
	return SERVE_REPLICATOR + topics_leader_set;
}

/* before_shmem_exit: say that there is no replicator any more. */
static void
leave_replicator_slot(int code, Datum arg)
{
	if (topics_background_is_told_to_end())
		topics_backoff_excuse(get_own_kind());
	topics_worker_slot_leave_as(replicator_slot, get_own_kind(), finished);
}

static void
close_leader(void)
{
	if (leader)
		topics_peer_close(leader);
	leader = NULL;
}

/* Return true if there are other nodes to be led. */
static bool
has_others(void)
{
	bool		result;

	StartTransactionCommand();
	result = topics_cluster_has_others(&session.node.row);
	CommitTransactionCommand();
	return result;
}

/* Read what this node is.  Return false if it is in no cluster. */
static bool
read_row(void)
{
	bool		found = false;

	session.node.row_changes = topics_mark_slot_row_changes();
	StartTransactionCommand();
	if (topics_extension_exists())
	{
		MemoryContext old;

		MemoryContextReset(session.row_cxt);
		old = MemoryContextSwitchTo(session.row_cxt);
		found = topics_cluster_read_row(&session.node.row);
		MemoryContextSwitchTo(old);
	}
	CommitTransactionCommand();
	session.look_at = topics_clock_in(LOOK_MS);
	return found;
}

/* The same.  Return false if it does not follow. */
static bool
read_cluster(void)
{
	return read_row() && !session.node.row.leads;
}

/* Return true if a row says that the node leads that this session is with. */
static bool
is_with_leader(const ClusterRow *row)
{
	return strcmp(row->leader, session.leader) == 0;
}

/*
 * In a transaction: keep this node what it is, and require it to follow the
 * node that the session is with.  A promise to another node, or to this one
 * itself, ends it, whatever becomes of the error.
 */
static void
hold_row(void)
{
	ClusterRow	row;
	uint32		changes;

	topics_membership_hold();
	changes = topics_mark_slot_row_changes();
	if (likely(changes == session.row_changes_held && !session.has_ended))
		return;
	topics_cluster_require_row(&row);
	session.has_ended |= !is_with_leader(&row);
	if (session.has_ended)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this node follows node \"%s\" no more", session.leader)));
	session.row_changes_held = changes;
}

/* The same, and change its row. */
static void
lock_row(void)
{
	topics_membership_lock();
	hold_row();
}

/* Between two transactions of a piece of work. */
static void
commit_and_go_on(void)
{
	CommitTransactionCommand();
	CHECK_FOR_INTERRUPTS();
	StartTransactionCommand();
	hold_row();
}

/* ----------------------------------------------------------------
 *		Paused partitions
 * ----------------------------------------------------------------
 */

/*
 * Find a partition in a list of LogEnds, or of what begins with one; NULL if
 * it is not there.
 */
static LogEnd *
find_in(const List *ends, const LedPartition *led)
{
	ListCell   *lc;

	foreach(lc, ends)
	{
		LogEnd	   *end = lfirst(lc);

		if (end->topic_id == led->topic_id && end->partition == led->partition)
			return end;
	}
	return NULL;
}

static bool
is_paused(const LedPartition *led)
{
	return find_in(session.paused, led) != NULL;
}

/*
 * A cut goes on without what the leader has more of a partition, if it has:
 * then this node may have a part of what was committed at once.
 */
static void
add_stopped(const LedPartition *led)
{
	MemoryContext old;
	LogEnd	   *stopped;

	if ((led->length == 0 && led->upto >= led->log_end) || find_in(session.stopped, led))
		return;
	old = MemoryContextSwitchTo(session.cxt);
	stopped = palloc0(sizeof(LogEnd));
	stopped->topic_id = led->topic_id;
	stopped->partition = led->partition;
	session.stopped = lappend(session.stopped, stopped);
	session.stopped_changed = true;
	MemoryContextSwitchTo(old);
}

/* All that the leader has of a partition is here, as of the cut. */
static void
forget_stopped(const LedPartition *led)
{
	LogEnd	   *stopped = find_in(session.stopped, led);

	if (stopped == NULL)
		return;
	session.stopped = list_delete_ptr(session.stopped, stopped);
	session.stopped_changed = true;
	pfree(stopped);
}

/* In a transaction: forget partitions of topics that are gone. */
static void
forget_dropped(void)
{
	ListCell   *lc;

	foreach(lc, session.stopped)
	{
		LogEnd	   *stopped = lfirst(lc);

		if (topics_catalog_by_id(stopped->topic_id) != NULL || topics_metadata_know_topic(stopped->topic_id) != TOPIC_GONE)
			continue;
		session.stopped = foreach_delete_current(session.stopped, lc);
		pfree(stopped);
	}
}

/*
 * In the transaction with which a cut is here as a whole: note what it is
 * without, if that is new.
 */
static void
note_stopped(void)
{
	if (!session.stopped_changed)
		return;
	forget_dropped();
	topics_log_ends_note_stopped(session.stopped);
	session.stopped_changed = false;
}

/*
 * Have the leader send nothing of a partition for some time, or until the
 * failure of a piece, if that has one, is forgotten (topics.maintain).
 */
static void
pause_partition(const LedPartition *led, const WorkPiece *piece, long ms)
{
	MemoryContext old = MemoryContextSwitchTo(session.cxt);
	PausedPartition *paused = palloc(sizeof(PausedPartition));

	paused->end = (LogEnd)
	{
		.topic_id = led->topic_id,.partition = led->partition
	};
	paused->has_failed = piece && topics_backoff_left(piece) >= 0;
	if (paused->has_failed)
		paused->piece = *piece;
	session.paused = lappend(session.paused, paused);
	session.retry_at = topics_min(session.retry_at, topics_clock_in(Max(ms, RETRY_MS)));
	MemoryContextSwitchTo(old);
	topics_replica_fetch_report(led->topic_id, led->partition, PAUSED_PARTITION);
	add_stopped(led);
}

/*
 * Return true if nothing of a partition is to be appended: the leader says
 * that it leaves it out, or it is paused, and this was on the way already.
 */
static bool
is_left_out(const LedPartition *led)
{
	bool		result = led->upto < led->log_end && led->length == 0;

	if (!result && !is_paused(led))
		return false;
	add_stopped(led);
	return true;
}

/* ----------------------------------------------------------------
 *		A session begins
 * ----------------------------------------------------------------
 */

/* Say where all logs end here. */
static void
report_all_ends(void)
{
	ListCell   *lc;

	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		for (int32 number = 0; topic && number < topic->partitions; number++)
		{
			Partition	partition = {.topic = topic,.number = number};
			PartitionState *state = topics_catalog_partition_state(topic, number);
			int64		end = pg_atomic_read_u64(&state->next_offset);

			CHECK_FOR_INTERRUPTS();
			if (state->set != topics_leader_set)
				continue;
			if (end == UNKNOWN_OFFSET)
			{
				if (!topics_catalog_try_open_partition(&partition, AccessShareLock))
					continue;
				end = topics_log_next_offset(&partition);
				topics_catalog_close_partition(&partition, AccessShareLock);
			}
			topics_replica_fetch_report(topic->topic_id, number, end);
		}
	}
}

/*
 * The leader's place: the position in its WAL that comes with what is appended
 * here is kept by PostgreSQL's replication origins, with each commit and as
 * durable as that.  The epoch is in this node's row.  Both together tell
 * whether a leader still has what it has given (node/replica_feed.c).
 */
static char *
make_origin_name(void)
{
	return topics_leader_set == METADATA_SET ? psprintf("pg_topics_%u", MyDatabaseId) :
		psprintf("pg_topics_%u_%d", MyDatabaseId, topics_leader_set);
}

/* Take the origin; a new one for who has nothing of a leader. */
static void
take_origin(void)
{
	char	   *name = make_origin_name();
	TopicsOriginId origin;

	if (*session.node.row.epoch_id == '\0')
		replorigin_drop_by_name(name, true, true);
	origin = replorigin_by_name(name, true);
	if (origin == 0)
		origin = replorigin_create(name);
	topics_replorigin_session_setup(origin);
	topics_replorigin_id = origin;
	topics_replorigin_lsn = InvalidXLogRecPtr;
	has_origin = true;
}

/*
 * In a transaction: drop the origin, as the leader whose positions it had is
 * another one, or none.
 */
static void
give_origin_up(void)
{
	if (has_origin)
	{
		topics_replorigin_id = 0;
		replorigin_session_reset();
	}
	has_origin = false;
	replorigin_drop_by_name(make_origin_name(), true, true);
}

/* This database follows no leader any more. */
static void
drop_origin(void)
{
	StartTransactionCommand();
	give_origin_up();
	CommitTransactionCommand();
}

/*
 * Work: the leader is in another epoch, which is noted before anything of it is
 * appended.
 */
static void
adopt_epoch(void *arg)
{
	const FetchResponse *response = arg;

	lock_row();
	topics_membership_enter_epoch(response->term, response->epoch, response->epoch_id);
}

/*
 * Work: this node has all that there was when the leader's term began, but for
 * what is stopped here, and comes into it.
 */
static void
adopt_term(void *arg)
{
	const FetchResponse *response = arg;

	lock_row();
	topics_log_ends_note_lacking(session.divergence->began_with);
	topics_membership_enter_epoch(response->term, response->epoch, response->epoch_id);
	give_origin_up();
	TEST_POINT("replica-adopts");
	CommitTransactionCommand();
	StartTransactionCommand();
	take_origin();
}

/* Return true if this node is not in the leader's term yet. */
static bool
is_before_term(const FetchResponse *response)
{
	return response->term != session.node.row.term;
}

/*
 * Note where the leader is, before what it has sent is appended.  Return false
 * if that has failed.
 */
static bool
note_leader_place(FetchResponse *response)
{
	const WorkPiece whole = WHOLE_REPLICATION;

	topics_mark_slot_note_leader();
	session.was_heard = true;
	if (!is_before_term(response) && strcmp(response->epoch_id, session.node.row.epoch_id) != 0 &&
		!(topics_backoff_run(&whole, NULL, adopt_epoch, response) && read_cluster()))
		return false;
	topics_replorigin_lsn = response->position;
	return true;
}

/* Receive the next response. */
static void
receive(void)
{
	MemoryContext old;

	MemoryContextReset(session.response_cxt);
	old = MemoryContextSwitchTo(session.response_cxt);
	session.response = topics_replica_fetch_receive(leader);
	MemoryContextSwitchTo(old);
}

/*
 * Go back to where this node's log and the leader's are the same, if it comes
 * from another term.
 */
static void
heal(void)
{
	MemoryContext old = MemoryContextSwitchTo(session.cxt);

	PG_TRY();
	{
		session.divergence = topics_divergence_ask(leader, &session.node.row);
	}
	PG_CATCH();
	{
		session.is_removed = geterrcode() == ERRCODE_UNKNOWN_MEMBER;
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	if (session.divergence->term == session.node.row.term)
		return;
	lock_row();
	/* what this node has begun to commit while it led is there, or is not */
	topics_mark_slot_drain();

	/*
	 * the catalogue follows metadata that are other ones now, before records
	 * come
	 */
	if (topics_divergence_heal(session.divergence, &session.node.row))
		compare_at = 0;
	if (session.divergence->has_common && session.divergence->epoch != session.node.row.epoch)
		give_origin_up();
	TEST_POINT("replica-truncates");
	CommitTransactionCommand();
	topics_offset_table_forget_set(topics_leader_set);
	topics_producer_table_forget_set(topics_leader_set);
	if (!read_cluster() || !is_with_leader(&session.node.row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this node follows node \"%s\" no more", session.leader)));
	StartTransactionCommand();
}

/*
 * Where the leader is: of another set than the first, as the first says by
 * now.
 */
static const char *
get_leader_conninfo(void)
{
	const MetadataNode *node = topics_leader_set == METADATA_SET ? NULL :
		topics_metadata_find_node(session.node.row.leader);

	return node ? node->conninfo : session.node.row.leader_conninfo;
}

/* Work: begin a session with the leader. */
static void
begin_session(void *arg)
{
	topics_backoff_step(STEP_CONNECT);
	strlcpy(session.leader, session.node.row.leader, sizeof(session.leader));
	session.row_changes_held = session.node.row_changes;
	if (session.node.row.leader_conninfo == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_LEADER),
				 errmsg("no node leads, as far as is known here"),
				 errhint("Without a majority of nodes topics.failover() has one lead.")));
	leader = topics_peer_connect_within(session.node.row.leader, get_leader_conninfo(),
										topics_max(pg_topics_node_timeout, MIN_PATIENCE_MS));
	heal();
	if (!has_origin)
	{
		take_origin();
		CommitTransactionCommand();
		StartTransactionCommand();
	}
	topics_replica_fetch_begin(leader);
	report_all_ends();
	topics_replica_cut_forget_leader();
	topics_replica_fetch_send(leader, &session.node.row, true, replorigin_session_get_progress(false),
							  NO_CUT);
	receive();
}

/* Work: raise an error. */
static void
raise_error(void *arg)
{
	ReThrowError(arg);
}

/*
 * Receive the next response.  Return false if that has failed.  It is no piece
 * of work that is under way: mostly there is nothing new, and a server that
 * ends meanwhile has failed in nothing.
 */
static bool
receive_next(void)
{
	const WorkPiece whole = WHOLE_REPLICATION;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		receive();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(session.cxt);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	return error == NULL || topics_backoff_run(&whole, NULL, raise_error, error);
}

/* ----------------------------------------------------------------
 *		What the leader has sent
 * ----------------------------------------------------------------
 */

/* Partitions of a response that are appended together. */
typedef struct Share
{
	int			first;			/* in the response's list */
	int			count;
	bool		is_whole;		/* nothing else is lacking of the leader's cut */
} Share;

/*
 * Note that a partition has records that are to be shown when the cut is
 * complete.
 */
static void
note_moved(const Topic *topic, const LedPartition *led)
{
	const TopicPartition id = {MyDatabaseId, led->partition, led->topic_id};
	const int	kind = topics_internal_topic_state(NameStr(topic->name));
	PartitionState *state = topics_partition_state_find(&id);
	MemoryContext old = MemoryContextSwitchTo(session.cxt);

	if (state)
		session.moved = list_append_unique_ptr(session.moved, state);
	MemoryContextSwitchTo(old);
	if (kind >= 0)
		session.grown_states |= 1 << kind;
	topics_replica_fetch_report(led->topic_id, led->partition, led->upto);
}

/*
 * Return true if a partition is not here yet, and there is nothing of it to be
 * had.
 */
static bool
is_to_come(const Topic *topic, const LedPartition *led)
{
	return (topic == NULL || led->partition >= topic->partitions) && led->length == 0 && led->log_end == 0;
}

/* Say that this node has all that there is of a partition that is to come. */
static void
report_nothing(const LedPartition *led)
{
	topics_replica_fetch_report(led->topic_id, led->partition, 0);
}

/* Append what has come of a partition. */
static void
append_partition(const LedPartition *led, bool is_whole)
{
	Topic	   *topic = topics_catalog_by_id(led->topic_id);

	if (is_to_come(topic, led))
	{
		report_nothing(led);
		return;
	}
	if (topic == NULL || led->partition >= topic->partitions)
	{
		/* its metadata say something else by now, or it cannot be had */
		pause_partition(led, NULL, pg_topics_worker_interval);
		return;
	}
	if (!led->is_metadata && topics_replica_fetch_is_too_late(topic, led))
	{
		topics_metadata_begin_anew(topic);
		compare_at = 0;
		pause_partition(led, NULL, 0);
		return;
	}
	topics_replica_fetch_append(session.response, topic, led, is_whole);
	if (led->upto >= led->log_end)
		forget_stopped(led);
	note_moved(topic, led);
}

/* Work: append a share of a response. */
static void
append_share(void *arg)
{
	Share	   *share = arg;

	topics_backoff_step(STEP_FETCH);
	hold_row();
	for (int i = 0; i < share->count; i++)
	{
		const LedPartition *led = list_nth(session.response->led, share->first + i);

		if (!is_left_out(led))
			append_partition(led, share->is_whole);
	}
	if (share->is_whole)
		note_stopped();
}

/* Look up the view of a topic, and its name, if it is here. */
static Oid
find_view(int64 topic_id, NameData *name)
{
	Topic	   *topic;
	Oid			view = InvalidOid;

	StartTransactionCommand();
	topic = topics_catalog_by_id(topic_id);
	if (topic)
	{
		view = topic->view_relid;
		*name = topic->name;
	}
	CommitTransactionCommand();
	return view;
}

/* What was appended is to be durable before it is confirmed. */
static void
note_appended(void)
{
	session.flush_to = XactLastCommitEnd;
	for (int kind = 0; kind < STATE_KINDS; kind++)
		if ((session.grown_states & (1 << kind)) != 0)
			topics_state_load_grew(kind);
	session.grown_states = 0;
	TEST_POINT("replica-appended");
}

/* Append one partition, with its own turn when that fails. */
static void
append_carefully(Share *share)
{
	const LedPartition *led = list_nth(session.response->led, share->first);
	WorkPiece	piece = {MyDatabaseId, InvalidOid, led->partition, WORK_REPLICATE, topics_leader_set};
	NameData	name;

	if (is_left_out(led))
		return;
	piece.view_relid = find_view(led->topic_id, &name);
	if (!OidIsValid(piece.view_relid) && is_to_come(NULL, led))
		report_nothing(led);
	else if (!OidIsValid(piece.view_relid))
		pause_partition(led, NULL, pg_topics_worker_interval);
	else if (topics_backoff_run(&piece, NameStr(name), append_share, share))
		return;
	else if (session.has_ended)
		topics_backoff_reset_piece(&piece);
	else
		pause_partition(led, &piece, topics_backoff_left(&piece));
}

/* Append some partitions.  Return false if that has failed. */
static bool
append_together(Share *share)
{
	const WorkPiece whole = WHOLE_REPLICATION;

	return topics_backoff_run(&whole, NULL, append_share, share);
}

/*
 * Work: have here what the metadata say of the cluster, and, with *arg, its
 * topics.
 */
static void
apply_metadata(void *arg)
{
	static MemoryContext cxt = NULL;
	const bool *topics = arg;

	if (cxt == NULL)
		cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics metadata", ALLOCSET_DEFAULT_SIZES);
	/* what the last time has left, if it has failed */
	MemoryContextReset(cxt);
	topics_backoff_step(STEP_METADATA);
	hold_row();
	topics_metadata_apply_cluster();
	if (*topics)
		topics_metadata_apply_topics(cxt, commit_and_go_on);
}

/*
 * Have the catalogue follow the metadata; also while it cannot in some, if
 * there are new ones.  Without "topics" these say nothing new of topics: an
 * epoch has begun.
 */
static void
follow_metadata(bool are_new, bool topics)
{
	WorkPiece	piece = WHOLE_REPLICATION;
	Topic	   *topic;

	StartTransactionCommand();
	topic = topics_catalog_lookup(METADATA_TOPIC, true);
	if (topic)
		piece.view_relid = topic->view_relid;
	CommitTransactionCommand();
	if (!OidIsValid(piece.view_relid))
		return;
	if (are_new)
		topics_backoff_reset_piece(&piece);
	if (!topics_backoff_run(&piece, METADATA_TOPIC, apply_metadata, &topics))
		compare_at = 0;
	else if (topics)
		compare_at = topics_clock_in(pg_topics_worker_interval);
}

/*
 * Return true if the first set's replicator cannot have all topics that it has
 * heard of.
 */
static bool
is_metadata_failing(void)
{
	WorkPiece	piece = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_REPLICATE, METADATA_SET};
	const Topic *topic = topics_catalog_lookup(METADATA_TOPIC, true);

	if (topic)
		piece.view_relid = topic->view_relid;
	return topic && topics_backoff_left(&piece) >= 0;
}

/* Return true if a partition of a topic is here, or is not going to be. */
static bool
is_topic_settled(const LedPartition *led)
{
	const TopicPartition id = {MyDatabaseId, led->partition, led->topic_id};
	Topic	   *topic;
	bool		result = topics_partition_state_find(&id) != NULL;

	if (likely(result))
		return true;
	StartTransactionCommand();
	topic = topics_catalog_by_id(led->topic_id);
	result = topic && led->partition < topic->partitions;
	if (!result)
	{
		TopicKnowledge known = topics_metadata_know_topic(led->topic_id);

		result = known == TOPIC_GONE ||
			(known == TOPIC_HEARD_OF && is_metadata_failing());
	}
	CommitTransactionCommand();
	return result;
}

/*
 * Another set than the first: its leader may know of a topic of which the
 * metadata here do not say anything yet.  Wait for that: without its
 * partitions a cut would be a part of what was committed at once.  What is
 * heard of, and cannot be had, is stopped.  Return false if it takes too long,
 * and the session has to begin anew.
 */
static bool
await_topics(void)
{
	MonotonicTime until = topics_clock_in(TOPIC_PATIENCE_MS);
	ListCell   *lc;

	if (topics_leader_set == METADATA_SET)
		return true;
	foreach(lc, session.response->led)
	{
		const LedPartition *led = lfirst(lc);

		while ((led->length > 0 || led->upto < led->log_end) && !is_topic_settled(led))
		{
			if (topics_clock_now() >= until ||
				topics_mark_slot_row_changes() != session.node.row_changes)
				return false;
			topics_background_wait(TOPIC_LOOK_MS, WAIT_REPLICATOR_IDLE);
		}
	}
	return true;
}

/*
 * Append a share, or its partitions one by one.  Return false if that has
 * failed.
 */
static bool
append(Share share)
{
	bool		done = true;

	if (!session.is_careful)
		done = append_together(&share);
	else
	{
		Share		one = {share.first, 1, share.is_whole};

		for (; !session.has_ended && one.first < share.first + share.count; one.first++)
			append_carefully(&one);
	}
	note_appended();
	return done && !session.has_ended;
}

/* Append a response.  Return false if that has failed. */
static bool
append_response(void)
{
	int			count = list_length(session.response->led);
	const LedPartition *first = count > 0 ? linitial(session.response->led) : NULL;
	bool		has_metadata = false;
	bool		is_whole = session.response->is_complete && !session.is_careful && !has_unfinished &&
		count <= MAX_TOGETHER && !(count > 1 && first->is_metadata);
	Share		share = {0, 0, is_whole};

	if (!await_topics())
		return false;
	has_unfinished |= !is_whole && count > 0;

	if (first && first->is_metadata)
	{
		share.count = 1;

		/*
		 * what they say of epochs and topics comes before records, or nothing
		 * does
		 */
		if (!append(share) || is_paused(first))
			return false;
		has_metadata = first->length > 0;
		if (session.response->says_topics)
			compare_at = 0;
		share.first = 1;
	}
	if (has_metadata || compare_at <= topics_clock_now())
		follow_metadata(has_metadata, compare_at <= topics_clock_now());
	if (session.has_ended)
		return false;
	for (; share.first < count; share.first += share.count)
	{
		share.count = Min(count - share.first, MAX_TOGETHER);
		if (!append(share))
			return false;
	}
	return true;
}

/* ----------------------------------------------------------------
 *		Cuts
 * ----------------------------------------------------------------
 */

/* Wake the processes that wait for what can be shown now. */
static void
wake_readers(void)
{
	ListCell   *lc;

	foreach(lc, session.moved)
	{
		PartitionState *state = lfirst(lc);
		TopicPartition first = {state->id.database, 0, state->id.topic_id};
		PartitionState *topic_state = topics_partition_state_find(&first);

		if (topic_state == NULL)
			continue;
		topics_wakeup_published(state, topic_state, pg_atomic_read_u64(&state->next_offset));
		topics_moved_push(state);
		topics_worker_registry_note_change();
	}
	list_free(session.moved);
	session.moved = NIL;
}

/* Work: a cut that took several transactions is here as a whole. */
static void
finish_cut(void *arg)
{
	hold_row();
	note_stopped();
	topics_log_ends_note_finished();
}

/* Work: a copy of this node has all that the leader has, and is the node. */
static void
note_admitted(void *arg)
{
	lock_row();
	topics_membership_admit();
}

/*
 * The cut is complete here: make it durable, so that the next request can say
 * so.  Return false if that has failed.
 */
static bool
end_cut(FetchResponse *response)
{
	const WorkPiece whole = WHOLE_REPLICATION;

	if (has_unfinished || session.stopped_changed)
	{
		if (!topics_backoff_run(&whole, NULL, finish_cut, NULL))
			return false;
		session.flush_to = XactLastCommitEnd;
	}
	has_unfinished = false;
	if (is_before_term(response) &&
		!(topics_backoff_run(&whole, NULL, adopt_term, response) && read_cluster()))
		return false;
	if (session.flush_to != InvalidXLogRecPtr)
		XLogFlush(session.flush_to);
	if (unlikely(!session.node.row.is_admitted) && session.paused == NIL && session.stopped == NIL &&
		!(topics_backoff_run(&whole, NULL, note_admitted, NULL) && read_cluster()))
		return false;
	session.is_careful = false;
	session.moved_mark = response->newest_mark;
	return true;
}

/* Show readers what the leader says that can be shown. */
static void
show_cut(const FetchResponse *response)
{
	if (response->is_complete)
		topics_replica_cut_end(response->newest_mark);
	topics_replica_cut_follow(response->confirmed);
	if (response->is_complete && response->confirmed >= session.moved_mark)
		wake_readers();
}

/*
 * Return true if paused partitions are to be tried again: by the time, or
 * since a failure was forgotten.
 */
static bool
must_retry(void)
{
	ListCell   *lc;

	if (topics_clock_now() >= session.retry_at)
		return true;
	foreach(lc, session.paused)
	{
		const PausedPartition *paused = lfirst(lc);

		if (paused->has_failed && topics_backoff_left(&paused->piece) < 0)
			return true;
	}
	return false;
}

/*
 * Take a response, and send the next request.  Return false if the session has
 * to end.
 */
static bool
take_response(void)
{
	FetchResponse *response = session.response;
	bool		done;

	/* the next one is on the way meanwhile */
	if (!response->is_complete)
		topics_replica_fetch_send(leader, &session.node.row, false, response->position, NO_CUT);
	done = note_leader_place(response) && append_response();
	if (done && response->is_complete)
	{
		done = end_cut(response);
		if (done)
			topics_replica_fetch_send(leader, &session.node.row, false, response->position,
									  response->mark);
	}
	if (done)
		show_cut(response);
	topics_replica_fetch_free(response);
	return done && !must_retry();
}

/* ----------------------------------------------------------------
 *		Sessions
 * ----------------------------------------------------------------
 */

/* Look now and then what this node is.  Return false if it does not follow. */
static bool
still_follows(void)
{
	if (topics_clock_now() < session.look_at)
		return true;
	/* topics may be gone by now */
	session.stopped_changed |= session.stopped != NIL;
	topics_background_wait(0, WAIT_REPLICATOR_IDLE);
	topics_worker_slot_take_wish(replicator_slot, get_own_kind());
	pgstat_report_stat(false);
	return read_cluster() && is_with_leader(&session.node.row);
}

/* Work: note whether this is a node, by what the leader says. */
static void
note_removed(void *arg)
{
	topics_membership_lock();
	topics_membership_note_removed(*(const bool *) arg);
}

/* Follow the leader until something is in the way. */
static void
run_session(void)
{
	const WorkPiece whole = WHOLE_REPLICATION;
	const WorkPiece election = WHOLE_ELECTION;
	bool		goes_on;

	session.is_careful = fails || topics_backoff_has_failures(WORK_REPLICATE);
	session.paused = session.stopped = session.moved = NIL;
	session.stopped_changed = true; /* who has noted some before looks again */
	session.retry_at = NEVER;
	session.moved_mark = 0;
	session.flush_to = InvalidXLogRecPtr;
	session.was_heard = session.is_removed = session.has_ended = false;
	goes_on = topics_backoff_run(&whole, NULL, begin_session, NULL);
	if (session.is_removed != session.node.row.is_removed && (goes_on || session.is_removed))
		(void) topics_backoff_run(&election, NULL, note_removed, &session.is_removed);
	/* another node has been elected meanwhile */
	if (goes_on && topics_backoff_left(&election) >= 0)
		topics_backoff_reset_piece(&election);
	while (goes_on)
		goes_on = take_response() && still_follows() && receive_next();
	fails = session.is_careful || topics_backoff_left(&whole) > 0;
	close_leader();
}

/* ----------------------------------------------------------------
 *		The process
 * ----------------------------------------------------------------
 */

/*
 * Wait until the next try; less if this node is to follow another one
 * meanwhile.  (A call of topics.maintain() can end it early, too.)
 */
static void
wait_for_next_try(long ms)
{
	const WorkPiece whole = WHOLE_REPLICATION;
	MonotonicTime until = topics_clock_in(ms);
	MonotonicTime due_at;
	long		left;

	for (;;)
	{
		topics_mark_slot_watch_rows();
		left = topics_max(topics_clock_ms_until(until), topics_backoff_left(&whole));
		due_at = topics_leadership_due_at();
		if (left <= 0 || topics_clock_now() >= due_at)
			break;
		if (topics_mark_slot_row_changes() != session.node.row_changes)
		{
			topics_backoff_reset_piece(&whole);
			break;
		}
		left = topics_min(left, WAIT_LOOK_MS);
		if (due_at != NEVER)
			left = topics_min(left, topics_max(topics_clock_ms_until(due_at), 1));
		topics_background_wait(left, WAIT_REPLICATOR_IDLE);
	}
	topics_mark_slot_unwatch_rows();
}

void
topics_replicator_main(Datum main_arg)
{
	ReplicatorArgs args;

	memcpy(&args, topics_background_begin(), sizeof(args));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	replicator_slot = topics_worker_registry_at(args.slot);
	(void) topics_mark_slot_act_for(args.set);
	if (!topics_worker_slot_enter_as(replicator_slot, get_own_kind(), args.database))
		proc_exit(0);
	before_shmem_exit(leave_replicator_slot, 0);
	topics_background_connect(args.database);
	topics_backoff_take_over(get_own_kind());

	session.cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics replicator", ALLOCSET_DEFAULT_SIZES);
	session.node.cxt = session.cxt;
	session.row_cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics cluster", ALLOCSET_SMALL_SIZES);
	session.response_cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics response",
												 ALLOCSET_DEFAULT_SIZES);
	pgstat_report_activity(STATE_RUNNING, "replicating topics");
	for (;;)
	{
		/* whatever an error has left */
		(void) topics_mark_slot_act_for(args.set);
		/* before the row is read: what changes then is another wish */
		topics_worker_slot_take_wish(replicator_slot, get_own_kind());
		if (!read_row())
			break;
		MemoryContextReset(session.cxt);
		if (session.node.row.leads && !has_others())
			break;
		if (session.node.row.leads)
		{
			topics_leadership_keep(&session.node);
			wait_for_next_try(topics_min(LOOK_MS, pg_topics_node_timeout / 3));
			continue;
		}
		if (!topics_leadership_may_follow(&session.node))
		{
			wait_for_next_try(LOOK_MS);
			continue;
		}
		if (topics_leadership_begins(&session.node))
		{
			wait_for_next_try(RETRY_MS);
			continue;
		}
		run_session();

		/*
		 * topics that have come are made, also if no leader is there to bring
		 * more
		 */
		if (!session.was_heard && topics_leader_set == METADATA_SET && compare_at <= topics_clock_now())
			follow_metadata(false, true);
		if (read_row())
			topics_leadership_seek(&session.node, session.was_heard);
		wait_for_next_try(RETRY_MS);
	}
	drop_origin();
	topics_backoff_forget_kind(WORK_REPLICATE);
	topics_backoff_forget_kind(WORK_ELECT);
	finished = true;
	proc_exit(0);
}
