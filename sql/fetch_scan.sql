-- SELECT ... FROM topics.fetch(...) reads record by record: the same records
-- as the function returns.
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
\set VERBOSITY terse
SELECT topics.create_topic('fetch_scan', segment_bytes => 1048576);
INSERT INTO topic.fetch_scan (key, value)
	SELECT i, repeat('x', i % 50) FROM generate_series(0, 999) i;
CALL topics.roll_segment('fetch_scan');
INSERT INTO topic.fetch_scan (key, value, headers)
	SELECT i, NULL, '{"h": "1"}' FROM generate_series(1000, 1999) i;

-- where nothing else stands in FROM
CREATE FUNCTION plan(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || sql LOOP
		RETURN NEXT regexp_replace(line, 'SubPlan \S+', 'SubPlan');
	END LOOP;
END $$;
SELECT plan($$ SELECT * FROM topics.fetch('fetch_scan', 0, 5) $$);
SELECT plan($$ SELECT "offset" FROM topics.fetch_bytea('fetch_scan', 0, 5) f
	WHERE f.offset % 2 = 0 ORDER BY value LIMIT 3 $$);
SELECT plan($$ SELECT * FROM topics.fetch('fetch_scan', 0, (SELECT 5)) $$) LIMIT 1;
SELECT plan($$ SELECT (SELECT count(*) FROM topics.fetch('fetch_scan', 0, i))
	FROM generate_series(1, 2) i $$);
-- not where it may be read again, whole, or numbered
SELECT plan($$ SELECT * FROM topics.fetch('fetch_scan', 0, 5) f, topics.topic $$) LIMIT 1;
SELECT plan($$ SELECT f FROM topics.fetch('fetch_scan', 0, 5) f $$);
SELECT plan($$ SELECT * FROM topics.fetch('fetch_scan', 0, 5) WITH ORDINALITY $$);
SELECT plan($$ SELECT *
	FROM ROWS FROM (topics.fetch('fetch_scan', 0, 5), topics.fetch('fetch_scan', 0, 5)) f $$);
BEGIN;
SET LOCAL pg_topics.enable_offset_scan = off;
SELECT plan($$ SELECT * FROM topics.fetch('fetch_scan', 0, 5) $$);
COMMIT;

-- the same records, whatever the limits
CREATE FUNCTION fetched(from_offset bigint, records int, bytes int) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', count(*), min(f.offset), max(f.offset),
		md5(string_agg(format('%s %s %s %s %s %s', partition, f.offset, "timestamp", key, value,
			headers), ',' ORDER BY f.offset)))
	FROM topics.fetch('fetch_scan', 0, from_offset, records, bytes) f $$;
CREATE TABLE ways AS
SELECT from_offset, records, bytes, fetched(from_offset, records, bytes) AS by_scan
FROM unnest('{0,1,998,999,1000,1001,1999,2000}'::bigint[]) from_offset,
	unnest('{1,2,1000,5000}'::int[]) records, unnest('{1,100,100000}'::int[]) bytes;
SET pg_topics.enable_offset_scan = off;
SELECT count(*), count(*) FILTER (WHERE by_scan <> fetched(from_offset, records, bytes)) AS differ
	FROM ways;
RESET pg_topics.enable_offset_scan;
SELECT split_part(by_scan, ' ', 3) AS last
	FROM ways
	WHERE from_offset = 998 AND records = 1000 AND bytes = 100;

-- arguments are evaluated once, in each execution
PREPARE f(text, bigint, int) AS SELECT "offset" FROM topics.fetch($1, 0, $2, $3);
EXECUTE f('fetch_scan', 3, 2);
EXECUTE f('fetch_scan', 1999, 2);
EXECUTE f('fetch_scan', 2000, 2);
EXECUTE f('fetch_scan', 2001, 2);
EXECUTE f('fetch_nosuch', 0, 2);
EXECUTE f('fetch_scan', NULL, 2);
SELECT i, (SELECT string_agg(f.offset::text, ' ') FROM topics.fetch('fetch_scan', 0, i, 2) f)
	FROM generate_series(997, 1001) i;
SET plan_cache_mode = force_generic_plan;
EXECUTE f('fetch_scan', 999, 2);
RESET plan_cache_mode;

-- a cursor goes on where it was; one that is to go back stores the records
BEGIN;
DECLARE c CURSOR FOR SELECT "offset" FROM topics.fetch('fetch_scan', 0, 998, 4);
DECLARE s SCROLL CURSOR FOR SELECT "offset" FROM topics.fetch('fetch_scan', 0, 998, 4);
FETCH 3 FROM c;
FETCH 3 FROM s;
FETCH BACKWARD 2 FROM s;
SELECT topics.produce('fetch_scan', 'later') IS NULL AS produced;
FETCH 3 FROM c;
FETCH 3 FROM c;
MOVE ABSOLUTE 1 FROM s;
FETCH FROM s;
COMMIT;

-- what is not fetched is not read: a limit above is one
SELECT "offset" FROM topics.fetch('fetch_scan', 0, 0, 2000) LIMIT 1;

-- a right is needed to call it
CREATE ROLE fetch_reader;
GRANT USAGE ON SCHEMA topics TO fetch_reader;
GRANT SELECT ON topic.fetch_scan TO fetch_reader;
SET ROLE fetch_reader;
SELECT "offset" FROM topics.fetch('fetch_scan', 0, 0, 1);
RESET ROLE;
GRANT EXECUTE ON FUNCTION topics.fetch(text, integer, bigint, integer, integer, interval, integer)
	TO fetch_reader;
SET ROLE fetch_reader;
SELECT "offset" FROM topics.fetch('fetch_scan', 0, 0, 1);
EXECUTE f('fetch_scan', 3, 1);
RESET ROLE;
REVOKE SELECT ON topic.fetch_scan FROM fetch_reader;
SET ROLE fetch_reader;
SELECT "offset" FROM topics.fetch('fetch_scan', 0, 0, 1);
RESET ROLE;

-- a function of that name elsewhere is another one
CREATE FUNCTION public."fetch"(text, int, bigint, int DEFAULT 1, int DEFAULT 1,
	interval DEFAULT '0')
	RETURNS SETOF bigint LANGUAGE sql ROWS 2 AS $$ SELECT 42 $$;
SELECT * FROM public."fetch"('fetch_scan', 0, 0);

-- a plan of it does not outlive the function
BEGIN;
ALTER FUNCTION topics.fetch(text, integer, bigint, integer, integer, interval, integer)
	RENAME TO fetch_renamed;
EXECUTE f('fetch_scan', 3, 1);
SELECT "offset" FROM topics.fetch('fetch_scan', 0, 0, 1);
ROLLBACK;

DROP FUNCTION public."fetch"(text, int, bigint, int, int, interval);
DROP FUNCTION fetched(bigint, int, int);
DROP FUNCTION plan(text);
DROP TABLE ways;
DEALLOCATE f;
SELECT topics.drop_topic('fetch_scan');
DROP OWNED BY fetch_reader;
DROP ROLE fetch_reader;
