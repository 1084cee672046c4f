-- segment: roll and seal, views of partitions and segments, and that physical
-- order stays offset order, whatever is done to log tables
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

-- Is the log dense from 0, each segment within its bounds, and in every
-- segment the order of rows on disk, and of a scan, the order of offsets?
CREATE FUNCTION pg_temp.in_order(topic text) RETURNS text LANGUAGE plpgsql
SET enable_indexscan = off SET enable_bitmapscan = off AS $$
DECLARE result text;
BEGIN
	EXECUTE format($q$
		SELECT CASE WHEN bool_and(o > coalesce(by_ctid, -1) AND o > coalesce(by_scan, -1))
			AND bool_and(o = n) THEN 'in order' ELSE 'NOT IN ORDER' END || ', ' || count(*)
		FROM (SELECT o, lag(o) OVER (PARTITION BY relid ORDER BY ctid) AS by_ctid,
				lag(o) OVER (PARTITION BY relid ORDER BY scanned) AS by_scan,
				row_number() OVER (PARTITION BY partition ORDER BY o) - 1 AS n
			FROM (SELECT tableoid AS relid, ctid, "offset" AS o, partition,
					row_number() OVER () AS scanned
				FROM %s) r) s$q$, pg_temp.log_table(topic)) INTO result;
	RETURN result;
END $$;
CREATE VIEW segment_view AS
	SELECT topic, partition, log_start_offset, log_end_offset, base_offset,
		CASE WHEN state = 'sealed' THEN end_offset END AS end_offset, state, first_timestamp,
		last_timestamp, size_bytes > 0 AS has_size
	FROM topics.segment
	WHERE state <> 'spare'
	ORDER BY 1, 2, base_offset;

CREATE FUNCTION pg_temp.indexes(name text) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(am.amname || ' (' || array_to_string(i.indkey, ',') || ')', ', ')
	FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am am ON am.oid = x.relam
	WHERE i.indrelid = name::regclass $$;

-- ---------------------------------------------------------------------
-- Roll
-- ---------------------------------------------------------------------
SELECT topics.create_topic('segment_roll', 2, retention_time => '-1 s');
SELECT * FROM segment_view WHERE topic = 'segment_roll';
-- an empty one is not rolled
CALL topics.roll_segment('segment_roll');
SELECT * FROM segment_view WHERE topic = 'segment_roll';
SELECT topics.produce('segment_roll', i::text, partition => 0,
		create_time => '2020-01-01'::timestamptz + i * interval '1 day')
	FROM generate_series(0, 2) i;
SELECT * FROM segment_view WHERE topic = 'segment_roll';
CALL topics.roll_segment('segment_roll');
SELECT * FROM segment_view WHERE topic = 'segment_roll';
CALL topics.roll_segment('segment_roll', 0);
SELECT topics.produce('segment_roll', i::text, partition => i % 2,
		create_time => '2020-02-01'::timestamptz + i * interval '1 day')
	FROM generate_series(3, 6) i;
CALL topics.roll_segment('segment_roll', partition => 1);
SELECT * FROM segment_view WHERE topic = 'segment_roll';
SELECT topic, partition, log_start_offset, log_end_offset, first_timestamp, last_timestamp,
		size_bytes = (SELECT sum(s.size_bytes) FROM topics.segment s
			WHERE s.topic = p.topic AND s.partition = p.partition)
	FROM topics.partition p
	WHERE topic = 'segment_roll'
	ORDER BY 2;
SELECT pg_temp.in_order('segment_roll');
SELECT string_agg(value, ' ' ORDER BY r.offset) FROM topics.fetch('segment_roll', 0, 0) r;
-- sealed ones have a BRIN index, and only those any
SELECT s.partition, s.state, pg_temp.indexes(c.oid::regclass::text)
	FROM topics.segment s
		JOIN pg_class c ON c.oid = (SELECT inhrelid
			FROM pg_inherits JOIN pg_class k ON k.oid = inhrelid
			WHERE inhparent = pg_temp.log_table(topic, '_p' || partition)::regclass
				AND pg_get_expr(k.relpartbound, k.oid) LIKE '%FROM (''' || s.base_offset || ''')%')
	WHERE s.topic = 'segment_roll' AND s.state <> 'spare'
	ORDER BY s.partition, s.base_offset;
-- who may not, and where not
SELECT pg_temp.try($$CALL topics.roll_segment('segment_roll')$$),
	pg_temp.try($$CALL topics.maintain('segment_roll')$$);
BEGIN;
CALL topics.roll_segment('segment_roll');
ROLLBACK;
BEGIN;
CALL topics.maintain();
ROLLBACK;
CALL topics.roll_segment('segment_nosuch');
CALL topics.roll_segment(NULL);
CALL topics.roll_segment('segment_roll', 2);
CALL topics.roll_segment('segment_roll', -1);
CALL topics.maintain('segment_nosuch');
CALL topics.maintain('segment_roll');
SET default_transaction_read_only = on;
CALL topics.roll_segment('segment_roll');
CALL topics.maintain();
RESET default_transaction_read_only;
-- plain SQL reads the segments that it needs (a spare, which is empty, does not count)
CREATE FUNCTION pg_temp.scans(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE line text; result bigint := 0;
BEGIN
	FOR line IN
		EXECUTE 'EXPLAIN (ANALYZE, BUFFERS off, COSTS off, TIMING off, SUMMARY off) ' || query
	LOOP
		result := result + (line ~ 'Scan .*on t\d+_p\d+_s[12]\M' AND line !~ 'never executed')::int;
	END LOOP;
	RETURN result;
END $$;
SELECT pg_temp.scans('SELECT * FROM topic.segment_roll WHERE partition = 0 AND "offset" >= 3'),
	pg_temp.scans('SELECT * FROM topic.segment_roll WHERE partition = 0 AND "offset" < 3'),
	pg_temp.scans('SELECT * FROM topic.segment_roll WHERE partition = 0 AND "offset" = 1'),
	pg_temp.scans('SELECT * FROM topic.segment_roll
		WHERE partition = 0 AND "offset" = (SELECT 1)');

-- ---------------------------------------------------------------------
-- By size: cut where segment_bytes say, by the worker or by hand
-- ---------------------------------------------------------------------
SELECT topics.create_topic('segment_size', segment_bytes => 65536);
DO $$ BEGIN
	FOR i IN 1 .. 30 LOOP
		PERFORM topics.produce_batch('segment_size', array_agg(repeat(md5(j::text), 10)))
			FROM generate_series(1, 100) j;
		COMMIT;
		CALL topics.maintain('segment_size');
	END LOOP;
END $$;
SELECT pg_temp.in_order('segment_size');
SELECT count(*) > 5, max(size_bytes) < 400000, bool_and(log_end_offset = end_offset)
	FROM topics.segment
	WHERE topic = 'segment_size' AND state = 'sealed';
-- one transaction may span several
SELECT topics.produce_batch('segment_size', array_agg('x'::text)) FROM generate_series(1, 20000) j;
CALL topics.maintain('segment_size');
SELECT pg_temp.in_order('segment_size');

-- rows of mixed size, which a heap puts into gaps that larger ones have left
SELECT topics.create_topic('segment_mixed');
CREATE FUNCTION pg_temp.mixed(i int) RETURNS text LANGUAGE sql AS $$
	SELECT substr(string_agg(md5((i * j)::text), ''), 1, 10 + i * 7919 % 1800)
	FROM generate_series(1, 60) j $$;
SELECT topics.produce_batch('segment_mixed', array_agg(pg_temp.mixed(i)))
	FROM generate_series(1, 500) i;
DO $$ BEGIN
	FOR i IN 501 .. 1000 LOOP
		PERFORM topics.produce('segment_mixed', pg_temp.mixed(i));
		COMMIT;
	END LOOP;
END $$;
SELECT pg_temp.in_order('segment_mixed');

-- ---------------------------------------------------------------------
-- VACUUM, VACUUM FULL, REINDEX and the rest, with dead rows at the tail.
-- Dead rows: a foreign writer that aborts
-- ---------------------------------------------------------------------
SELECT topics.create_topic('segment_dead');
SELECT pg_temp.log_table('segment_dead') AS root,
	pg_temp.log_table('segment_dead', '_p0_s1') AS s1 \gset
SELECT topics.produce_batch('segment_dead', array_agg(repeat('a', i % 700)))
	FROM generate_series(0, 99) i;
BEGIN;
INSERT INTO :root ("offset", "timestamp", partition, value)
	SELECT i, now(), 0, repeat('dead', 300)
	FROM generate_series(100, 130) i;
ROLLBACK;
SELECT pg_temp.in_order('segment_dead');
SELECT count(topics.produce('segment_dead', repeat('b', i * 50))) FROM generate_series(0, 10) i;
SELECT pg_temp.in_order('segment_dead');
-- the active segment is not vacuumed: rows before and after stay where they are
BEGIN;
INSERT INTO :root ("offset", "timestamp", partition, value)
	SELECT i, now(), 0, repeat('dead', 300)
	FROM generate_series(111, 141) i;
ROLLBACK;
SELECT max(ctid) AS last_ctid FROM :s1 \gset
VACUUM :s1;
SELECT count(topics.produce('segment_dead', 'after VACUUM ' || i)) FROM generate_series(0, 10) i;
SELECT min(ctid) > :'last_ctid' FROM :s1 WHERE "offset" >= 111;
SELECT pg_temp.in_order('segment_dead');
VACUUM (ANALYZE, DISABLE_PAGE_SKIPPING, TRUNCATE) :root;
SELECT topics.produce('segment_dead', 'after VACUUM of all');
SELECT pg_temp.in_order('segment_dead');
BEGIN;
INSERT INTO :root ("offset", "timestamp", partition, value)
	SELECT i, now(), 0, repeat('dead', 300)
	FROM generate_series(123, 200) i;
ROLLBACK;
VACUUM FULL :s1;
SELECT count(topics.produce('segment_dead', 'after VACUUM FULL ' || i))
	FROM generate_series(0, 10) i;
SELECT pg_temp.in_order('segment_dead');
REINDEX TABLE :s1;
REINDEX TABLE :root;
ALTER TABLE :s1 SET TABLESPACE pg_default;
ALTER TABLE :s1 SET (fillfactor = 50);
SELECT count(topics.produce('segment_dead', repeat('after REINDEX', i * 30)))
	FROM generate_series(0, 10) i;
SELECT pg_temp.in_order('segment_dead');
-- VACUUM that must freeze has the active segment cut, by the worker or by hand
VACUUM (FREEZE) :s1;
CALL topics.maintain('segment_dead');
SELECT count(topics.produce('segment_dead', 'after VACUUM FREEZE ' || i))
	FROM generate_series(0, 10) i;
SELECT pg_temp.in_order('segment_dead');
-- a sealed one with dead rows inside and at its end is vacuumed as any heap
BEGIN;
INSERT INTO :root ("offset", "timestamp", partition, value)
	SELECT i, now(), 0, 'dead'
	FROM generate_series((SELECT max("offset") + 1 FROM topic.segment_dead), 500) i;
ROLLBACK;
CALL topics.roll_segment('segment_dead');
VACUUM (INDEX_CLEANUP on, TRUNCATE) :root;
SELECT pg_temp.in_order('segment_dead');
VACUUM FULL :root;
SELECT pg_temp.in_order('segment_dead');
REINDEX TABLE :root;
SELECT count(topics.produce('segment_dead', 'after all ' || i)) FROM generate_series(0, 10) i;
SELECT pg_temp.in_order('segment_dead');
SELECT count(*) = max(r.offset) + 1 FROM topics.fetch('segment_dead', 0, 0) r;

-- Dead rows of a producer: its commit fails after it has appended to the one
-- partition, because a prepared transaction has read the other
SELECT topics.create_topic('segment_abort', 2);
SELECT topics.produce('segment_abort', 'a', partition => p) FROM generate_series(0, 1) p;
CREATE TABLE segment_conflict (a int);
INSERT INTO segment_conflict VALUES (1);
\set VERBOSITY sqlstate
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM topic.segment_abort WHERE partition = 1;
UPDATE segment_conflict SET a = 2;
PREPARE TRANSACTION 'regress_segment';
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT a FROM segment_conflict;
SELECT topics.produce('segment_abort', 'dead', partition => p) FROM generate_series(0, 1) p;
COMMIT;
ROLLBACK PREPARED 'regress_segment';
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM topic.segment_abort WHERE partition = 0;
UPDATE segment_conflict SET a = 2;
PREPARE TRANSACTION 'regress_segment';
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT a FROM segment_conflict;
SELECT topics.produce('segment_abort', 'dead', partition => p) FROM generate_series(0, 1) p;
COMMIT;
ROLLBACK PREPARED 'regress_segment';
\set VERBOSITY default
SELECT log_end_offset FROM topics.partition WHERE topic = 'segment_abort';
-- neither a gap nor a trace, though there are dead rows: line pointers are missing
SELECT topics.produce('segment_abort', 'b', partition => p) FROM generate_series(0, 1) p;
SELECT partition, r.offset, value FROM topic.segment_abort r ORDER BY 1, 2;
SELECT pg_temp.log_table('segment_abort') AS root \gset
SELECT max((ctid::text::point)[1]) > 2 FROM :root;
VACUUM :root;
SELECT topics.produce('segment_abort', 'c', partition => p) FROM generate_series(0, 1) p;
SELECT pg_temp.in_order('segment_abort');
SELECT record_count, first_offset FROM topics.last_produced();

-- ---------------------------------------------------------------------
-- Indexes
-- ---------------------------------------------------------------------
SELECT topics.create_topic('segment_index');
SELECT topics.produce_batch('segment_index', array_agg('value ' || i), array_agg('key ' || i % 10))
	FROM generate_series(0, 999) i;
BEGIN;
SELECT pg_temp.log_table('segment_index') AS root,
	pg_temp.log_table('segment_index', '_p0_s1') AS s1 \gset
INSERT INTO :root ("offset", "timestamp", partition, key)
	SELECT i, now(), 0, 'key 1' FROM generate_series(1000, 1010) i;
ROLLBACK;
SELECT pg_temp.try(format('CREATE INDEX ON %s (key)', :'s1'));
SELECT pg_temp.try(format('CREATE UNIQUE INDEX ON %s ("offset")', :'s1'));
\set VERBOSITY sqlstate
CREATE INDEX CONCURRENTLY segment_concurrent ON :s1 (key);
\set VERBOSITY default
-- what has failed is not in the way
SELECT topics.produce('segment_index', 'value 1000', 'key 0');
DROP INDEX IF EXISTS topic_log.segment_concurrent;
CALL topics.roll_segment('segment_index');
SELECT pg_temp.indexes(:'s1');
CREATE INDEX segment_key ON :s1 (key);
CREATE UNIQUE INDEX CONCURRENTLY segment_offset ON :s1 ("offset");
CREATE INDEX segment_partial ON :s1 (lower(value)) WHERE key = 'key 2';
CREATE INDEX segment_hash ON :s1 USING hash (value);
ANALYZE :s1;
-- it has no snapshot by which to look for conflicts
BEGIN ISOLATION LEVEL SERIALIZABLE;
ANALYZE :s1;
COMMIT;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*) FROM :s1 WHERE key = 'key 1';
SELECT count(*), min(key) FROM :s1 WHERE "offset" = 999;
SELECT count(*) FROM :s1 WHERE key = 'key 2' AND lower(value) = 'value 12';
SELECT count(*) FROM :s1 WHERE value = 'value 500';
-- one cannot have the rows in the order of an index
SELECT pg_temp.try(format('CLUSTER %s USING segment_key', :'s1')) <> 'ok' AS refused;
SELECT pg_temp.in_order('segment_index');
SELECT count(*) FROM (SELECT "offset" FROM :s1 ORDER BY "offset") o;
-- BRIN, after it is summarized again
SET enable_bitmapscan = on;
DROP INDEX topic_log.segment_key, topic_log.segment_offset, topic_log.segment_partial,
	topic_log.segment_hash;
SELECT count(*) FROM :s1 WHERE "offset" >= 500;
REINDEX TABLE CONCURRENTLY :s1;
SELECT count(*) FROM :s1 WHERE "offset" >= 500;
RESET enable_seqscan;
RESET enable_bitmapscan;
-- the producer goes on, and refuses a segment with an index: a query would miss records
SELECT topics.produce('segment_index', 'after');
SELECT pg_temp.in_order('segment_index');
CALL topics.roll_segment('segment_index');
SELECT format('topic_log.%I', c.relname) AS active
	FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid
	WHERE inhparent = pg_temp.log_table('segment_index', '_p0')::regclass
		AND pg_get_expr(relpartbound, c.oid) LIKE '%FROM (''1002'')%' \gset
CREATE INDEX segment_early ON :active (key);
\set VERBOSITY sqlstate
SELECT topics.produce('segment_index', 'with an index');
\set VERBOSITY default
-- and no longer, once the index is gone
DROP INDEX topic_log.segment_early;
SELECT topics.produce('segment_index', 'without');
CALL topics.roll_segment('segment_index');
SELECT format('topic_log.%I', c.relname) AS active
	FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid
	WHERE inhparent = pg_temp.log_table('segment_index', '_p0')::regclass
		AND pg_get_expr(relpartbound, c.oid) LIKE '%FROM (''1003'')%' \gset
BEGIN;
CREATE INDEX segment_early ON :active (key);
ROLLBACK;
SELECT topics.produce('segment_index', 'rolled back');
SELECT pg_temp.in_order('segment_index');
SELECT count(*) FROM topics.fetch('segment_index', 0, 998);
CALL topics.roll_segment('segment_index');
SELECT pg_temp.indexes(:'active');
SELECT format('topic_log.%I', c.relname) AS active
	FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid
	WHERE inhparent = pg_temp.log_table('segment_index', '_p0')::regclass
		AND pg_get_expr(relpartbound, c.oid) LIKE '%FROM (''1004'')%' \gset

-- A segment that has become another kind of table is refused: order would be lost
SET allow_system_table_mods = on;
ALTER TABLE :active SET ACCESS METHOD heap;
\set VERBOSITY sqlstate
SELECT topics.produce('segment_index', 'into a heap');
\set VERBOSITY default
ALTER TABLE :active SET ACCESS METHOD topic_log;
RESET allow_system_table_mods;
SELECT topics.produce('segment_index', 'back');
SELECT pg_temp.in_order('segment_index');

-- A foreign writer at the end, as a restore is: the next offset follows
SELECT pg_temp.log_table('segment_index') AS root \gset
INSERT INTO :root ("offset", "timestamp", partition, value)
	VALUES (1005, now(), 0, 'foreign'), (1006, now(), 0, 'foreign');
SELECT log_end_offset FROM topics.partition WHERE topic = 'segment_index';
SELECT topics.produce('segment_index', 'next');
SELECT r.offset, value FROM topics.fetch('segment_index', 0, 1003) r;
-- sealed segments are out of reach for it
SELECT pg_temp.try(format('INSERT INTO %s ("offset", "timestamp", partition) VALUES (0, now(), 0)',
	:'root')) ~ '^55000';
-- parallel and backward scans see the same
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT count(*), sum("offset") FROM topic.segment_index;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT "offset" FROM topic.segment_index;
MOVE LAST FROM c;
FETCH BACKWARD 1 FROM c;
COMMIT;
SELECT count(*) FROM :s1 TABLESAMPLE system (100);

DROP VIEW segment_view;
DROP TABLE segment_conflict;
SELECT topics.drop_topic('segment_' || t)
	FROM unnest(ARRAY['roll', 'size', 'mixed', 'dead', 'abort', 'index']) t;
