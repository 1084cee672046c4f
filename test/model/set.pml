/*
 * set.pml: the replication of one set, for spin.
 *
 * A set has one log, one leader and one epoch.  The model is one process that
 * takes one of all possible steps, for ever: each step is a step of a node,
 * and indivisible there.  Nodes share no step.  What a node says to others is
 * a fact that stays: others hear it at once, later, twice or never, so that
 * late, doubled and lost messages need no state.  A node that is down is one
 * that takes no step.
 *
 * Who is in the set, and how many have to confirm, stays as it is: members.pml
 * has how that changes, and cut.pml what there is to more than one partition.
 *
 * README says what stands for what, and names the scenarios; run checks them.
 *
 * -DNODES=3 -DEPOCHS=3 -DRECORDS=2 -DCRASHES=1 -DK=1      bounds
 * -DRESTORE=1                                             a node is restored to an earlier state
 * -DWITHOUT=12                                            a rule is removed
 */

#ifndef NODES
#define NODES 3
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
/* followers that an acknowledgement needs */
#ifndef K
#define K 1
#endif
#ifndef WITHOUT
#define WITHOUT 0
#endif
#ifndef AND_WITHOUT
#define AND_WITHOUT 0
#endif

/* The rules, which WITHOUT removes one at a time */
#define HAS(rule) (WITHOUT != rule && AND_WITHOUT != rule)

#define ACK_COUNTS_K		1	/* k followers have confirmed what is acknowledged */
#define ACK_CHECKS_EPOCH	2	/* after its wait a backend looks whether the epoch is its own */
#define QUORUM_MAJORITY		3	/* a leader has the promises of a majority */
#define QUORUM_MEETS_ACKS	4	/* ... and of N - k nodes */
#define PROMISE_ONCE		5	/* a node promises once per epoch */
#define PROMISE_DURABLE		6	/* a promise outlives a crash */
#define VOTE_LAST_EPOCH		7	/* who has a later last epoch refuses */
#define VOTE_END			8	/* who has the same and a longer log refuses */
#define CANDIDATE_FLUSHES	9	/* a candidate's log is durable before it is compared */
#define PROMISE_CLOSES		10	/* a promise closes the stream first */
#define PROMISE_FENCES		11	/* who sees a higher epoch leads no more */
#define PEER_FENCED			12	/* no stream from a peer below the epoch that was promised */
#define STREAM_ONE_EPOCH	13	/* a stream holds rows of one epoch of its sender */
#define COUNT_OWN_EPOCH		14	/* a leader counts confirmations of its own epoch */
#define SLOT_PAST_FENCE		15	/* a stream does not begin before its epoch */
#define ROW_BELOW_NEXT		16	/* no row at or above the start of the receiver's next epoch */
#define ADOPT_TRUNCATES		17	/* truncate before an epoch is adopted */
#define TRUNCATE_COMMON		18	/* ... by the largest epoch that both chains have */
#define TRUNCATE_SMALLER	19	/* ... to the smaller of both ends */
#define ADOPT_HEALS			20	/* heal until the start, then write the epoch */
#define HEAL_COPIES_CHAIN	21	/* healing copies the chain with the records */
#define CONFIRM_ADOPTED		22	/* confirm what was adopted */
#define CONFIRM_HEALED		23	/* ... not while it heals */
#define CONFIRM_DURABLE		24	/* ... what was flushed */
#define CONFIRM_NO_GAP		25	/* ... what the log has, whatever the sender's position is */
#define LEADER_WAITS		26	/* nothing is confirmed in an epoch before k followers adopted it */
#define PROMISE_FREEZES		27	/* a leader appends nothing from before it compares logs until it has promised */
#define PROMISE_HOLDS		28	/* a follower takes nothing meanwhile */
#define RESTORED_REFUSED	29	/* a node restored to an earlier state takes no part */

/* promises that make a leader, of n members with k followers for an acknowledgement */
#define QUORUM_OF(n, k) ( \
	HAS(QUORUM_MAJORITY) && (n) / 2 + 1 >= (HAS(QUORUM_MEETS_ACKS) -> (n) - (k) : 0) -> (n) / 2 + 1 : \
	(HAS(QUORUM_MEETS_ACKS) -> (n) - (k) : 0))

/* ----------------------------------------------------------------------
 * Facts: what was said, and is heard at any time
 *
 * Epochs count from 1, offsets from 0.  A record's value says which it is: 1
 * for the first that was produced, so that it is its position in the WAL of
 * its leader as well.  Nodes are stored as n + 1, and starts of epochs as
 * start + 1, where 0 is none.
 * ----------------------------------------------------------------------
 */
byte made;						/* records that were produced */
byte epoch_of[RECORDS + 1];		/* of a record: its epoch */
byte offset_of[RECORDS + 1];	/* ... and its offset */

byte leader_of[EPOCHS + 1];		/* of an epoch: its leader */
byte begin[EPOCHS + 1];			/* ... its start offset */
byte end[EPOCHS + 1];			/* ... its leader's log end */
byte past[(EPOCHS + 1) * RECORDS];			/* ... its leader's log */
byte past_chain[(EPOCHS + 1) * (EPOCHS + 1)];	/* ... its leader's chain */

/* positions, + 1, that a follower confirmed in an epoch */
byte said[(EPOCHS + 1) * NODES];

#define PAST(e, o)			past[(e) * RECORDS + (o)]
#define PAST_CHAIN(e, g)	past_chain[(e) * (EPOCHS + 1) + (g)]
#define SAID(e, n)			said[(e) * NODES + (n)]

/* ----------------------------------------------------------------------
 * Nodes
 * ----------------------------------------------------------------------
 */
/* durable */
byte promised[NODES];			/* the highest epoch of a promise */
byte last[NODES];				/* the last epoch of its chain */
byte chain[NODES * (EPOCHS + 1)];	/* the starts of epochs */
byte log[NODES * RECORDS];		/* values */
byte flushed[NODES];			/* the log up to here */

/* volatile */
byte length[NODES];				/* the log's end */
byte leads[NODES];				/* the epoch that the node leads */
byte seeks[NODES];				/* ... that it is a candidate for */
byte votes[NODES];				/* who promised it that, as bits */
byte follows[NODES];			/* the epoch of the stream that it receives */

#define CHAIN(n, e)		chain[(n) * (EPOCHS + 1) + (e)]
#define LOG(n, o)		log[(n) * RECORDS + (o)]

#ifdef RESTORE
byte saved;						/* 1: there is a backup, 2: it was restored */
byte saved_promised, saved_last, saved_flushed;
byte saved_chain[EPOCHS + 1];
byte saved_log[RECORDS];
#endif

byte crashes;

/* the epoch of the candidate that the node has compared logs with */
#if !HAS(PROMISE_FREEZES) || !HAS(PROMISE_HOLDS)
byte compared[NODES];
/* what it appends then makes that void, while it has the rule for what it is */
#define HAS_APPENDED(n)		compared[n] = ((leads[n] -> HAS(PROMISE_FREEZES) : HAS(PROMISE_HOLDS)) -> 0 : compared[n])
#else
#define HAS_APPENDED(n)		skip
#endif

/* a backend waits since it appended this record, and its node did not crash */
#if !HAS(ACK_CHECKS_EPOCH)
bool waits[RECORDS + 1];
#endif

/* ----------------------------------------------------------------------
 * What must hold
 * ----------------------------------------------------------------------
 */
/* what a producer was told, or a reader saw, by offset */
byte confirmed[RECORDS];
byte confirmed_in[RECORDS];		/* ... and the first epoch whose leader said so */

hidden byte two_leaders;
hidden byte epoch_has_two_logs;
hidden byte confirmed_is_lost;
hidden byte confirmed_two_values;
hidden byte confirmed_is_truncated;
hidden byte not_a_prefix;

/* ... and what is reached, or all of it might hold of a model that stands still */
#ifdef WITNESS
hidden byte witnessed;
#endif

/* of the steps alone */
hidden byte i, j, to;

#if NODES == 3
#define EACH_NODE(step)			:: step(0) :: step(1) :: step(2)
#define EACH_OTHER(step, n)		:: step(n, 0) :: step(n, 1) :: step(n, 2)
#define EACH_PAIR(step)			EACH_OTHER(step, 0) EACH_OTHER(step, 1) EACH_OTHER(step, 2)
#define SUM(test, x, y)		(test(x, y, 0) + test(x, y, 1) + test(x, y, 2))
#elif NODES == 4
#define EACH_NODE(step)			:: step(0) :: step(1) :: step(2) :: step(3)
#define EACH_OTHER(step, n)		:: step(n, 0) :: step(n, 1) :: step(n, 2) :: step(n, 3)
#define EACH_PAIR(step)			EACH_OTHER(step, 0) EACH_OTHER(step, 1) EACH_OTHER(step, 2) EACH_OTHER(step, 3)
#define SUM(test, x, y)		(test(x, y, 0) + test(x, y, 1) + test(x, y, 2) + test(x, y, 3))
#else
#define EACH_NODE(step)			:: step(0) :: step(1) :: step(2) :: step(3) :: step(4)
#define EACH_OTHER(step, n)		:: step(n, 0) :: step(n, 1) :: step(n, 2) :: step(n, 3) :: step(n, 4)
#define EACH_PAIR(step)			EACH_OTHER(step, 0) EACH_OTHER(step, 1) EACH_OTHER(step, 2) EACH_OTHER(step, 3) EACH_OTHER(step, 4)
#define SUM(test, x, y)		(test(x, y, 0) + test(x, y, 1) + test(x, y, 2) + test(x, y, 3) + test(x, y, 4))
#endif

#if EPOCHS == 2
#define EACH_EPOCH(step, n)		:: step(n, 1) :: step(n, 2)
#elif EPOCHS == 3
#define EACH_EPOCH(step, n)		:: step(n, 1) :: step(n, 2) :: step(n, 3)
#else
#define EACH_EPOCH(step, n)		:: step(n, 1) :: step(n, 2) :: step(n, 3) :: step(n, 4)
#endif
#if NODES == 3
#define EACH_NODE_EPOCH(step)	EACH_EPOCH(step, 0) EACH_EPOCH(step, 1) EACH_EPOCH(step, 2)
#elif NODES == 4
#define EACH_NODE_EPOCH(step)	EACH_EPOCH(step, 0) EACH_EPOCH(step, 1) EACH_EPOCH(step, 2) EACH_EPOCH(step, 3)
#else
#define EACH_NODE_EPOCH(step)	EACH_EPOCH(step, 0) EACH_EPOCH(step, 1) EACH_EPOCH(step, 2) EACH_EPOCH(step, 3) EACH_EPOCH(step, 4)
#endif

#if RECORDS == 1
#define EACH_RECORD(step, n)	:: step(n, 1)
#define ANY_OFFSET(test, n)		test(n, 0)
#define ANY_RECORD(test, n)		test(n, 1)
#elif RECORDS == 2
#define EACH_RECORD(step, n)	:: step(n, 1) :: step(n, 2)
#define ANY_OFFSET(test, n)		(test(n, 0) || test(n, 1))
#define ANY_RECORD(test, n)		(test(n, 1) || test(n, 2))
#else
#define EACH_RECORD(step, n)	:: step(n, 1) :: step(n, 2) :: step(n, 3)
#define ANY_OFFSET(test, n)		(test(n, 0) || test(n, 1) || test(n, 2))
#define ANY_RECORD(test, n)		(test(n, 1) || test(n, 2) || test(n, 3))
#endif
#if NODES == 3
#define EACH_NODE_RECORD(step)	EACH_RECORD(step, 0) EACH_RECORD(step, 1) EACH_RECORD(step, 2)
#elif NODES == 4
#define EACH_NODE_RECORD(step)	EACH_RECORD(step, 0) EACH_RECORD(step, 1) EACH_RECORD(step, 2) EACH_RECORD(step, 3)
#else
#define EACH_NODE_RECORD(step)	EACH_RECORD(step, 0) EACH_RECORD(step, 1) EACH_RECORD(step, 2) EACH_RECORD(step, 3) EACH_RECORD(step, 4)
#endif

#define BITS(m)		(((m) & 1) + ((m) >> 1 & 1) + ((m) >> 2 & 1) + ((m) >> 3 & 1) + ((m) >> 4 & 1))

/* ----------------------------------------------------------------------
 * The leader
 * ----------------------------------------------------------------------
 */

/* What was confirmed to it is never counted again, and forgotten for the sake of fewer states */
inline stop_leading(n)
{
	if
	:: leads[n] && HAS(COUNT_OWN_EPOCH) ->
		i = 0;
		do
		:: i < NODES -> SAID(leads[n], i) = 0; i++
		:: else -> break
		od
	:: else
	fi;
	leads[n] = 0
}

/* A backend commits a record: it is durable at once, and sent from then on */
inline produce(n)
{
	d_step {
		leads[n] && made < RECORDS && end[leads[n]] < RECORDS ->
		epoch_has_two_logs = (end[leads[n]] != length[n]);
		assert(!epoch_has_two_logs);
		made++;
		epoch_of[made] = leads[n];
		offset_of[made] = length[n];
		LOG(n, length[n]) = made;
		length[n]++;
		flushed[n] = length[n];
		HAS_APPENDED(n);
		PAST(leads[n], offset_of[made]) = made;
		end[leads[n]] = length[n];
#if !HAS(ACK_CHECKS_EPOCH)
		waits[made] = true;
#endif
		printf("node %d produces %d at %d in epoch %d\n", n, made, offset_of[made], leads[n])
	}
}

/* Whether node f confirmed in epoch e the leader's log up to offset o */
#define POSITION(e, o)		(((o) < begin[e]) -> 0 : PAST(e, o))
#if HAS(COUNT_OWN_EPOCH)
#define CONFIRMS(e, o, f)	(SAID(e, f) > POSITION(e, o))
#else
/* of each epoch of the same leader */
#define CONFIRMS_IN(g, e, o, f)	((g) < (e) && leader_of[g] == leader_of[e] && SAID(g, f) > POSITION(e, o))
#define CONFIRMS(e, o, f)	(SAID(e, f) > POSITION(e, o) || CONFIRMS_IN(1, e, o, f) || CONFIRMS_IN(2, e, o, f) || CONFIRMS_IN(3, e, o, f))
#endif

/* Whether k followers have */
#define IS_CONFIRMED(e, o) \
	(SUM(CONFIRMS, e, o) >= (HAS(ACK_COUNTS_K) -> K : K - 1) || (!HAS(LEADER_WAITS) && (o) < begin[e]))
#define TO_CONFIRM(n, o)	((o) < end[leads[n]] && (confirmed[o] != PAST(leads[n], o) || confirmed_in[o] > leads[n]) && \
	IS_CONFIRMED(leads[n], o))

/* A producer hears, or a reader sees, that value is at offset o, from a leader of epoch e */
inline tell(e, o, value)
{
	confirmed_two_values = (confirmed[o] && confirmed[o] != value);
	assert(!confirmed_two_values);
	confirmed_in[o] = (confirmed[o] && confirmed_in[o] < e -> confirmed_in[o] : e);
	confirmed[o] = value;
#ifdef WITNESS
	witnessed = (e == EPOCHS && value == RECORDS);
	assert(!witnessed);
#endif
	j = e + 1;
	do
	:: j <= EPOCHS ->
		confirmed_is_lost = (leader_of[j] && PAST(j, o) != value);
		assert(!confirmed_is_lost);
		j++
	:: else -> break
	od;
	skip
}

/* The high watermark moves, and with it go all acknowledgements */
inline confirm(n)
{
	d_step {
		leads[n] && ANY_OFFSET(TO_CONFIRM, n) ->
		i = 0;
		do
		:: i < end[leads[n]] ->
			if
			:: TO_CONFIRM(n, i) ->
				printf("node %d confirms %d at %d in epoch %d\n", n, PAST(leads[n], i), i, leads[n]);
				tell(leads[n], i, PAST(leads[n], i))
			:: else
			fi;
			i++
		:: else -> break
		od;
		skip
	}
}

#if !HAS(ACK_CHECKS_EPOCH)
/* A backend waits for a position, and takes a confirmation of a later epoch for its own */
inline confirm_late(n, v)
{
	d_step {
		waits[v] && leads[n] > epoch_of[v] && leader_of[epoch_of[v]] == n + 1 &&
		SUM(CONFIRMS, leads[n], begin[leads[n]] - 1) >= K ->
		waits[v] = false;
		printf("node %d acknowledges %d of epoch %d in epoch %d\n", n, v, epoch_of[v], leads[n]);
		tell(epoch_of[v], offset_of[v], v)
	}
}
#endif

/* ----------------------------------------------------------------------
 * Elections
 * ----------------------------------------------------------------------
 */

#ifdef RESTORE
/* Without the rule a restored node is refused if it lacks what it once sent as a leader */
#define HAS_SENT(n, v)		((v) <= made && leader_of[epoch_of[v]] == RESTORE + 1 && (v) > saved_flushed)
#define IS_REFUSED(n)		((n) == RESTORE && saved == 2 && (HAS(RESTORED_REFUSED) || ANY_RECORD(HAS_SENT, n)))
#else
#define IS_REFUSED(n)		false
#endif

/* Steps that a promise of epoch e takes, of a candidate as of a voter */
inline promise(n, e)
{
	if
	:: HAS(PROMISE_CLOSES) -> follows[n] = 0
	:: else
	fi;
	if
	:: HAS(PROMISE_FENCES) -> stop_leading(n)
	:: else
	fi;
	promised[n] = e;
	seeks[n] = 0;
	votes[n] = 0
}

#define IS_CHOSEN(n)		(BITS(votes[n]) >= QUORUM_OF(NODES, K))

/* Nodes that are alike until the first of them is a candidate: that is the first of them */
#ifdef RESTORE
#define MAY_SEEK(n)		true
#else
#define MAY_SEEK(n)		((n) < 2 || promised[1] > 1)
#endif

inline seek(n)
{
	d_step {
		promised[n] < EPOCHS && MAY_SEEK(n) && !IS_REFUSED(n) ->
		promise(n, promised[n] + 1);
		if
		:: HAS(CANDIDATE_FLUSHES) -> flushed[n] = length[n]
		:: else
		fi;
		seeks[n] = promised[n];
		votes[n] = 1 << n;
		printf("node %d seeks epoch %d with last epoch %d, end %d\n", n, seeks[n], last[n], length[n])
	}
}

#define AHEAD(n, c) \
	((HAS(VOTE_LAST_EPOCH) && last[n] > last[c]) || (HAS(VOTE_END) && last[n] == last[c] && length[n] > length[c]))

/* Without one of the rules a node compares logs in a step of its own */
#if HAS(PROMISE_FREEZES) && HAS(PROMISE_HOLDS)
#define IS_BEHIND(n, c)		(!AHEAD(n, c))
#else
#define IS_BEHIND(n, c)		(compared[n] == seeks[c])

inline compare(n, c)
{
	d_step {
		n != c && seeks[c] > promised[n] && !AHEAD(n, c) && compared[n] != seeks[c] ->
		compared[n] = seeks[c];
		printf("node %d compares its log with that of node %d\n", n, c)
	}
}
#endif

inline vote(n, c)
{
	d_step {
		n != c && seeks[c] &&
		(seeks[c] > promised[n] || (!HAS(PROMISE_ONCE) && seeks[c] == promised[n])) &&
		!IS_REFUSED(n) && IS_BEHIND(n, c) ->
		promise(n, seeks[c]);
		votes[c] = votes[c] | 1 << n;
		printf("node %d promises epoch %d to node %d\n", n, seeks[c], c)
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
		follows[n] = 0;
		leader_of[leads[n]] = n + 1;
		begin[leads[n]] = length[n];
		end[leads[n]] = length[n];
		CHAIN(n, leads[n]) = length[n] + 1;
		last[n] = leads[n];
		i = 0;
		do
		:: i < length[n] -> PAST(leads[n], i) = LOG(n, i); i++
		:: else -> break
		od;
		i = 0;
		do
		:: i <= EPOCHS -> PAST_CHAIN(leads[n], i) = CHAIN(n, i); i++
		:: else -> break
		od;
		printf("node %d leads epoch %d from %d\n", n, leads[n], length[n]);
		i = 0;
		do
		:: i < RECORDS ->
			confirmed_is_lost = (confirmed[i] && confirmed_in[i] < leads[n] && PAST(leads[n], i) != confirmed[i]);
			assert(!confirmed_is_lost);
			i++
		:: else -> break
		od;
		skip
	}
}

/* ----------------------------------------------------------------------
 * Followers
 * ----------------------------------------------------------------------
 */

/* A log whose last epoch is e is a prefix of the log of e's leader */
inline check_prefix(n)
{
	i = 0;
	do
	:: i < length[n] ->
		not_a_prefix = (LOG(n, i) != PAST(last[n], i));
		assert(!not_a_prefix);
		i++
	:: else -> break
	od;
	skip
}

/*
 * The log's records from offset "to" on go, for what epoch e has there.  What
 * was confirmed in a lower epoch is not among them: a node that knew the high
 * watermark of it would stop.
 */
inline truncate(n, e)
{
	do
	:: length[n] > to ->
		length[n]--;
		confirmed_is_truncated = (confirmed[length[n]] && confirmed[length[n]] == LOG(n, length[n]) && confirmed_in[length[n]] < e);
		assert(!confirmed_is_truncated);
		LOG(n, length[n]) = 0
	:: else -> break
	od;
	flushed[n] = length[n]
}

#define IN_BOTH(n, e, g)	(CHAIN(n, g) && PAST_CHAIN(e, g))

/* A node shakes hands with the leader of epoch e: it sees the epoch, and truncates */
inline follow(n, e)
{
	d_step {
		leader_of[e] && leader_of[e] != n + 1 && follows[n] != e &&
		(e >= promised[n] || !HAS(PEER_FENCED)) ->
		if
		:: e > promised[n] -> promise(n, e)
		:: else -> seeks[n] = 0; votes[n] = 0
		fi;
		follows[n] = e;
		/* the largest common epoch, and the ends of both */
		i = e;
		do
		:: i && (!IN_BOTH(n, e, i) && (HAS(TRUNCATE_COMMON) || i != last[n])) -> i--
		:: else -> break
		od;
		to = end[e];
		j = e;
		do
		:: j > i -> to = (PAST_CHAIN(e, j) -> PAST_CHAIN(e, j) - 1 : to); j--
		:: else -> break
		od;
		j = EPOCHS;
		do
		:: j > i ->
			if
			:: CHAIN(n, j) && HAS(ADOPT_TRUNCATES) ->
				to = (CHAIN(n, j) - 1 < to && HAS(TRUNCATE_SMALLER) -> CHAIN(n, j) - 1 : to);
				CHAIN(n, j) = 0
			:: else
			fi;
			j--
		:: else -> break
		od;
		if
		:: HAS(ADOPT_TRUNCATES) ->
			last[n] = (last[n] > i -> i : last[n]);
			printf("node %d follows epoch %d, common epoch %d, end %d of %d\n", n, e, i, (to < length[n] -> to : length[n]), length[n]);
			truncate(n, e)
		:: else -> printf("node %d follows epoch %d\n", n, e)
		fi
	}
}

/* A follower fetches the next record of those below the start of its leader's epoch */
inline heal(n)
{
	d_step {
		follows[n] && !CHAIN(n, follows[n]) && length[n] < begin[follows[n]] ->
		LOG(n, length[n]) = PAST(follows[n], length[n]);
		i = 0;
		do
		:: i < follows[n] ->
			if
			:: HAS(HEAL_COPIES_CHAIN) && PAST_CHAIN(follows[n], i) && PAST_CHAIN(follows[n], i) <= length[n] + 1 ->
				CHAIN(n, i) = PAST_CHAIN(follows[n], i)
			:: else
			fi;
			i++
		:: else -> break
		od;
		length[n]++;
		flushed[n] = length[n];
		HAS_APPENDED(n);
		printf("node %d heals %d\n", n, length[n] - 1)
	}
}

/* ... and is healed: it writes the epoch */
inline adopt(n)
{
	d_step {
		follows[n] && !CHAIN(n, follows[n]) && (length[n] >= begin[follows[n]] || !HAS(ADOPT_HEALS)) ->
		i = 0;
		do
		:: i < follows[n] && HAS(HEAL_COPIES_CHAIN) -> CHAIN(n, i) = PAST_CHAIN(follows[n], i); i++
		:: else -> break
		od;
		CHAIN(n, follows[n]) = PAST_CHAIN(follows[n], follows[n]);
		last[n] = follows[n];
		flushed[n] = length[n];
		printf("node %d adopts epoch %d from %d\n", n, last[n], begin[last[n]]);
		check_prefix(n)
	}
}

/* the epoch that the receiver takes a row for: its own, if rows say it, or the stream's */
#ifdef ROWS_SAY_EPOCH
#define ROW_EPOCH(n, v)			epoch_of[v]
#else
#define ROW_EPOCH(n, v)			follows[n]
#endif
#define NEXT_EPOCH_AT(n, g, v)	((g) <= EPOCHS && (g) > ROW_EPOCH(n, v) && CHAIN(n, g) && CHAIN(n, g) - 1 <= offset_of[v])
#define ROW_ABOVE(n, v)			(NEXT_EPOCH_AT(n, 2, v) || NEXT_EPOCH_AT(n, 3, v) || NEXT_EPOCH_AT(n, EPOCHS, v))

#define IN_STREAM(v, e) \
	(epoch_of[v] == (e) || \
	 (!HAS(STREAM_ONE_EPOCH) && epoch_of[v] > (e) && leader_of[epoch_of[v]] == leader_of[e]) || \
	 (!HAS(SLOT_PAST_FENCE) && epoch_of[v] && epoch_of[v] < (e) && leader_of[epoch_of[v]] == leader_of[e]))

/* A row of the stream arrives.  Its offset says whether it is the next; rows that are not are dropped. */
inline receive(n, v)
{
	d_step {
		follows[n] && CHAIN(n, follows[n]) && v <= made && IN_STREAM(v, follows[n]) && offset_of[v] == length[n] &&
		!(HAS(ROW_BELOW_NEXT) && ROW_ABOVE(n, v)) ->
		LOG(n, length[n]) = v;
		length[n]++;
		HAS_APPENDED(n);
		printf("node %d receives %d at %d\n", n, v, offset_of[v]);
		check_prefix(n)
	}
}

inline flush(n)
{
	d_step {
		flushed[n] < length[n] ->
		flushed[n] = length[n];
		printf("node %d flushes up to %d\n", n, flushed[n])
	}
}

/* Where the stream of epoch e stands, + 1, for who has its rows below offset o and no others */
#define MISSES(e, o, v)		((v) <= made && epoch_of[v] == (e) && offset_of[v] >= (o))
#if RECORDS == 1
#define REACHED(e, o)		(MISSES(e, o, 1) -> 1 : made + 1)
#elif RECORDS == 2
#define REACHED(e, o)		(MISSES(e, o, 1) -> 1 : (MISSES(e, o, 2) -> 2 : made + 1))
#else
#define REACHED(e, o)		(MISSES(e, o, 1) -> 1 : (MISSES(e, o, 2) -> 2 : (MISSES(e, o, 3) -> 3 : made + 1)))
#endif
#define HAS_UP_TO(n)		(HAS(CONFIRM_DURABLE) -> flushed[n] : length[n])
#define TO_SAY(n)			(HAS(CONFIRM_NO_GAP) -> REACHED(follows[n], HAS_UP_TO(n)) : made + 1)

/* whether the leader still listens, of whom there are facts */
#if HAS(COUNT_OWN_EPOCH)
#define LISTENS(e)			(leads[leader_of[e] - 1] == (e))
#else
#define LISTENS(e)			(leads[leader_of[e] - 1])
#endif

inline report(n)
{
	d_step {
		follows[n] && LISTENS(follows[n]) && !IS_REFUSED(n) &&
		(CHAIN(n, follows[n]) ||
		 (!HAS(CONFIRM_ADOPTED) && length[n] >= begin[follows[n]]) ||
		 !HAS(CONFIRM_HEALED)) &&
		SAID(follows[n], n) < TO_SAY(n) ->
		SAID(follows[n], n) = TO_SAY(n);
		printf("node %d confirms position %d of epoch %d\n", n, SAID(follows[n], n) - 1, follows[n])
	}
}

#ifdef RESTORE
inline save()
{
	d_step {
		!saved ->
		saved = 1;
		saved_promised = promised[RESTORE];
		saved_last = last[RESTORE];
		saved_flushed = flushed[RESTORE];
		i = 0;
		do
		:: i < saved_flushed -> saved_log[i] = LOG(RESTORE, i); i++
		:: else -> break
		od;
		i = 0;
		do
		:: i <= EPOCHS -> saved_chain[i] = CHAIN(RESTORE, i); i++
		:: else -> break
		od;
		printf("node %d is saved, last epoch %d, end %d\n", RESTORE, saved_last, saved_flushed)
	}
}

inline restore()
{
	d_step {
		saved == 1 ->
		saved = 2;
		stop_leading(RESTORE);
		seeks[RESTORE] = 0;
		votes[RESTORE] = 0;
		follows[RESTORE] = 0;
		promised[RESTORE] = saved_promised;
		last[RESTORE] = saved_last;
		flushed[RESTORE] = saved_flushed;
		length[RESTORE] = saved_flushed;
		i = 0;
		do
		:: i < RECORDS -> LOG(RESTORE, i) = saved_log[i]; saved_log[i] = 0; i++
		:: else -> break
		od;
		i = 0;
		do
		:: i <= EPOCHS -> CHAIN(RESTORE, i) = saved_chain[i]; saved_chain[i] = 0; i++
		:: else -> break
		od;
		saved_promised = 0;
		saved_last = 0;
		printf("node %d is restored, last epoch %d, end %d\n", RESTORE, last[RESTORE], length[RESTORE])
	}
}
#endif

/* ----------------------------------------------------------------------
 * Crashes
 * ----------------------------------------------------------------------
 */
inline crash(n)
{
	d_step {
		crashes < CRASHES ->
		crashes++;
		do
		:: length[n] > flushed[n] -> length[n]--; LOG(n, length[n]) = 0
		:: else -> break
		od;
		stop_leading(n);
		seeks[n] = 0;
		votes[n] = 0;
		follows[n] = 0;
		if
		:: HAS(PROMISE_DURABLE)
		:: else -> promised[n] = last[n]
		fi;
		if
		/* it leads on, as its row says so, and what it has sent is durable */
		:: leader_of[last[n]] == n + 1 && promised[n] == last[n] && !IS_REFUSED(n) -> leads[n] = last[n]
		:: else
		fi;
#if !HAS(ACK_CHECKS_EPOCH)
		i = 1;
		do
		:: i <= made -> waits[i] = (waits[i] && leader_of[epoch_of[i]] != n + 1); i++
		:: else -> break
		od;
#endif
		printf("node %d crashes, end %d\n", n, length[n])
	}
}

/* Node 0 leads epoch 1, and the others follow it */
init {
	d_step {
		leader_of[1] = 1;
		PAST_CHAIN(1, 1) = 1;
		i = 0;
		do
		:: i < NODES ->
			promised[i] = 1;
			last[i] = 1;
			CHAIN(i, 1) = 1;
			follows[i] = (i -> 1 : 0);
			i++
		:: else -> break
		od;
		leads[0] = 1
	}
	do
	EACH_NODE(produce)
	EACH_NODE(confirm)
#if !HAS(ACK_CHECKS_EPOCH)
	EACH_NODE_RECORD(confirm_late)
#endif
	EACH_NODE(seek)
#if !HAS(PROMISE_FREEZES) || !HAS(PROMISE_HOLDS)
	EACH_PAIR(compare)
#endif
	EACH_PAIR(vote)
	EACH_NODE(lead)
	EACH_NODE_EPOCH(follow)
	EACH_NODE(heal)
	EACH_NODE(adopt)
	EACH_NODE_RECORD(receive)
	EACH_NODE(flush)
	EACH_NODE(report)
#ifdef RESTORE
	:: save()
	:: restore()
#endif
#if CRASHES
	EACH_NODE(crash)
#endif
	od
}
