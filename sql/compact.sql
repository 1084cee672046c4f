-- compact: of each key the latest record stays, at its offset; tombstones,
-- lag, dirty ratio, merged segments, gaps, and latest()
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

-- What was produced, as it is before anything is compacted.
CREATE TABLE produced (topic text, "offset" bigint, key text, value text);
CREATE PROCEDURE note(name text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO produced
		SELECT %L, r.offset, key::text, value::text FROM topic.%I r
		WHERE NOT EXISTS (SELECT FROM produced p WHERE p.topic = %1$L AND p.offset = r.offset)',
		name, name);
END $$;

-- Records "from" to "upto" of keys i % keys, and the segment sealed.  Each
-- seventh is a tombstone if there are to be any.
CREATE PROCEDURE fill(name text, n int, keys int, tombstones bool DEFAULT false,
	seal bool DEFAULT true) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM topics.produce(name,
			CASE WHEN tombstones AND i % 7 = 0 THEN NULL ELSE i || ' ' || repeat('x', i % 50) END,
			'k' || (i * 31 % keys))
		FROM generate_series(1, n) i;
	COMMIT;
	CALL note(name);
	IF seal THEN CALL topics.roll_segment(name); END IF;
END $$;

-- A topic's records: as many; each was produced, at its offset; those with a
-- later one of their key; and how latest() differs from what was produced.
CREATE FUNCTION state(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
	EXECUTE format($q$
		SELECT concat_ws(', ',
			'clean to ' || (SELECT clean_offset
				FROM topic_log.partition p JOIN topics.topic t USING (topic_id)
				WHERE t.topic = %1$L),
			count(*) || ' records',
			count(*) FILTER (WHERE value IS NULL) || ' tombstones',
			(SELECT nullif(count(*), 0) || ' NOT PRODUCED' FROM topic.%2$I r
				WHERE NOT EXISTS (SELECT FROM produced p
					WHERE p.topic = %1$L
						AND p.offset = r.offset
						AND p.key = r.key::text
						AND p.value IS NOT DISTINCT FROM r.value::text)),
			(SELECT count(*)
				FROM topic.%2$I r
					JOIN (SELECT key, max("offset") AS latest FROM topic.%2$I GROUP BY 1) l
						ON l.key = r.key
				WHERE r.offset < latest) || ' to be compacted',
			(SELECT nullif(count(*), 0) || ' STATES DIFFER'
				FROM (SELECT *
					FROM (SELECT DISTINCT ON (key) "offset", key, value FROM produced
						WHERE topic = %1$L
						ORDER BY key, "offset" DESC) p
					WHERE value IS NOT NULL) p
				FULL JOIN topics.latest(%1$L) l USING ("offset", key, value)
				WHERE p.* IS NULL OR l.* IS NULL),
			(SELECT nullif(count(*), 0) || ' BY FETCH'
				FROM (SELECT "offset", key::text, value::text FROM topic.%2$I
					EXCEPT ALL
					SELECT "offset", key, value
					FROM topics.fetch(%1$L, 0, 0, 1000000, 1000000000)) d))
		FROM topic.%2$I$q$, name, name) INTO result;
	RETURN result;
END $$;
CREATE VIEW sealed AS
	SELECT topic, base_offset, end_offset
	FROM topics.segment
	WHERE state = 'sealed'
	ORDER BY 1, 2;

-- Maintains until the log is clean up to an offset: the worker may be at it as
-- well, and its snapshots and locks delay us.
CREATE PROCEDURE clean(name text, upto bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		CALL topics.maintain(name);
		EXIT WHEN upto <= (SELECT clean_offset
			FROM topic_log.partition p JOIN topics.topic t USING (topic_id)
			WHERE t.topic = name);
	END LOOP;
END $$;

-- ---------------------------------------------------------------------
-- The latest record of each key
-- ---------------------------------------------------------------------
SELECT topics.create_topic('compact_plain', cleanup_policy => 'compact');
CALL fill('compact_plain', 1000, 100);
CALL fill('compact_plain', 1000, 150, true);
CALL fill('compact_plain', 100, 10, seal => false);
CALL clean('compact_plain', 2000);
SELECT state('compact_plain');
-- one segment of what was two
SELECT * FROM sealed WHERE topic = 'compact_plain';
-- it may begin and end in a gap
SELECT min(r.offset) > 0, max(r.offset) FROM topic.compact_plain r;
SELECT r.offset >= 1234 FROM topics.fetch('compact_plain', 0, 1234, 1) r;
-- again, with more
CALL fill('compact_plain', 1000, 50);
CALL clean('compact_plain', 3100);
SELECT state('compact_plain');
SELECT * FROM sealed WHERE topic = 'compact_plain';
-- nothing to be done
CALL topics.maintain('compact_plain');
SELECT state('compact_plain');
-- order and frozen, so that every snapshot sees it; indexed anew
SELECT pg_temp.log_table('compact_plain', '_p0_s1') AS s1 \gset
SELECT bool_and(o > coalesce(previous, -1)) AS in_order
	FROM (SELECT "offset" AS o, lag("offset") OVER (ORDER BY ctid) AS previous FROM :s1) s;
SELECT count(*) FROM pg_index WHERE indrelid = :'s1'::regclass;
-- the policy is changed back: gaps stay, and are no corruption
SELECT topics.alter_topic('compact_plain', cleanup_policy => 'delete');
SELECT state('compact_plain');
SELECT topics.alter_topic('compact_plain', cleanup_policy => 'compact');

-- ---------------------------------------------------------------------
-- Tombstones
-- ---------------------------------------------------------------------
SELECT topics.create_topic('compact_tombstone', cleanup_policy => 'compact',
	min_cleanable_dirty_ratio => 0);
CALL fill('compact_tombstone', 700, 70, true);
CALL clean('compact_tombstone', 700);
SELECT state('compact_tombstone');
-- not before delete_retention_time, counted from when they were first clean
CALL topics.maintain('compact_tombstone');
SELECT state('compact_tombstone');
UPDATE topic_log.segment s SET tombstones_from = tombstones_from - interval '23 h 59 min'
	FROM topics.topic t
	WHERE t.topic = 'compact_tombstone' AND t.topic_id = s.topic_id;
CALL topics.maintain('compact_tombstone');
SELECT state('compact_tombstone');
-- more of them: they are of another age, and are not merged with the old ones
CALL fill('compact_tombstone', 700, 30, true);
CALL clean('compact_tombstone', 1400);
SELECT state('compact_tombstone');
SELECT * FROM sealed WHERE topic = 'compact_tombstone';
CREATE PROCEDURE until_tombstones(name text, n int) LANGUAGE plpgsql AS $$
DECLARE found int;
BEGIN
	FOR i IN 1 .. 1000 LOOP
		CALL topics.maintain(name);
		EXECUTE format('SELECT count(*) FROM topic.%I WHERE value IS NULL', name) INTO found;
		EXIT WHEN found = n;
	END LOOP;
END $$;
UPDATE topic_log.segment s SET tombstones_from = tombstones_from - interval '1 day'
	FROM topics.topic t
	WHERE t.topic = 'compact_tombstone' AND t.topic_id = s.topic_id;
CALL until_tombstones('compact_tombstone', 0);
SELECT state('compact_tombstone');
SELECT * FROM sealed WHERE topic = 'compact_tombstone';
-- all keys deleted, all tombstones gone: an empty log that goes on
SELECT count(topics.produce('compact_tombstone', NULL, 'k' || i)) FROM generate_series(0, 99) i;
CALL note('compact_tombstone');
CALL topics.roll_segment('compact_tombstone');
CALL clean('compact_tombstone', 1500);
UPDATE topic_log.segment s SET tombstones_from = tombstones_from - interval '1 day'
	FROM topics.topic t
	WHERE t.topic = 'compact_tombstone' AND t.topic_id = s.topic_id;
CALL until_tombstones('compact_tombstone', 0);
SELECT state('compact_tombstone');
CALL topics.send('compact_tombstone', 'next', 'k');

-- ---------------------------------------------------------------------
-- When
-- ---------------------------------------------------------------------
-- a tenth of the log is dirty
SELECT topics.create_topic('compact_ratio', cleanup_policy => 'compact');
CALL fill('compact_ratio', 1000, 1000);
CALL clean('compact_ratio', 1000);
CALL fill('compact_ratio', 100, 50);
CALL topics.maintain('compact_ratio');
SELECT state('compact_ratio');
SELECT topics.alter_topic('compact_ratio', min_cleanable_dirty_ratio => 0.01);
CALL clean('compact_ratio', 1100);
SELECT state('compact_ratio');
-- younger than the lag: the segment, or its records
SELECT topics.create_topic('compact_lag', cleanup_policy => 'compact',
	min_compaction_lag_time => '1 h');
CALL fill('compact_lag', 100, 10);
CALL topics.maintain('compact_lag');
SELECT state('compact_lag');
UPDATE topic_log.segment s SET sealed_at = sealed_at - interval '59 min'
	FROM topics.topic t
	WHERE t.topic = 'compact_lag' AND t.topic_id = s.topic_id;
CALL topics.maintain('compact_lag');
SELECT state('compact_lag');
UPDATE topic_log.segment s SET sealed_at = sealed_at - interval '2 min'
	FROM topics.topic t
	WHERE t.topic = 'compact_lag' AND t.topic_id = s.topic_id;
CALL clean('compact_lag', 100);
SELECT state('compact_lag');
-- times longer than history: never
SELECT topics.create_topic('compact_never', cleanup_policy => 'compact',
	min_compaction_lag_time => '300000 years');
CALL fill('compact_never', 100, 10, true);
CALL topics.maintain('compact_never');
SELECT state('compact_never');
SELECT topics.alter_topic('compact_never', min_compaction_lag_time => '0',
	delete_retention_time => '300000 years');
CALL clean('compact_never', 100);
CALL topics.maintain('compact_never');
SELECT state('compact_never');
-- policy "delete" compacts nothing
SELECT topics.create_topic('compact_not');
CALL fill('compact_not', 100, 10);
CALL topics.maintain('compact_not');
SELECT state('compact_not');
-- both: old segments go, compacted or not
SELECT topics.create_topic('compact_both', cleanup_policy => 'compact,delete');
CALL fill('compact_both', 100, 10);
CALL clean('compact_both', 100);
SELECT state('compact_both');
SELECT topics.alter_topic('compact_both', retention_bytes => 0);
CALL topics.maintain('compact_both');
SELECT pg_temp.count('compact_both');

-- ---------------------------------------------------------------------
-- A map that does not hold all keys: several runs
-- ---------------------------------------------------------------------
SELECT topics.create_topic('compact_many', cleanup_policy => 'compact',
	min_cleanable_dirty_ratio => 0);
SET maintenance_work_mem = '1MB';
CALL fill('compact_many', 60000, 60000);
CALL fill('compact_many', 30000, 60000);
CALL clean('compact_many', 90000);
SELECT state('compact_many');
RESET maintenance_work_mem;
SET work_mem = '64kB';
SELECT count(*), count(DISTINCT l.key),
		md5(string_agg(l.offset || l.key, ',' ORDER BY l.offset))
			= (SELECT md5(string_agg(r.offset || r.key, ',' ORDER BY r.offset))
				FROM topic.compact_many r) AS same
	FROM topics.latest('compact_many') l;
RESET work_mem;

-- ---------------------------------------------------------------------
-- A map that is full within a segment: the tombstones above it are of no age yet
-- ---------------------------------------------------------------------
SELECT topics.create_topic('compact_half', min_cleanable_dirty_ratio => 0,
	retention_time => '-1 s');
CREATE PROCEDURE make_older(name text, by interval) LANGUAGE sql AS $$
	UPDATE topic_log.segment s SET tombstones_from = tombstones_from - by
		FROM topics.topic t
		WHERE t.topic = name AND t.topic_id = s.topic_id
$$;
-- old tombstones, and a neighbour of which the map has the first part only
SET maintenance_work_mem = '1MB';
ALTER SYSTEM SET maintenance_work_mem = '1MB';	-- of the compactor
SELECT pg_reload_conf();
SELECT count(topics.produce('compact_half', CASE WHEN i % 2 = 0 THEN repeat('x', 100) END,
		'a' || i))
	FROM generate_series(1, 6000) i;
CALL topics.roll_segment('compact_half');
SELECT topics.alter_topic('compact_half', cleanup_policy => 'compact');
CALL clean('compact_half', 6000);
CALL make_older('compact_half', '23 h');
SELECT topics.alter_topic('compact_half', cleanup_policy => 'delete');
-- the first 6000 records of this segment go, by later ones of their keys
SELECT count(topics.produce('compact_half', 'x', 'b' || i % 100))
	FROM generate_series(1, 6000) i;
SELECT count(topics.produce('compact_half', 'x', 'c' || i)) FROM generate_series(1, 13000) i;
SELECT count(topics.produce('compact_half', NULL, 'd' || i)) FROM generate_series(1, 10) i;
CALL topics.roll_segment('compact_half');
SELECT topics.alter_topic('compact_half', cleanup_policy => 'compact');
CALL clean('compact_half', 25010);
SELECT count(*) FILTER (WHERE key ~ '^a') AS old, count(*) FILTER (WHERE key ~ '^d') AS young
	FROM topic.compact_half
	WHERE value IS NULL;
-- the old ones are of age, those of the neighbour are not
SELECT topics.alter_topic('compact_half', delete_retention_time => '22 h');
CALL until_tombstones('compact_half', 10);
SELECT count(*) FILTER (WHERE key ~ '^a') AS old, count(*) FILTER (WHERE key ~ '^d') AS young
	FROM topic.compact_half
	WHERE value IS NULL;
CALL topics.maintain('compact_half');
SELECT count(*) FILTER (WHERE key ~ '^a') AS old, count(*) FILTER (WHERE key ~ '^d') AS young
	FROM topic.compact_half
	WHERE value IS NULL;
RESET maintenance_work_mem;
ALTER SYSTEM RESET maintenance_work_mem;
SELECT pg_reload_conf();

-- ---------------------------------------------------------------------
-- Keys are equal if their bytes are; values of all sizes; other types
-- ---------------------------------------------------------------------
SELECT topics.create_topic('compact_wide', cleanup_policy => 'compact', segment_bytes => 100000000);
INSERT INTO topic.compact_wide (key, value)
	SELECT repeat(md5((i % 3)::text), 2000),
		(SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 1000) j)
	FROM generate_series(1, 12) i;
INSERT INTO topic.compact_wide (key, value)
	SELECT k, repeat('long ', 100000)
	FROM unnest(ARRAY['a', 'A', 'a ', '', 'a']) k;
-- out of line, each in its own place
INSERT INTO topic.compact_wide (key, value)
	SELECT string_agg(md5(j::text), ''), i::text
	FROM generate_series(1, 2) i, generate_series(1, 200) j
	GROUP BY i ORDER BY i;
CALL note('compact_wide');
CALL topics.roll_segment('compact_wide');
CALL clean('compact_wide', 19);
SELECT state('compact_wide');
SELECT topics.create_topic('compact_numeric', key_type => 'numeric', cleanup_policy => 'compact');
INSERT INTO topic.compact_numeric (key, value)
	SELECT k, k::text FROM unnest(ARRAY[1.0, 1.00, 1.0, 1, 2, 1]) k;
CALL topics.roll_segment('compact_numeric');
CALL clean('compact_numeric', 6);
SELECT key, r.offset FROM topic.compact_numeric r ORDER BY 2;
SELECT topics.create_topic('compact_int', key_type => 'bigint', value_type => 'bytea',
	cleanup_policy => 'compact');
INSERT INTO topic.compact_int (key, value)
	SELECT k, '\x00' FROM unnest(ARRAY[1, -1, 9223372036854775807, 1, -1]) k;
CALL topics.roll_segment('compact_int');
CALL clean('compact_int', 5);
SELECT key, r.offset FROM topic.compact_int r ORDER BY 2;
SELECT key, l.offset FROM topics.latest('compact_int') l ORDER BY 2;
-- what is below the log start goes as well
SELECT topics.create_topic('compact_below', cleanup_policy => 'compact',
	min_cleanable_dirty_ratio => 0);
CALL fill('compact_below', 1000, 1000, seal => false);
SELECT topics.delete_records('compact_below', 0, 990);
CALL topics.roll_segment('compact_below');
CALL clean('compact_below', 1000);
SELECT count(*), min(r.offset) FROM topic.compact_below r;
-- by a later run, if a snapshot of the worker was in the way
DO $$ BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN (SELECT count(*) = 1 AND bool_and(size_bytes < 65536) FROM topics.segment
			WHERE topic = 'compact_below' AND state = 'sealed');
		PERFORM topics.produce('compact_below', 'x', 'more');
		COMMIT;
		CALL topics.roll_segment('compact_below');
		CALL clean('compact_below', 1000 + i);
	END LOOP;
END $$;
SELECT size_bytes < 65536 AS small
	FROM topics.segment
	WHERE topic = 'compact_below' AND state = 'sealed';
-- a clean segment is not written anew for the sake of a small one
SELECT topics.create_topic('compact_alone', cleanup_policy => 'compact',
	min_cleanable_dirty_ratio => 0);
CALL fill('compact_alone', 5000, 5000);
CALL clean('compact_alone', 5000);
INSERT INTO topic.compact_alone (key, value) SELECT 'other' || i, 'x' FROM generate_series(1, 10) i;
CALL topics.roll_segment('compact_alone');
CALL clean('compact_alone', 5010);
SELECT * FROM sealed WHERE topic = 'compact_alone';
-- records without a key, from before the policy, stay
SELECT topics.create_topic('compact_null');
INSERT INTO topic.compact_null (key, value)
	SELECT k, 'v' FROM unnest(ARRAY[NULL, 'a', NULL, 'a']) k;
CALL topics.roll_segment('compact_null');
SELECT topics.alter_topic('compact_null', cleanup_policy => 'compact');
CALL clean('compact_null', 4);
SELECT key, r.offset FROM topic.compact_null r ORDER BY 2;
SELECT key, l.offset FROM topics.latest('compact_null') l ORDER BY 2;
-- segments of no size worth mentioning are merged
SELECT topics.create_topic('compact_huge', cleanup_policy => 'compact',
	min_cleanable_dirty_ratio => 0, segment_bytes => 9223372036854775807);
CALL fill('compact_huge', 100, 10);
CALL topics.roll_segment('compact_huge');
CALL fill('compact_huge', 100, 10);
CALL clean('compact_huge', 200);
SELECT * FROM sealed WHERE topic = 'compact_huge';
-- a run that finds nothing to do ends: tombstones that have expired, of a segment
-- that a run has replaced which was given up then, and that is too young now
SELECT topics.create_topic('compact_young', cleanup_policy => 'compact',
	min_cleanable_dirty_ratio => 0, min_compaction_lag_time => '1 day',
	delete_retention_time => '0');
INSERT INTO topic.compact_young (key, value) VALUES ('a', 'x'), ('a', NULL), ('b', 'x');
CALL topics.roll_segment('compact_young');
UPDATE topic_log.segment SET tombstones_from = clock_timestamp() - interval '1 hour'
	WHERE topic_id = (SELECT topic_id FROM topics.topic WHERE topic = 'compact_young');
SET statement_timeout = '30 s';
CALL topics.maintain('compact_young');
RESET statement_timeout;
SELECT key, r.offset FROM topic.compact_young r ORDER BY 2;
SELECT topics.alter_topic('compact_young', min_compaction_lag_time => '0');
CALL clean('compact_young', 3);
CALL clean('compact_young', 3);
SELECT key, r.offset FROM topic.compact_young r ORDER BY 2;
-- rows of the same columns are the same key, compressed or not
CREATE TYPE compact_row AS (name text, number int);
CREATE TYPE compact_rows AS (a compact_row, b compact_row);
CREATE TABLE compact_source AS SELECT repeat('ab', 3000) AS name, 1 AS number;
SELECT topics.create_topic('compact_row', key_type => 'compact_rows', cleanup_policy => 'compact',
	min_cleanable_dirty_ratio => 0);
INSERT INTO topic.compact_row (key, value)
	SELECT ((name, number)::compact_row, NULL)::compact_rows, 'compressed' FROM compact_source;
INSERT INTO topic.compact_row (key, value)
	SELECT ((name || '', number)::compact_row, NULL)::compact_rows, 'plain' FROM compact_source;
INSERT INTO topic.compact_row (key, value)
	SELECT (NULL, (name, number)::compact_row)::compact_rows, 'another' FROM compact_source;
SELECT l.offset, value FROM topics.latest('compact_row') l ORDER BY 1;
CALL topics.roll_segment('compact_row');
CALL clean('compact_row', 3);
SELECT r.offset, value FROM topic.compact_row r ORDER BY 1;
-- and so are arrays and ranges of such rows, in whatever is made of them
CREATE DOMAIN compact_array AS compact_row[];
CREATE TYPE compact_nested AS (rows compact_array, more text);
CREATE TYPE compact_range AS RANGE (subtype = compact_row, multirange_type_name = compact_ranges);
CREATE TABLE compact_text (list text[]);
INSERT INTO compact_text VALUES ('{a,NULL}');
UPDATE compact_text SET list[2] = 'b';
CREATE TABLE compact_case (type text, keys text[]);
INSERT INTO compact_case SELECT type, ARRAY[format(template, 'name'),
		format(template, 'name || '''''), format(template, '''a'''), another]
	FROM (VALUES ('compact_row[]', 'ARRAY[(%s, 1)::compact_row, NULL]',
			'ARRAY[NULL, (name, 1)::compact_row]'),
		('compact_array', 'ARRAY[(%s, 1)::compact_row]', '''{}'''),
		('compact_nested', '(ARRAY[(%s, 1)::compact_row], NULL)::compact_nested',
			'(NULL, NULL)::compact_nested'),
		('compact_range', 'compact_range((%s, 1), NULL)', '''empty'''),
		('compact_ranges', 'compact_ranges(compact_range((%s, 1), NULL))', '''{}'''))
		t (type, template, another);
-- an array that had a NULL
INSERT INTO compact_case VALUES ('text[]', ARRAY['list', '''{a,b}''', '''{b,a}''', '''{a,NULL}''',
	'''[2:3]={a,b}''', '''{{a,b}}''']);
-- what differs in its bytes is another key, whatever "=" says
INSERT INTO compact_case VALUES ('numeric', ARRAY['1.0', '1.00', '1.0']),
	('float8', ARRAY['''-0''', '''0''', '''0''']),
	('char(5)', ARRAY['''a''', '''a  ''', '''a    ''']);
CREATE FUNCTION pg_temp.fill_keys(topic text, keys text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. cardinality(keys) LOOP
		EXECUTE format('INSERT INTO topic.%I (key, value) SELECT %s, $1'
			' FROM compact_source, compact_text', topic, keys[i]) USING i::text;
	END LOOP;
END $$;
SELECT count(topics.create_topic('compact_key_' || md5(type), 3, key_type => type)),
	count(pg_temp.fill_keys('compact_key_' || md5(type), keys)) FROM compact_case;
SELECT type, cardinality(keys), (SELECT string_agg(value, ' ' ORDER BY value)
	FROM topics.latest('compact_key_' || md5(type))) FROM compact_case;

-- ---------------------------------------------------------------------
-- latest
-- ---------------------------------------------------------------------
SELECT pg_temp.try($$SELECT * FROM topics.latest('compact_none')$$),
	pg_temp.try($$SELECT * FROM topics.latest(NULL)$$);
CREATE ROLE regress_compact;
GRANT USAGE ON SCHEMA topics, topic TO regress_compact;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO regress_compact;
SET ROLE regress_compact;
SELECT topics.latest('compact_int');
RESET ROLE;
GRANT SELECT ON topic.compact_int TO regress_compact;
SET ROLE regress_compact;
SELECT count(*) FROM topics.latest('compact_int');
RESET ROLE;
DROP OWNED BY regress_compact;
DROP ROLE regress_compact;

SELECT count(topics.drop_topic(topic)) FROM topics.topic WHERE topic ~ '^compact_';
DROP PROCEDURE clean, fill, make_older, note, until_tombstones;
DROP FUNCTION state;
DROP VIEW sealed;
DROP TABLE produced, compact_source, compact_text, compact_case;
DROP TYPE compact_range, compact_nested, compact_rows;
DROP DOMAIN compact_array;
DROP TYPE compact_row;
