-- wait_offset and max_wait: what a single session sees.  Who is woken, and by
-- what, is t/040_wait.pl.
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('wait', 2);
SELECT topics.produce_batch('wait', ARRAY['a', 'b'], partition => 0);

-- ---------------------------------------------------------------------
-- At once: the record is there.  A wait of 24 days would not end.
-- ---------------------------------------------------------------------
CALL topics.wait_offset('wait', 0, 0, '24 days');
CALL topics.wait_offset('wait', 0, 1, max_wait => '24 days');
CALL topics.wait_offset(topic => 'wait', partition => 0, after_offset => 1);

-- ---------------------------------------------------------------------
-- max_wait: reaching it is no error
-- ---------------------------------------------------------------------
CALL topics.wait_offset('wait', 0, 2, '0');
CALL topics.wait_offset('wait', 0, 2, '1 us');
CALL topics.wait_offset('wait', 0, 9223372036854775806, '10 ms');
CALL topics.wait_offset('wait', 1, 0, '1 month -30 days');
SELECT clock_timestamp() AS before \gset
CALL topics.wait_offset('wait', 1, 0, '200 ms');
SELECT clock_timestamp() - :'before' BETWEEN '199 ms' AND '1 minute';

CALL topics.wait_offset('wait', 0, 2, '-1 us');
CALL topics.wait_offset('wait', 0, 2, '-1 month');
CALL topics.wait_offset('wait', 0, 2, '25 days');
CALL topics.wait_offset('wait', 0, 2, make_interval(years => 178000000));
CALL topics.wait_offset('wait', 0, 2, make_interval(years => -178000000));
CALL topics.wait_offset('wait', 0, 2, make_interval(secs => 9e12));
CALL topics.wait_offset('wait', 0, 2, NULL);

-- ---------------------------------------------------------------------
-- The last records were compacted away: the end is above what can be read, and
-- who follows the log waits for the next record
-- ---------------------------------------------------------------------
SELECT topics.create_topic('wait_gap', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0,
	delete_retention_time => '0');
SELECT topics.produce('wait_gap', 'a', 'a');
SELECT count(topics.produce('wait_gap', NULL, 'b')) FROM generate_series(1, 5);
CALL topics.roll_segment('wait_gap');
DO $$ BEGIN
	FOR i IN 1 .. 1000 LOOP
		CALL topics.maintain('wait_gap');
		EXIT WHEN (SELECT count(*) FROM topic.wait_gap) = 1;
	END LOOP;
END $$;
SELECT r.offset, log_end_offset
	FROM topics.fetch('wait_gap', 0, 0) r, topics.partition
	WHERE topic = 'wait_gap';
SELECT clock_timestamp() AS before \gset
CALL topics.wait_offset('wait_gap', 0, 1, '200 ms');
SELECT clock_timestamp() - :'before' BETWEEN '199 ms' AND '1 minute' AS waited;
SELECT clock_timestamp() AS before \gset
SELECT * FROM topics.fetch('wait_gap', 0, 1, max_wait => '200 ms');
SELECT clock_timestamp() - :'before' BETWEEN '199 ms' AND '1 minute' AS waited;
-- below the gap, and where a record comes
CALL topics.wait_offset('wait_gap', 0, 0, '24 days');
SELECT topics.produce('wait_gap', 'next', 'a');
CALL topics.wait_offset('wait_gap', 0, 1, '24 days');
SELECT r.offset FROM topics.fetch('wait_gap', 0, 1, max_wait => '1 min') r;
SELECT topics.drop_topic('wait_gap');

-- ---------------------------------------------------------------------
-- Other arguments
-- ---------------------------------------------------------------------
CALL topics.wait_offset('wait', 0, -1);
CALL topics.wait_offset('wait', 0, 9223372036854775807);
CALL topics.wait_offset('wait', 0, -9223372036854775808);
CALL topics.wait_offset('wait', 2, 0);
CALL topics.wait_offset('wait', -1, 0);
CALL topics.wait_offset('wait_nosuch', 0, 0);
CALL topics.wait_offset(NULL, 0, 0);
CALL topics.wait_offset('wait', NULL, 0);
CALL topics.wait_offset('wait', 0, NULL);

-- ---------------------------------------------------------------------
-- Where a snapshot would be kept: refused, also if nothing is to be waited for
-- ---------------------------------------------------------------------
BEGIN;
CALL topics.wait_offset('wait', 0, 0);
ROLLBACK;
-- a subtransaction
DO $$ BEGIN
	CALL topics.wait_offset('wait', 0, 0);
EXCEPTION WHEN active_sql_transaction THEN RAISE NOTICE '%', SQLERRM;
END $$;
CREATE FUNCTION waits() RETURNS void LANGUAGE plpgsql AS
$$ BEGIN CALL topics.wait_offset('wait', 0, 0); END $$;
SELECT waits();
DROP FUNCTION waits();
-- a transaction that has written
CREATE TABLE wait_work (i int);
DO $$ BEGIN INSERT INTO wait_work VALUES (1); CALL topics.wait_offset('wait', 0, 0); END $$;
DO $$ BEGIN INSERT INTO wait_work VALUES (2); COMMIT; CALL topics.wait_offset('wait', 0, 0); END $$;
SELECT * FROM wait_work;
-- an open query
DO $$ DECLARE r record; BEGIN
	FOR r IN SELECT * FROM pg_class LOOP CALL topics.wait_offset('wait', 0, 0); END LOOP;
END $$;
-- a transaction that keeps something from others until its commit: what it is,
-- and after a rolled-back block, which keeps nothing, the wait goes on
CREATE PROCEDURE wait_after(statement text, caught bool DEFAULT false) LANGUAGE plpgsql AS $$
BEGIN
	IF caught THEN
		BEGIN
			EXECUTE statement;
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
		END;
	ELSE
		EXECUTE statement;
	END IF;
	CALL topics.wait_offset('wait', 0, 0);
END $$;
CREATE PROCEDURE wait_group_after(statement text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	CALL topics.wait('wait_g', 'wait');
END $$;
CREATE TEMP TABLE wait_statement (id serial, statement text);
INSERT INTO wait_statement (statement) VALUES
	($$SELECT topics.produce('wait', 'never')$$),
	($$INSERT INTO topic.wait (value) VALUES ('never')$$),
	($$SELECT topics.consume('wait_g', 'wait', 1)$$),
	($$SELECT topics.consume('wait_late', 'wait', auto_offset_reset => 'latest')$$),
	($$SELECT topics.commit_offset('wait_g', 'wait', 0, 1)$$),
	($$SELECT topics.reset_offset('wait_g', 'wait', to_position => 'earliest')$$),
	($$SELECT topics.reset_offset('wait_g', 'wait', to_position => 'earliest', dry_run => true)$$),
	($$SELECT topics.create_topic('wait_new')$$),
	($$SELECT topics.add_partitions('wait', 3)$$),
	($$SELECT topics.delete_records('wait', 0, 1)$$);
SELECT topics.commit_offset('wait_known', 'wait', 0, 0);
INSERT INTO wait_statement (statement) VALUES ($$SELECT topics.delete_group('wait_known')$$);
\set SHOW_CONTEXT never
SELECT format('CALL wait_after(%L)', statement) FROM wait_statement ORDER BY id \gexec
SELECT format('CALL wait_group_after(%L)', statement) FROM wait_statement ORDER BY id \gexec
SELECT format('CALL wait_after(%L, true)', statement) FROM wait_statement
	WHERE statement ~ 'produce|consume|offset|group' ORDER BY id \gexec
\set SHOW_CONTEXT errors
DROP PROCEDURE wait_after, wait_group_after;
-- one snapshot for all statements
SET default_transaction_isolation = 'repeatable read';
CALL topics.wait_offset('wait', 0, 0);
SET default_transaction_isolation = 'serializable';
CALL topics.wait_offset('wait', 0, 0);
RESET default_transaction_isolation;

-- In a procedure the next statement has a snapshot again, and a new one
CREATE PROCEDURE wait_then_read() LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	CALL topics.wait_offset('wait', 0, 2, '10 ms');
	SELECT count(*) INTO n FROM topic.wait;
	RAISE NOTICE '% records', n;
	CALL topics.wait_offset('wait', 0, 0);
	SELECT count(*) INTO n FROM topics.fetch('wait', 0, 0);
	RAISE NOTICE '% records', n;
END $$;
CALL wait_then_read();
DROP PROCEDURE wait_then_read();
-- read only is enough
SET default_transaction_read_only = on;
CALL topics.wait_offset('wait', 0, 1);
RESET default_transaction_read_only;

-- ---------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------
CREATE ROLE regress_wait;
GRANT USAGE ON SCHEMA topics TO regress_wait;
SET ROLE regress_wait;
CALL topics.wait_offset('wait', 0, 0);
RESET ROLE;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO regress_wait;
GRANT INSERT ON topic.wait TO regress_wait;
SET ROLE regress_wait;
CALL topics.wait_offset('wait', 0, 0);
RESET ROLE;
GRANT SELECT ON topic.wait TO regress_wait;
SET ROLE regress_wait;
CALL topics.wait_offset('wait', 0, 0);
RESET ROLE;
DROP OWNED BY regress_wait;
DROP ROLE regress_wait;

-- ---------------------------------------------------------------------
-- max_wait of fetch
-- ---------------------------------------------------------------------
SELECT r.offset, r.value FROM topics.fetch('wait', 0, 1, max_wait => '1 minute') r;
SELECT clock_timestamp() AS before \gset
SELECT count(*) FROM topics.fetch('wait', 0, 2, max_wait => '200 ms');
SELECT clock_timestamp() - :'before' BETWEEN '199 ms' AND '1 minute';
-- with one snapshot for all statements, at once
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM topics.fetch('wait', 0, 2, max_wait => '1 minute');
SELECT clock_timestamp() - now() < '50 s';
COMMIT;
SELECT a, pg_temp.try(format('SELECT * FROM topics.fetch(%L, 0, 0, max_wait => %L)', 'wait', a))
	FROM unnest(ARRAY['-1 us', '60001 ms', '1 day', '-178000000 years', '178000000 years']) a;
SELECT pg_temp.try($$SELECT * FROM topics.fetch_bytea('wait', 0, 3, max_wait => '1 minute')$$);

SELECT topics.drop_topic('wait');
DROP TABLE wait_work;
