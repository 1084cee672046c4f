/*
 * members.pml: changes of nodes and of k, and copies of nodes, for spin.
 *
 * Changes are records of the log that is voted by.  Here a follower takes a
 * prefix of its leader's log in one step; set.pml shows that it may, and has
 * what is inside that step.  So a log is two numbers: the last term, and how
 * many records it has of the log of that term's leader.
 *
 * README says what stands for what; run has the scenarios, and checks them.
 *
 * -DNODES=4 -DMEMBERS=3 -DK=1 -DTERMS=3 -DRECORDS=2 -DCRASHES=0   bounds
 * -DCHANGES=2 -DALTERS=0                                  so many changes of nodes, of k
 * -DJOINS -DREMOVES                                       who may join, or leave, as bits
 * -DFIXED_K                                               somebody has said k
 * -DCOPY=1                                                the last node is a copy of this one
 * -DWITHOUT=12                                            a rule is removed
 */

#ifndef NODES
#define NODES 4
#endif
/* the first so many are members from the start on */
#ifndef MEMBERS
#define MEMBERS 3
#endif
/* followers that an acknowledgement needs; by default half of the nodes, as that changes */
#ifndef K
#define K (MEMBERS / 2)
#endif
#ifndef TERMS
#define TERMS 3
#endif
/* ... in a log */
#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef CHANGES
#define CHANGES 0
#endif
#ifndef ALTERS
#define ALTERS 0
#endif
#ifndef JOINS
#define JOINS 0
#endif
#ifndef REMOVES
#define REMOVES 0
#endif
#ifndef WITHOUT
#define WITHOUT 0
#endif
#ifndef AND_WITHOUT
#define AND_WITHOUT 0
#endif

/* The rules, which WITHOUT removes one at a time */
#define HAS(rule) (WITHOUT != rule && AND_WITHOUT != rule)

#define CHANGE_IN_LOG		1	/* who lacks a change that a voter has is refused, as for any record */
#define VOTES_OF_MEMBERS	2	/* promises of those count who are members by the candidate's log */
#define CANDIDATE_IS_MEMBER	3	/* ... and only such a node is a candidate */
#define COUNT_MEMBERS		4	/* confirmations of members count, of others not */
#define ONE_AT_A_TIME		5	/* no change of nodes while too few know of the one before */
#define FORMER_K			6	/* until then as many followers as before must confirm, too */
#define FORMER_NODES		7	/* ... of those that were members before */
#define KNOWN_TO_FORMER		8	/* who has just joined does not count among those who know */
#define KNOWN_TO_ENOUGH		9	/* so many know that the former nodes elect nobody without one of them */
#define CHANGE_AT_ONCE		10	/* a change is in effect as soon as others can have it */
#define START_IS_CHANGE		11	/* a leader that begins, or is restarted, takes it that others do not know */
#define START_BY_HALF		12	/* ... until half of the nodes, not counting itself, have what it has */
#define START_FORMER_K		13	/* ... and that k was half of the nodes at least */
#define NEWCOMER_HAS_ALL	14	/* who joins has all that the leader has */
#define CANDIDATE_IS_KNOWN	15	/* a voter knows the candidate as a member */
#define COPY_VOTES_LATER	16	/* a copy does not promise before it is admitted */
#define COPY_COUNTS_LATER	17	/* ... nor confirm */
#define COPY_QUORUM			18	/* it leads by others' promises alone */
#define COPY_BY_QUORUM		19	/* ... of which there are as many as make any leader */
#define COPY_ASKS			20	/* before it follows it hears what it may have promised */
#define COPY_ASKS_ALL		21	/* ... from all others */
#define COPY_HAS_ALL		22	/* it is admitted when it has all that the leader has */
#define ORIGINAL_ENDS		23	/* the node that it was copied from does nothing any more */

#define LAST_NODE			(NODES - 1)
/* who a node is to others, as a bit */
#ifdef COPY
#define BIT_OF(n)			(1 << ID_OF(n))
#define IS_ALIVE(n)			(((n) != LAST_NODE || promoted) && !((n) == COPY && promoted && HAS(ORIGINAL_ENDS)))
#define IS_ADMITTED(n)		((n) != LAST_NODE || admitted)
#define ID_OF(n)			((n) == LAST_NODE -> COPY : (n))
#else
#define BIT_OF(n)			(1 << (n))
#define IS_ALIVE(n)			true
#define IS_ADMITTED(n)		true
#define ID_OF(n)			(n)
#endif
#define BITS(m)				(((m) & 1) + ((m) >> 1 & 1) + ((m) >> 2 & 1) + ((m) >> 3 & 1) + ((m) >> 4 & 1))
#define MAX(a, b)			((a) > (b) -> (a) : (b))
#define MIN(a, b)			((a) < (b) -> (a) : (b))

/* members as bits, and k, in one number */
#define AGREED(members, k)	((members) + (k) * 32)
#define WHO(c)				((c) % 32)
#define K_OF(c)				((c) / 32)
#define N_OF(c)				BITS(WHO(c))
#define MAJORITY(n)			((n) / 2 + 1)
/* promises that make a leader; others of whom one is in each election, and has all that was acknowledged */
#define QUORUM(c)			MAX(MAJORITY(N_OF(c)), N_OF(c) - K_OF(c))
#define ENOUGH_OTHERS(c)	MAX(N_OF(c) - QUORUM(c) + 1, N_OF(c) - K_OF(c))

/* ----------------------------------------------------------------------
 * Facts.  A record is known by its term and its offset.
 * ----------------------------------------------------------------------
 */
byte leader_of[TERMS + 1];		/* of a term, + 1 */
byte begin[TERMS + 1];			/* of a term: where it began */
byte end[TERMS + 1];			/* ... where its leader's log ends */
byte past[(TERMS + 1) * RECORDS];	/* ... the terms of the records of that log */
byte agreed[(TERMS + 1) * RECORDS];	/* of a record: what is agreed on with it */
byte said[(TERMS + 1) * NODES];	/* how many records a follower confirmed in a term, + 1 */

#define PAST(t, o)			past[(t) * RECORDS + (o)]
#define AGREED_BY(t, o)		agreed[(t) * RECORDS + (o)]
#define SAID(t, f)			said[(t) * NODES + ID_OF(f)]

/* what who has so many records of a term's log knows to be agreed on */
#define AT_FIRST			AGREED((1 << MEMBERS) - 1, K)
#define AGREED_AT(t, count)	((count) -> AGREED_BY(PAST(t, (count) - 1), (count) - 1) : AT_FIRST)
#define KNOWS(n)			AGREED_AT(last[n], length[n])

byte changes;
byte alters;
byte crashes;

/* ----------------------------------------------------------------------
 * Nodes
 * ----------------------------------------------------------------------
 */
/* durable */
byte promised[NODES];
byte last[NODES];				/* the last term of the log */
byte length[NODES];				/* its records */

/* volatile */
byte leads[NODES];				/* the term that the node leads */
byte seeks[NODES];				/* ... that it is a candidate for */
byte votes[NODES];				/* who promised it that, as bits */

/* of a leader, volatile: what it asks for until enough know of the latest change */
byte change_at[NODES];			/* its record is below, + 1; 0: there is none */
byte change_by[NODES];			/* so many followers have to know */
byte former_k[NODES];
byte newcomers[NODES];			/* who was no member before, as bits */
#if !HAS(CHANGE_AT_ONCE)
byte uses[NODES];				/* what it goes by, + 1, while that is not the latest; 0: it is */
#endif

#ifdef COPY
/* what the copy has, until it is promoted */
bool copied, promoted;
bool admitted;
byte heard;						/* from whom, as bits */
#endif

/* what producers were told: the term of the record, and the first term whose leader said so */
byte confirmed[RECORDS];
byte confirmed_in[RECORDS];

hidden byte two_leaders, confirmed_is_lost, confirmed_two_values, confirmed_is_truncated;
hidden byte i, j, c;
#ifdef WITNESS
hidden byte witnessed;
#endif

#if NODES == 3
#define EACH_NODE(step)			:: step(0) :: step(1) :: step(2)
#define EACH_OTHER(step, n)		:: step(n, 0) :: step(n, 1) :: step(n, 2)
#define EACH_PAIR(step)			EACH_OTHER(step, 0) EACH_OTHER(step, 1) EACH_OTHER(step, 2)
#define SUM(test, x, y, z)		(test(x, y, z, 0) + test(x, y, z, 1) + test(x, y, z, 2))
#define EACH_NODE_X(step, x)	:: step(0, x) :: step(1, x) :: step(2, x)
#elif NODES == 4
#define EACH_NODE(step)			:: step(0) :: step(1) :: step(2) :: step(3)
#define EACH_OTHER(step, n)		:: step(n, 0) :: step(n, 1) :: step(n, 2) :: step(n, 3)
#define EACH_PAIR(step)			EACH_OTHER(step, 0) EACH_OTHER(step, 1) EACH_OTHER(step, 2) EACH_OTHER(step, 3)
#define SUM(test, x, y, z)		(test(x, y, z, 0) + test(x, y, z, 1) + test(x, y, z, 2) + test(x, y, z, 3))
#define EACH_NODE_X(step, x)	:: step(0, x) :: step(1, x) :: step(2, x) :: step(3, x)
#elif NODES == 5
#define EACH_NODE(step)			:: step(0) :: step(1) :: step(2) :: step(3) :: step(4)
#define EACH_OTHER(step, n)		:: step(n, 0) :: step(n, 1) :: step(n, 2) :: step(n, 3) :: step(n, 4)
#define EACH_PAIR(step)			EACH_OTHER(step, 0) EACH_OTHER(step, 1) EACH_OTHER(step, 2) EACH_OTHER(step, 3) EACH_OTHER(step, 4)
#define SUM(test, x, y, z)		(test(x, y, z, 0) + test(x, y, z, 1) + test(x, y, z, 2) + test(x, y, z, 3) + test(x, y, z, 4))
#define EACH_NODE_X(step, x)	:: step(0, x) :: step(1, x) :: step(2, x) :: step(3, x) :: step(4, x)
#else
#define EACH_NODE(step)			:: step(0) :: step(1) :: step(2) :: step(3) :: step(4) :: step(5)
#define EACH_OTHER(step, n)		:: step(n, 0) :: step(n, 1) :: step(n, 2) :: step(n, 3) :: step(n, 4) :: step(n, 5)
#define EACH_PAIR(step)			EACH_OTHER(step, 0) EACH_OTHER(step, 1) EACH_OTHER(step, 2) EACH_OTHER(step, 3) EACH_OTHER(step, 4) EACH_OTHER(step, 5)
#define SUM(test, x, y, z)		(test(x, y, z, 0) + test(x, y, z, 1) + test(x, y, z, 2) + test(x, y, z, 3) + test(x, y, z, 4) + test(x, y, z, 5))
#define EACH_NODE_X(step, x)	:: step(0, x) :: step(1, x) :: step(2, x) :: step(3, x) :: step(4, x) :: step(5, x)
#endif
#if TERMS == 2
#define EACH_NODE_TERM(step)	EACH_NODE_X(step, 1) EACH_NODE_X(step, 2)
#elif TERMS == 3
#define EACH_NODE_TERM(step)	EACH_NODE_X(step, 1) EACH_NODE_X(step, 2) EACH_NODE_X(step, 3)
#else
#define EACH_NODE_TERM(step)	EACH_NODE_X(step, 1) EACH_NODE_X(step, 2) EACH_NODE_X(step, 3) EACH_NODE_X(step, 4)
#endif

/* ----------------------------------------------------------------------
 * The leader
 * ----------------------------------------------------------------------
 */

/* Followers that have confirmed so many records to leader n in term t, of some members */
#define HAS_SAID(members, t, count, f) \
	((!HAS(COUNT_MEMBERS) || ((members) & BIT_OF(f))) && ID_OF(f) == (f) && BIT_OF(leader_of[t] - 1) != BIT_OF(f) && SAID(t, f) > (count))
#define CONFIRM(members, t, count)	SUM(HAS_SAID, members, t, count)

#define OLD_ONES(n)			(WHO(KNOWS(n)) & ~newcomers[n])
#define WHO_KNOW(n)			(HAS(KNOWN_TO_FORMER) -> OLD_ONES(n) : WHO(KNOWS(n)))
#define IS_CHANGING(n)		(change_at[n] && CONFIRM(WHO_KNOW(n), leads[n], change_at[n] - 1) < change_by[n])
#if HAS(CHANGE_AT_ONCE)
#define USES(n)				KNOWS(n)
#else
#define USES(n)				(uses[n] -> uses[n] - 1 : KNOWS(n))
#endif
#define IS_CONFIRMED(n, o) \
	(CONFIRM(WHO(USES(n)), leads[n], (o) + 1) >= K_OF(USES(n)) && \
	 (!IS_CHANGING(n) || CONFIRM((HAS(FORMER_NODES) -> OLD_ONES(n) : WHO(KNOWS(n))), leads[n], (o) + 1) >= \
	  (HAS(FORMER_K) -> former_k[n] : 0)))

/* What was said in a term whose leader is no more, or has forgotten it, is never counted */
inline forget_said(t)
{
	i = 0;
	do
	:: i < NODES -> said[(t) * NODES + i] = 0; i++
	:: else -> break
	od
}

inline stop_leading(n)
{
	if
	:: leads[n] -> forget_said(leads[n])
	:: else
	fi;
	leads[n] = 0;
	change_at[n] = 0;
	change_by[n] = 0;
	former_k[n] = 0;
	newcomers[n] = 0;
#if !HAS(CHANGE_AT_ONCE)
	uses[n] = 0
#endif
}

/* It leads from now on, or still does after a restart: it knows nothing of others */
inline begin_leading(n)
{
	c = KNOWS(n);
	change_by[n] = (HAS(START_BY_HALF) -> N_OF(c) / 2 : N_OF(c) - MAJORITY(N_OF(c)));
	if
	:: change_by[n] && HAS(START_IS_CHANGE) ->
		change_at[n] = length[n] + 1;
		former_k[n] = (HAS(START_FORMER_K) -> MAX(K_OF(c), N_OF(c) / 2) : K_OF(c))
	:: else -> change_at[n] = 0; change_by[n] = 0; former_k[n] = 0
	fi;
	newcomers[n] = 0
}

/* A record goes to the log, with which c is agreed on */
inline append(n)
{
	AGREED_BY(leads[n], length[n]) = c;
	PAST(leads[n], length[n]) = leads[n];
	length[n]++;
	end[leads[n]] = length[n]
}

inline produce(n)
{
	d_step {
		leads[n] && length[n] < RECORDS ->
		c = KNOWS(n);
		append(n);
		printf("node %d produces at %d in term %d\n", n, length[n] - 1, leads[n])
	}
}

/* The leader changes what is agreed on to c; "new": who was no member before */
inline agree(n, new)
{
	i = KNOWS(n);
	j = N_OF(i) - QUORUM(i);
	/* a copy of the leader is elected without it */
	if
	:: N_OF(i) > 1 && N_OF(c) > 1 -> j = MAX(j, 1)
	:: else
	fi;
	if
	:: !HAS(KNOWN_TO_ENOUGH) -> j = 0
	:: else
	fi;
	if
	:: IS_CHANGING(n) ->
		former_k[n] = MAX(former_k[n], K_OF(i));
		change_by[n] = MAX(change_by[n], j);
		newcomers[n] = newcomers[n] | new
	:: else ->
		former_k[n] = K_OF(i);
		change_by[n] = j;
		newcomers[n] = new
	fi;
#if !HAS(CHANGE_AT_ONCE)
	uses[n] = i + 1;
#endif
	append(n);
	if
	:: change_by[n] -> change_at[n] = length[n] + 1
	:: else -> change_at[n] = 0; former_k[n] = 0; newcomers[n] = 0
	fi
}

/* ... with so many nodes */
#ifdef FIXED_K
#define K_AFTER(nodes, k)	((k) < (nodes) -> (k) : (nodes) - 1)
#else
#define K_AFTER(nodes, k)	((nodes) / 2)
#endif
#define MAY_CHANGE(n)		(leads[n] && length[n] < RECORDS && changes < CHANGES && (!HAS(ONE_AT_A_TIME) || !IS_CHANGING(n)))

inline join(n, x)
{
	d_step {
		(JOINS >> x & 1) && MAY_CHANGE(n) && !(WHO(KNOWS(n)) >> x & 1) &&
		(SAID(leads[n], x) > length[n] || !HAS(NEWCOMER_HAS_ALL)) ->
		changes++;
		c = KNOWS(n);
		c = AGREED(WHO(c) | 1 << x, K_AFTER(N_OF(c) + 1, K_OF(c)));
		agree(n, 1 << x);
		printf("node %d has node %d join at %d in term %d\n", n, x, length[n] - 1, leads[n])
	}
}

inline remove(n, x)
{
	d_step {
		(REMOVES >> x & 1) && n != x && MAY_CHANGE(n) && (WHO(KNOWS(n)) >> x & 1) ->
		changes++;
		c = KNOWS(n);
		c = AGREED(WHO(c) - (1 << x), K_AFTER(N_OF(c) - 1, K_OF(c)));
		agree(n, 0);
		SAID(leads[n], x) = 0;
		printf("node %d removes node %d at %d in term %d\n", n, x, length[n] - 1, leads[n])
	}
}

/* the only change that may come while too few know of the one before */
inline alter(n, to)
{
	d_step {
		leads[n] && length[n] < RECORDS && alters < ALTERS && to != K_OF(KNOWS(n)) && to < N_OF(KNOWS(n)) ->
		alters++;
		c = AGREED(WHO(KNOWS(n)), to);
		agree(n, 0);
		printf("node %d says k = %d at %d in term %d\n", n, to, length[n] - 1, leads[n])
	}
}

#if !HAS(CHANGE_AT_ONCE)
inline use(n)
{
	d_step { uses[n] -> uses[n] = 0; printf("node %d goes by the change\n", n) }
}
#endif

/* Acknowledgements go as far as enough have confirmed */
inline confirm(n)
{
	d_step {
		leads[n] && length[n] && IS_CONFIRMED(n, 0) ->
		i = 0;
		do
		:: i < length[n] && IS_CONFIRMED(n, i) ->
			confirmed_two_values = (confirmed[i] && confirmed[i] != PAST(leads[n], i));
			assert(!confirmed_two_values);
			confirmed_in[i] = (confirmed[i] && confirmed_in[i] < leads[n] -> confirmed_in[i] : leads[n]);
			confirmed[i] = PAST(leads[n], i);
			j = leads[n] + 1;
			do
			:: j <= TERMS ->
				confirmed_is_lost = (leader_of[j] && PAST(j, i) != confirmed[i]);
				assert(!confirmed_is_lost);
				j++
			:: else -> break
			od;
			i++
		:: else -> break
		od;
#ifdef WITNESS
		witnessed = (leads[n] == TERMS && i == RECORDS && changes == CHANGES && alters == ALTERS && !IS_CHANGING(n));
		assert(!witnessed);
#endif
		printf("node %d confirms %d records in term %d\n", n, i, leads[n])
	}
}

/* ----------------------------------------------------------------------
 * Elections
 * ----------------------------------------------------------------------
 */
inline promise(n, t)
{
	stop_leading(n);
	promised[n] = t;
	seeks[n] = 0;
	votes[n] = 0
}

#define MAY_VOTE(n)			(IS_ADMITTED(n) || !HAS(COPY_VOTES_LATER))
#define IS_AS_MEMBER(n)		(IS_ADMITTED(n) || !HAS(COPY_QUORUM))
#define VOTES(n)			(HAS(VOTES_OF_MEMBERS) -> votes[n] & (WHO(KNOWS(n)) | BIT_OF(n)) : votes[n])
#define QUORUM_OF_COPY(n)	(HAS(COPY_BY_QUORUM) -> MAX(MIN(QUORUM(KNOWS(n)), N_OF(KNOWS(n)) - 1), N_OF(KNOWS(n)) - K_OF(KNOWS(n))) : ENOUGH_OTHERS(KNOWS(n)))
#define IS_CHOSEN(n) \
	(IS_AS_MEMBER(n) -> BITS(VOTES(n)) >= QUORUM(KNOWS(n)) : BITS(VOTES(n) & ~BIT_OF(n)) >= QUORUM_OF_COPY(n))

/* Nodes that neither join, leave nor are copied are alike until the first of them is a candidate: that is node 1 */
#ifdef COPY
#define OTHERS				(JOINS | REMOVES | 1 | 1 << COPY | 1 << LAST_NODE)
#else
#define OTHERS				(JOINS | REMOVES | 1)
#endif
#define MAY_SEEK(n)			((n) < 2 || (OTHERS >> 1 & 1) || (OTHERS >> (n) & 1) || promised[1] > 1)

inline seek(n)
{
	d_step {
		promised[n] < TERMS && IS_ALIVE(n) && MAY_SEEK(n) && ((WHO(KNOWS(n)) & BIT_OF(n)) || !HAS(CANDIDATE_IS_MEMBER)) ->
		promise(n, promised[n] + 1);
		seeks[n] = promised[n];
		votes[n] = BIT_OF(n);
		printf("node %d seeks term %d with last term %d, end %d\n", n, seeks[n], last[n], length[n])
	}
}

#if HAS(CHANGE_IN_LOG)
#define AHEAD(n, x)			(last[n] > last[x] || (last[n] == last[x] && length[n] > length[x]))
#else
/* as if changes were in no log: what is confirmed is compared alone */
#define DATA(n)				(length[n] && AGREED_AT(last[n], length[n]) != AGREED_AT(last[n], length[n] - 1) -> length[n] - 1 : length[n])
#define AHEAD(n, x)			(last[n] > last[x] || (last[n] == last[x] && DATA(n) > DATA(x)))
#endif

inline vote(n, x)
{
	d_step {
		n != x && seeks[x] > promised[n] && IS_ALIVE(n) && MAY_VOTE(n) && BIT_OF(n) != BIT_OF(x) && !AHEAD(n, x) &&
		((WHO(KNOWS(n)) & BIT_OF(x)) || !HAS(CANDIDATE_IS_KNOWN)) ->
		promise(n, seeks[x]);
		votes[x] = votes[x] | BIT_OF(n);
		printf("node %d promises term %d to node %d\n", n, seeks[x], x)
	}
}

inline lead(n)
{
	d_step {
		seeks[n] && IS_CHOSEN(n) ->
		two_leaders = (leader_of[seeks[n]] != 0);
		assert(!two_leaders);
		leads[n] = seeks[n];
		seeks[n] = 0;
		votes[n] = 0;
		leader_of[leads[n]] = n + 1;
		begin[leads[n]] = length[n];
		end[leads[n]] = length[n];
		i = 0;
		do
		:: i < length[n] -> PAST(leads[n], i) = PAST(last[n], i); i++
		:: else -> break
		od;
		last[n] = leads[n];
		i = 0;
		do
		:: i < RECORDS ->
			confirmed_is_lost = (confirmed[i] && confirmed_in[i] < leads[n] && PAST(leads[n], i) != confirmed[i]);
			assert(!confirmed_is_lost);
			i++
		:: else -> break
		od;
		begin_leading(n);
#ifdef COPY
		if
		:: n == LAST_NODE -> admitted = true; heard = 0
		:: else
		fi;
#endif
		printf("node %d leads term %d from %d\n", n, leads[n], length[n])
	}
}

/* ----------------------------------------------------------------------
 * Followers
 * ----------------------------------------------------------------------
 */
#ifdef COPY
#define MAY_FOLLOW(n)		(IS_ADMITTED(n) || !HAS(COPY_ASKS) || BITS(heard) >= (HAS(COPY_ASKS_ALL) -> N_OF(KNOWS(n)) - 1 : ENOUGH_OTHERS(KNOWS(n))))
#else
#define MAY_FOLLOW(n)		true
#endif
/* the leader still listens */
#define LISTENS(t)			(leads[leader_of[t] - 1] == (t))

#define MAY_SAY(n, t)		(IS_ADMITTED(n) || length[n] == end[t] || !HAS(COPY_HAS_ALL))

/* A follower says what it has of term t's log; a copy that has all is admitted then */
inline say(n, t)
{
#ifdef COPY
	if
	:: n == LAST_NODE && MAY_SAY(n, t) -> admitted = true; heard = 0
	:: else
	fi;
#endif
	if
	:: LISTENS(t) && (IS_ADMITTED(n) || !HAS(COPY_COUNTS_LATER)) -> SAID(t, n) = length[n] + 1
	:: else
	fi;
	printf("node %d has %d records of term %d\n", n, length[n], t)
}

/* It comes into term t: it has all that there was when that began, and nothing beyond; or it says so again */
inline enter(n, t)
{
	d_step {
		IS_ALIVE(n) && leader_of[t] && ID_OF(leader_of[t] - 1) != ID_OF(n) && t >= promised[n] && MAY_FOLLOW(n) &&
		(last[n] < t || (last[n] == t && LISTENS(t) && SAID(t, n) != length[n] + 1 && MAY_SAY(n, t))) ->
		if
		:: promised[n] < t -> promise(n, t)
		:: else -> seeks[n] = 0; votes[n] = 0
		fi;
		i = 0;
		do
		:: last[n] < t && i < length[n] ->
			confirmed_is_truncated = (confirmed[i] && confirmed_in[i] < t && confirmed[i] == PAST(last[n], i) && (i >= begin[t] || PAST(t, i) != confirmed[i]));
			assert(!confirmed_is_truncated);
			i++
		:: else -> break
		od;
		length[n] = (last[n] < t -> begin[t] : length[n]);
		last[n] = t;
		say(n, t)
	}
}

/* ... and has one more record */
inline take(n)
{
	d_step {
		IS_ALIVE(n) && ID_OF(leader_of[last[n]] - 1) != ID_OF(n) && promised[n] == last[n] && length[n] < end[last[n]] && MAY_FOLLOW(n) ->
		seeks[n] = 0;
		votes[n] = 0;
		length[n]++;
		say(n, last[n])
	}
}

#define ALTER_0(n)			alter(n, 0)
#define ALTER_1(n)			alter(n, 1)
#define ALTER_2(n)			alter(n, 2)

/* ----------------------------------------------------------------------
 * Restarts and copies
 * ----------------------------------------------------------------------
 */

/* It leads on in the same term */
inline restart(n)
{
	d_step {
		crashes < CRASHES && (leads[n] || seeks[n]) ->
		crashes++;
		seeks[n] = 0;
		votes[n] = 0;
		if
		:: leads[n] -> forget_said(leads[n]); begin_leading(n)
		:: else
		fi;
		printf("node %d is restarted\n", n)
	}
}

#ifdef COPY
/* The state that the copy will have */
inline take_copy()
{
	d_step {
		!copied ->
		copied = true;
		promised[LAST_NODE] = promised[COPY];
		last[LAST_NODE] = last[COPY];
		length[LAST_NODE] = length[COPY];
		printf("node %d is a copy of node %d, of term %d, end %d\n", LAST_NODE, COPY, last[COPY], length[COPY])
	}
}

inline promote()
{
	d_step {
		copied && !promoted ->
		promoted = true;
		if
		:: HAS(ORIGINAL_ENDS) ->
			stop_leading(COPY);
			seeks[COPY] = 0;
			votes[COPY] = 0;
			promised[COPY] = 0;
			last[COPY] = 0;
			length[COPY] = 0
		:: else
		fi;
		printf("node %d is promoted\n", LAST_NODE)
	}
}

/* The copy hears what another one has promised */
inline ask(f)
{
	d_step {
		HAS(COPY_ASKS) && promoted && !admitted && !seeks[LAST_NODE] && f != LAST_NODE && IS_ALIVE(f) && BIT_OF(f) != BIT_OF(LAST_NODE) &&
		(WHO(KNOWS(LAST_NODE)) & BIT_OF(f)) && !(heard & BIT_OF(f)) ->
		heard = heard | BIT_OF(f);
		promised[LAST_NODE] = MAX(promised[LAST_NODE], promised[f]);
		printf("node %d hears that node %d has promised term %d\n", LAST_NODE, f, promised[f])
	}
}
#endif

/* Node 0 leads term 1, and the others follow */
init {
	d_step {
		leader_of[1] = 1;
		i = 0;
		do
		:: i < NODES -> promised[i] = 1; last[i] = 1; i++
		:: else -> break
		od;
		leads[0] = 1
	}
	do
	EACH_NODE(produce)
#if JOINS
	EACH_PAIR(join)
#endif
#if REMOVES
	EACH_PAIR(remove)
#endif
#if ALTERS
	EACH_NODE(ALTER_0)
	EACH_NODE(ALTER_1)
	EACH_NODE(ALTER_2)
#endif
#if !HAS(CHANGE_AT_ONCE)
	EACH_NODE(use)
#endif
	EACH_NODE(confirm)
	EACH_NODE(seek)
	EACH_PAIR(vote)
	EACH_NODE(lead)
	EACH_NODE_TERM(enter)
	EACH_NODE(take)
#if CRASHES
	EACH_NODE(restart)
#endif
#ifdef COPY
	:: take_copy()
	:: promote()
	EACH_NODE(ask)
#endif
	od
}
