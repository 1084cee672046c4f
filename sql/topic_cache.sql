-- topic_cache: what a session knows of topics: nothing of those that were
-- dropped, and not of any number
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

CREATE FUNCTION pg_temp.known() RETURNS bigint LANGUAGE sql AS
$$ SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'pg_topics topic' $$;
SELECT topics.create_topic('cache_stays');
SELECT topics.produce('cache_stays', 'x');
SELECT pg_temp.known() <= 3;

-- dropped topics
DO $$ BEGIN
	FOR i IN 1 .. 20 LOOP
		PERFORM topics.create_topic('cache_' || i);
		COMMIT;
		PERFORM topics.produce('cache_' || i, 'x');
		COMMIT;
		PERFORM topics.drop_topic('cache_' || i);
		COMMIT;
	END LOOP;
END $$;
SELECT topics.produce('cache_stays', 'x');
SELECT pg_temp.known() <= 3;
-- views that are no topics
CREATE VIEW topic.cache_view AS SELECT 1 AS one;
SELECT pg_temp.try($$SELECT topics.produce('cache_view', 'x')$$);
DROP VIEW topic.cache_view;

-- more than are kept: each is looked up again when it is used
DO $$ BEGIN
	FOR i IN 1 .. 300 LOOP
		PERFORM topics.create_topic('cache_' || i);
		PERFORM topics.produce('cache_' || i, 'v' || i);
		COMMIT;
	END LOOP;
END $$;
SELECT pg_temp.known() < 300;
DO $$ BEGIN
	FOR i IN 1 .. 300 LOOP
		PERFORM topics.produce('cache_' || i, 'again');
		COMMIT;
	END LOOP;
END $$;
SELECT topics.produce('cache_stays', 'x');
SELECT pg_temp.known() < 300;
-- in one transaction all of them
SELECT count(topics.produce('cache_' || i, 'at once')) FROM generate_series(1, 300) i;
SELECT sum((SELECT log_end_offset FROM topics.partition WHERE topic = 'cache_' || i))
	FROM generate_series(1, 300, 100) i;
DO $$ BEGIN
	FOR i IN 1 .. 300 LOOP
		PERFORM topics.drop_topic('cache_' || i);
		COMMIT;
	END LOOP;
END $$;
SELECT topics.produce('cache_stays', 'x');
SELECT pg_temp.known() <= 3;
SELECT value FROM topic.cache_stays;
SELECT topics.drop_topic('cache_stays');
