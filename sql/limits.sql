-- limits: what is full says so, names the setting, hurts nobody else, and has
-- room again when something was given back
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT least(setting::int, 99999) AS max_partitions
	FROM pg_settings
	WHERE name = 'pg_topics.max_partitions' \gset
-- (not segments: the worker may attach a spare at any time)
CREATE FUNCTION pg_temp.tables() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM pg_class
	WHERE relnamespace IN ('topic'::regnamespace, 'topic_log'::regnamespace)
		AND relname !~ '^t\d+_p\d+_s' $$;
SELECT topics.create_topic('limits_other', 2);
SELECT pg_temp.tables() AS tables \gset

-- more partitions than there is room for: says so, and names the setting
CREATE FUNCTION pg_temp.refusal(command text) RETURNS text LANGUAGE sql AS
$$ SELECT split_part(t, E'\n', 1)
		|| CASE WHEN t ~ 'hint: .*pg_topics.max_partitions' THEN ', the hint names the setting'
			ELSE '' END
	FROM pg_temp.try(command) t $$;
SELECT pg_temp.refusal(format($$SELECT topics.create_topic('limits_topic', %s)$$, :max_partitions));
BEGIN;
SELECT topics.create_topic('limits_third');
SELECT pg_temp.refusal(format($$SELECT topics.add_partitions('limits_other', %s)$$,
	:max_partitions));
ROLLBACK;
-- nothing is half made, and the others go on
SELECT pg_temp.tables() = :tables,
	(SELECT partitions FROM topics.topic WHERE topic = 'limits_other');
SELECT topics.produce('limits_other', 'x', partition => 1);
SELECT topics.create_topic('limits_topic', 3);
SELECT topics.produce('limits_topic', 'x', partition => 2);
SELECT topics.drop_topic('limits_topic');

-- Nothing leaks.  What is refused takes no place; nor does what fails after
-- its places were taken: 20 times all but 100; nor what is dropped, rolled
-- back, or rolled back to a savepoint: 300 partitions in all.
DO $$
BEGIN
	FOR i IN 1 .. 20 LOOP
		PERFORM pg_temp.try($c$SELECT topics.create_topic('limits_topic', 10000)$c$);
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.fail_after_reserving(partitions int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
	EXECUTE (SELECT format('CREATE TYPE topic_log.t%s_p0 AS ENUM ()', last_value + is_called::int)
		FROM topic_log.topic_id_seq);
	result := regexp_replace(pg_temp.try(format('SELECT topics.create_topic(%L, %s)',
			'limits_topic', partitions)),
		E'\n.*', '');
	EXECUTE (SELECT format('DROP TYPE topic_log.t%s_p0', last_value) FROM topic_log.topic_id_seq);
	RETURN result;
END $$;
SELECT DISTINCT pg_temp.fail_after_reserving(:max_partitions - 100) FROM generate_series(1, 20);
DO $$
BEGIN
	FOR i IN 1 .. 10 LOOP
		PERFORM topics.create_topic('limits_topic', 10);
		PERFORM topics.produce('limits_topic', 'x', partition => p) FROM generate_series(0, 9) p;
		COMMIT;
		PERFORM topics.drop_topic('limits_topic');
		COMMIT;
		PERFORM topics.create_topic('limits_topic', 10);
		PERFORM topics.produce('limits_topic', 'x', partition => p) FROM generate_series(0, 9) p;
		ROLLBACK;
		BEGIN
			PERFORM topics.create_topic('limits_topic', 10);
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
		END;
		COMMIT;
	END LOOP;
END $$;
SELECT pg_temp.fail_after_reserving(:max_partitions - 100);
SELECT pg_temp.tables() = :tables;
SELECT r.partition, r.offset FROM topics.list_offsets('limits_other', 'latest') r;

SELECT topics.drop_topic('limits_other');
