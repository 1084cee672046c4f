/*-------------------------------------------------------------------------
 *
 * assignor.c
 *		Which member of a consumer group gets which partition.
 *
 * Pure functions of who subscribes to what, and who has what so far: nothing
 * is read, nothing is locked, and equal input has equal output.  Kafka has the
 * assignors in its clients; here the server calls them.
 *
 *	range				each topic for itself, in ranges of equal length
 *	roundrobin			all partitions in turn, over the members that subscribe
 *	sticky				as balanced as the subscriptions let it be; of what
 *						members have, they keep what balance lets them keep
 *	cooperative-sticky	the same; in Kafka it differs in how partitions move
 *						from member to member, which is not decided here
 *
 * range and roundrobin do not look at who has what.  Static members come
 * first, by their instance id, so that a member that comes back by another
 * member id has its place again; then all others by their member id.
 *
 * sticky has two ways.  If all members subscribe to the same topics, the
 * number of partitions that each may have is known from the start.  Members
 * keep as many of theirs, and the others go to whoever has the fewest.
 *
 * Otherwise, members keep all of theirs at first, and partitions that nobody
 * has go to whoever has the fewest.  Then partitions move as long as that
 * makes the numbers more even: from the member that has the most, directly to
 * another one, or along a chain in which each member passes one on and gets
 * another.  It is known of such assignments that they are as even as any can
 * be if no chain is left (Harvey et al., Semi-Matchings for Bipartite Graphs,
 * 2006).  Kafka moves directly only, and stops earlier.  At last, partitions
 * go back that need not have moved.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"

#include "group/group.h"

#define WORD_BITS 64

/* A partition.  Topics and members are counted in their order here. */
typedef struct AssignedPartition
{
	int			topic;
	int32		partition;
	int			origin;			/* the member that had it, and still may, or
								 * ASSIGNOR_NOBODY */
	int			owner;			/* the member that it goes to, or
								 * ASSIGNOR_NOBODY */
	dlist_node	link;			/* of a search: among those of its owner */
} AssignedPartition;

typedef struct Assignment
{
	AssignorGroup *group;
	int		   *topics;			/* in order: indexes in the group */
	int		   *members;		/* likewise */
	int			nwords;			/* of a set of members */
	uint64	   *subscribers;	/* of each topic: a set of members */
	int		   *nsubscribers;
	AssignedPartition *partitions;	/* in order of topics and numbers */
	int			npartitions;
	int		   *first;			/* of each topic: where its partitions begin;
								 * one more: where the last one's end */
	int		   *loads;			/* of each member: how many it owns */
} Assignment;

/* What finds chains that make an assignment more even. */
typedef struct ChainSearch
{
	Assignment *assignment;
	dlist_head *owned;			/* of each member: its partitions, those that
								 * it did not have before first */
	uint64	   *active;			/* members that may still give or get some */
	uint64	   *unseen;			/* of those, whom this search has not reached */
	bool	   *seen_topics;
	int		   *queue;			/* members in the order they were reached in */
	int			nqueue;
	AssignedPartition **came_by;	/* of each member: a partition that it can
									 * get, of who it was reached from */
	int			least_load;		/* of all active members */
} ChainSearch;

static const char *const assignor_names[] = {
	[ASSIGNOR_RANGE] = "range",
	[ASSIGNOR_ROUNDROBIN] = "roundrobin",
	[ASSIGNOR_STICKY] = "sticky",
	[ASSIGNOR_COOPERATIVE_STICKY] = "cooperative-sticky"
};

bool
topics_assignor_find(const char *name, Assignor *assignor)
{
	for (int i = 0; i < (int) lengthof(assignor_names); i++)
	{
		if (strcmp(name, assignor_names[i]) == 0)
		{
			*assignor = (Assignor) i;
			return true;
		}
	}
	return false;
}

const char *
topics_assignor_name(Assignor assignor)
{
	return assignor_names[assignor];
}

/* ----------------------------------------------------------------------
 * Sets of members
 * ----------------------------------------------------------------------
 */

static void
add_to_set(uint64 *set, int member)
{
	set[member / WORD_BITS] |= UINT64CONST(1) << (member % WORD_BITS);
}

static void
remove_from_set(uint64 *set, int member)
{
	set[member / WORD_BITS] &= ~(UINT64CONST(1) << (member % WORD_BITS));
}

static bool
is_member_in_set(const uint64 *set, int member)
{
	return (set[member / WORD_BITS] >> (member % WORD_BITS)) & 1;
}

/*
 * Find the next one after "member" in a set, or ASSIGNOR_NOBODY; begin with
 * that.
 */
static int
find_next_in_set(const uint64 *set, int nwords, int member)
{
	int			word = ++member / WORD_BITS;
	uint64		rest;

	if (word >= nwords)
		return ASSIGNOR_NOBODY;
	rest = set[word] & (~UINT64CONST(0) << (member % WORD_BITS));
	while (rest == 0)
	{
		if (++word >= nwords)
			return ASSIGNOR_NOBODY;
		rest = set[word];
	}
	return word * WORD_BITS + pg_rightmost_one_pos64(rest);
}

static uint64 *
get_subscribers(const Assignment *assignment, int topic)
{
	return assignment->subscribers + (Size) topic * assignment->nwords;
}

/*
 * Find the next subscriber after "member", or ASSIGNOR_NOBODY; begin with
 * that.
 */
static int
find_next_subscriber(const Assignment *assignment, int topic, int member)
{
	return find_next_in_set(get_subscribers(assignment, topic), assignment->nwords, member);
}

/* ----------------------------------------------------------------------
 * The group in order
 * ----------------------------------------------------------------------
 */

static int
compare_topics_by_name(const void *a, const void *b, void *arg)
{
	const AssignorTopic *topics = ((const AssignorGroup *) arg)->topics;

	return strcmp(topics[*(const int *) a].name, topics[*(const int *) b].name);
}

/* Static members come first; an instance id that two have does not decide. */
static int
compare_members(const void *a, const void *b, void *arg)
{
	const AssignorMember *members = ((const AssignorGroup *) arg)->members;
	const AssignorMember *left = &members[*(const int *) a];
	const AssignorMember *right = &members[*(const int *) b];
	int			result = 0;

	if ((left->instance_id == NULL) != (right->instance_id == NULL))
		return left->instance_id ? -1 : 1;
	if (left->instance_id)
		result = strcmp(left->instance_id, right->instance_id);
	return result != 0 ? result : strcmp(left->member_id, right->member_id);
}

/*
 * Return the numbers from 0 to "count" - 1 in the order of what they stand
 * for.
 */
static int *
make_order(int count, qsort_arg_comparator compare, void *arg)
{
	int		   *order = palloc(sizeof(int) * Max(count, 1));

	for (int i = 0; i < count; i++)
		order[i] = i;
	qsort_arg(order, count, sizeof(int), compare, arg);
	return order;
}

static void
collect_subscribers(Assignment *assignment)
{
	const AssignorGroup *group = assignment->group;

	assignment->nwords = Max((group->nmembers + WORD_BITS - 1) / WORD_BITS, 1);
	assignment->subscribers = palloc0(sizeof(uint64) * Max(group->ntopics, 1) * assignment->nwords);
	assignment->nsubscribers = palloc0(sizeof(int) * Max(group->ntopics, 1));
	for (int member = 0; member < group->nmembers; member++)
	{
		const bool *subscribed = group->members[assignment->members[member]].subscribed;

		CHECK_FOR_INTERRUPTS();
		for (int topic = 0; topic < group->ntopics; topic++)
		{
			if (subscribed[assignment->topics[topic]])
			{
				add_to_set(get_subscribers(assignment, topic), member);
				assignment->nsubscribers[topic]++;
			}
		}
	}
}

/* Return which member each one of the group is in the order. */
static int *
make_ranks(const Assignment *assignment)
{
	const int	count = assignment->group->nmembers;
	int		   *ranks = palloc(sizeof(int) * Max(count, 1));

	for (int member = 0; member < count; member++)
		ranks[assignment->members[member]] = member;
	return ranks;
}

/* Collect all partitions; members that do not subscribe any more have none. */
static void
collect_partitions(Assignment *assignment)
{
	const AssignorGroup *group = assignment->group;
	const int  *ranks = make_ranks(assignment);
	AssignedPartition *next;

	assignment->first = palloc(sizeof(int) * (group->ntopics + 1));
	assignment->npartitions = 0;
	for (int topic = 0; topic < group->ntopics; topic++)
	{
		assignment->first[topic] = assignment->npartitions;
		assignment->npartitions += group->topics[assignment->topics[topic]].partitions;
	}
	assignment->first[group->ntopics] = assignment->npartitions;
	next = assignment->partitions = palloc0(sizeof(AssignedPartition) * Max(assignment->npartitions, 1));
	for (int topic = 0; topic < group->ntopics; topic++)
	{
		const AssignorTopic *source = &group->topics[assignment->topics[topic]];

		for (int32 partition = 0; partition < source->partitions; partition++, next++)
		{
			const int	owner = source->owners[partition];

			next->topic = topic;
			next->partition = partition;
			next->owner = next->origin = ASSIGNOR_NOBODY;
			if (owner >= 0 && owner < group->nmembers &&
				is_member_in_set(get_subscribers(assignment, topic), ranks[owner]))
				next->origin = ranks[owner];
		}
	}
}

/* Tell the group who gets what. */
static void
put_owners(const Assignment *assignment)
{
	AssignorTopic *topics = assignment->group->topics;

	for (int i = 0; i < assignment->npartitions; i++)
	{
		const AssignedPartition *from = &assignment->partitions[i];

		topics[assignment->topics[from->topic]].owners[from->partition] =
			from->owner == ASSIGNOR_NOBODY ? ASSIGNOR_NOBODY : assignment->members[from->owner];
	}
}

/* ----------------------------------------------------------------------
 * range and roundrobin
 * ----------------------------------------------------------------------
 */

static void
assign_ranges(Assignment *assignment)
{
	for (int topic = 0; topic < assignment->group->ntopics; topic++)
	{
		const int	count = assignment->first[topic + 1] - assignment->first[topic];
		const int	takers = assignment->nsubscribers[topic];
		AssignedPartition *next = assignment->partitions + assignment->first[topic];
		int			longer = takers ? count % takers : 0;
		int			member = ASSIGNOR_NOBODY;

		CHECK_FOR_INTERRUPTS();
		while ((member = find_next_subscriber(assignment, topic, member)) != ASSIGNOR_NOBODY)
		{
			const int	length = count / takers + (longer-- > 0 ? 1 : 0);

			for (int i = 0; i < length; i++)
				(next++)->owner = member;
		}
	}
}

static void
assign_in_turn(Assignment *assignment)
{
	int			member = ASSIGNOR_NOBODY;

	for (int i = 0; i < assignment->npartitions; i++)
	{
		AssignedPartition *partition = &assignment->partitions[i];

		CHECK_FOR_INTERRUPTS();
		if (assignment->nsubscribers[partition->topic] == 0)
			continue;
		member = find_next_subscriber(assignment, partition->topic, member);
		if (member == ASSIGNOR_NOBODY)
			member = find_next_subscriber(assignment, partition->topic, ASSIGNOR_NOBODY);
		partition->owner = member;
	}
}

/* ----------------------------------------------------------------------
 * sticky, if all subscribe to the same
 * ----------------------------------------------------------------------
 */

/*
 * Find the members that subscribe, if they all subscribe to the same topics,
 * or NULL.  A topic without partitions does not count, nor does a member that
 * subscribes to no topic.  The number of partitions that they share goes to
 * *count.
 */
static const uint64 *
find_equal_subscribers(const Assignment *assignment, int *count)
{
	const uint64 *equal = NULL;

	*count = 0;
	for (int topic = 0; topic < assignment->group->ntopics; topic++)
	{
		const int	partitions = assignment->first[topic + 1] - assignment->first[topic];
		const uint64 *subscribers = get_subscribers(assignment, topic);

		if (partitions == 0 || assignment->nsubscribers[topic] == 0)
			continue;
		if (equal && memcmp(equal, subscribers, sizeof(uint64) * assignment->nwords) != 0)
			return NULL;
		equal = subscribers;
		*count += partitions;
	}
	return equal;
}

/* Have members own what they had, as long as they may. */
static void
keep_all(Assignment *assignment)
{
	for (int i = 0; i < assignment->npartitions; i++)
	{
		AssignedPartition *partition = &assignment->partitions[i];

		partition->owner = partition->origin;
		if (partition->owner != ASSIGNOR_NOBODY)
			assignment->loads[partition->owner]++;
	}
}

/*
 * Return how many of its partitions each member may keep.  Of those that have
 * more than the least number, as many keep one more as there will be members
 * that have one more.
 */
static int *
make_quotas(const Assignment *assignment, const uint64 *takers, int count)
{
	const int	ntakers = (int) pg_popcount((const char *) takers, sizeof(uint64) * assignment->nwords);
	const int	least = count / ntakers;
	int			longer = count % ntakers;
	int		   *quotas = palloc(sizeof(int) * assignment->group->nmembers);

	for (int member = 0; member < assignment->group->nmembers; member++)
	{
		quotas[member] = least;
		if (longer > 0 && assignment->loads[member] > least)
		{
			quotas[member]++;
			longer--;
		}
	}
	return quotas;
}

static int
compare_partitions(const void *a, const void *b, void *arg)
{
	const AssignedPartition *partitions = ((const Assignment *) arg)->partitions;
	const AssignedPartition *left = &partitions[*(const int *) a];
	const AssignedPartition *right = &partitions[*(const int *) b];

	if (left->partition != right->partition)
		return left->partition < right->partition ? -1 : 1;
	return left->topic < right->topic ? -1 : left->topic > right->topic;
}

/*
 * Take from members what is above their quotas: the highest numbers, as Kafka
 * does.
 */
static void
keep_quotas(Assignment *assignment, const int *quotas)
{
	const int  *order = make_order(assignment->npartitions, compare_partitions, assignment);

	memset(assignment->loads, 0, sizeof(int) * assignment->group->nmembers);
	for (int i = 0; i < assignment->npartitions; i++)
	{
		AssignedPartition *partition = &assignment->partitions[order[i]];

		if (partition->owner == ASSIGNOR_NOBODY)
			continue;
		if (assignment->loads[partition->owner] < quotas[partition->owner])
			assignment->loads[partition->owner]++;
		else
			partition->owner = ASSIGNOR_NOBODY;
	}
}

/*
 * Give what nobody has to whoever has the fewest.  All members that have a
 * lower level have been raised before the next one is looked at, so that none
 * is looked at twice with one level.
 */
static void
fill_evenly(Assignment *assignment, const uint64 *takers)
{
	int			level = 0;
	int			member = ASSIGNOR_NOBODY;

	for (int i = 0; i < assignment->npartitions; i++)
	{
		AssignedPartition *partition = &assignment->partitions[i];

		CHECK_FOR_INTERRUPTS();
		if (partition->owner != ASSIGNOR_NOBODY || assignment->nsubscribers[partition->topic] == 0)
			continue;
		do
		{
			member = find_next_in_set(takers, assignment->nwords, member);
			if (member == ASSIGNOR_NOBODY)
				level++;
		} while (member == ASSIGNOR_NOBODY || assignment->loads[member] > level);
		partition->owner = member;
		assignment->loads[member]++;
	}
}

/* ----------------------------------------------------------------------
 * sticky, in general
 * ----------------------------------------------------------------------
 */

static int
find_least_loaded(const Assignment *assignment, int topic)
{
	int			best = find_next_subscriber(assignment, topic, ASSIGNOR_NOBODY);
	int			member = best;

	while ((member = find_next_subscriber(assignment, topic, member)) != ASSIGNOR_NOBODY)
	{
		if (assignment->loads[member] < assignment->loads[best])
			best = member;
	}
	return best;
}

static int
compare_topics_by_subscribers(const void *a, const void *b, void *arg)
{
	const int	left = *(const int *) a;
	const int	right = *(const int *) b;
	const int  *counts = ((const Assignment *) arg)->nsubscribers;

	if (counts[left] != counts[right])
		return counts[left] < counts[right] ? -1 : 1;
	return left < right ? -1 : left > right;
}

/*
 * Give what nobody has to whoever has the fewest.  Topics that few may have
 * are first, so that they are not given to a member that has the others by
 * then.
 */
static void
give_unowned(Assignment *assignment)
{
	const int	ntopics = assignment->group->ntopics;
	const int  *order = make_order(ntopics, compare_topics_by_subscribers, assignment);

	for (int i = 0; i < ntopics; i++)
	{
		const int	topic = order[i];

		if (assignment->nsubscribers[topic] == 0)
			continue;
		for (int place = assignment->first[topic]; place < assignment->first[topic + 1]; place++)
		{
			AssignedPartition *partition = &assignment->partitions[place];

			CHECK_FOR_INTERRUPTS();
			if (partition->owner != ASSIGNOR_NOBODY)
				continue;
			partition->owner = find_least_loaded(assignment, topic);
			assignment->loads[partition->owner]++;
		}
	}
}

/* Put a partition into its owner's list. */
static void
link_partition(ChainSearch *search, AssignedPartition *partition)
{
	dlist_head *owned = &search->owned[partition->owner];

	if (partition->owner == partition->origin)
		dlist_push_tail(owned, &partition->link);
	else
		dlist_push_head(owned, &partition->link);
}

static void
begin_search(ChainSearch *search, Assignment *assignment)
{
	const AssignorGroup *group = assignment->group;

	search->assignment = assignment;
	search->owned = palloc(sizeof(dlist_head) * group->nmembers);
	search->active = palloc0(sizeof(uint64) * assignment->nwords);
	search->unseen = palloc(sizeof(uint64) * assignment->nwords);
	search->seen_topics = palloc(sizeof(bool) * group->ntopics);
	search->queue = palloc(sizeof(int) * group->nmembers);
	search->came_by = palloc(sizeof(AssignedPartition *) * group->nmembers);
	for (int member = 0; member < group->nmembers; member++)
	{
		dlist_init(&search->owned[member]);
		add_to_set(search->active, member);
	}
	for (int i = 0; i < assignment->npartitions; i++)
	{
		if (assignment->partitions[i].owner != ASSIGNOR_NOBODY)
			link_partition(search, &assignment->partitions[i]);
	}
}

/*
 * Find the active member that has the most partitions, the last of several, or
 * ASSIGNOR_NOBODY if all have the same number, or one more.
 */
static int
find_giver(ChainSearch *search)
{
	const int  *loads = search->assignment->loads;
	const int	nwords = search->assignment->nwords;
	int			giver = ASSIGNOR_NOBODY;
	int			member = ASSIGNOR_NOBODY;

	search->least_load = PG_INT32_MAX;
	while ((member = find_next_in_set(search->active, nwords, member)) != ASSIGNOR_NOBODY)
	{
		if (giver == ASSIGNOR_NOBODY || loads[member] >= loads[giver])
			giver = member;
		search->least_load = Min(search->least_load, loads[member]);
	}
	if (giver != ASSIGNOR_NOBODY && loads[giver] - search->least_load <= 1)
		giver = ASSIGNOR_NOBODY;
	return giver;
}

/*
 * Reach all members that can get a partition of one that was reached.  Return
 * the one that has the fewest, if it has fewer than "limit", or else "best".
 */
static int
reach_members(ChainSearch *search, int from, int limit, int best)
{
	const int  *loads = search->assignment->loads;
	const int	nwords = search->assignment->nwords;
	dlist_iter	iter;

	dlist_foreach(iter, &search->owned[from])
	{
		AssignedPartition *partition = dlist_container(AssignedPartition, link, iter.cur);
		const uint64 *subscribers = get_subscribers(search->assignment, partition->topic);

		if (search->seen_topics[partition->topic])
			continue;
		search->seen_topics[partition->topic] = true;
		for (int word = 0; word < nwords; word++)
		{
			uint64		reached = subscribers[word] & search->unseen[word];

			search->unseen[word] &= ~reached;
			for (; reached != 0; reached &= reached - 1)
			{
				const int	member = word * WORD_BITS + pg_rightmost_one_pos64(reached);

				search->came_by[member] = partition;
				search->queue[search->nqueue++] = member;
				if (loads[member] < limit && (best == ASSIGNOR_NOBODY || loads[member] < loads[best]))
					best = member;
			}
		}
		if (best != ASSIGNOR_NOBODY && loads[best] == search->least_load)
			break;
	}
	return best;
}

/*
 * Find a member that has at least two partitions fewer than the giver, and
 * that can get one of it by the shortest chain; of several the one that has
 * the fewest.  Return ASSIGNOR_NOBODY if there is none; then all members that
 * a chain leads to have been reached.
 */
static int
find_receiver(ChainSearch *search, int giver)
{
	const Assignment *assignment = search->assignment;
	const int	limit = assignment->loads[giver] - 1;
	int			receiver = ASSIGNOR_NOBODY;
	int			head = 0;

	memcpy(search->unseen, search->active, sizeof(uint64) * assignment->nwords);
	memset(search->seen_topics, 0, sizeof(bool) * assignment->group->ntopics);
	remove_from_set(search->unseen, giver);
	search->queue[0] = giver;
	search->nqueue = 1;
	while (head < search->nqueue && receiver == ASSIGNOR_NOBODY)
	{
		const int	end = search->nqueue;

		/* all that are one step away, then all that are two, and so on */
		for (; head < end; head++)
		{
			CHECK_FOR_INTERRUPTS();
			receiver = reach_members(search, search->queue[head], limit, receiver);
			if (receiver != ASSIGNOR_NOBODY &&
				assignment->loads[receiver] == search->least_load)
				break;
		}
	}
	return receiver;
}

/*
 * Of a topic's partitions that a member owns, choose the one to pass on: one
 * that goes back to where it was, or else one that the member did not have.
 * The highest number goes first.
 */
static AssignedPartition *
choose_partition(const Assignment *assignment, int topic, int from, int to)
{
	AssignedPartition *chosen = NULL;
	int			best = -1;

	for (int place = assignment->first[topic + 1] - 1; place >= assignment->first[topic]; place--)
	{
		AssignedPartition *partition = &assignment->partitions[place];
		const int	value = partition->origin == to ? 2 : partition->origin != from ? 1 : 0;

		if (partition->owner == from && value > best)
		{
			best = value;
			chosen = partition;
		}
	}
	Assert(chosen != NULL);
	return chosen;
}

/*
 * Move a partition a step, in all steps of the chain that the receiver was
 * reached by.  No two steps are of one topic, since a search looks at a topic
 * once, so that no step takes what another one needs.
 */
static void
pass_along(ChainSearch *search, int giver, int receiver)
{
	Assignment *assignment = search->assignment;

	assignment->loads[giver]--;
	assignment->loads[receiver]++;
	while (receiver != giver)
	{
		const AssignedPartition *step = search->came_by[receiver];
		const int	from = step->owner;
		AssignedPartition *partition = choose_partition(assignment, step->topic, from, receiver);

		dlist_delete(&partition->link);
		partition->owner = receiver;
		link_partition(search, partition);
		receiver = from;
	}
}

/*
 * Move partitions until no move makes the numbers more even.
 *
 * A giver that has n partitions and finds no receiver is done, and so are all
 * that its search reached.  Each of them has n - 1 or n, since nobody has more
 * than the giver, and theirs can go to one another only.  Nor will they get
 * any: those that give later have n at most, and look for members that have
 * fewer than n - 1.  Nobody rises to more than n - 1 meanwhile.
 *
 * It ends, since each round makes the number of active members smaller, or
 * moves a partition from a member that has n to one that has m <= n - 2.  That
 * lowers the sum of all members' squared numbers, which is never below 0, by
 * n^2 + m^2 - (n - 1)^2 - (m + 1)^2 = 2 (n - m - 1) >= 2; members in between
 * have as many as before.
 */
static void
even_out(Assignment *assignment)
{
	ChainSearch search;
	int			giver;

	begin_search(&search, assignment);
	while ((giver = find_giver(&search)) != ASSIGNOR_NOBODY)
	{
		const int	receiver = find_receiver(&search, giver);

		CHECK_FOR_INTERRUPTS();
		if (receiver != ASSIGNOR_NOBODY)
			pass_along(&search, giver, receiver);
		else
		{
			for (int i = 0; i < search.nqueue; i++)
				remove_from_set(search.active, search.queue[i]);
		}
	}
}

/*
 * Give partitions back to members that have one fewer than those that got
 * them: the two change places, and the numbers are as even as before.
 *
 * It ends, since each round but the last one makes the number of partitions
 * smaller that are not where they were.
 */
static void
undo_needless_moves(Assignment *assignment)
{
	int		   *loads = assignment->loads;
	bool		found;

	do
	{
		found = false;
		for (int i = 0; i < assignment->npartitions; i++)
		{
			AssignedPartition *partition = &assignment->partitions[i];
			const int	origin = partition->origin;

			CHECK_FOR_INTERRUPTS();
			if (origin == ASSIGNOR_NOBODY || loads[partition->owner] != loads[origin] + 1)
				continue;
			loads[partition->owner]--;
			loads[origin]++;
			partition->owner = origin;
			found = true;
		}
	} while (found);
}

static void
assign_sticky(Assignment *assignment)
{
	int			count;
	const uint64 *takers = find_equal_subscribers(assignment, &count);

	assignment->loads = palloc0(sizeof(int) * Max(assignment->group->nmembers, 1));
	keep_all(assignment);
	if (takers)
	{
		keep_quotas(assignment, make_quotas(assignment, takers, count));
		fill_evenly(assignment, takers);
	}
	else if (count > 0)
	{
		give_unowned(assignment);
		even_out(assignment);
		undo_needless_moves(assignment);
	}
}

/* ----------------------------------------------------------------------
 * All of them
 * ----------------------------------------------------------------------
 */

/*
 * Assign all partitions of a group's topics to its members, by their topics'
 * "owners".  Topics and members come in any order, and do not change.  What
 * nobody subscribes to goes to ASSIGNOR_NOBODY.  Allocates in the current
 * context.
 */
void
topics_assignor_assign(Assignor assignor, AssignorGroup *group)
{
	Assignment	assignment = {.group = group};

	assignment.topics = make_order(group->ntopics, compare_topics_by_name, group);
	assignment.members = make_order(group->nmembers, compare_members, group);
	collect_subscribers(&assignment);
	collect_partitions(&assignment);
	switch (assignor)
	{
		case ASSIGNOR_RANGE:
			assign_ranges(&assignment);
			break;
		case ASSIGNOR_ROUNDROBIN:
			assign_in_turn(&assignment);
			break;
		case ASSIGNOR_STICKY:
		case ASSIGNOR_COOPERATIVE_STICKY:
			assign_sticky(&assignment);
			break;
	}
	put_owners(&assignment);
}
