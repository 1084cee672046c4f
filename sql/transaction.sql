-- transaction: what a commit tells: last_produced and send; LogAppendTime
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

\set SHOW_CONTEXT never
SELECT topics.create_topic('transaction_a', 2, retention_time => '-1 s'),
	topics.create_topic('transaction_b');
CREATE VIEW transaction_last AS SELECT * FROM topics.last_produced() ORDER BY 1, 2;

-- ---------------------------------------------------------------------
-- last_produced: the last commit that produced
-- ---------------------------------------------------------------------
\c -
\set ECHO none
\i :setup
SELECT * FROM transaction_last;
SELECT topics.produce('transaction_a', 'x', partition => 1);
SELECT * FROM transaction_last;
BEGIN;
SELECT topics.produce('transaction_a', i::text, partition => i % 2) FROM generate_series(1, 5) i;
SELECT topics.produce('transaction_b', 'x');
SAVEPOINT a;
SELECT topics.produce('transaction_b', 'not');
ROLLBACK TO a;
SELECT * FROM transaction_last;
COMMIT;
SELECT * FROM transaction_last;
-- a reader's commit, a failed one, and one that produced nothing in the end leave it
SELECT count(*) FROM topic.transaction_a;
BEGIN;
SELECT topics.produce('transaction_a', 'not', partition => 0);
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT topics.produce('transaction_a', 'not', partition => 0);
ROLLBACK TO a;
COMMIT;
SELECT topics.produce_batch('transaction_a', '{}');
SELECT record_count FROM transaction_last;
INSERT INTO topic.transaction_b (value) VALUES ('1'), ('2');
SELECT * FROM transaction_last;
COPY topic.transaction_b (value) FROM STDIN;
3
4
5
\.
SELECT * FROM transaction_last;
-- a commit in the middle of a DO
DO $$
BEGIN
	PERFORM topics.produce('transaction_b', 'first');
	COMMIT;
	RAISE NOTICE 'first: %', (SELECT first_offset FROM topics.last_produced());
	PERFORM topics.produce('transaction_b', 'lost');
	ROLLBACK;
	PERFORM topics.produce('transaction_b', 'second');
	COMMIT AND CHAIN;
	RAISE NOTICE 'second: %', (SELECT first_offset FROM topics.last_produced());
	PERFORM topics.produce('transaction_b', 'third');
END $$;
SELECT * FROM transaction_last;
SELECT r.offset, value FROM topics.fetch('transaction_b', 0, 6) r;
-- renamed since: what it was called at the commit
SELECT topics.rename_topic('transaction_b', 'transaction_c');
SELECT * FROM transaction_last;
SELECT topics.rename_topic('transaction_c', 'transaction_b');

-- many partitions in one transaction
SELECT topics.create_topic('transaction_many', 120);
BEGIN;
SELECT count(topics.produce('transaction_many', i::text, partition => i % 120))
	FROM generate_series(1, 1200) i;
COMMIT;
SELECT count(*), sum(record_count), min(record_count), max(first_offset) FROM transaction_last;
SELECT count(*)
	FROM (SELECT partition FROM topic.transaction_many
		GROUP BY 1
		HAVING count(*) = 10 AND max("offset") = 9) p;

-- ---------------------------------------------------------------------
-- send
-- ---------------------------------------------------------------------
\pset tuples_only off
CALL topics.send('transaction_b', 'sent');
\pset tuples_only on
CALL topics.send('transaction_a', 'sent', 'key', '{"h": "1"}', 1, '2020-01-01');
CALL topics.send(topic => 'transaction_a', value => 'sent', partition => 0);
CALL topics.send_bytea('transaction_a', '\x73656e74', '\x6b6579', partition => 1);
CALL topics.send('transaction_b', NULL);
SELECT partition, r.offset, key, value, headers
	FROM topic.transaction_a r
	WHERE value = 'sent'
	ORDER BY 1, 2;
SELECT * FROM transaction_last;
-- errors, and the next call works
CALL topics.send('transaction_nosuch', 'x');
CALL topics.send('transaction_a', 'x', partition => 2);
CALL topics.send('transaction_a', 'x', headers => '1');
CALL topics.send(NULL, 'x');
BEGIN;
CALL topics.send('transaction_b', 'x');
ROLLBACK;
SELECT pg_temp.try($$CALL topics.send('transaction_b', 'x')$$);
CREATE FUNCTION pg_temp.sends() RETURNS void LANGUAGE plpgsql AS $$
DECLARE p int; o bigint;
BEGIN CALL topics.send('transaction_b', 'x', NULL, NULL, p, NULL, o); END $$;
SELECT pg_temp.sends();
\set VERBOSITY sqlstate
CALL topics.send('transaction_nosuch', 'x');
BEGIN;
CALL topics.send('transaction_b', 'x');
ROLLBACK;
SELECT pg_temp.sends();
BEGIN READ ONLY;
SELECT topics.produce('transaction_b', 'x');
ROLLBACK;
SET default_transaction_read_only = on;
CALL topics.send('transaction_b', 'x');
RESET default_transaction_read_only;
\set VERBOSITY default
CALL topics.send('transaction_b', 'goes on');
-- in DO and in procedures, with what was produced before it
DO $$
DECLARE p int; o bigint;
BEGIN
	FOR i IN 1 .. 3 LOOP
		CALL topics.send('transaction_b', 'from DO', NULL, NULL, p, NULL, o);
		RAISE NOTICE 'partition %, offset %', p, o;
	END LOOP;
	PERFORM topics.produce('transaction_b', 'before');
	p := NULL;
	CALL topics.send(topic => 'transaction_b', value => 'with what was before', partition => p,
		"offset" => o);
	RAISE NOTICE 'partition %, offset %', p, o;
END $$;
SELECT r.offset, value
	FROM topics.fetch('transaction_b', 0,
		(SELECT o.offset - 2 FROM topics.list_offsets('transaction_b', 'latest') o)) r;
-- not where a block catches exceptions, which is a subtransaction
DO $$
DECLARE p int; o bigint;
BEGIN
	CALL topics.send('transaction_b', 'caught', NULL, NULL, p, NULL, o);
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE '%: %', SQLSTATE, SQLERRM;
END $$;
SELECT count(*) FROM topic.transaction_b WHERE value = 'caught';
CALL topics.send('transaction_b', 'goes on');

-- ---------------------------------------------------------------------
-- Times
-- ---------------------------------------------------------------------
SELECT topics.create_topic('transaction_time', 2, retention_time => '-1 s',
	timestamp_type => 'LogAppendTime');
DO $$
BEGIN
	FOR i IN 1 .. 50 LOOP
		PERFORM topics.produce('transaction_time', i::text, partition => i % 2),
			topics.produce('transaction_time', i::text, partition => 0,
				create_time => '2100-01-01');
		COMMIT;
	END LOOP;
END $$;
-- never back within a partition, one time per commit and partition, not in the future
SELECT count(*), bool_and("timestamp" >= previous), bool_and("timestamp" <= now())
	FROM (SELECT "timestamp",
			lag("timestamp", 1, '-infinity') OVER (PARTITION BY partition ORDER BY "offset")
				AS previous
		FROM topic.transaction_time) r;
SELECT max(n)
	FROM (SELECT count(DISTINCT "timestamp") AS n FROM topic.transaction_time
		GROUP BY partition, value) t;
-- the type as it is at the commit
SELECT topics.alter_topic('transaction_time', timestamp_type => 'CreateTime');
SELECT topics.produce('transaction_time', 'create', partition => 0, create_time => '2020-01-01');
SELECT "timestamp" FROM topic.transaction_time WHERE value = 'create';

-- settings of the session come back after each commit
SET synchronous_commit = remote_write;
SELECT topics.produce('transaction_b', 'x');
SHOW synchronous_commit;
SET synchronous_commit = off;
SELECT topics.produce('transaction_b', 'x');
SHOW synchronous_commit;
RESET synchronous_commit;
SET pg_topics.early_lock_release = off;
SELECT topics.produce('transaction_b', 'strict');
SHOW synchronous_commit;
RESET pg_topics.early_lock_release;
SELECT value FROM topic.transaction_b ORDER BY "offset" DESC LIMIT 1;

-- ---------------------------------------------------------------------
-- PREPARE TRANSACTION: not with what only a commit in this session completes,
-- nor with a group in use; what was rolled back is not in the way
-- ---------------------------------------------------------------------
SELECT topics.create_topic('transaction_p', segment_bytes => 65536);
SELECT topics.produce('transaction_p', 'x');
SELECT topics.commit_offset('transaction_k', 'transaction_p', 0, 0);
CREATE TEMP TABLE transaction_statement (id serial, statement text);
INSERT INTO transaction_statement (statement) VALUES
	($$SELECT topics.produce('transaction_p', 'never')$$),
	($$SELECT value FROM topics.consume('transaction_g', 'transaction_p', 1)$$),
	($$SELECT value FROM topics.consume('transaction_l', 'transaction_p',
		auto_offset_reset => 'latest')$$),
	($$SELECT topics.commit_offset('transaction_g', 'transaction_p', 0, 1)$$),
	($$SELECT * FROM topics.reset_offset('transaction_g', 'transaction_p',
		to_position => 'earliest')$$),
	($$SELECT * FROM topics.reset_offset('transaction_g', 'transaction_p',
		to_position => 'latest', dry_run => true)$$),
	($$SELECT topics.delete_group('transaction_k')$$),
	($$SELECT topics.create_topic('transaction_new', 2)$$),
	($$SELECT topics.add_partitions('transaction_p', 2)$$),
	($$SELECT topics.drop_topic('transaction_p')$$),
	($$SELECT topics.delete_records('transaction_p', 0, 1)$$);
SELECT 'BEGIN', statement, $$PREPARE TRANSACTION 'regress_transaction'$$
	FROM transaction_statement ORDER BY id \gexec
SELECT 'BEGIN', 'SAVEPOINT a', statement, 'ROLLBACK TO a',
		$$PREPARE TRANSACTION 'regress_transaction'$$, $$ROLLBACK PREPARED 'regress_transaction'$$
	FROM transaction_statement ORDER BY id \gexec
-- within a released savepoint, and in an aborted one above it
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT value FROM topics.consume('transaction_l', 'transaction_p', auto_offset_reset => 'latest');
RELEASE b;
SAVEPOINT c;
SELECT value FROM topics.consume('transaction_g', 'transaction_p', 1);
ROLLBACK TO c;
RELEASE a;
PREPARE TRANSACTION 'regress_transaction';
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT value FROM topics.consume('transaction_l', 'transaction_p', auto_offset_reset => 'latest');
RELEASE b;
ROLLBACK TO a;
PREPARE TRANSACTION 'regress_transaction';
ROLLBACK PREPARED 'regress_transaction';
-- reading is not in the way: it leaves locks on tables, as any reading does
BEGIN;
SELECT value FROM topics.fetch('transaction_p', 0, 0);
SELECT * FROM topics.consumer_lag WHERE topic = 'transaction_p';
PREPARE TRANSACTION 'regress_transaction';
CALL topics.send('transaction_p', 'beside it');
ROLLBACK PREPARED 'regress_transaction';
-- the extension
SET client_min_messages = warning;
BEGIN;
DROP EXTENSION pg_topics CASCADE;
PREPARE TRANSACTION 'regress_transaction';
BEGIN;
SAVEPOINT a;
DROP EXTENSION pg_topics CASCADE;
ROLLBACK TO a;
PREPARE TRANSACTION 'regress_transaction';
ROLLBACK PREPARED 'regress_transaction';
RESET client_min_messages;
-- a use of a group that was rolled back to a savepoint keeps nothing of it, not
-- even how the group began
BEGIN;
SAVEPOINT a;
SELECT value FROM topics.consume('transaction_n', 'transaction_p', auto_offset_reset => 'latest');
ROLLBACK TO a;
SELECT value FROM topics.consume('transaction_n', 'transaction_p', auto_offset_reset => 'earliest');
ROLLBACK;
SELECT topics.delete_group('transaction_k');
SELECT topics.drop_topic('transaction_p');
-- nothing is left behind by all that
SELECT count(*) FROM pg_locks
	WHERE pid = pg_backend_pid()
		AND locktype NOT IN ('virtualxid')
		AND relation IS DISTINCT FROM 'pg_locks'::regclass;

DROP VIEW transaction_last;
SELECT topics.drop_topic('transaction_' || t) FROM unnest(ARRAY['a', 'b', 'many', 'time']) t;
