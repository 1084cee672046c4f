-- consume: what one session sees of a group that consumes in transactions.
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
-- One call: partition: offset=value ...
CREATE FUNCTION pg_temp.got(group_id text, topic text, max_records integer DEFAULT 500,
	max_bytes integer DEFAULT 1048576, reset text DEFAULT 'earliest')
	RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT coalesce(min(r.partition) || ': '
		|| string_agg(r.offset || '=' || left(r.value, 10), ' ' ORDER BY r.offset), 'nothing')
	FROM topics.consume(group_id, topic, max_records, max_bytes, auto_offset_reset => reset) r $$;
CREATE FUNCTION pg_temp.offsets(of_group text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT topic || ' ' || partition || ': ' || committed_offset
	FROM topics.consumer_offset
	WHERE group_id = of_group
	ORDER BY topic, partition $$;
CREATE FUNCTION pg_temp.fill(topic text, records integer, partitions integer)
	RETURNS void LANGUAGE plpgsql AS
$$ BEGIN
	PERFORM topics.produce(topic, 'v' || i, partition => i % partitions)
		FROM generate_series(0, records - 1) i;
END $$;

SELECT topics.create_topic('c', 3);
SELECT topics.create_topic('one');
SELECT pg_temp.fill('c', 9, 3), pg_temp.fill('one', 5, 1);

-- Every record comes once; partitions come in turn; then nothing
SELECT pg_temp.got('all', 'c', 2) FROM generate_series(1, 7);
SELECT * FROM pg_temp.offsets('all');
SELECT pg_temp.fill('c', 1, 3);
SELECT pg_temp.got('all', 'c');

-- Nothing moves on ROLLBACK; a group that nobody committed is none
BEGIN;
SELECT pg_temp.got('back', 'one', 2);
SELECT pg_temp.got('back', 'one', 2);
ROLLBACK;
SELECT count(*) FROM topics.consumer_group WHERE group_id = 'back';
BEGIN;
SELECT pg_temp.got('back', 'one', 2);
SAVEPOINT s;
SELECT pg_temp.got('back', 'one', 2);
ROLLBACK TO s;
SELECT pg_temp.got('back', 'one', 1);
SAVEPOINT s;
SELECT pg_temp.got('back', 'one', 1);
SAVEPOINT s2;
SELECT pg_temp.got('back', 'one', 1);
RELEASE s2;
ROLLBACK TO s;
COMMIT;
SELECT * FROM pg_temp.offsets('back');

-- A rolled-back savepoint gives the claim back
BEGIN;
SAVEPOINT s;
SELECT pg_temp.got('back', 'one', 1);
SELECT count(*) FROM pg_locks WHERE locktype = 'userlock' AND mode = 'ExclusiveLock';
SELECT state FROM topics.consumer_group WHERE group_id = 'back';
ROLLBACK TO s;
SELECT count(*) FROM pg_locks WHERE locktype = 'userlock' AND mode = 'ExclusiveLock';
SELECT state FROM topics.consumer_group WHERE group_id = 'back';
COMMIT;
-- also if a cursor from before the savepoint has it
BEGIN;
DECLARE c CURSOR FOR SELECT r.offset FROM topics.consume('back', 'one', 1) r;
SAVEPOINT s;
FETCH c;
ROLLBACK TO s;
SELECT count(*) FROM pg_locks WHERE locktype = 'userlock' AND mode = 'ExclusiveLock';
SELECT pg_temp.got('back', 'one', 1);
ROLLBACK;

-- In plpgsql with EXCEPTION blocks, and COMMIT in a DO block
DO $$
DECLARE taken text;
BEGIN
	BEGIN
		taken := pg_temp.got('blocks', 'one', 2);
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		RAISE NOTICE 'took %, in vain', taken;
	END;
	RAISE NOTICE 'again: %', pg_temp.got('blocks', 'one', 2);
	COMMIT;
	RAISE NOTICE 'on: %', pg_temp.got('blocks', 'one', 2);
	ROLLBACK;
	RAISE NOTICE 'again: %', pg_temp.got('blocks', 'one', 2);
	COMMIT;
END $$;
SELECT * FROM pg_temp.offsets('blocks');

-- 200 nested blocks, each second one rolled back
DO $$
BEGIN
	FOR i IN 1 .. 200 LOOP
		BEGIN
			PERFORM pg_temp.got('nested', 'one', 1);
			IF i % 50 > 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
SELECT * FROM pg_temp.offsets('nested');

-- Two calls in one statement: the second one goes on
SELECT a.offset, b.offset
	FROM topics.consume('twice', 'one', 1) a, topics.consume('twice', 'one', 1) b;
SELECT * FROM pg_temp.offsets('twice');

-- Two topics and two groups in one transaction
BEGIN;
SELECT pg_temp.got('both', 'one', 1), pg_temp.got('both', 'c', 1), pg_temp.got('other', 'one', 2);
SELECT * FROM pg_temp.offsets('both');
COMMIT;
SELECT * FROM pg_temp.offsets('both') UNION ALL SELECT * FROM pg_temp.offsets('other');

-- Work, produced records and the place commit together
SELECT topics.create_topic('copy');
CREATE TABLE sink (value text);
BEGIN;
WITH r AS (SELECT value FROM topics.consume('copier', 'one', 3)),
	w AS (INSERT INTO sink SELECT value FROM r)
INSERT INTO topic.copy (value) SELECT value FROM r;
ROLLBACK;
SELECT (SELECT count(*) FROM sink), pg_temp.count('copy');
BEGIN;
WITH r AS (SELECT value FROM topics.consume('copier', 'one', 3)),
	w AS (INSERT INTO sink SELECT value FROM r)
INSERT INTO topic.copy (value) SELECT value FROM r;
COMMIT;
SELECT (SELECT count(*) FROM sink), pg_temp.count('copy');
SELECT * FROM pg_temp.offsets('copier');

-- In a trigger, also a deferred one
CREATE TABLE orders (id int);
CREATE FUNCTION pg_temp.on_order() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
	INSERT INTO sink SELECT 'trigger ' || pg_temp.got('trigger', 'one', 1);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION pg_temp.on_order();
BEGIN;
INSERT INTO orders VALUES (1), (2);
SELECT count(*) FROM sink WHERE value LIKE 'trigger%';
COMMIT;
SELECT value FROM sink WHERE value LIKE 'trigger%';
SELECT * FROM pg_temp.offsets('trigger');

-- A cursor WITH HOLD is read at commit
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT r.offset, value FROM topics.consume('held', 'one', 2) r;
COMMIT;
FETCH ALL FROM held;
CLOSE held;
SELECT * FROM pg_temp.offsets('held');

-- No partition starves for one whose records make transactions fail: neither
-- in a new group, nor in one that has committed elsewhere
BEGIN; SELECT pg_temp.got('poison', 'c', 1); ROLLBACK;
BEGIN; SELECT pg_temp.got('poison', 'c', 1); ROLLBACK;
BEGIN; SELECT pg_temp.got('poison', 'c', 1); COMMIT;
BEGIN; SELECT pg_temp.got('poison', 'c', 1); ROLLBACK;
BEGIN; SELECT pg_temp.got('poison', 'c', 1); ROLLBACK;
BEGIN; SELECT pg_temp.got('poison', 'c', 1); ROLLBACK;
BEGIN; SELECT pg_temp.got('poison', 'c', 1); ROLLBACK;

-- Limits: as fetch's
SELECT topics.create_topic('large');
SELECT topics.produce('large', repeat('x', 1000)) FROM generate_series(1, 5);
SELECT pg_temp.got('limits', 'large', 500, 1);
SELECT pg_temp.got('limits', 'large', 500, 2000);

-- As bytes
SELECT topics.create_topic('bytes', key_type => 'bytea', value_type => 'bytea');
SELECT topics.produce('bytes', '\x00ff'::bytea, '\x0001'::bytea);
SELECT key, value FROM topics.consume_bytea('bytes', 'bytes');
SELECT key, value FROM topics.consume_bytea('bytes', 'one', 1);

-- Where a group begins: fixed by its first call, even an empty one
SELECT pg_temp.got('late', 'one', reset => 'latest');
SELECT topics.produce('one', 'new');
SELECT pg_temp.got('late', 'one', reset => 'earliest');
BEGIN; SELECT pg_temp.got('late2', 'one', reset => 'latest'); ROLLBACK;
SELECT pg_temp.got('late2', 'one', 1);
-- added partitions are read from their start
SELECT pg_temp.got('late', 'c', reset => 'latest');
SELECT topics.add_partitions('c', 4);
SELECT topics.produce('c', 'first of 3', partition => 3);
SELECT pg_temp.got('late', 'c', reset => 'latest');
-- 'none': an error, with a SQLSTATE of its own, until a place is set
SELECT pg_temp.try($$SELECT pg_temp.got('none', 'one', reset => 'none')$$);
SELECT * FROM topics.reset_offset('none', 'one', to_offset => 4);
SELECT pg_temp.try($$SELECT pg_temp.got('none', 'one', 1, reset => 'none')$$);
SELECT * FROM pg_temp.offsets('none');

-- The place is behind the log start: goes on where auto_offset_reset says, and says so
SELECT topics.create_topic('gone');
SELECT pg_temp.fill('gone', 6, 1);
SELECT pg_temp.got('early', 'gone', 1), pg_temp.got('late', 'gone', 1, reset => 'latest');
SELECT * FROM topics.reset_offset('late', 'gone', to_offset => 1);
SELECT * FROM topics.reset_offset('none', 'gone', to_offset => 1);
SELECT pg_temp.got('none', 'gone', 1, reset => 'none');
SELECT topics.delete_records('gone', 0, 4);
SELECT group_id, current_offset, lag FROM topics.consumer_lag WHERE topic = 'gone' ORDER BY 1;
BEGIN; SELECT pg_temp.got('early', 'gone', 1); ROLLBACK;
SELECT pg_temp.got('early', 'gone', 1);
SELECT pg_temp.got('late', 'gone', 1, reset => 'latest');
SELECT * FROM pg_temp.offsets('late') o WHERE o LIKE 'gone%';
SELECT pg_temp.try($$SELECT pg_temp.got('none', 'gone', 1, reset => 'none')$$);
-- who never was anywhere begins at the log start, without a word
SELECT pg_temp.got('new', 'gone', 1);
SELECT topics.delete_records('gone', 0, 6);
SELECT pg_temp.got('early', 'gone'), pg_temp.got('new', 'gone');
SELECT topics.produce('gone', 'after');
SELECT pg_temp.got('early', 'gone');
SELECT pg_temp.try($$SELECT topics.commit_offset('new', 'gone', 0, 5)$$);

-- Arguments
SELECT pg_temp.try(format('SELECT * FROM topics.consume(%s)', a)) FROM unnest(ARRAY[
	$$NULL, 'one'$$, $$'g', NULL$$, $$'g', 'one', NULL$$, $$'g', 'one', 1, NULL$$,
	$$'g', 'one', 1, 1, NULL$$, $$'g', 'one', 1, 1, '0', NULL$$,
	$$'', 'one'$$, $$repeat('g', 256), 'one'$$, $$'g', 'nowhere'$$, $$'g', ''$$,
	$$'g', repeat('t', 300)$$, $$'g', '__consumer_offsets"'$$,
	$$'g', 'one', 0$$, $$'g', 'one', -1$$, $$'g', 'one', -2147483648$$, $$'g', 'one', 1, 0$$,
	$$'g', 'one', 1, -1$$,
	$$'g', 'one', 1, 1, '-1 s'$$, $$'g', 'one', 1, 1, '61 s'$$, $$'g', 'one', 1, 1, '1000 years'$$,
	$$'g', 'one', 1, 1, '0', 'LATEST'$$, $$'g', 'one', 1, 1, '0', ''$$]) a;
SELECT count(*) FROM topics.consumer_group WHERE group_id = 'g';
-- at the edges, and any name that fits
SELECT r.offset FROM topics.consume(repeat('g', 255), 'one', 2147483647, 2147483647, '1 minute') r;
SELECT pg_temp.got(g, 'one', 1)
	FROM unnest(ARRAY['a/b/c', '''; DROP TABLE sink; --', E'new\nline', '%s%n$$', '../..', 'Größe',
		'-1', '0/-1/x']) g;
SELECT count(*) FROM topics.consumer_offset
	WHERE topic = 'one' AND committed_offset = 1 AND group_id ~ '[/;%]|\n|ß|^-1$';

-- Not in a read-only transaction, nor where an index or a view is refreshed
BEGIN READ ONLY;
SELECT pg_temp.try($$SELECT pg_temp.got('all', 'one')$$);
COMMIT;
-- a function that consumes is not run in parallel, whatever it says
SELECT proparallel FROM pg_proc
	WHERE pronamespace = 'topics'::regnamespace AND proname ~ 'consume|offset$|group'
	GROUP BY 1;
CREATE MATERIALIZED VIEW refreshed AS
	SELECT r.offset FROM topics.consume('matview', 'one') r WITH NO DATA;
SELECT pg_temp.try('REFRESH MATERIALIZED VIEW refreshed');

-- PREPARE TRANSACTION: not with a claim or a place that moves
BEGIN;
SELECT pg_temp.got('all', 'one', 1);
PREPARE TRANSACTION 'consumed';
BEGIN;
SAVEPOINT s;
SELECT pg_temp.got('all', 'one', 1);
ROLLBACK TO s;
PREPARE TRANSACTION 'nothing';
ROLLBACK PREPARED 'nothing';
SELECT pg_temp.got('all', 'one', 1);

-- wait: at once where there is something, at its time where there is not
CALL topics.wait('all', 'one');
CALL topics.wait('nobody', 'one');
SELECT pg_temp.got('all', 'one');
CALL topics.wait('all', 'one', '1 ms');
SELECT pg_temp.try($$CALL topics.wait('all', 'one')$$);
BEGIN;
CALL topics.wait('all', 'one');
ROLLBACK;
CALL topics.wait(NULL, 'one');
CALL topics.wait('all', NULL);
CALL topics.wait('all', 'one', NULL);
CALL topics.wait('', 'one');
CALL topics.wait('all', 'nowhere');
CALL topics.wait('all', 'one', '-1 s');
CALL topics.wait('all', 'one', '1000 years');
-- max_wait of consume
SELECT count(*) FROM topics.consume('all', 'one', max_wait => '1 ms');

-- DROP in the transaction that consumed, and delete_group after it
BEGIN;
SELECT pg_temp.got('copier', 'one', 1);
SELECT topics.drop_topic('one');
SELECT topics.delete_group('copier');
COMMIT;
SELECT count(*) FROM topics.consumer_offset WHERE topic = 'one';
SELECT pg_temp.try($$SELECT pg_temp.got('copier', 'one')$$);
-- another topic of the same name is another topic
SELECT topics.create_topic('one');
SELECT topics.produce('one', 'anew');
SELECT pg_temp.got('all', 'one');

SELECT count(topics.delete_group(group_id)) > 0 FROM topics.consumer_group;
SELECT topics.drop_topic(topic)
	FROM unnest(ARRAY['c', 'one', 'copy', 'large', 'bytes', 'gone']) topic;
DROP MATERIALIZED VIEW refreshed;
DROP TABLE sink, orders;
