/*-------------------------------------------------------------------------
 *
 * member_table.c
 *		The members of consumer groups, and whose a partition is, in shared
 *		memory.
 *
 * A hash table of members for all databases, as many as pg_topics.max_members.
 * What is here is rebuilt from the log (member_log.c), but for what is of the
 * moment: when a member last called, and which record it polls next.
 *
 * TARGET AND OWNER.  A change of a group's members gives each partition a
 * target, the member that is to have it, and the group a new generation; that
 * is a record, and the commit stores it here (topics_member_table_apply).  A
 * partition's owner is the member that has it now.  A member takes the new
 * generation when it polls (topics_member_table_adopt): it gives up what is no
 * longer its own, and gets what nobody has.  What another one still has it
 * gets when that one polls, or is removed since it does not.  So a partition
 * has one owner at most, partitions that stay are polled on meanwhile, and
 * nobody waits for anybody else.
 *
 * FENCED.  A member is one of a leader set, and so is each partition that it
 * has.  An owner changes only under the append lock of the partition of
 * __consumer_offsets that has the group's records of the set, which a commit
 * of the group's offsets there holds from its last look
 * (topics_member_table_require_owner) until it has stored them.  So a commit
 * comes before the partition changes hands, and the next owner starts behind
 * it; or it is refused.
 *
 * LOCKING
 *
 *	table lock (offset_table.c)	exclusive: add and remove members, all lists, targets,
 *		owners, generations.  Shared: find a member, walk lists.
 *	append lock (above)		beside it, to change an owner; all that a poll needs.
 *	member lock (heavyweight)	the right to poll for a member: position, paused, turn.
 *	heard_at, polled_at: atomics.
 *
 * A member is found by its id and its leader set each time.  A pointer to it
 * that outlives the lock goes with its serial.
 *
 * See docs/decisions/0018-members.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "produce/produce.h"
#include "group/group.h"
#include "pg_topics.h"

typedef struct MemberTable
{
	pg_atomic_uint64 last_serial;
	pg_atomic_uint32 sets;		/* leader sets that any member has been in, of
								 * any database: a bit for each */
	dlist_head	all;
} MemberTable;

/*
 * A member that this transaction has made; it goes with it, unless it has
 * joined.
 */
typedef struct ReservedMember
{
	Member	   *member;
	uint64		serial;
} ReservedMember;

static HTAB *hash = NULL;
static MemberTable *table = NULL;
static List *reserved = NIL;	/* in TopTransactionContext */

/* shmem_request_hook */
void
topics_member_table_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(MemberTable)));
	RequestAddinShmemSpace(hash_estimate_size(pg_topics_max_members, sizeof(Member)));
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_member_table_shmem_startup(void)
{
	HASHCTL		ctl = {.keysize = sizeof(MemberKey),.entrysize = sizeof(Member)};
	bool		found;

	hash = topics_shmem_init_hash("pg_topics members", pg_topics_max_members, &ctl,
								  HASH_ELEM | HASH_BLOBS);
	table = ShmemInitStruct("pg_topics member list", sizeof(MemberTable), &found);
	if (!found)
	{
		pg_atomic_init_u64(&table->last_serial, 0);
		pg_atomic_init_u32(&table->sets, 1U << METADATA_SET);
		dlist_init(&table->all);
	}
}

/* Get the channel on which a group's members wait. */
int
topics_member_table_channel(const char *group_id)
{
	return hash_bytes((const unsigned char *) group_id, strlen(group_id)) % WAKEUP_CHANNELS;
}

/* ----------------------------------------------------------------
 *		Owners and targets
 * ----------------------------------------------------------------
 */

/* The caller holds the table lock exclusively, and the append lock. */
static void
set_owner(GroupOffset *entry, Member *member, int32 since)
{
	Possession *assigned = &entry->of.assigned;

	if (assigned->owner)
		dlist_delete(&assigned->owned_link);
	assigned->owner = member;
	assigned->since = since;
	assigned->paused = false;
	pg_atomic_write_u64(&assigned->position, NO_OFFSET);
	if (member)
		dlist_push_tail(&member->owned, &assigned->owned_link);
}

static void
set_target(GroupOffset *entry, Member *member)
{
	Possession *assigned = &entry->of.assigned;

	if (assigned->target)
		dlist_delete(&assigned->target_link);
	assigned->target = member;
	if (member)
		dlist_push_tail(&member->targets, &assigned->target_link);
}

/* ----------------------------------------------------------------
 *		Members that come and go
 * ----------------------------------------------------------------
 */

static MemberKey
make_key(const char *member_id, int set)
{
	MemberKey	key;

	memset(&key, 0, sizeof(key));
	key.database = MyDatabaseId;
	key.set = set;
	strlcpy(key.member_id, member_id, sizeof(key.member_id));
	return key;
}

/* Get the leader sets in which there may be members: a bit for each. */
uint32
topics_member_table_sets(void)
{
	return pg_atomic_read_u32(&table->sets);
}

/*
 * Return true if there may be members in other leader sets than the first.
 */
bool
topics_member_table_has_other_sets(void)
{
	return topics_member_table_sets() != 1U << METADATA_SET;
}

/* There may be members in a leader set from now on. */
static void
note_set(int set)
{
	if ((pg_atomic_read_u32(&table->sets) & (1U << set)) == 0)
		(void) pg_atomic_fetch_or_u32(&table->sets, 1U << set);
}

/*
 * Find a member that has joined in a leader set, or NULL.  The caller holds the
 * table lock.
 */
Member *
topics_member_table_find(const char *member_id, int set)
{
	MemberKey	key;
	Member	   *member;

	if (strlen(member_id) > MAX_MEMBER_ID)
		return NULL;
	key = make_key(member_id, set);
	member = hash_search(hash, &key, HASH_FIND, NULL);
	return member && member->joined ? member : NULL;
}

/* Look at a member in a leader set.  Return false if it is none there. */
bool
topics_member_table_look(const char *member_id, int set, MemberCall *call)
{
	const Member *member;

	topics_offset_table_lock(LW_SHARED);
	member = topics_member_table_find(member_id, set);
	if (member)
	{
		call->member = member;
		call->serial = member->serial;
		call->set = set;
		call->role = member->role;
		call->generation = member->generation;
		call->group_generation = member->group->of.head.generation;
		call->turn = member->turn;
		call->is_settled = topics_member_table_is_settled(member);
		call->session_timeout_ms = Min(member->session_timeout_ms, member->max_poll_interval_ms);
		strlcpy(call->group_id, member->group->key.group_id, sizeof(call->group_id));
	}
	topics_offset_table_unlock();
	return member != NULL;
}

/* A member that was looked at has called, or polled. */
void
topics_member_table_note_call(const MemberCall *call, bool is_poll)
{
	Member	   *member = unconstify(Member *, call->member);
	MonotonicTime now = topics_clock_now();

	topics_offset_table_lock(LW_SHARED);
	if (member->serial == call->serial)
	{
		pg_atomic_write_u64(&member->heard_at, now);
		if (is_poll)
			pg_atomic_write_u64(&member->polled_at, now);
	}
	topics_offset_table_unlock();
}

void
topics_member_table_report_full(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many members of consumer groups"),
			 errdetail("GROUP_MAX_SIZE_REACHED: all %d places for them in shared memory are taken.",
					   pg_topics_max_members),
			 errhint("Increase pg_topics.max_members and restart the server, or remove members with topics.remove_member().")));
}

/*
 * Make a member, which joins by topics_member_table_apply, or goes at the end
 * of the transaction; or find it, where the log is read again.  "group" is the
 * entry of its group's members, and is pinned.  Return false if there is no
 * room, or it is another group's.
 */
bool
topics_member_table_reserve(MemberRow *row, GroupOffset *group)
{
	const int	set = get_members_set(group->key.partition);
	MemberKey	key = make_key(row->member_id, set);
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	ReservedMember *note = palloc(sizeof(ReservedMember));
	Member	   *member = NULL;
	bool		found = false;

	reserved = lappend(reserved, note);
	MemoryContextSwitchTo(old);
	note->member = NULL;
	note_set(set);
	topics_offset_table_lock(LW_EXCLUSIVE);
	member = hash_search(hash, &key, HASH_FIND, &found);
	if (!found && hash_get_num_entries(hash) < pg_topics_max_members)
		member = hash_search(hash, &key, HASH_ENTER_NULL, &found);
	if (member && !found)
	{
		memset((char *) member + sizeof(MemberKey), 0, sizeof(Member) - sizeof(MemberKey));
		member->serial = pg_atomic_add_fetch_u64(&table->last_serial, 1);
		member->group = group;
		member->role = row->role;
		member->is_static = row->instance_id != NULL;
		member->session_timeout_ms = row->session_timeout_ms;
		member->max_poll_interval_ms = row->max_poll_interval_ms;
		strlcpy(member->client_id, row->client_id, sizeof(member->client_id));
		if (row->host)
			strlcpy(member->host, row->host, sizeof(member->host));
		pg_atomic_init_u64(&member->heard_at, 0);
		pg_atomic_init_u64(&member->polled_at, 0);
		dlist_init(&member->owned);
		dlist_init(&member->targets);
		dlist_push_tail(&table->all, &member->all_link);
		note->member = member;
		note->serial = member->serial;
	}
	if (member && member->group == group)
	{
		row->shared = member;
		row->serial = member->serial;
	}
	topics_offset_table_unlock();
	return row->shared != NULL;
}

/*
 * Let a member go; with "trim" entries, too, that nobody needs then.  The
 * caller holds the table lock exclusively.
 */
static void
remove_member(Member *member, bool trim)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &member->targets)
	{
		GroupOffset *entry = dlist_container(GroupOffset, of.assigned.target_link, iter.cur);

		set_target(entry, NULL);
		if (trim)
			topics_offset_table_trim(entry);
	}
	dlist_foreach_modify(iter, &member->owned)
	{
		GroupOffset *entry = dlist_container(GroupOffset, of.assigned.owned_link, iter.cur);

		set_owner(entry, NULL, 0);
		if (trim)
			topics_offset_table_trim(entry);
	}
	if (member->joined)
		dlist_delete(&member->link);
	dlist_delete(&member->all_link);
	/* who still has a pointer to it sees that it has gone */
	member->serial = 0;
	member->joined = false;
	(void) hash_search(hash, &member->key, HASH_REMOVE, NULL);
}

/*
 * At the transaction's end: those that it has made, and that have not joined,
 * go.  Raises nothing.
 */
void
topics_member_table_release_unused(void)
{
	ListCell   *lc;

	if (reserved == NIL)
		return;
	topics_offset_table_lock(LW_EXCLUSIVE);
	foreach(lc, reserved)
	{
		const ReservedMember *note = lfirst(lc);

		/* one that has joined may have gone, and its place be another one's */
		if (note->member && note->member->serial == note->serial && !note->member->joined)
			remove_member(note->member, true);
	}
	topics_offset_table_unlock();
	reserved = NIL;				/* the memory goes with the transaction */
}

/* ----------------------------------------------------------------
 *		Whose partitions are
 * ----------------------------------------------------------------
 */

/*
 * An entry is removed, or nothing is committed in it any more: nobody has it,
 * or is of it.  The caller may be on its way through all entries: no other one
 * is removed.
 */
void
topics_member_table_detach(GroupOffset *entry)
{
	dlist_mutable_iter iter;

	if (entry->key.partition >= 0)
	{
		set_owner(entry, NULL, 0);
		set_target(entry, NULL);
	}
	else if (is_members_partition(entry->key.partition))
		dlist_foreach_modify(iter, &entry->of.head.members)
			remove_member(dlist_container(Member, link, iter.cur), false);
}

/* A member that a record lists is there, and has what it says. */
static void
apply_row(MembersHead *head, const MemberRow *row, bool is_loaded)
{
	Member	   *member = row->shared;

	/*
	 * there was no room, or this node has another role since: all is read
	 * again
	 */
	if (member == NULL || member->serial != row->serial)
		return;
	member->listed = false;
	if (!member->joined)
	{
		member->joined = true;
		member->generation = head->generation;
		pg_atomic_write_u64(&member->heard_at, topics_clock_now());
		pg_atomic_write_u64(&member->polled_at, topics_clock_now());
		dlist_push_tail(&head->members, &member->link);
	}
	for (int i = 0; i < row->nassigned; i++)
	{
		GroupOffset *entry = row->assigned[i].entry;

		if (entry == NULL)
			continue;			/* its topic has gone */
		set_target(entry, member);
		if (is_loaded && entry->of.assigned.owner == NULL)
			set_owner(entry, member, row->assigned[i].since);
		if (entry->of.assigned.owner != member)
			member->pending++;
	}
}

/*
 * A group's members are these from now on, or with NULL there are none.  With
 * "is_loaded" each has all that is its own, as it had before the server ended.
 * The caller holds the table lock exclusively, and unless the group is loaded
 * the append lock.  Raises nothing.
 */
void
topics_member_table_apply(GroupOffset *group, const GroupMembers *members, bool is_loaded)
{
	MembersHead *head = &group->of.head;
	dlist_mutable_iter iter;

	Assert(topics_offset_table_is_locked(LW_EXCLUSIVE));
	note_set(get_members_set(group->key.partition));
	for (int i = 0; members && i < members->count; i++)
		if (members->rows[i].shared && members->rows[i].shared->serial == members->rows[i].serial)
			members->rows[i].shared->listed = true;
	dlist_foreach_modify(iter, &head->members)
	{
		Member	   *member = dlist_container(Member, link, iter.cur);
		dlist_mutable_iter target;

		dlist_foreach_modify(target, &member->targets)
			set_target(dlist_container(GroupOffset, of.assigned.target_link, target.cur), NULL);
		member->pending = 0;
		if (!member->listed)
			remove_member(member, true);
	}
	head->generation = members ? members->generation : 0;
	head->count = members ? members->count : 0;
	head->is_loaded = is_loaded;
	for (int i = 0; members && i < members->count; i++)
		apply_row(head, &members->rows[i], is_loaded);
}

/*
 * Return true if a member has taken its generation's partitions.  The caller
 * holds the table lock.
 */
bool
topics_member_table_is_settled(const Member *member)
{
	return member->generation == member->group->of.head.generation && member->pending == 0;
}

/*
 * A member takes the newest generation: what is no longer its own it gives up,
 * and what nobody has it gets.  With "keep" it gives up nothing, and only
 * gets.  Return true if it gave up something.  The caller holds the append
 * lock, and the table lock exclusively.
 */
bool
topics_member_table_adopt(Member *member, bool keep)
{
	dlist_mutable_iter iter;
	bool		gave_up = false;

	Assert(topics_offset_table_is_locked(LW_EXCLUSIVE));
	dlist_foreach_modify(iter, &member->owned)
	{
		GroupOffset *entry = dlist_container(GroupOffset, of.assigned.owned_link, iter.cur);

		if (keep || entry->of.assigned.target == member)
			continue;
		set_owner(entry, NULL, 0);
		topics_offset_table_trim(entry);
		gave_up = true;
	}
	if (!keep)
		member->generation = member->group->of.head.generation;
	member->pending = 0;
	dlist_foreach_modify(iter, &member->targets)
	{
		GroupOffset *entry = dlist_container(GroupOffset, of.assigned.target_link, iter.cur);

		if (entry->of.assigned.owner == NULL)
			set_owner(entry, member, member->group->of.head.generation);
		else if (entry->of.assigned.owner != member)
			member->pending++;
	}
	return gave_up;
}

/*
 * Return true if a member that is not there was a static one, and another one
 * is there by the same group.instance.id: their ids differ in the UUID at the
 * end alone.
 */
bool
topics_member_table_is_replaced(const char *member_id)
{
	const Size	length = strlen(member_id);
	dlist_iter	iter;
	bool		result = false;

	if (length <= MEMBER_UUID || length > MAX_MEMBER_ID)
		return false;
	topics_offset_table_lock(LW_SHARED);
	dlist_foreach(iter, &table->all)
	{
		const Member *member = dlist_container(Member, all_link, iter.cur);

		if (member->joined && member->is_static && member->key.database == MyDatabaseId &&
			strlen(member->key.member_id) == length &&
			memcmp(member->key.member_id, member_id, length - MEMBER_UUID) == 0)
		{
			result = true;
			break;
		}
	}
	topics_offset_table_unlock();
	return result;
}

static void
report_illegal_generation(const GroupOffset *entry, int32 given, const Possession *assigned, bool is_owner)
{
	topics_append_role_require_lease(topics_mark_slot_set_of(topics_offset_log_leader_set(&entry->key)));
	ereport(ERROR,
			(errcode(ERRCODE_ILLEGAL_GENERATION),
			 errmsg("partition %d is not the member's in generation %d of consumer group \"%s\"",
					entry->key.partition, given, entry->key.group_id),
			 is_owner ?
			 errdetail("ILLEGAL_GENERATION: the member has it since generation %d.", assigned->since) :
			 errdetail("ILLEGAL_GENERATION: the member does not have it, or not any more."),
			 is_owner ? errhint("Give the generation_id that topics.poll() has returned with the record.") :
			 errhint("Nothing is committed. Go back to the committed offset by topics.seek() in each partition that you have, or call topics.join_group() again.")));
}

/*
 * Require a member, which had this serial, to have a partition since the
 * generation that it has given, or longer.  NULL is one that is none in the
 * partition's leader set.
 */
void
topics_member_table_require_owner(const GroupOffset *entry, const Member *member, uint64 serial, int32 generation)
{
	Possession	assigned;
	bool		is_owner;
	bool		is_valid;

	topics_offset_table_lock(LW_SHARED);
	assigned = entry->of.assigned;
	is_owner = member && assigned.owner == member && member->serial == serial;
	is_valid = is_owner && generation >= assigned.since &&
		generation <= member->group->of.head.generation;
	topics_offset_table_unlock();
	if (!is_valid)
		report_illegal_generation(entry, generation, &assigned, is_owner);
}

/* ----------------------------------------------------------------
 *		What a member polls
 * ----------------------------------------------------------------
 */

/*
 * Return true if a member is the one that has called.  The caller holds the
 * table lock.
 */
static bool
is_caller(const Member *member, const MemberCall *call)
{
	return member && member == call->member && member->serial == call->serial;
}

/*
 * Return true if a member has gone, or a poll would take part in a rebalance.
 */
bool
topics_member_table_is_wanted(const MemberCall *call)
{
	dlist_iter	iter;
	bool		wanted;

	topics_offset_table_lock(LW_SHARED);
	wanted = call->member->serial != call->serial || !call->member->joined ||
		call->member->generation != call->member->group->of.head.generation;
	if (!wanted && call->member->pending > 0)
		dlist_foreach(iter, unconstify(dlist_head *, &call->member->targets))
			wanted |= dlist_container(GroupOffset, of.assigned.target_link, iter.cur)->of.assigned.owner == NULL;
	topics_offset_table_unlock();
	return wanted;
}

/* Copy what a member has; return the number, or -1 if there is no room. */
static int
copy_places(const Member *member, bool all, MemberPlace *places, int room)
{
	dlist_iter	iter;
	int			count = 0;

	dlist_foreach(iter, unconstify(dlist_head *, &member->owned))
	{
		GroupOffset *entry = dlist_container(GroupOffset, of.assigned.owned_link, iter.cur);

		if (entry->of.assigned.paused && !all)
			continue;
		if (count >= room)
			return -1;
		places[count].shared = entry;
		places[count].entry = *entry;
		places[count].position = pg_atomic_read_u64(&entry->of.assigned.position);
		places[count++].next = NO_OFFSET;
	}
	return count;
}

/*
 * List the partitions that a member has, and does not want to pause, or with
 * "all" all; none if it has gone.  The result is palloc'd.
 */
MemberPlace *
topics_member_table_list_places(const MemberCall *call, bool all, int *count)
{
	int			room = 8;

	for (;;)
	{
		MemberPlace *places = palloc(sizeof(MemberPlace) * room);

		*count = 0;
		topics_offset_table_lock(LW_SHARED);
		if (call->member->serial == call->serial && call->member->joined)
			*count = copy_places(call->member, all, places, room);
		topics_offset_table_unlock();
		if (*count >= 0)
			return places;
		pfree(places);
		room *= 4;
	}
}

/*
 * A member goes on elsewhere in a partition, at "position", or NO_OFFSET for
 * where the group stands; or it pauses or resumes it.  Return false if it does
 * not have it.  The caller has the member's lock.
 */
bool
topics_member_table_change_place(const MemberCall *call, int64 topic_id, int32 partition,
								 PlaceWish wish, int64 position)
{
	GroupOffsetKey key = topics_offset_table_make_key(call->group_id, topic_id, partition);
	GroupOffset *entry;
	bool		is_owner;

	topics_offset_table_lock(LW_SHARED);
	entry = topics_offset_table_find(&key);
	is_owner = entry && entry->of.assigned.owner && is_caller(entry->of.assigned.owner, call);
	if (is_owner)
	{
		if (wish == WISH_SEEK)
			pg_atomic_write_u64(&entry->of.assigned.position, position);
		else
			entry->of.assigned.paused = wish == WISH_PAUSE;
	}
	topics_offset_table_unlock();
	return is_owner;
}

/*
 * Store where a member goes on in partitions that it has polled, and still
 * has.  Return false if it has gone.  The caller has the member's lock.
 */
bool
topics_member_table_store(const char *member_id, const MemberCall *call, MemberPlace *places, int count, uint32 turn)
{
	Member	   *member;
	bool		found;

	topics_offset_table_lock(LW_SHARED);
	member = topics_member_table_find(member_id, call->set);
	found = is_caller(member, call);
	for (int i = 0; found && i < count; i++)
	{
		GroupOffset *entry = places[i].shared;

		/* an entry that has gone is nobody's, or of others by now */
		if (places[i].next != NO_OFFSET && entry->of.assigned.owner == member &&
			entry->of.assigned.since == places[i].entry.of.assigned.since &&
			topics_offset_table_compare_keys(&entry->key, &places[i].entry.key, sizeof(GroupOffsetKey)) == 0)
			pg_atomic_write_u64(&entry->of.assigned.position, places[i].next);
	}
	if (found)
		member->turn = turn;
	topics_offset_table_unlock();
	return found;
}

/* ----------------------------------------------------------------
 *		Looking at all
 * ----------------------------------------------------------------
 */

/*
 * Return true if a group has members in a leader set.  Where that is led by
 * another node, its record says so.
 */
bool
topics_member_table_has_members(const char *group_id, int set)
{
	const GroupOffsetKey key = topics_offset_table_make_key(group_id, NO_TOPIC, make_members_partition(set));
	const bool	may_call = topics_member_log_may_call(set);
	GroupOffset *entry;
	bool		result;

	topics_offset_table_lock(LW_SHARED);
	entry = topics_offset_table_find(&key);
	result = entry && (may_call ? !dlist_is_empty(&entry->of.head.members) : entry->of.head.count > 0);
	topics_offset_table_unlock();
	return result;
}

/* Get the time at which a member is taken for dead, unless it calls before. */
static MonotonicTime
get_deadline(const Member *member)
{
	MonotonicTime heard = pg_atomic_read_u64((pg_atomic_uint64 *) &member->heard_at);
	MonotonicTime polled = pg_atomic_read_u64((pg_atomic_uint64 *) &member->polled_at);

	return topics_min(heard + member->session_timeout_ms * INT64CONST(1000),
					  polled + member->max_poll_interval_ms * INT64CONST(1000));
}

/*
 * Return true if a member has not called, or not polled, for longer than it
 * may.
 */
bool
topics_member_table_is_overdue(const Member *member, MonotonicTime now)
{
	return get_deadline(member) < now;
}

/*
 * The worker has come to see to a group's members: others had locked the
 * group, or not.
 */
void
topics_member_table_note_held_up(const char *group_id, bool is_held_up)
{
	const GroupOffsetKey key = topics_offset_table_make_key(group_id, NO_TOPIC, NO_PARTITION);
	GroupOffset *group;

	topics_offset_table_lock(LW_EXCLUSIVE);
	group = topics_offset_table_find(&key);
	if (group && !is_held_up)
		group->of.held_up_since = 0;
	else if (group && group->of.held_up_since == 0)
		group->of.held_up_since = topics_clock_now();
	topics_offset_table_unlock();
}

/* Return true if this database has a member. */
bool
topics_member_table_any_here(void)
{
	dlist_iter	iter;
	bool		result = false;

	topics_offset_table_lock(LW_SHARED);
	dlist_foreach(iter, &table->all)
		if (dlist_container(Member, all_link, iter.cur)->key.database == MyDatabaseId)
	{
		result = true;
		break;
	}
	topics_offset_table_unlock();
	return result;
}

/* Copy the groups of a list; return their number, or -1 if there is no room. */
static int
copy_groups(bool all, MemberGroup *groups, int room, MonotonicTime *due)
{
	MonotonicTime now = topics_clock_now();
	dlist_iter	iter;
	int			count = 0;

	*due = NEVER;
	topics_offset_table_lock(LW_SHARED);
	dlist_foreach(iter, &table->all)
	{
		const Member *member = dlist_container(Member, all_link, iter.cur);
		const char *group_id = member->joined ? member->group->key.group_id : NULL;

		if (group_id == NULL || member->key.database != MyDatabaseId)
			continue;
		if (!topics_member_table_is_overdue(member, now))
		{
			*due = topics_min(*due, get_deadline(member));
			if (!all)
				continue;
		}
		if (count > 0 && groups[count - 1].set == member->key.set &&
			strcmp(groups[count - 1].group_id, group_id) == 0)
			continue;
		if (count >= room)
		{
			count = -1;
			break;
		}
		groups[count].set = member->key.set;
		strlcpy(groups[count].group_id, group_id, sizeof(groups[count].group_id));
		count++;
	}
	topics_offset_table_unlock();
	return count;
}

static int
compare_groups(const void *a, const void *b)
{
	const MemberGroup *ga = a;
	const MemberGroup *gb = b;
	int			result = strcmp(ga->group_id, gb->group_id);

	return result != 0 ? result : ga->set - gb->set;
}

/*
 * List the groups of this database with members that are overdue, or with
 * "all" with members, each in each leader set; palloc'd, by name.  *due is
 * when the next member will be overdue.
 */
MemberGroup *
topics_member_table_list_groups(bool all, int *count, MonotonicTime *due)
{
	int			room = 16;

	for (;;)
	{
		MemberGroup *groups = palloc(sizeof(MemberGroup) * room);

		*count = copy_groups(all, groups, room, due);
		if (*count >= 0)
		{
			qsort(groups, *count, sizeof(MemberGroup), compare_groups);
			*count = qunique(groups, *count, sizeof(MemberGroup), compare_groups);
			return groups;
		}
		pfree(groups);
		room *= 2;
	}
}
