/*
 * cut.pml: transactions over two partitions, and whole cuts, for spin.
 *
 * set.pml has one partition, which a follower takes in one local transaction.
 * Here there are two: of the metadata, which says which epochs there were, and
 * of records.  A follower has of each a prefix of its leader's log, takes one
 * after the other, and may have to do without one of them for a while.
 *
 * The log of a term is a list of transactions.  The first one of a term says
 * that it has begun, and goes to partition 0; others go to both.  Where a
 * partition ends is told by how many transactions it has its part of.  There
 * are three nodes; one follower has to confirm.
 *
 * README says what stands for what; run has the scenarios, and checks them.
 *
 * -DTERMS=3 -DLENGTH=3 -DPAUSES=0                         bounds
 * -DPARTS_ALONE                                           transactions of one partition as well
 * -DBEHIND                                                begin in term 2, of which a node knows nothing
 * -DWITHOUT=12                                            a rule is removed
 */

#ifndef TERMS
#define TERMS 3
#endif
/* transactions in a log */
#ifndef LENGTH
#define LENGTH 3
#endif
/* how often a partition is stopped on a node */
#ifndef PAUSES
#define PAUSES 0
#endif
#ifndef WITHOUT
#define WITHOUT 0
#endif
#define NODES 3

/* The rules, which WITHOUT removes one at a time */
#define HAS(rule) (WITHOUT != rule)

#define VOTE_EACH_PARTITION	1	/* who has more in any partition refuses */
#define CUT_NOTED			2	/* where a partition ended before a part of a cut came is noted */
#define CUT_WHOLE			3	/* who leads goes back to the last whole cut */
#define CUT_CONFIRMED		4	/* ... and a follower confirms whole cuts */
#define PAUSED_EXCLUDED		5	/* what it confirms is not about a partition that is stopped there */
#define LACKING_NOTED		6	/* who comes into a term without all of a partition does not lead before it has that */
#define PAUSED_LACKS		7	/* nor does who has stopped one in this term */
#define BEFORE_TERM			8	/* who is not in the term is given what there was when it began, and no more */
#define TERM_BY_CUT			9	/* a node's term rises with a whole cut, not with what it knows of epochs */
#define METADATA_FIRST		10	/* the metadata come before what they tell of, and nothing goes on without them */

/* ----------------------------------------------------------------------
 * Facts
 * ----------------------------------------------------------------------
 */
byte leader_of[TERMS + 1];		/* of a term, + 1 */
byte begin[TERMS + 1];			/* of a term: where its first transaction is */
byte end[TERMS + 1];			/* ... where its leader's log ends */
byte past[(TERMS + 1) * LENGTH];	/* ... the terms of the transactions of that log */
byte parts[(TERMS + 1) * LENGTH];	/* of a transaction, by its term and its place: its partitions, as bits */
byte said[(TERMS + 1) * NODES * 2];	/* so many transactions a follower confirmed in a term, of a partition */

#define PAST(t, i)			past[(t) * LENGTH + (i)]
#define SAID(t, n, p)		said[((t) * NODES + (n)) * 2 + (p)]
/* whether a transaction of term t's log has a part in partition p */
#define PARTS(t, i)			parts[PAST(t, i) * LENGTH + (i)]
#define HAS_PART(t, i, p)	(PARTS(t, i) >> (p) & 1)

/* ----------------------------------------------------------------------
 * Nodes
 * ----------------------------------------------------------------------
 */
/* durable */
byte promised[NODES];
byte last[NODES];				/* the node's term */
byte log_of[NODES];					/* both partitions are prefixes of the log of this term */
byte has[NODES * 2];			/* so many transactions, by partition */
byte before[NODES * 2];			/* ... before a part of a cut came, + 1; 0: none has */
byte lacking[NODES];			/* partitions, as bits */

/* volatile */
byte leads[NODES];
byte seeks[NODES];
byte votes[NODES];
byte follows[NODES];
byte cut[NODES];				/* where the cut ends that it is given, + 1; 0: none */
byte paused[NODES];				/* partitions, as bits */

#define ENDS(n, p)			has[(n) * 2 + (p)]
#define BEFORE(n, p)		before[(n) * 2 + (p)]

byte pauses;

/* what was acknowledged: the term of the transaction, and the first term whose leader said so */
byte confirmed[LENGTH];
byte confirmed_in[LENGTH];

hidden byte two_leaders, confirmed_is_lost, confirmed_is_truncated, not_a_prefix, torn;
hidden byte i, j, to;
#ifdef WITNESS
hidden byte witnessed;
#endif

#define EACH_NODE(step)			:: step(0) :: step(1) :: step(2)
#define EACH_PAIR(step)			:: step(0, 1) :: step(0, 2) :: step(1, 0) :: step(1, 2) :: step(2, 0) :: step(2, 1)
#define EACH_PART(step)			:: step(0, 0) :: step(0, 1) :: step(1, 0) :: step(1, 1) :: step(2, 0) :: step(2, 1)
#if TERMS == 2
#define EACH_NODE_TERM(step)	:: step(0, 1) :: step(1, 1) :: step(2, 1) :: step(0, 2) :: step(1, 2) :: step(2, 2)
#elif TERMS == 3
#define EACH_NODE_TERM(step) \
	:: step(0, 1) :: step(1, 1) :: step(2, 1) :: step(0, 2) :: step(1, 2) :: step(2, 2) :: step(0, 3) :: step(1, 3) :: step(2, 3)
#else
#define EACH_NODE_TERM(step) \
	:: step(0, 1) :: step(1, 1) :: step(2, 1) :: step(0, 2) :: step(1, 2) :: step(2, 2) :: step(0, 3) :: step(1, 3) :: step(2, 3) \
	:: step(0, 4) :: step(1, 4) :: step(2, 4)
#endif

/* ----------------------------------------------------------------------
 * The leader
 * ----------------------------------------------------------------------
 */
inline append(n, where)
{
	PAST(leads[n], end[leads[n]]) = leads[n];
	PARTS(leads[n], end[leads[n]]) = where;
	end[leads[n]]++;
	ENDS(n, 0) = end[leads[n]];
	ENDS(n, 1) = end[leads[n]]
}

inline produce(n, where)
{
	d_step {
		leads[n] && end[leads[n]] < LENGTH ->
		append(n, where);
		printf("node %d commits transaction %d in term %d to partitions %d\n", n, end[leads[n]] - 1, leads[n], where)
	}
}

#define PRODUCE(n)			produce(n, 3)
#define PRODUCE_ALONE(n, p)	produce(n, 1 + (p))

/* One follower has it, or one its one part, and another one the other */
#define SAYS(t, n, i, p)	(leader_of[t] != (n) + 1 && SAID(t, n, p) > (i))
#define IS_SAID(t, i, p)	(!HAS_PART(t, i, p) || SAYS(t, 0, i, p) || SAYS(t, 1, i, p) || SAYS(t, 2, i, p))

inline confirm(n, t)
{
	d_step {
		leads[n] == t && begin[t] < end[t] ->
		i = 0;
		do
		:: i < end[t] && IS_SAID(t, i, 0) && IS_SAID(t, i, 1) ->
			confirmed_in[i] = (confirmed[i] && confirmed_in[i] < t -> confirmed_in[i] : t);
			confirmed[i] = PAST(t, i);
			j = t + 1;
			do
			:: j <= TERMS ->
				confirmed_is_lost = (leader_of[j] && PAST(j, i) != confirmed[i]);
				assert(!confirmed_is_lost);
				j++
			:: else -> break
			od;
			printf("node %d confirms transaction %d in term %d\n", n, i, t);
			i++
		:: else -> break
		od;
#ifdef WITNESS
		witnessed = (t == TERMS && i == LENGTH && pauses == PAUSES);
		assert(!witnessed);
#endif
		skip
	}
}

/* ----------------------------------------------------------------------
 * Elections
 * ----------------------------------------------------------------------
 */
inline promise(n, t)
{
	/* what was said to it is never counted again */
	i = 0;
	do
	:: i < NODES && leads[n] -> SAID(leads[n], i, 0) = 0; SAID(leads[n], i, 1) = 0; i++
	:: else -> break
	od;
	leads[n] = 0;
	follows[n] = 0;
	cut[n] = 0;
	promised[n] = t;
	seeks[n] = 0;
	votes[n] = 0
}

/* Where a partition ended at the last whole cut */
#define WHOLE(n, p)			(BEFORE(n, p) && BEFORE(n, p) - 1 < ENDS(n, p) -> BEFORE(n, p) - 1 : ENDS(n, p))

/* Nodes 1 and 2 are alike until the first of them is a candidate: that is node 1 */
#ifdef BEHIND
#define MAY_SEEK(n)			true
#else
#define MAY_SEEK(n)			((n) < 2 || promised[1] > 1)
#endif

inline seek(n)
{
	d_step {
		promised[n] < TERMS && !lacking[n] && MAY_SEEK(n) ->
		promise(n, promised[n] + 1);
		seeks[n] = promised[n];
		votes[n] = 1 << n;
		printf("node %d seeks term %d with last term %d, ends %d and %d\n", n, seeks[n], last[n], WHOLE(n, 0), WHOLE(n, 1))
	}
}

/* Offsets: how many records a partition has below a place */
#define RECORD(n, p, i)		((i) < LENGTH && (i) < WHOLE(n, p) && HAS_PART(log_of[n], i, p))
#define OFFSET(n, p)		(RECORD(n, p, 0) + RECORD(n, p, 1) + RECORD(n, p, 2) + RECORD(n, p, 3) + RECORD(n, p, 4))
#if HAS(VOTE_EACH_PARTITION)
#define HAS_MORE(n, c)		(OFFSET(n, 0) > OFFSET(c, 0) || OFFSET(n, 1) > OFFSET(c, 1))
#else
#define HAS_MORE(n, c)		(OFFSET(n, 0) + OFFSET(n, 1) > OFFSET(c, 0) + OFFSET(c, 1))
#endif
#define AHEAD(n, c)			(last[n] > last[c] || (last[n] == last[c] && HAS_MORE(n, c)))

inline vote(n, c)
{
	d_step {
		seeks[c] > promised[n] && !AHEAD(n, c) ->
		promise(n, seeks[c]);
		votes[c] = votes[c] | 1 << n;
		printf("node %d promises term %d to node %d\n", n, seeks[c], c)
	}
}

/* A transaction's part is here in partition p, and not in q */
#define IS_LOST(n, i, p, q)	((i) < ENDS(n, p) && (i) >= ENDS(n, q) && PARTS(log_of[n], i) == 3)

inline lead(n)
{
	d_step {
		seeks[n] && votes[n] != 1 << n && WHOLE(n, 0) < LENGTH && WHOLE(n, 1) < LENGTH ->
		two_leaders = (leader_of[seeks[n]] != 0);
		assert(!two_leaders);
		leads[n] = seeks[n];
		seeks[n] = 0;
		votes[n] = 0;
		leader_of[leads[n]] = n + 1;
		if
		:: HAS(CUT_WHOLE) -> ENDS(n, 0) = WHOLE(n, 0); ENDS(n, 1) = WHOLE(n, 1)
		:: else
		fi;
		BEFORE(n, 0) = 0;
		BEFORE(n, 1) = 0;
		lacking[n] = 0;
		paused[n] = 0;
		i = 0;
		do
		:: i < LENGTH ->
			torn = (IS_LOST(n, i, 0, 1) || IS_LOST(n, i, 1, 0));
			assert(!torn);
			if
			:: i < ENDS(n, 0) || i < ENDS(n, 1) -> PAST(leads[n], i) = PAST(log_of[n], i)
			:: else
			fi;
			confirmed_is_lost = (confirmed[i] && confirmed_in[i] < leads[n] && PAST(leads[n], i) != confirmed[i]);
			assert(!confirmed_is_lost);
			i++
		:: else -> break
		od;
		begin[leads[n]] = (ENDS(n, 0) > ENDS(n, 1) -> ENDS(n, 0) : ENDS(n, 1));
		end[leads[n]] = begin[leads[n]];
		append(n, 1);
		last[n] = leads[n];
		log_of[n] = leads[n];
		printf("node %d leads term %d from %d\n", n, leads[n], begin[leads[n]])
	}
}

/* ----------------------------------------------------------------------
 * Followers
 * ----------------------------------------------------------------------
 */

/* The metadata of a node, or of a term's leader, tell that term g has begun */
#define IN_LOG(t, g)		(begin[g] < end[t] && PAST(t, begin[g]) == (g))
#define KNOWS(n, g)			(begin[g] < ENDS(n, 0) && PAST(log_of[n], begin[g]) == (g))

/* A partition ends at "to", or below, and is a prefix of term t's log then */
inline go_back(n, t, p)
{
	i = 0;
	do
	:: i < ENDS(n, p) ->
		confirmed_is_truncated = (i >= to && confirmed[i] && confirmed_in[i] < t && confirmed[i] == PAST(log_of[n], i));
		assert(!confirmed_is_truncated);
		not_a_prefix = (i < to && PAST(log_of[n], i) != PAST(t, i));
		assert(!not_a_prefix);
		i++
	:: else -> break
	od;
	ENDS(n, p) = (to < ENDS(n, p) -> to : ENDS(n, p))
}

/* A session begins: the node goes back to where both logs are the same */
inline follow(n, t)
{
	d_step {
		leader_of[t] && leader_of[t] != n + 1 && t >= promised[n] && (follows[n] != t || cut[n]) && last[n] <= t ->
		if
		:: t > promised[n] -> promise(n, t)
		:: else -> seeks[n] = 0; votes[n] = 0
		fi;
		follows[n] = t;
		cut[n] = 0;
		paused[n] = 0;
		if
		:: last[n] < t ->
			/* the latest epoch that both know, and where it has ended at one of them */
			i = t;
			do
			:: !(KNOWS(n, i) && IN_LOG(t, i)) -> i--
			:: else -> break
			od;
			to = LENGTH;
			j = TERMS;
			do
			:: j > i -> to = ((KNOWS(n, j) || IN_LOG(t, j)) && begin[j] < to -> begin[j] : to); j--
			:: else -> break
			od;
			last[n] = (HAS(TERM_BY_CUT) && last[n] < i -> last[n] : i);
			printf("node %d follows term %d, common epoch %d, ends %d and %d of %d and %d\n", n, t, i,
				   (to < ENDS(n, 0) -> to : ENDS(n, 0)), (to < ENDS(n, 1) -> to : ENDS(n, 1)), ENDS(n, 0), ENDS(n, 1));
			go_back(n, t, 0);
			go_back(n, t, 1);
			log_of[n] = t
		:: else -> printf("node %d follows term %d again\n", n, t)
		fi
	}
}

/* The leader makes a cut for it */
inline make_cut(n)
{
	d_step {
		follows[n] && !cut[n] && leads[leader_of[follows[n]] - 1] == follows[n] ->
		to = (last[n] < follows[n] && HAS(BEFORE_TERM) -> begin[follows[n]] : end[follows[n]]);
		cut[n] = to + 1
	}
}

#define LACKS_OF_CUT(n, p)	(ENDS(n, p) + 1 < cut[n] && !(paused[n] >> (p) & 1))

/* ... and a partition of it comes */
inline take(n, p)
{
	d_step {
		cut[n] && LACKS_OF_CUT(n, p) && (p == 0 || !LACKS_OF_CUT(n, 0) || !HAS(METADATA_FIRST)) ->
		if
		:: HAS(CUT_NOTED) && !BEFORE(n, p) -> BEFORE(n, p) = ENDS(n, p) + 1
		:: else
		fi;
		ENDS(n, p) = cut[n] - 1;
		printf("node %d has %d of partition %d of term %d\n", n, ENDS(n, p), p, follows[n])
	}
}

#define SHORT(n)			((ENDS(n, 0) + 1 < cut[n] -> 1 : 0) + (ENDS(n, 1) + 1 < cut[n] -> 2 : 0))
#define TELLS(n, p)			(!HAS(PAUSED_EXCLUDED) || !(paused[n] >> (p) & 1))

/* ... all of it: it is whole, but for what is paused, and is confirmed, or brings the node into the term */
inline finish(n)
{
	d_step {
		cut[n] && leads[leader_of[follows[n]] - 1] == follows[n] && ((!LACKS_OF_CUT(n, 0) && !LACKS_OF_CUT(n, 1)) || !HAS(CUT_CONFIRMED)) ->
		BEFORE(n, 0) = 0;
		BEFORE(n, 1) = 0;
		if
		:: last[n] < follows[n] ->
			last[n] = follows[n];
			lacking[n] = (HAS(LACKING_NOTED) -> SHORT(n) : 0);
			printf("node %d comes into term %d, with ends %d and %d\n", n, last[n], ENDS(n, 0), ENDS(n, 1))
		:: else ->
			lacking[n] = (HAS(PAUSED_LACKS) -> SHORT(n) : lacking[n] & SHORT(n));
			SAID(follows[n], n, 0) = (TELLS(n, 0) -> cut[n] - 1 : SAID(follows[n], n, 0));
			SAID(follows[n], n, 1) = (TELLS(n, 1) -> cut[n] - 1 : SAID(follows[n], n, 1));
			printf("node %d confirms %d and %d in term %d\n", n, SAID(follows[n], n, 0), SAID(follows[n], n, 1), follows[n])
		fi;
		cut[n] = 0
	}
}

inline pause(n, p)
{
	d_step {
		pauses < PAUSES && follows[n] && !paused[n] && (p == 1 || !HAS(METADATA_FIRST)) ->
		pauses++;
		paused[n] = 1 << p;
		printf("node %d stops partition %d\n", n, p)
	}
}

/* Node 0 leads term 1, and the others follow */
init {
	d_step {
		leader_of[1] = 1;
		end[1] = 1;
		PAST(1, 0) = 1;
		PARTS(1, 0) = 1;
		i = 0;
		do
		:: i < NODES ->
			promised[i] = 1;
			last[i] = 1;
			log_of[i] = 1;
			ENDS(i, 0) = 1;
			ENDS(i, 1) = 1;
			follows[i] = (i -> 1 : 0);
			i++
		:: else -> break
		od;
		leads[0] = 1;
#ifdef BEHIND
		/* ... until term 2, after node 2 has confirmed a transaction that node 1 has not */
		PAST(1, 1) = 1;
		PARTS(1, 1) = 3;
		end[1] = 2;
		ENDS(2, 0) = 2;
		ENDS(2, 1) = 2;
		follows[2] = 0;
		confirmed[0] = 1;
		confirmed[1] = 1;
		confirmed_in[0] = 1;
		confirmed_in[1] = 1;
		leader_of[2] = 1;
		PAST(2, 0) = 1;
		PAST(2, 1) = 1;
		begin[2] = 2;
		end[2] = 2;
		promised[0] = 2;
		promised[1] = 2;
		follows[1] = 0;
		leads[0] = 2;
		append(0, 1);
		last[0] = 2;
		log_of[0] = 2
#endif
	}
	do
#ifdef PARTS_ALONE
	EACH_PART(PRODUCE_ALONE)
#endif
	EACH_NODE(PRODUCE)
	EACH_NODE_TERM(confirm)
	EACH_NODE(seek)
	EACH_PAIR(vote)
	EACH_NODE(lead)
	EACH_NODE_TERM(follow)
	EACH_NODE(make_cut)
	EACH_PART(take)
	EACH_NODE(finish)
#if PAUSES
	EACH_PART(pause)
#endif
	od
}
