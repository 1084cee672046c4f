-- assignor: which member of a group gets which partition
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

-- An assignment, a line for each member: "C0: t0p0 t0p1"
CREATE FUNCTION pg_temp.flat(assignment jsonb)
	RETURNS TABLE (member text, topic text, partition int) LANGUAGE sql IMMUTABLE AS
$$ SELECT m.key, t.key, p.value::int FROM jsonb_each(assignment) m, jsonb_each(m.value) t,
	jsonb_array_elements_text(t.value) p $$;
CREATE FUNCTION pg_temp.lines(assignment jsonb) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT rtrim(m.key || ': ' || coalesce((SELECT string_agg(f.topic || 'p' || f.partition, ' '
			ORDER BY f.topic COLLATE "C", f.partition)
		FROM pg_temp.flat(assignment) f WHERE f.member = m.key), ''))
	FROM jsonb_each(assignment) m ORDER BY m.key COLLATE "C" $$;
CREATE FUNCTION pg_temp.show(assignor text, subscriptions jsonb, partitions jsonb,
	owned jsonb DEFAULT '{}') RETURNS SETOF text LANGUAGE sql AS
$$ SELECT pg_temp.lines(topic_log.assign(assignor, subscriptions, partitions, owned)) $$;
-- How many partitions have another owner than before, of those that had one
CREATE FUNCTION pg_temp.moved(old jsonb, new jsonb) RETURNS bigint LANGUAGE sql AS
$$ SELECT count(*) FROM pg_temp.flat(old) o JOIN pg_temp.flat(new) n USING (topic, partition)
	WHERE o.member <> n.member $$;
-- The numbers of partitions that members have, from the lowest
CREATE FUNCTION pg_temp.loads(assignment jsonb) RETURNS bigint[] LANGUAGE sql AS
$$ SELECT array_agg(n ORDER BY n) FROM (SELECT (SELECT count(*) FROM pg_temp.flat(assignment) f
		WHERE f.member = m.key) FROM jsonb_each(assignment) m) l (n) $$;

-- ---------------------------------------------------------------------
-- The examples of Kafka's documentation
-- ---------------------------------------------------------------------

-- RangeAssignor: two members, two topics of three partitions
SELECT pg_temp.show('range', '{"C0": ["t0", "t1"], "C1": ["t0", "t1"]}', '{"t0": 3, "t1": 3}');
-- the members come back by other ids, in another order: without instance ids all is shuffled
SELECT pg_temp.show('range', '{"C3": ["t0", "t1"], "C2": ["t0", "t1"]}', '{"t0": 3, "t1": 3}');
SELECT pg_temp.show('range', jsonb_build_object(c0, '{"topics": ["t0", "t1"],
			"group_instance_id": "I0"}'::jsonb, c1, '{"topics": ["t0", "t1"],
			"group_instance_id": "I1"}'::jsonb), '{"t0": 3, "t1": 3}')
	FROM (VALUES ('C0', 'C1'), ('C3', 'C2')) v (c0, c1);

-- RoundRobinAssignor: equal subscriptions
SELECT pg_temp.show('roundrobin', '{"C0": ["t0", "t1"], "C1": ["t0", "t1"]}',
	'{"t0": 3, "t1": 3}');
-- unequal ones
\set unequal '{"C0": ["t0"], "C1": ["t0", "t1"], "C2": ["t0", "t1", "t2"]}'
\set without_c0 '{"C1": ["t0", "t1"], "C2": ["t0", "t1", "t2"]}'
SELECT pg_temp.show('roundrobin', :'unequal', '{"t0": 1, "t1": 2, "t2": 3}');
-- three members, without instance ids and with
SELECT pg_temp.show('roundrobin', '{"C0": ["t0", "t1"], "C1": ["t0", "t1"],
	"C2": ["t0", "t1"]}', '{"t0": 3, "t1": 3}');
SELECT pg_temp.show('roundrobin', '{"C5": {"topics": ["t0", "t1"], "group_instance_id": "I0"},
	"C3": {"topics": ["t0", "t1"], "group_instance_id": "I1"},
	"C4": {"topics": ["t0", "t1"], "group_instance_id": "I2"}}', '{"t0": 3, "t1": 3}');

-- StickyAssignor, example 1; then C1 leaves, of roundrobin and of sticky
\set all4 '["t0", "t1", "t2", "t3"]'
\set four '{"t0": 2, "t1": 2, "t2": 2, "t3": 2}'
SELECT jsonb_build_object('C0', :'all4'::jsonb, 'C1', :'all4'::jsonb, 'C2', :'all4'::jsonb)
	AS equal3, jsonb_build_object('C0', :'all4'::jsonb, 'C2', :'all4'::jsonb) AS equal2 \gset
SELECT a, pg_temp.show(a, :'equal3', :'four') FROM unnest('{roundrobin,sticky}'::text[]) a;
SELECT topic_log.assign('sticky', :'equal3', :'four') AS before \gset
SELECT a, pg_temp.show(a, :'equal2', :'four', :'before')
	FROM unnest('{roundrobin,sticky,cooperative-sticky}'::text[]) a;
SELECT pg_temp.moved(:'before' #- '{C1}', topic_log.assign(a, :'equal2', :'four', :'before'))
	FROM unnest('{roundrobin,sticky}'::text[]) a;

-- example 2; then C0 leaves
SELECT a, pg_temp.show(a, :'unequal', '{"t0": 1, "t1": 2, "t2": 3}')
	FROM unnest('{sticky,cooperative-sticky}'::text[]) a;
SELECT topic_log.assign(a, :'unequal', '{"t0": 1, "t1": 2, "t2": 3}') AS before
	FROM unnest('{sticky}'::text[]) a \gset
SELECT a, pg_temp.show(a, :'without_c0', '{"t0": 1, "t1": 2, "t2": 3}', :'before')
	FROM unnest('{roundrobin,sticky,cooperative-sticky}'::text[]) a;

-- ---------------------------------------------------------------------
-- Order
-- ---------------------------------------------------------------------

-- topics and members by their bytes: t10 before t9, C10 before C9, B before a
SELECT a, pg_temp.show(a, '{"C9": ["t9", "t10"], "C10": ["t10", "t9"], "a": ["t9", "t10"],
		"B": ["t9", "t10"]}', '{"t9": 1, "t10": 2}')
	FROM unnest('{range,roundrobin,sticky}'::text[]) a;
-- static members first, by instance id; of two that have one instance id, by member id
SELECT a, pg_temp.show(a, '{"A": ["t"], "Z": {"topics": ["t"], "group_instance_id": "i1"},
		"Y": {"topics": ["t"], "group_instance_id": "i2"},
		"X": {"topics": ["t"], "group_instance_id": "i2"}, "B": {"topics": ["t"]},
		"C": {"topics": ["t"], "group_instance_id": null}}', '{"t": 7}')
	FROM unnest('{range,roundrobin,sticky}'::text[]) a;

-- ---------------------------------------------------------------------
-- Little and nothing
-- ---------------------------------------------------------------------
SELECT a, topic_log.assign(a, '{}', '{}'), topic_log.assign(a, '{}', '{"t": 3}'),
		topic_log.assign(a, '{"C0": []}', '{"t": 3}'),
		topic_log.assign(a, '{"C0": ["t"]}', '{"t": 0}'),
		topic_log.assign(a, '{"C0": ["nosuch"]}', '{"t": 1}'),
		-- C0 subscribes to nothing, nobody to "u", and there is no "nosuch"
		topic_log.assign(a, '{"C0": [], "C1": ["t", "nosuch"], "C2": ["t", "t"]}',
			'{"t": 3, "u": 2}', '{"C0": {"t": [0], "u": [1], "nosuch": [7]},
				"nosuch": {"t": [1]}, "C2": {"t": [2, 99]}}')
	FROM unnest('{range,roundrobin,sticky,cooperative-sticky}'::text[]) a;

-- ---------------------------------------------------------------------
-- What sticky keeps
-- ---------------------------------------------------------------------

-- members join: only what the new ones get moves
SELECT jsonb_object_agg('C' || c, '["t0", "t1"]'::jsonb) AS members,
		jsonb_object_agg('C' || c, '["t0", "t1"]'::jsonb) FILTER (WHERE c < 4) AS fewer
	FROM generate_series(0, 5) c \gset
SELECT topic_log.assign('sticky', :'fewer', '{"t0": 13, "t1": 7}') AS before,
		topic_log.assign('sticky', :'members', '{"t0": 13, "t1": 7}') AS fresh \gset
SELECT topic_log.assign('sticky', :'members', '{"t0": 13, "t1": 7}', :'before') AS after \gset
SELECT pg_temp.loads(:'before'), pg_temp.loads(:'after'), pg_temp.moved(:'before', :'after'),
	pg_temp.moved(:'before', :'fresh');
SELECT pg_temp.lines(:'before');
SELECT pg_temp.lines(:'after');
-- they leave again: the others get theirs, and nothing else moves
SELECT pg_temp.loads(r), pg_temp.moved(:'after'::jsonb - 'C4' - 'C5', r)
	FROM topic_log.assign('sticky', :'fewer', '{"t0": 13, "t1": 7}', :'after') r;
-- partitions are added: all members keep what they have
SELECT pg_temp.loads(r), pg_temp.moved(:'after', r)
	FROM topic_log.assign('sticky', :'members', '{"t0": 16, "t1": 9}', :'after') r;
-- a topic goes
SELECT pg_temp.loads(r), pg_temp.moved(:'after', r)
	FROM topic_log.assign('sticky', :'members', '{"t0": 13}', :'after') r;

-- unequal subscriptions: a member does not subscribe any more, and what it has left is even
SELECT pg_temp.show('sticky', '{"C0": ["t1"], "C1": ["t0", "t1"], "C2": ["t0"]}',
	'{"t0": 4, "t1": 4}', '{"C0": {"t0": [0, 1], "t1": [0]}, "C1": {"t1": [1, 2, 3]},
		"C2": {"t0": [2, 3]}}');
-- a member joins: four of twelve would do, but it can get t1 only
SELECT pg_temp.show('sticky', '{"C0": ["t0", "t1"], "C1": ["t0"], "C2": ["t1"]}',
	'{"t0": 9, "t1": 3}', '{"C0": {"t0": [6, 7, 8], "t1": [0, 1, 2]},
		"C1": {"t0": [0, 1, 2, 3, 4, 5]}}');
-- C2 can get nothing of C0, which has the most, but C1 can, and C2 of C1: Kafka leaves 4, 3, 2
SELECT pg_temp.show('sticky', '{"C0": ["t0"], "C1": ["t0", "t1"], "C2": ["t1"]}',
	'{"t0": 4, "t1": 5}', '{"C0": {"t0": [0, 1, 2, 3]}, "C1": {"t1": [0, 1, 2]},
		"C2": {"t1": [3, 4]}}');
-- a chain of three
SELECT pg_temp.show('sticky', '{"C0": ["a"], "C1": ["a", "b"], "C2": ["b", "c"], "C3": ["c"]}',
	'{"a": 6, "b": 4, "c": 3}', '{"C0": {"a": [0, 1, 2, 3, 4, 5]}, "C1": {"b": [0, 1, 2, 3]},
		"C2": {"c": [0, 1, 2]}}');

-- ---------------------------------------------------------------------
-- Many groups, equal in each run
-- ---------------------------------------------------------------------

-- A number below "below", of a case and a few more numbers
CREATE FUNCTION pg_temp.pick(below int, VARIADIC seed int[]) RETURNS int LANGUAGE sql
	IMMUTABLE AS
$$ SELECT (('x' || left(md5(array_to_string(seed, '/')), 7))::bit(28)::int % below) $$;
-- Members 1 to n are there; one in three cases has equal subscriptions, and one member in three
-- is static
CREATE FUNCTION pg_temp.members(c int, step int) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
$$ SELECT jsonb_object_agg('C' || m, CASE pg_temp.pick(3, c, m, 1) WHEN 0
			THEN jsonb_build_object('topics', topics, 'group_instance_id', 'i' || m)
			ELSE topics END)
	FROM generate_series(1 + pg_temp.pick(3, c, step, 2), 1 + pg_temp.pick(12, c, step, 3)
			+ pg_temp.pick(3, c, step, 2)) m,
		LATERAL (SELECT coalesce(jsonb_agg('t' || t), '[]') FROM generate_series(0, 5) t
			WHERE c % 3 = 0 OR pg_temp.pick(5, c, m, t, 4) < 2 + c % 2
				AND NOT (step > 0 AND pg_temp.pick(20, c, m, t, 5) = 0)) s (topics) $$;
CREATE FUNCTION pg_temp.sizes(c int, step int) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
$$ SELECT jsonb_object_agg('t' || t, pg_temp.pick(12, c, t, 6) + step * pg_temp.pick(2, c, t, 7))
	FROM generate_series(0, 5) t $$;
-- Each case: who is there, changes, and so on; each time with what was before
CREATE TABLE assigned AS
WITH RECURSIVE assigned AS (
	SELECT c, a, 0 AS step, pg_temp.members(c, 0) AS members, pg_temp.sizes(c, 0) AS sizes,
			'{}'::jsonb AS before,
			topic_log.assign(a, pg_temp.members(c, 0), pg_temp.sizes(c, 0)) AS after
		FROM generate_series(1, 100) c,
			unnest('{range,roundrobin,sticky,cooperative-sticky}'::text[]) a
	UNION ALL
	SELECT c, a, step + 1, pg_temp.members(c, step + 1), pg_temp.sizes(c, step + 1), after,
			topic_log.assign(a, pg_temp.members(c, step + 1), pg_temp.sizes(c, step + 1), after)
		FROM assigned WHERE step < 3)
SELECT row_number() OVER (ORDER BY c, a, step) AS id, * FROM assigned;
CREATE TABLE subscribed AS
SELECT id, c, a, m.key AS member, t.topic, s.value::int AS partitions
	FROM assigned, jsonb_each(members) m,
		jsonb_array_elements_text(CASE jsonb_typeof(m.value) WHEN 'object'
			THEN m.value -> 'topics' ELSE m.value END) t (topic),
		jsonb_each_text(sizes) s
	WHERE s.key = t.topic;
CREATE TABLE owned AS SELECT id, f.* FROM assigned, pg_temp.flat(after) f;
CREATE TABLE had AS SELECT id, f.* FROM assigned, pg_temp.flat(before) f;
CREATE TABLE load AS SELECT assigned.id, m.member, count(o.topic) AS n
	FROM assigned CROSS JOIN jsonb_object_keys(members) m (member)
		LEFT JOIN owned o ON o.id = assigned.id AND o.member = m.member
	GROUP BY 1, 2;
ANALYZE assigned, subscribed, owned, had, load;
SELECT count(*), count(*) FILTER (WHERE a = 'sticky' AND before <> '{}') FROM assigned;
SELECT count(*) > 10000 FROM owned;

-- each partition that anybody subscribes to goes to one member, which does
SELECT count(*) > 0, count(*) FILTER (WHERE n IS DISTINCT FROM 1)
	FROM (SELECT DISTINCT id, topic, p FROM subscribed, generate_series(0, partitions - 1) p)
			w (id, topic, partition)
		LEFT JOIN (SELECT id, topic, partition, count(*) AS n FROM owned GROUP BY 1, 2, 3) o
			USING (id, topic, partition);
SELECT count(*) FROM owned o LEFT JOIN subscribed s USING (id, topic, member)
	WHERE o.partition < s.partitions IS NOT TRUE;
-- each member is named, also one that has nothing
SELECT count(*) FROM assigned
	WHERE (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(members) k)
		IS DISTINCT FROM (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(after) k);
-- sticky: no member has two partitions more than one that could take one of them
SELECT assigned.a, count(*) > 0 FROM assigned JOIN owned o USING (id)
		JOIN load giver USING (id, member)
		JOIN subscribed s USING (id, topic)
		JOIN load taker ON taker.id = s.id AND taker.member = s.member
	WHERE giver.n >= taker.n + 2 GROUP BY 1 ORDER BY 1;
-- nor by a chain of members
WITH RECURSIVE gives AS MATERIALIZED (SELECT DISTINCT o.id, o.member AS giver, s.member AS taker
		FROM owned o JOIN assigned USING (id)
			JOIN subscribed s ON s.id = o.id AND s.topic = o.topic
		WHERE assigned.a = 'sticky'),
	chain AS (SELECT * FROM gives
		UNION
		SELECT c.id, c.giver, g.taker FROM chain c JOIN gives g ON g.id = c.id
			AND g.giver = c.taker)
SELECT count(*) FROM chain c JOIN load g ON g.id = c.id AND g.member = c.giver
		JOIN load t ON t.id = c.id AND t.member = c.taker
	WHERE g.n >= t.n + 2;
-- the result as the input changes nothing; both sticky ones agree
SELECT count(*) FROM assigned
	WHERE a IN ('sticky', 'cooperative-sticky')
		AND topic_log.assign(a, members, sizes, after) <> after;
SELECT count(*) FROM assigned s JOIN assigned t USING (c, step)
	WHERE s.a = 'sticky' AND t.a = 'cooperative-sticky' AND s.after <> t.after;
-- range and roundrobin do not look at what was before
SELECT count(*) FROM assigned
	WHERE a IN ('range', 'roundrobin') AND topic_log.assign(a, members, sizes) <> after;
-- equal subscriptions: members keep as many as can be kept
CREATE TABLE kept AS
SELECT l.id, l.member, l.n, count(h.topic) AS had, count(o.topic) AS kept
	FROM load l JOIN assigned USING (id)
		LEFT JOIN had h ON h.id = l.id AND h.member = l.member
			AND h.partition < (sizes ->> h.topic)::int
		LEFT JOIN owned o ON o.id = l.id AND o.member = l.member AND o.topic = h.topic
			AND o.partition = h.partition
	WHERE c % 3 = 0 AND a = 'sticky'
	GROUP BY 1, 2, 3;
SELECT count(*) > 0, count(*) FILTER (WHERE kept <> even + least(longer, total - even0))
	FROM (SELECT sum(kept) AS kept, sum(least(had, m)) AS even,
			count(*) FILTER (WHERE had > m) AS longer, sum(n) AS total, count(*) * min(m) AS even0
		FROM (SELECT *, min(n) OVER (PARTITION BY id) AS m FROM kept) k GROUP BY id) g;
-- no two members have got one from each other, which both could have kept
CREATE TABLE gone AS
SELECT assigned.id, h.member AS giver, o.member AS taker
	FROM assigned JOIN had h USING (id) JOIN owned o USING (id, topic, partition)
		JOIN subscribed s ON s.id = o.id AND s.topic = h.topic AND s.member = h.member
	WHERE assigned.a = 'sticky' AND h.member <> o.member;
SELECT count(*) > 0 FROM gone;
SELECT count(*) FROM gone x JOIN gone y USING (id)
	WHERE x.giver = y.taker AND x.taker = y.giver;

-- ---------------------------------------------------------------------
-- Large groups
-- ---------------------------------------------------------------------
SELECT a, pg_temp.loads(r) = array_fill(10::bigint, ARRAY[1000])
	FROM unnest('{range,roundrobin,sticky}'::text[]) a,
		topic_log.assign(a, (SELECT jsonb_object_agg('C' || m, '["t"]'::jsonb)
			FROM generate_series(1, 1000) m), '{"t": 10000}') r;

-- ---------------------------------------------------------------------
-- Errors
-- ---------------------------------------------------------------------
SELECT a, pg_temp.try(format('SELECT topic_log.assign(%s)', a))
	FROM unnest(ARRAY[$$NULL, '{}', '{}'$$, $$'range', NULL, '{}'$$, $$'range', '{}', NULL$$,
		$$'range', '{}', '{}', NULL$$, $$'Range', '{}', '{}'$$, $$'', '{}', '{}'$$,
		$$'range', '[]', '{}'$$, $$'range', '1', '{}'$$, $$'range', '{"C": "t"}', '{}'$$,
		$$'range', '{"C": [1]}', '{}'$$, $$'range', '{"C": [["t"]]}', '{}'$$,
		$$'range', '{"C": {}}', '{}'$$, $$'range', '{"C": {"topics": "t"}}', '{}'$$,
		$$'range', '{"C": {"topics": [], "group_instance_id": 1}}', '{}'$$,
		$$'range', '{}', '[]'$$, $$'range', '{}', '{"t": -1}'$$, $$'range', '{}', '{"t": 1.5}'$$,
		$$'range', '{}', '{"t": "1"}'$$, $$'range', '{}', '{"t": 1e30}'$$,
		$$'range', '{}', '{"t": 999999, "u": 2}'$$, $$'range', '{}', '{"t": [1]}'$$,
		$$'range', '{}', '{}', '[]'$$, $$'range', '{}', '{}', '{"C": [1]}'$$,
		$$'range', '{}', '{}', '{"C": {"t": 1}}'$$, $$'range', '{}', '{}', '{"C": {"t": ["0"]}}'$$,
		$$'range', '{}', '{}', '{"C": {"t": [-1]}}'$$,
		$$'range', '{"C": []}', '{"t": 1}', '{"C": {"t": [0, 0]}}'$$,
		$$'range', '{"C": [], "D": []}', '{"t": 1}', '{"C": {"t": [0]}, "D": {"t": [0]}}'$$]) a;

DROP TABLE assigned, subscribed, owned, had, load, kept, gone;
