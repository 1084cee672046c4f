-- partitioner: keys choose partitions as in Kafka
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

-- Kafka's own vectors (UtilsTest.testMurmur2): nothing but "t"
SELECT key, topics.murmur2(key::bytea) = hash FROM (VALUES
	('21', -973932308), ('foobar', -790332482), ('a-little-bit-long-string', -985981536),
	('a-little-bit-longer-string', -1486304829),
	('lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971),
	('abc', 479470107)) vector (key, hash);
SELECT topics.murmur2(NULL) IS NULL;

-- The algorithm as it stands in Kafka, in numbers without a limit: bytes are
-- unsigned, words little-endian.  Agrees with the vectors, and with ours for
-- bytes above 127, for no bytes, and for all lengths modulo 4.
CREATE FUNCTION pg_temp.times(a bigint, b bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT ((a::numeric * b) % 4294967296)::bigint $$;
CREATE FUNCTION pg_temp.murmur2(data bytea) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
	m CONSTANT bigint := 1540483477;
	h bigint := 2538058380 # length(data);
	i int := 0;
	k bigint;
BEGIN
	WHILE length(data) - i >= 4 LOOP
		k := get_byte(data, i) + (get_byte(data, i + 1) << 8) + (get_byte(data, i + 2) << 16)
			+ (get_byte(data, i + 3)::bigint << 24);
		k := pg_temp.times(k, m);
		k := pg_temp.times(k # (k >> 24), m);
		h := pg_temp.times(h, m) # k;
		i := i + 4;
	END LOOP;
	IF length(data) - i >= 3 THEN h := h # (get_byte(data, i + 2)::bigint << 16); END IF;
	IF length(data) - i >= 2 THEN h := h # (get_byte(data, i + 1)::bigint << 8); END IF;
	IF length(data) - i >= 1 THEN h := pg_temp.times(h # get_byte(data, i), m); END IF;
	h := pg_temp.times(h # (h >> 13), m);
	RETURN h # (h >> 15);
END $$;
SELECT pg_temp.murmur2('foobar') - 4294967296 = -790332482;
CREATE FUNCTION pg_temp.bytes(i int) RETURNS bytea LANGUAGE sql IMMUTABLE AS
$$ SELECT substr(sha512(int4send(i)), 1, i % 65) $$;
SELECT count(*),
		count(*) FILTER (WHERE topics.murmur2(pg_temp.bytes(i))::bigint & 4294967295
			= pg_temp.murmur2(pg_temp.bytes(i)))
	FROM generate_series(0, 300) i;

-- The partition of a key is (murmur2 & 2^31-1) % partitions, for the bytes
-- that Kafka's StringSerializer and ByteArraySerializer make of it: equal for
-- text, varchar, a domain and bytea, and by whatever way it comes
CREATE DOMAIN partitioner_domain AS text;
SELECT topics.create_topic('partitioner_text', 7);
SELECT topics.create_topic('partitioner_bytea', 7, key_type => 'bytea');
SELECT topics.create_topic('partitioner_varchar', 7, key_type => 'varchar(100)');
SELECT topics.create_topic('partitioner_domain', 7, key_type => 'partitioner_domain');
CREATE TABLE partitioner_key AS
	SELECT key, (topics.murmur2(convert_to(key, 'UTF8')) & 2147483647) % 7 AS partition
	FROM (SELECT repeat(chr(97 + i % 26), i % 40) || i
			|| CASE WHEN i % 3 = 0 THEN 'äöü€😀' ELSE '' END
		FROM generate_series(1, 200) i
		UNION ALL VALUES ('')) k (key);
SELECT count(DISTINCT partition) FROM partitioner_key;
SELECT count(*) FROM partitioner_key k WHERE
	topics.produce('partitioner_text', 'v', key) = partition
	AND topics.produce('partitioner_text', 'v'::bytea, convert_to(key, 'UTF8')) = partition
	AND topics.produce('partitioner_text', '1'::jsonb, key) = partition
	AND topics.produce('partitioner_bytea', 'v'::bytea, convert_to(key, 'UTF8')) = partition
	AND topics.produce('partitioner_varchar', 'v', key) = partition
	AND topics.produce('partitioner_domain', 'v', key) = partition;
INSERT INTO topic.partitioner_text (key) SELECT key FROM partitioner_key;
SELECT topics.produce_batch('partitioner_text', array_agg(key), array_agg(key))
	FROM partitioner_key;
SELECT topics.produce_batch_bytea('partitioner_bytea', array_agg(convert_to(key, 'UTF8')),
		array_agg(convert_to(key, 'UTF8')))
	FROM partitioner_key;
SELECT count(*), count(*) FILTER (WHERE r.partition = k.partition)
	FROM topic.partitioner_text r JOIN partitioner_key k USING (key);
SELECT count(*), count(*) FILTER (WHERE r.partition = k.partition)
	FROM topic.partitioner_bytea r JOIN partitioner_key k ON r.key = convert_to(k.key, 'UTF8');

-- an out-of-line, compressed key; other types go by their text
SELECT topics.create_topic('partitioner_int8', 7, key_type => 'int8');
SELECT topics.create_topic('partitioner_jsonb', 7, key_type => 'jsonb');
CREATE TABLE partitioner_large AS SELECT repeat('abc', 100000) AS key;
SELECT topics.produce('partitioner_text', 'v', key) = (topics.murmur2(key::bytea) & 2147483647) % 7
	FROM partitioner_large;
SELECT count(*),
		count(*) FILTER (WHERE topics.produce('partitioner_int8', 'v', key)
			= (topics.murmur2(key::bigint::text::bytea) & 2147483647) % 7)
	FROM (VALUES ('0'), ('-1'), ('007'), ('9223372036854775807'), ('-9223372036854775808')) k (key);
SELECT topics.produce('partitioner_jsonb', 'v', '{"b":1,  "a":2}')
	= (topics.murmur2('{"a": 2, "b": 1}') & 2147483647) % 7;

-- the same key has the same partition, whatever the session's settings
SELECT topics.create_topic('partitioner_time', 97, key_type => 'timestamptz');
SET datestyle = 'ISO, YMD';
SELECT topics.produce('partitioner_time', 'v', '2020-02-01 12:00:00Z') AS p \gset
SET timezone = 'Asia/Tokyo';
SELECT topics.produce('partitioner_time', 'v', '2020-02-01 12:00:00Z') = :p;
SET datestyle = 'German';
SELECT topics.produce('partitioner_time', 'v', '2020-02-01 12:00:00Z') = :p;
RESET datestyle;
SET timezone = 'UTC';
SELECT topics.create_topic('partitioner_float', 97, key_type => 'float8');
SELECT topics.produce('partitioner_float', 'v', '0.30000000000000004') AS p \gset
SET extra_float_digits = -10;
SELECT topics.produce('partitioner_float', 'v', '0.30000000000000004') = :p;
RESET extra_float_digits;

-- A partition that is given stands, whatever the key
SELECT count(DISTINCT topics.produce('partitioner_text', 'v', 'same key', partition => i))
	FROM generate_series(0, 6) i;
SELECT p, pg_temp.try(format('SELECT topics.produce(%L, %L, partition => %s)',
		'partitioner_text', 'v', p))
	FROM unnest(ARRAY[-2147483648, -1, 6, 7, 2147483647]) p;

-- Without a key: one partition for the transaction, over all ways to produce,
-- savepoints included; over transactions, all of them
BEGIN;
SELECT topics.produce('partitioner_text', 'sticky') AS p \gset
SELECT count(*) FROM generate_series(1, 50) WHERE topics.produce('partitioner_text', 'sticky') = :p;
SAVEPOINT a;
SELECT topics.produce('partitioner_text', 'sticky') = :p;
ROLLBACK TO a;
SELECT topics.produce('partitioner_text', 'sticky') = :p;
INSERT INTO topic.partitioner_text (value) VALUES ('sticky');
SELECT topics.produce_batch('partitioner_text', ARRAY['sticky', 'sticky']);
SELECT count(DISTINCT topics.produce('partitioner_bytea', 'other topic'::bytea))
	FROM generate_series(1, 10);
COMMIT;
SELECT count(DISTINCT partition), count(*) FROM topic.partitioner_text WHERE value = 'sticky';
DO $$ BEGIN
	FOR i IN 1 .. 300 LOOP PERFORM topics.produce('partitioner_text', 'spread'); COMMIT; END LOOP;
END $$;
SELECT count(DISTINCT partition), count(*) FROM topic.partitioner_text WHERE value = 'spread';

-- More partitions: keys go by the new number at once
SELECT topics.add_partitions('partitioner_text', 11);
SELECT count(*),
		count(*) FILTER (WHERE topics.produce('partitioner_text', 'v', key)
			= (topics.murmur2(convert_to(key, 'UTF8')) & 2147483647) % 11)
	FROM partitioner_key;

SELECT topics.drop_topic('partitioner_' || t)
	FROM unnest(ARRAY['text', 'bytea', 'varchar', 'domain', 'int8', 'jsonb', 'time', 'float']) t;
DROP TABLE partitioner_key, partitioner_large;
DROP DOMAIN partitioner_domain;
