-- producer: records that a producer numbers, and repeats.
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
-- Ids are random: "a", "b" .. stand for them
CREATE TABLE id (name text PRIMARY KEY, producer_id bigint, epoch integer);
CREATE FUNCTION pg_temp.init(of text, producer_name text DEFAULT NULL) RETURNS integer
	LANGUAGE sql AS
$$ INSERT INTO id SELECT of, p.producer_id, p.producer_epoch
	FROM topics.init_producer(producer_name) p
	ON CONFLICT (name) DO UPDATE SET producer_id = excluded.producer_id, epoch = excluded.epoch
	RETURNING epoch $$;
CREATE FUNCTION pg_temp.put(of text, topic text, sequence integer, value text,
	partition integer DEFAULT 0, epoch integer DEFAULT NULL) RETURNS integer
	LANGUAGE sql AS
$$ SELECT topics.produce(topic, value, partition => partition, producer_id => id.producer_id,
		producer_epoch => coalesce(put.epoch, id.epoch), sequence => sequence)
	FROM id WHERE name = of $$;
CREATE FUNCTION pg_temp.last(of text, topic text, partition integer DEFAULT 0) RETURNS integer
	LANGUAGE sql AS
$$ SELECT topics.last_sequence(producer_id, topic, partition) FROM id WHERE name = of $$;
CREATE FUNCTION pg_temp.log(topic text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT r.partition || ': ' || string_agg(r.offset || '=' || r.value, ' ' ORDER BY r.offset)
	FROM generate_series(0, 1) p, topics.fetch(topic, p, 0) r GROUP BY r.partition ORDER BY 1 $$;
-- The id of an error's message, which is random
CREATE FUNCTION pg_temp.fails(statement text) RETURNS SETOF text LANGUAGE plpgsql AS
$$ DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN NEXT 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN NEXT state || ': ' || regexp_replace(message, '[0-9]{6,}', 'ID');
	RETURN NEXT detail;
	RETURN NEXT hint;
END $$;

SELECT topics.create_topic('p', 2);

-- What is repeated is stored once, in the same transaction and in another one
SELECT pg_temp.init('a');
SELECT pg_temp.put('a', 'p', 0, 'a0'), pg_temp.put('a', 'p', 0, 'a0 again');
SELECT pg_temp.put('a', 'p', 0, 'a0 again'), pg_temp.put('a', 'p', 1, 'a1');
SELECT pg_temp.put('a', 'p', 0, 'in the other partition', 1);
SELECT * FROM pg_temp.log('p');
SELECT pg_temp.last('a', 'p'), pg_temp.last('a', 'p', 1);

-- A gap, an older epoch, a higher one that does not begin with 0
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('a', 'p', 3, 'x')$$);
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('a', 'p', 2, 'x', epoch => 1)$$);
SELECT pg_temp.put('a', 'p', 0, 'a epoch 1', epoch => 1);
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('a', 'p', 2, 'x', epoch => 0)$$);
SELECT * FROM pg_temp.log('p');

-- What is rolled back was not stored: of a savepoint, and of all
SELECT topics.create_topic('r', 2);
SELECT pg_temp.init('b');
BEGIN;
SELECT pg_temp.put('b', 'r', 0, 'b0');
SAVEPOINT s;
SELECT pg_temp.put('b', 'r', 1, 'gone'), pg_temp.put('b', 'r', 2, 'gone');
ROLLBACK TO s;
SELECT pg_temp.put('b', 'r', 1, 'b1');
SAVEPOINT s;
SELECT pg_temp.put('b', 'r', 2, 'b2');
RELEASE s;
SELECT pg_temp.last('b', 'r');
COMMIT;
BEGIN;
SELECT pg_temp.put('b', 'r', 3, 'gone');
ROLLBACK;
SELECT pg_temp.last('b', 'r');
SELECT pg_temp.put('b', 'r', 3, 'b3');
SELECT * FROM pg_temp.log('r');

-- send() gives the offset of the first time; of the latest five transactions
SELECT topics.create_topic('s', 2);
SELECT topics.produce('s', 'without a number', partition => 0);
SELECT producer_id AS pid FROM topics.init_producer() \gset
BEGIN;
SELECT count(topics.produce('s', 's' || i,
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => i))
	FROM generate_series(0, 2) i;
COMMIT;
CALL topics.send('s', 'again',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 1);
CALL topics.send('s', 's3',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 3);
CALL topics.send('s', 'again',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 3);
BEGIN;
SELECT topics.produce('s', 's4',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 4);
SELECT topics.produce('s', 'in between', partition => 0);
SELECT topics.produce('s', 's5',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 5);
COMMIT;
CALL topics.send('s', 'again',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 5);
CALL topics.send('s', 's6',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 6);
CALL topics.send('s', 'again',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 2);
CALL topics.send('s', 's7',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 7);
CALL topics.send('s', 'too long ago',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 2);
CALL topics.send('s', 'again',
	partition => 0, producer_id => :pid, producer_epoch => 0, sequence => 4);
SELECT * FROM pg_temp.log('s');

-- A name keeps its id, and its epoch rises: the one before is fenced
SELECT pg_temp.init('n', 'orders');
SELECT pg_temp.put('n', 'r', 0, 'n0');
SELECT producer_id AS nid FROM id WHERE name = 'n' \gset
BEGIN;
SELECT pg_temp.init('n', 'orders');
SELECT pg_temp.put('n', 'r', 0, 'n0 of epoch 1'), pg_temp.put('n', 'r', 1, 'n1 of epoch 1');
COMMIT;
SELECT producer_id = :nid AS same FROM id WHERE name = 'n';
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('n', 'r', 1, 'x', epoch => 0)$$);
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('n', 'r', 1, 'x', epoch => 2)$$);
SELECT * FROM pg_temp.fails($$SELECT topics.produce('r', 'x', partition => 0, producer_id => 7,
	producer_epoch => 0, sequence => 0)$$);
BEGIN;
SELECT pg_temp.init('n', 'orders');
ROLLBACK;
SELECT pg_temp.put('n', 'r', 2, 'n2 of epoch 1');

-- The view
SELECT name, producer_epoch, producer_name, owner IS NOT NULL AS owned,
	topic, partition, last_sequence,
	last_offset, last_time <= now() AS past
FROM topics.producer p LEFT JOIN id USING (producer_id)
ORDER BY name, topic, partition;
SELECT count(*) FROM topics.producer p, LATERAL topics.fetch(topic, partition, last_offset, 1) r
	WHERE topic IS NOT NULL AND r.offset = p.last_offset;

-- Another role neither goes on, nor looks, nor takes the name
CREATE ROLE regress_topics_other;
GRANT USAGE ON SCHEMA topics, topic TO regress_topics_other;
GRANT INSERT, SELECT ON topic.r TO regress_topics_other;
GRANT SELECT ON id TO regress_topics_other;
SET ROLE regress_topics_other;
SELECT * FROM pg_temp.fails($$SELECT topics.init_producer('orders')$$);
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('b', 'r', 4, 'x')$$);
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('n', 'r', 3, 'x')$$);
SELECT * FROM pg_temp.fails($$SELECT pg_temp.last('b', 'r')$$);
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('a', 'p', 1, 'x')$$);
SELECT count(*) FROM topics.producer;
SELECT producer_epoch FROM topics.init_producer('its own');
RESET ROLE;

-- Wrong arguments
SELECT * FROM pg_temp.fails($$SELECT topics.produce('r', 'x', producer_id => 2,
	producer_epoch => 0, sequence => 0)$$);
SELECT * FROM pg_temp.fails($$SELECT topics.produce('r', 'x', partition => 0, producer_id => 2)$$);
SELECT * FROM pg_temp.fails($$SELECT topics.produce('r', 'x', partition => 0, producer_id => -2,
	producer_epoch => 0, sequence => 0)$$);
SELECT * FROM pg_temp.fails($$SELECT topics.produce('r', 'x', partition => 0, producer_id => 2,
	producer_epoch => -1, sequence => 0)$$);
SELECT * FROM pg_temp.fails($$SELECT topics.produce('r', 'x', partition => 0, producer_id => 2,
	producer_epoch => 0, sequence => -1)$$);
SELECT * FROM pg_temp.fails($$SELECT topics.produce('r', 'x', partition => 7, producer_id => 2,
	producer_epoch => 0, sequence => 0)$$);
SELECT * FROM pg_temp.fails($$SELECT topics.init_producer('')$$);
SELECT * FROM pg_temp.fails(format('SELECT topics.init_producer(%L)', repeat('x', 64)));
SELECT * FROM pg_temp.fails($$SELECT topics.last_sequence(2, 'no such', 0)$$);
SELECT topics.last_sequence(2, 'r', 0);
BEGIN READ ONLY;
SELECT topics.init_producer('orders');
ROLLBACK;

-- Behind the highest sequence comes 0
SELECT topics.create_topic('w', 2);
SELECT pg_temp.init('w');
SELECT pg_temp.put('w', 'w', 2147483646, 'w-2'), pg_temp.put('w', 'w', 2147483647, 'w-1');
SELECT pg_temp.put('w', 'w', 0, 'w0');
SELECT pg_temp.put('w', 'w', 2147483647, 'again'), pg_temp.put('w', 'w', 0, 'again'),
	pg_temp.put('w', 'w', 1, 'w1');
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('w', 'w', 3, 'x')$$);
SELECT * FROM pg_temp.log('w');
-- what was never stored is not taken for stored: the producer began behind it
SELECT pg_temp.init('late');
SELECT pg_temp.put('late', 'w', 1, 'late1', 1);
SELECT * FROM pg_temp.fails($$SELECT pg_temp.put('late', 'w', 0, 'late0', 1)$$);
SELECT pg_temp.put('late', 'w', 1, 'again', 1), pg_temp.put('late', 'w', 2, 'late2', 1);
SELECT * FROM pg_temp.log('w');

-- Behind the highest epoch a name gets another id
DO $$
BEGIN
	FOR i IN 0 .. 32767 LOOP
		PERFORM pg_temp.init('e', 'often');
	END LOOP;
END $$;
SELECT epoch, producer_id AS eid FROM id WHERE name = 'e' \gset
SELECT :epoch;
SELECT pg_temp.put('e', 'r', 0, 'e0');
SELECT pg_temp.init('e', 'often');
SELECT producer_id <> :eid AS another FROM id WHERE name = 'e';
SELECT * FROM pg_temp.fails(format($$SELECT topics.produce('r', 'x',
	partition => 0, producer_id => %s,
	producer_epoch => 32767, sequence => 1)$$, :eid));

-- A topic that is dropped takes its sequences along; those that were silent expire
SELECT count(*) FROM topics.producer WHERE topic = 's';
SELECT topics.drop_topic('s');
SELECT count(*) FROM topic.__producer_state s WHERE s.value IS NULL AND s.key LIKE '%/' || :pid;
BEGIN;
SELECT topics.init_producer() IS NOT NULL;
PREPARE TRANSACTION 'nothing was used';
ROLLBACK PREPARED 'nothing was used';
BEGIN;
SELECT pg_temp.put('b', 'r', 4, 'x');
PREPARE TRANSACTION 'refused';
SELECT topics.drop_topic(t) FROM unnest('{p,r,w}'::text[]) t;
DROP OWNED BY regress_topics_other;
DROP ROLE regress_topics_other;
DROP TABLE id;
