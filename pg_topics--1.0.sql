-- pg_topics 1.0: what CREATE EXTENSION makes.
\echo Use "CREATE EXTENSION pg_topics" to load this file. \quit

-- ======================================================================
-- Schemas
-- ======================================================================

CREATE SCHEMA topics;
COMMENT ON SCHEMA topics IS 'pg_topics: functions and administration views';
CREATE SCHEMA topic;
COMMENT ON SCHEMA topic IS 'pg_topics: one view per topic. CREATE on this schema is the right to create topics';
CREATE SCHEMA topic_log;
COMMENT ON SCHEMA topic_log IS 'pg_topics: the catalogue and the log tables, named by number. Written by nobody but pg_topics';
REVOKE ALL ON SCHEMA topics, topic, topic_log FROM PUBLIC;

-- ======================================================================
-- The access method of segments
-- ======================================================================

CREATE FUNCTION topic_log.log_am_handler(internal) RETURNS table_am_handler
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'topics_log_am_handler';
COMMENT ON FUNCTION topic_log.log_am_handler(internal) IS 'Handler of the table access method topic_log';

CREATE ACCESS METHOD topic_log TYPE TABLE HANDLER topic_log.log_am_handler;
COMMENT ON ACCESS METHOD topic_log IS 'A heap whose physical order is offset order: append-only, scanned from the first block, without indexes while it is appended to';

-- ======================================================================
-- The catalogue
-- ======================================================================

CREATE SEQUENCE topic_log.topic_id_seq;
COMMENT ON SEQUENCE topic_log.topic_id_seq IS 'Ids of topics. An id is never used again, so drop and create of one name is another topic (Kafka: topic id)';

CREATE TABLE topic_log.topic (
	topic_id bigint NOT NULL CONSTRAINT topic_pkey PRIMARY KEY,
	view regclass NOT NULL CONSTRAINT topic_view_key UNIQUE,
	partitions integer NOT NULL,
	retention_time interval NOT NULL,
	retention_bytes bigint NOT NULL,
	segment_bytes bigint NOT NULL,
	segment_time interval NOT NULL,
	max_message_bytes integer NOT NULL,
	timestamp_type text NOT NULL,
	cleanup_policy text NOT NULL,
	delete_retention_time interval NOT NULL,
	min_compaction_lag_time interval NOT NULL,
	min_cleanable_dirty_ratio double precision NOT NULL,
	notify boolean NOT NULL,
	min_insync_replicas integer NOT NULL,
	notify_key uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
	leader_sets integer[] NOT NULL DEFAULT '{}'
);
COMMENT ON COLUMN topic_log.topic.leader_sets IS 'The leader sets of its partitions, from the first one on, and anew when there are no more; none: all are of the first set';
COMMENT ON COLUMN topic_log.topic.notify_key IS 'The secret in the name of the topic''s channel, see topics.channel';
COMMENT ON TABLE topic_log.topic IS 'Topics: the view that is the topic, the id that names its log tables, its settings. Read it through topics.topic';

CREATE TABLE topic_log.partition (
	topic_id bigint NOT NULL,
	partition integer NOT NULL,
	log_start_offset bigint NOT NULL DEFAULT 0,
	next_offset_floor bigint NOT NULL DEFAULT 0,
	clean_offset bigint NOT NULL DEFAULT 0,
	gaps_below bigint NOT NULL DEFAULT 0,
	tombstones_below bigint NOT NULL DEFAULT 0,
	high_watermark bigint NOT NULL DEFAULT 0,
	CONSTRAINT partition_pkey PRIMARY KEY (topic_id, partition)
) WITH (fillfactor = 40);
COMMENT ON TABLE topic_log.partition IS 'What the bounds of segments do not say of a partition: where its log starts, what its next offset never falls below, how far it is compacted, below which offset records may be missing, below which tombstones were removed, and what was confirmed, by the latest cut of all partitions that was stored. Half of a page is left free: a round of the worker may change every row, in place';

CREATE TABLE topic_log.segment (
	topic_id bigint NOT NULL,
	partition integer NOT NULL,
	base_offset bigint NOT NULL,
	sealed_at timestamptz NOT NULL,
	tombstones_from timestamptz,
	CONSTRAINT segment_pkey PRIMARY KEY (topic_id, partition, base_offset)
);
COMMENT ON TABLE topic_log.segment IS 'When sealed segments were sealed, as far as is known, and since when they have tombstones that compaction is going to remove; not dumped';

CREATE TABLE topic_log.dropped_topic (
	topic_id bigint NOT NULL CONSTRAINT dropped_topic_pkey PRIMARY KEY,
	partitions integer NOT NULL,
	root oid NOT NULL
);
COMMENT ON TABLE topic_log.dropped_topic IS 'Topics that were dropped, whose log tables are still to go, with the OID of the topmost';

CREATE TABLE topic_log.role (
	name name NOT NULL CONSTRAINT role_pkey PRIMARY KEY,
	role oid NOT NULL,
	system_identifier bigint NOT NULL
);
COMMENT ON TABLE topic_log.role IS 'The roles that topics.create_roles() has made. One counts as long as name, OID and cluster are as here; not dumped, since OIDs are of one cluster';

CREATE TABLE topic_log.cluster (
	leader_set integer NOT NULL DEFAULT 0 CONSTRAINT cluster_pkey PRIMARY KEY,
	node text NOT NULL,
	leader text NOT NULL,
	leader_conninfo text,
	leader_advertised_conninfo text,
	cluster_id text NOT NULL,
	system_identifier bigint NOT NULL,
	epoch bigint NOT NULL,
	acks_followers integer NOT NULL,
	epoch_id uuid,
	incarnation uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
	term bigint NOT NULL DEFAULT 0,
	promised_term bigint NOT NULL DEFAULT 0,
	promised_to text NOT NULL DEFAULT '',
	voters integer NOT NULL DEFAULT 1,
	timeline bigint NOT NULL DEFAULT 0,
	data_loss boolean NOT NULL DEFAULT false,
	is_removed boolean NOT NULL DEFAULT false,
	feature_level integer NOT NULL DEFAULT 0,
	change_open boolean NOT NULL DEFAULT false,
	numbers_given bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE topic_log.cluster IS 'What this node is in a cluster: a row for each leader set, or none in a database that is in no cluster; not dumped, since a copy is another node';

CREATE TABLE topic_log.unfinished_cut (
	topic_id bigint NOT NULL,
	partition integer NOT NULL,
	log_end bigint NOT NULL,
	leader_set integer NOT NULL,
	CONSTRAINT unfinished_cut_pkey PRIMARY KEY (topic_id, partition)
);
COMMENT ON TABLE topic_log.unfinished_cut IS 'On a follower that has a part of one of the leader''s cuts: where the logs ended that are longer since, to which it goes back when it becomes the leader; not dumped';

CREATE TABLE topic_log.admitted (
	node text NOT NULL CONSTRAINT admitted_pkey PRIMARY KEY,
	incarnation uuid NOT NULL,
	server text NOT NULL
);
COMMENT ON TABLE topic_log.admitted IS 'Copies of other nodes that this one has admitted, by system identifier and timeline: it refuses these nodes on other servers; not dumped';

CREATE TABLE topic_log.lacking (
	topic_id bigint NOT NULL,
	partition integer NOT NULL,
	log_end bigint NOT NULL,
	is_anew boolean NOT NULL DEFAULT false,
	leader_set integer NOT NULL,
	is_stopped boolean NOT NULL,
	CONSTRAINT lacking_pkey PRIMARY KEY (topic_id, partition, is_stopped)
);
COMMENT ON TABLE topic_log.lacking IS 'On a follower: partitions that were stopped when it came into the leader''s term, or since (is_stopped), or are read anew, and up to where it must have them before it can lead, or, of those that are read anew, promise anything; not dumped';

CREATE TABLE topic_log.truncated (
	topic text NOT NULL,
	topic_id bigint NOT NULL,
	notify_key uuid NOT NULL,
	partition integer NOT NULL,
	"offset" bigint NOT NULL,
	"timestamp" timestamptz NOT NULL,
	key text,
	value text,
	headers jsonb,
	epoch bigint NOT NULL,
	truncated_at timestamptz NOT NULL DEFAULT pg_catalog.transaction_timestamp(),
	number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT truncated_pkey PRIMARY KEY
);
COMMENT ON TABLE topic_log.truncated IS 'The rows of the view topics.truncated; not dumped';

SELECT pg_catalog.pg_extension_config_dump('topic_log.topic_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('topic_log.topic', '');
SELECT pg_catalog.pg_extension_config_dump('topic_log.partition', '');
SELECT pg_catalog.pg_extension_config_dump('topic_log.dropped_topic', '');

-- ======================================================================
-- What topics' views call
-- ======================================================================

CREATE FUNCTION topics.insert_record() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_insert';
COMMENT ON FUNCTION topics.insert_record() IS 'INSTEAD OF INSERT trigger of every topic''s view: produces the row';

CREATE FUNCTION topics.append_only() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_append_only';
COMMENT ON FUNCTION topics.append_only() IS 'Trigger of every topic''s view for UPDATE and DELETE: raises 0A000';

-- ======================================================================
-- Topics
-- ======================================================================

CREATE FUNCTION topics.create_topic(
	topic text, partitions integer DEFAULT 1,
	key_type text DEFAULT 'text', value_type text DEFAULT 'text',
	retention_time interval DEFAULT NULL, retention_bytes bigint DEFAULT NULL,
	segment_bytes bigint DEFAULT NULL, segment_time interval DEFAULT NULL,
	max_message_bytes integer DEFAULT NULL, timestamp_type text DEFAULT NULL,
	cleanup_policy text DEFAULT NULL, delete_retention_time interval DEFAULT NULL,
	min_compaction_lag_time interval DEFAULT NULL,
	min_cleanable_dirty_ratio double precision DEFAULT NULL,
	notify boolean DEFAULT NULL, min_insync_replicas integer DEFAULT NULL,
	if_not_exists boolean DEFAULT false, leaders text DEFAULT 'here') RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_create_topic';
COMMENT ON FUNCTION topics.create_topic(text, integer, text, text, interval, bigint, bigint,
	interval, integer, text, text, interval, interval, double precision, boolean, integer, boolean, text) IS
'Creates a topic (Kafka: kafka-topics --create). Needs CREATE on schema topic; the caller owns the topic.
topic: 1 to 63 of A-Z a-z 0-9 . _ -, not . or .., not beginning with __ (42602). partitions: 1 to 10000; NULL: 1.
key_type, value_type: any type that a column can have; NULL: text. A domain with CHECK is checked when a record is produced, and at the commit if it has got a constraint meanwhile.
Settings, NULL for the default: retention_time (7 days, negative: unlimited; retention.ms), retention_bytes (-1: unlimited, per partition; retention.bytes),
segment_bytes (1 GB, at least 65536; segment.bytes), segment_time (7 days, negative: unlimited; segment.ms), max_message_bytes (1048576, from 1 to 268435456, of key, value and headers, these as jsonb; max.message.bytes),
timestamp_type (CreateTime or LogAppendTime; message.timestamp.type), cleanup_policy (delete, compact, or compact,delete; cleanup.policy), delete_retention_time (1 day; delete.retention.ms),
min_compaction_lag_time (0; min.compaction.lag.ms), min_cleanable_dirty_ratio (0.5, from 0 to 1; min.cleanable.dirty.ratio), notify (true), min_insync_replicas (1, from 1 to 9, and not above 1 + what topics.alter_cluster() says; min.insync.replicas).
leaders: in a cluster, here: the node that leads the metadata leads all partitions; or spread: they are spread over as many nodes as there are now, to be produced to and consumed where they are led, see topics.route (Kafka does so), and not compacted.
Errors: 42710 topic exists (a notice with if_not_exists), 22023 bad setting, 42501 no right, 54000 pg_topics.max_partitions reached, 55000 spread in no cluster, 0A000 spread and compacted, TP004 on a node that does not lead the metadata';

CREATE FUNCTION topics.alter_topic(
	topic text,
	retention_time interval DEFAULT NULL, retention_bytes bigint DEFAULT NULL,
	segment_bytes bigint DEFAULT NULL, segment_time interval DEFAULT NULL,
	max_message_bytes integer DEFAULT NULL, timestamp_type text DEFAULT NULL,
	cleanup_policy text DEFAULT NULL, delete_retention_time interval DEFAULT NULL,
	min_compaction_lag_time interval DEFAULT NULL,
	min_cleanable_dirty_ratio double precision DEFAULT NULL,
	notify boolean DEFAULT NULL, min_insync_replicas integer DEFAULT NULL) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_alter_topic';
COMMENT ON FUNCTION topics.alter_topic(text, interval, bigint, bigint, interval, integer, text,
	text, interval, interval, double precision, boolean, integer) IS
'Changes settings of a topic, NULL leaves one as it is (Kafka: kafka-configs --alter). For the topic''s owner. Settings as in topics.create_topic. Records that wait for their commit must conform to the new ones.
Errors: 42704 no such topic, 42501 not the owner, 22023 bad setting';

CREATE FUNCTION topics.rename_topic(topic text, new_name text) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_rename_topic';
COMMENT ON FUNCTION topics.rename_topic(text, text) IS
'Renames a topic; records, offsets and rights stay. For the topic''s owner with CREATE on schema topic; ALTER VIEW topic.x RENAME TO y is the same. No Kafka counterpart.
Errors: 42704 no such topic, 42710 the new name is taken, 42602 bad name, 42501 no right';

CREATE FUNCTION topics.drop_topic(topic text, if_exists boolean DEFAULT false) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_drop_topic';
COMMENT ON FUNCTION topics.drop_topic(text, boolean) IS
'Drops a topic and all its records (Kafka: kafka-topics --delete). For the topic''s owner. Waits for transactions that read it or are committing to it. The tables of a topic that has more of them than the lock table has room for go later, by the worker or topics.maintain.
Errors: 42704 no such topic (a notice with if_exists), 42501 not the owner, 2BP01 other objects depend on its view or its log tables, 42809 another relation of schema topic has the name';

CREATE FUNCTION topics.add_partitions(topic text, partitions integer) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_add_partitions';
COMMENT ON FUNCTION topics.add_partitions(text, integer) IS
'Adds partitions: the new total, more than there are (Kafka: kafka-topics --alter --partitions). For the topic''s owner. Keys may belong to another partition from then on.
Errors: 22023 not more than before, 42704 no such topic, 42501 not the owner, 54000 pg_topics.max_partitions reached';

CREATE FUNCTION topics.repair_topic(topic text, topic_id bigint DEFAULT NULL,
	OUT partition integer, OUT action text) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_repair_topic';
COMMENT ON FUNCTION topics.repair_topic(text, bigint) IS
'Puts a topic right that lacks a part, see topics.broken_topic, and returns what it did, a row each; none if nothing was to be done. It makes what is missing of view, triggers, rights of its owner, rows and tables, with default settings where they are lost, attaches tables that are attached to nothing, and has segments logged and in order again. Records are read from the first that is left, and the next offset is one that no lost record had. Where there is no log table it drops the rest.
topic_id: of a topic without a view, which gets one of that name. Reads the log, while nobody produces to it. For the topic''s owner; without a row of the catalogue for superusers and topics_admin. Not while a dump is being restored. No Kafka counterpart.
Errors: 42704 no such topic, 42501 not the owner, 42710 the name is another topic''s, 55000 cannot be repaired';

CREATE FUNCTION topics.describe_topic(topic text,
	OUT name text, OUT value text, OUT is_default boolean, OUT kafka_name text,
	OUT description text) RETURNS SETOF record
LANGUAGE C STABLE ROWS 20 AS 'MODULE_PATHNAME', 'topics_describe_topic';
COMMENT ON FUNCTION topics.describe_topic(text) IS
'What a topic is, and its settings: a row for each, with its value as text, whether that is the default (NULL for what is not a setting), the name of Kafka''s setting, if there is one, and what it means (Kafka: kafka-topics --describe, kafka-configs --describe --all). For its partitions see topics.partition. Needs SELECT on the topic''s view, or its ownership, or membership in topics_admin, topics_monitor or pg_monitor.
Errors: 42704 no such topic, 42501 no right';

-- ======================================================================
-- Produce
-- ======================================================================

CREATE FUNCTION topics.produce(
	topic text, value text, key text DEFAULT NULL, headers jsonb DEFAULT NULL,
	partition integer DEFAULT NULL, create_time timestamptz DEFAULT NULL,
	producer_id bigint DEFAULT NULL, producer_epoch integer DEFAULT NULL,
	sequence integer DEFAULT NULL) RETURNS integer
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_produce';
CREATE FUNCTION topics.produce(
	topic text, value bytea, key bytea DEFAULT NULL, headers jsonb DEFAULT NULL,
	partition integer DEFAULT NULL, create_time timestamptz DEFAULT NULL,
	producer_id bigint DEFAULT NULL, producer_epoch integer DEFAULT NULL,
	sequence integer DEFAULT NULL) RETURNS integer
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_produce';
CREATE FUNCTION topics.produce(
	topic text, value jsonb, key text DEFAULT NULL, headers jsonb DEFAULT NULL,
	partition integer DEFAULT NULL, create_time timestamptz DEFAULT NULL,
	producer_id bigint DEFAULT NULL, producer_epoch integer DEFAULT NULL,
	sequence integer DEFAULT NULL) RETURNS integer
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_produce';
COMMENT ON FUNCTION topics.produce(text, text, text, jsonb, integer, timestamptz, bigint, integer, integer) IS
'Produces a record when the transaction commits, and returns its partition (Kafka: Producer.send). Needs INSERT on the topic''s view. The offset is assigned at commit: see topics.last_produced and topics.send.
value, key: converted to the topic''s types; NULL is allowed, a NULL value is a tombstone in a compacted topic. headers: a list of [name, value] pairs or an object of names and values; [] and {} are both kept as [].
partition: from 0; NULL: by the key as Kafka''s default partitioner (murmur2), without a key one at random per transaction. create_time: NULL for now.
producer_id, producer_epoch: from topics.init_producer; sequence: from 0, by one, of this producer''s records in this partition, which has to be given. A sequence that is stored is not stored again (Kafka: enable.idempotence).
Errors: 42704 no such topic, 42501 no right, or the producer is another role''s, 54000 larger than max_message_bytes, 22023 bad partition or headers, 22004 some of the three, or partition, are lacking, TP007 the producer is fenced, TP008 the sequence is out of order, 54000 pg_topics.max_producers is reached, at the commit, those of the types'' input functions and domains; at commit 55000 the topic was dropped, and these again if a domain or a setting became stricter meanwhile';
COMMENT ON FUNCTION topics.produce(text, bytea, bytea, jsonb, integer, timestamptz, bigint, integer, integer) IS
'As topics.produce of text, with bytes; for a topic whose types are not bytea they are UTF-8 text';
COMMENT ON FUNCTION topics.produce(text, jsonb, text, jsonb, integer, timestamptz, bigint, integer, integer) IS
'As topics.produce of text, with a jsonb value';

CREATE FUNCTION topics.produce_batch(
	topic text, record_values text[], keys text[] DEFAULT NULL, headers jsonb[] DEFAULT NULL,
	partition integer DEFAULT NULL, create_times timestamptz[] DEFAULT NULL) RETURNS bigint
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_produce_batch';
CREATE FUNCTION topics.produce_batch_bytea(
	topic text, record_values bytea[], keys bytea[] DEFAULT NULL, headers jsonb[] DEFAULT NULL,
	partition integer DEFAULT NULL, create_times timestamptz[] DEFAULT NULL) RETURNS bigint
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_produce_batch';
COMMENT ON FUNCTION topics.produce_batch(text, text[], text[], jsonb[], integer, timestamptz[]) IS
'Produces a record per element of record_values when the transaction commits, and returns their number. The other arrays, where not NULL, have as many elements. Otherwise as topics.produce.
Errors: 22023 different lengths, 2202E more than one dimension, and those of topics.produce';
COMMENT ON FUNCTION topics.produce_batch_bytea(text, bytea[], bytea[], jsonb[], integer,
	timestamptz[]) IS
'As topics.produce_batch, with bytes';

CREATE PROCEDURE topics.send(
	topic text, value text, key text DEFAULT NULL, headers jsonb DEFAULT NULL,
	INOUT partition integer DEFAULT NULL, create_time timestamptz DEFAULT NULL,
	INOUT "offset" bigint DEFAULT NULL, producer_id bigint DEFAULT NULL,
	producer_epoch integer DEFAULT NULL, sequence integer DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_send';
CREATE PROCEDURE topics.send_bytea(
	topic text, value bytea, key bytea DEFAULT NULL, headers jsonb DEFAULT NULL,
	INOUT partition integer DEFAULT NULL, create_time timestamptz DEFAULT NULL,
	INOUT "offset" bigint DEFAULT NULL, producer_id bigint DEFAULT NULL,
	producer_epoch integer DEFAULT NULL, sequence integer DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_send';
COMMENT ON PROCEDURE topics.send(text, text, text, jsonb, integer, timestamptz, bigint, bigint, integer, integer) IS
'Produces a record, commits, and gives one row: its partition and its offset (Kafka: Producer.send().get()). Of a sequence that is stored they are those of the first time; the offset is NULL if it is not among the producer''s latest five transactions in the partition. The argument "offset" is never passed in (22023), but as the variable of PL/pgSQL that it goes to. Otherwise as topics.produce.
Errors: 25001 inside a transaction block, 40003 the wait for a synchronous standby or for followers was cancelled or has come to its time, and those of topics.produce';
COMMENT ON PROCEDURE topics.send_bytea(text, bytea, bytea, jsonb, integer, timestamptz, bigint, bigint, integer, integer) IS
'As topics.send, with bytes';

CREATE FUNCTION topics.init_producer(
	producer_name text DEFAULT NULL, OUT producer_id bigint, OUT producer_epoch integer)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_init_producer';
COMMENT ON FUNCTION topics.init_producer(text) IS
'Gives a producer an id, with which it may repeat a record: topics.produce with a sequence (Kafka: InitProducerId).
producer_name: 1 to 63 bytes (Kafka: transactional.id). It gets the same id each time, and an epoch that is higher by one: who has a lower one is fenced, once this commits. Behind epoch 32767 comes another id, from 0. A new name belongs to the caller. NULL: an id that is new each time, with epoch 0; nothing is stored before its first record.
A producer that was silent for pg_topics.producer_id_expiration is forgotten.
Errors: 42501 the name belongs to another role, 42602 bad name, TP004 another node leads, 54000 pg_topics.max_producers is reached';

CREATE FUNCTION topics.last_sequence(producer_id bigint, topic text, partition integer) RETURNS integer
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_last_sequence';
COMMENT ON FUNCTION topics.last_sequence(bigint, text, integer) IS
'The latest sequence that a producer has stored in a partition, or NULL: what has become of a commit whose answer was lost. Waits for a transaction that is about to store one. Needs INSERT on the topic''s view.
Errors: 42501 no right, or the producer is another role''s, 42704 no such topic, 22023 no such partition, 25006 in a read-only transaction, TP004 another node leads';

CREATE FUNCTION topics.last_produced(
	OUT topic text, OUT partition integer, OUT first_offset bigint,
	OUT record_count bigint) RETURNS SETOF record
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'topics_last_produced';
COMMENT ON FUNCTION topics.last_produced() IS
'Where the records of this session''s last commit that produced any went: one row per topic and partition, offsets first_offset to first_offset + record_count - 1 (Kafka: RecordMetadata)';

CREATE FUNCTION topics.murmur2(data bytea) RETURNS integer
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'topics_murmur2';
COMMENT ON FUNCTION topics.murmur2(bytea) IS
'The hash of Kafka''s default partitioner (Utils.murmur2): a key''s partition is (murmur2(bytes) & 2147483647) % partitions';

-- ======================================================================
-- Read
-- ======================================================================

CREATE FUNCTION topics.fetch(
	topic text, partition integer, from_offset bigint,
	max_records integer DEFAULT 500, max_bytes integer DEFAULT 1048576,
	max_wait interval DEFAULT '0', leader_epoch integer DEFAULT NULL,
	OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz, OUT key text,
	OUT value text, OUT headers jsonb) RETURNS SETOF record
LANGUAGE C ROWS 500 AS 'MODULE_PATHNAME', 'topics_fetch';
CREATE FUNCTION topics.fetch_bytea(
	topic text, partition integer, from_offset bigint,
	max_records integer DEFAULT 500, max_bytes integer DEFAULT 1048576,
	max_wait interval DEFAULT '0', leader_epoch integer DEFAULT NULL,
	OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz, OUT key bytea,
	OUT value bytea, OUT headers jsonb) RETURNS SETOF record
LANGUAGE C ROWS 500 AS 'MODULE_PATHNAME', 'topics_fetch';
COMMENT ON FUNCTION topics.fetch(text, integer, bigint, integer, integer, interval, integer) IS
'Records of a partition from an offset on, in order, as the statement''s snapshot sees them (Kafka: assign, seek and poll). Keeps nothing: the caller remembers its own place. Needs SELECT on the topic''s view.
max_records, max_bytes (of key, value and headers): at least 1; one record comes even if it is larger.
max_wait (fetch.max.wait.ms): 0 to 1 minute. If there is no record, waits for one as long, and then sees also what was committed after the statement began. Keeps the statement''s snapshot meanwhile, so wait longer with topics.wait_offset. In REPEATABLE READ and SERIALIZABLE nothing is waited for.
leader_epoch (last_fetched_epoch): in a cluster, what topics.offset_for_leader_epoch gave in the statement that read what is before from_offset; from 0. Has a reader told that another node leads without what it read; otherwise only an offset beyond the end tells that.
Errors: TP001 offset out of range (OFFSET_OUT_OF_RANGE, with both ends of the log), TP004 a leader_epoch that is not known here (UNKNOWN_LEADER_EPOCH), TP010 what was read was truncated (LogTruncationException), 42704 no such topic, 42501 no right, 22023 bad partition, limit or leader_epoch, XX001 a record is missing';
COMMENT ON FUNCTION topics.fetch_bytea(text, integer, bigint, integer, integer, interval, integer) IS
'As topics.fetch, with key and value as bytes';

CREATE FUNCTION topics.latest(topic text,
	OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz, OUT key text,
	OUT value text, OUT headers jsonb) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_latest';
COMMENT ON FUNCTION topics.latest(text) IS
'The latest record of each key, as the statement''s snapshot sees the topic: a table of state (Kafka Streams: KTable). Keys whose latest record has no value, and records without a key, are left out. Keys are equal if their bytes are; rows, arrays and ranges, if their parts are. Needs SELECT on the topic''s view. Reads the whole topic twice, in the memory of a hash table; cleanup_policy compact makes that short.
Errors: 42704 no such topic, 42501 no right';

CREATE FUNCTION topics.list_offsets(
	topic text, at text,
	OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz) RETURNS SETOF record
LANGUAGE C ROWS 10 AS 'MODULE_PATHNAME', 'topics_list_offsets';
COMMENT ON FUNCTION topics.list_offsets(text, text) IS
'For each partition the ''earliest'' offset with its record''s timestamp, or the ''latest'': the log end, with the last record''s timestamp (Kafka: beginningOffsets, endOffsets). Needs SELECT on the topic''s view.
Errors: 22023 neither, 42704 no such topic, 42501 no right';

CREATE FUNCTION topics.list_offsets(
	topic text, at timestamptz,
	OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz) RETURNS SETOF record
LANGUAGE C ROWS 10 AS 'MODULE_PATHNAME', 'topics_list_offsets_by_time';
COMMENT ON FUNCTION topics.list_offsets(text, timestamptz) IS
'For each partition the first offset whose record''s timestamp is not before the time given, also where timestamps are out of order; the log end without timestamp where there is none (Kafka: offsetsForTimes). Needs SELECT on the topic''s view. Reads at most one segment that is not sealed.
Errors: 42704 no such topic, 42501 no right';

CREATE FUNCTION topics.offset_for_leader_epoch(
	topic text, partition integer, INOUT leader_epoch integer DEFAULT NULL, OUT end_offset bigint) RETURNS record
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'topics_offset_for_leader_epoch';
COMMENT ON FUNCTION topics.offset_for_leader_epoch(text, integer, integer) IS
'The latest leader epoch of a partition''s log up to leader_epoch, and where its records end: where the next one began, or at the log end (Kafka: OffsetsForLeaderEpoch). Without leader_epoch the latest one; NULLs if that is lower than leader_epoch. As the statement''s snapshot sees the log. Each election begins a leader epoch; all is of epoch 0 without a cluster. Needs SELECT on the topic''s view.
leader_epoch: from 0.
Errors: 42704 no such topic, 42501 no right, 22023 bad partition or leader_epoch';

CREATE PROCEDURE topics.wait_offset(
	topic text, partition integer, after_offset bigint, max_wait interval DEFAULT '30 s')
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_wait_offset';
COMMENT ON PROCEDURE topics.wait_offset(text, integer, bigint, interval) IS
'Waits until the log end of a partition is above after_offset, that is until the record with that offset is there, or until max_wait has passed, which is no error (Kafka: fetch.max.wait.ms). Pass the offset that topics.fetch is to read next. Needs SELECT on the topic''s view, also at the end. Holds no snapshot and no lock while it waits. On a hot standby it looks 10 times a second at what was replayed.
after_offset: from 0. max_wait: 0 to 2147483 s.
Errors: 25001 inside a transaction block, after a write, with an open query, or above READ COMMITTED; 42704 no such topic, or it was dropped meanwhile; 42501 no right; 22023 bad partition, after_offset or max_wait';

CREATE FUNCTION topics.channel(topic text) RETURNS text
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'topics_channel';
COMMENT ON FUNCTION topics.channel(text) IS
'The channel to LISTEN to for notifications of a topic''s new records, sent if its setting notify is on, at most every pg_topics.notify_interval. Needs SELECT on the topic''s view: the name is a secret, since anybody can LISTEN. No Kafka counterpart.
The payload is JSON: {"topic": name, "end_offsets": {partition: log end, ...}} of the partitions that have new records. A hint: it may come twice or, after a restart of the server, not at all.
Errors: 42704 no such topic, 42501 no right';

-- ======================================================================
-- Consumer groups
-- ======================================================================

CREATE FUNCTION topics.consume(
	group_id text, topic text,
	max_records integer DEFAULT 500, max_bytes integer DEFAULT 1048576,
	max_wait interval DEFAULT '0',
	auto_offset_reset text DEFAULT 'earliest',
	OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz, OUT key text,
	OUT value text, OUT headers jsonb) RETURNS SETOF record
LANGUAGE C ROWS 500 AS 'MODULE_PATHNAME', 'topics_consume';
CREATE FUNCTION topics.consume_bytea(
	group_id text, topic text,
	max_records integer DEFAULT 500, max_bytes integer DEFAULT 1048576,
	max_wait interval DEFAULT '0',
	auto_offset_reset text DEFAULT 'earliest',
	OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz, OUT key bytea,
	OUT value bytea, OUT headers jsonb) RETURNS SETOF record
LANGUAGE C ROWS 500 AS 'MODULE_PATHNAME', 'topics_consume';
COMMENT ON FUNCTION topics.consume(text, text, integer, integer, interval, text) IS
'Records of one partition from the group''s committed offset on; the offset moves behind them when the transaction commits (Kafka: poll and commitSync, in one transaction with the work). Until then the partition is claimed: other transactions of the group get other partitions, or nothing. Of the free partitions with records the one served longest ago; a second call in a transaction goes on. Needs SELECT on the topic''s view; a group belongs to the role that used it first.
max_records, max_bytes, max_wait: as in topics.fetch. auto_offset_reset: where the group begins in the topic, and goes on if its place was removed: earliest, latest or none; fixed by the group''s first call (auto.offset.reset, whose default is latest).
All records returned count as consumed: call it alone in its statement, without LIMIT.
Errors: 42704 no such topic, 42501 no right to the topic or the group, 42602 bad group_id, 22023 bad limit, TP001 the committed offset is not in the log, TP010 what the group had consumed was truncated (LogTruncationException), 40001 there are records, but the transaction''s snapshot is older than the commit that set the committed offset, 54000 pg_topics.max_group_offsets reached';
COMMENT ON FUNCTION topics.consume_bytea(text, text, integer, integer, interval, text) IS
'As topics.consume, with key and value as bytes';

CREATE FUNCTION topics.commit_offset(
	group_id text, topic text, partition integer, committed_offset bigint,
	metadata text DEFAULT NULL, member_id text DEFAULT NULL,
	generation_id integer DEFAULT NULL) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_commit_offset';
COMMENT ON FUNCTION topics.commit_offset(text, text, integer, bigint, text, text, integer) IS
'Sets a group''s committed offset, the next one to be consumed, when the transaction commits (Kafka: commitSync with offsets). Not below the one there is: see topics.reset_offset. Below the log start it is accepted, as in Kafka: records may be removed while they are worked on. Waits for another transaction that has the partition claimed. Needs SELECT on the topic''s view and the right to the group.
metadata: up to 4096 bytes. member_id, generation_id: of a member, as topics.poll gave it; NULL in a group that has none. A member commits in partitions that it has, may go back there, and waits for nobody; if a partition is given to another one before the transaction commits, that fails.
Errors: TP001 negative or above the log end (OFFSET_OUT_OF_RANGE), 22023 lower than committed or no such partition, TP002 the partition is not, or no longer, the member''s in this generation (ILLEGAL_GENERATION), TP003 no such member, or none was named in a group that has some (UNKNOWN_MEMBER_ID), 42704 no such topic, 42501 no right, 40001 the transaction''s snapshot is older than the commit that set the committed offset, 54000 metadata too large, or pg_topics.max_group_offsets reached';

CREATE FUNCTION topics.reset_offset(
	group_id text, topic text, partition integer DEFAULT NULL,
	to_position text DEFAULT NULL, to_offset bigint DEFAULT NULL,
	to_time timestamptz DEFAULT NULL, shift_by bigint DEFAULT NULL, dry_run boolean DEFAULT false,
	OUT partition integer, OUT old_offset bigint, OUT new_offset bigint) RETURNS SETOF record
LANGUAGE C ROWS 10 AS 'MODULE_PATHNAME', 'topics_reset_offset';
COMMENT ON FUNCTION topics.reset_offset(text, text, integer, text, bigint, timestamptz, bigint,
	boolean) IS
'Moves a group''s committed offset, back or forth, in one partition or all, when the transaction commits (Kafka: kafka-consumer-groups --reset-offsets). Exactly one of to_position (earliest or latest), to_offset, to_time (the first record not before it) and shift_by (kept within the log). With dry_run nothing is changed, but it waits, and is refused where writing is (25006). Waits for transactions that have the partitions claimed.
Errors: 55000 the group has members (NON_EMPTY_GROUP), 22023 not exactly one target, TP001 to_offset is below the log start or above the log end (Kafka''s tool takes the nearest end instead), and those of topics.commit_offset';

CREATE FUNCTION topics.delete_group(group_id text) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_delete_group';
COMMENT ON FUNCTION topics.delete_group(text) IS
'Deletes a group with its committed offsets, when the transaction commits (Kafka: kafka-consumer-groups --delete). Waits for transactions that use it.
Errors: 42704 no such group, 42501 no right to the group';

CREATE PROCEDURE topics.wait(group_id text, topic text, max_wait interval DEFAULT '30 s')
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_wait';
COMMENT ON PROCEDURE topics.wait(text, text, interval) IS
'Waits until topics.consume() would get something for the group: records in a partition that nobody has claimed, or max_wait is over. Holds no snapshot and no lock. Woken by a commit, or by a claim that is released. Needs SELECT on the topic''s view and the right to the group. If there is no such group, it waits as one that begins at the start of the log; the first topics.consume() makes the group.
Errors: 25001 inside a transaction block, 22023 bad max_wait, 42704 no such topic or it was dropped, 42501 no right';

CREATE FUNCTION topics.join_group(
	group_id text, topics text[] DEFAULT NULL, assignor text DEFAULT 'range',
	topic_pattern text DEFAULT NULL, session_timeout interval DEFAULT '45 s',
	max_poll_interval interval DEFAULT '5 min', group_instance_id text DEFAULT NULL,
	client_id text DEFAULT NULL, auto_offset_reset text DEFAULT 'earliest',
	OUT member_id text, OUT generation_id integer)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_join_group';
COMMENT ON FUNCTION topics.join_group(text, text[], text, text, interval, interval, text, text, text) IS
'Makes a member of a consumer group, which is assigned partitions (Kafka: subscribe, JoinGroup). Takes effect when the transaction commits, and waits for another one that changes the group''s members. The member is an id and a role: any session of the role may call for it. Needs SELECT on the topics'' views and the right to the group; a new group belongs to the caller.
topics, or topic_pattern: names, or a regular expression that matches all of a name, of topics that there are or will be that the role may read. One of topics that is dropped, and made anew by the name that was given, is the member''s again. assignor: range, roundrobin, sticky or cooperative-sticky (partition.assignment.strategy); all move only what has to move, and let the rest be polled meanwhile. session_timeout: 100 ms to 30 min, without any call (session.timeout.ms); max_poll_interval: from 100 ms, without a poll (max.poll.interval.ms): then the member is removed. group_instance_id: 1 to 249 bytes; who joins with the same one takes the member''s place, and the former is fenced (group.instance.id). client_id: 1 to 63 bytes, application_name by default. auto_offset_reset: as in topics.consume; the first member that wants a topic says it, and a NOTICE tells one that says otherwise.
Errors: 42704 no such topic, 42501 no right, 42602 bad group_id, group_instance_id, client_id or topic_pattern, 22023 bad assignor, time or auto_offset_reset, or not one of topics and topic_pattern, 2201B bad regular expression, TP011 the group''s members use another assignor, or the group is of another type (INCONSISTENT_GROUP_PROTOCOL), 0A000 a topic is one of pg_topics'' own, 54000 pg_topics.max_members (GROUP_MAX_SIZE_REACHED) or pg_topics.max_group_offsets is reached, TP004 another node leads (where leaders are spread, a member has what the node leads at which it has joined)';

CREATE FUNCTION topics.poll(
	member_id text,
	max_records integer DEFAULT 500, max_bytes integer DEFAULT 1048576,
	max_wait interval DEFAULT '0',
	OUT topic text, OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz,
	OUT key text, OUT value text, OUT headers jsonb, OUT generation_id integer)
	RETURNS SETOF record
LANGUAGE C ROWS 500 AS 'MODULE_PATHNAME', 'topics_poll';
CREATE FUNCTION topics.poll_bytea(
	member_id text,
	max_records integer DEFAULT 500, max_bytes integer DEFAULT 1048576,
	max_wait interval DEFAULT '0',
	OUT topic text, OUT partition integer, OUT "offset" bigint, OUT "timestamp" timestamptz,
	OUT key bytea, OUT value bytea, OUT headers jsonb, OUT generation_id integer)
	RETURNS SETOF record
LANGUAGE C ROWS 500 AS 'MODULE_PATHNAME', 'topics_poll';
COMMENT ON FUNCTION topics.poll(text, integer, integer, interval) IS
'The next records of the partitions that a member has (Kafka: poll). Takes part in a rebalance first: gives up what is no longer the member''s, and gets what nobody has any more; what is new to it goes on from the committed offset. The position moves at once, also if the caller rolls back (topics.seek goes back: to the committed offset, where to_offset is left out); what is committed is what topics.commit_offset says. It is not kept over a restart of the server: then the member goes on from the committed offset.
max_records, max_bytes, max_wait: as in topics.fetch. All records returned count as polled: call it alone in its statement, without LIMIT.
Errors: TP003 no such member (UNKNOWN_MEMBER_ID): join again, TP012 another program has its group_instance_id (FENCED_INSTANCE_ID): end, 42501 no right to the member or a topic, 22023 bad limit, TP001 the committed offset is not in the log, TP010 what the group had consumed was truncated, TP004 another node leads, 40001 this one has just come to lead: call again, 25006 in a read-only transaction';
COMMENT ON FUNCTION topics.poll_bytea(text, integer, integer, interval) IS
'As topics.poll, with key and value as bytes';

CREATE PROCEDURE topics.poll_wait(member_id text, max_wait interval DEFAULT '30 s')
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_poll_wait';
COMMENT ON PROCEDURE topics.poll_wait(text, interval) IS
'Waits until topics.poll() would get something for the member: records, or partitions in a rebalance; or max_wait is over. Holds no snapshot and no lock. The member lives meanwhile: a wait counts as polling.
Errors: TP003 no such member, 25001 inside a transaction block, 22023 bad max_wait, 42501 no right to the member, TP004 another node leads';

CREATE FUNCTION topics.heartbeat(member_id text) RETURNS integer
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_heartbeat';
COMMENT ON FUNCTION topics.heartbeat(text) IS
'Says that a member lives, as every call for it does, and gives the group''s generation: if that is not the one that the last poll gave, the next poll takes part in a rebalance (Kafka: Heartbeat, REBALANCE_IN_PROGRESS). Of a member in several leader sets, the highest of their generations.
Errors: TP003 no such member, 42501 no right to it, TP004 another node leads';

CREATE FUNCTION topics.assignment(
	member_id text, OUT generation_id integer, OUT topic text, OUT partition integer,
	OUT "position" bigint, OUT paused boolean) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_assignment';
COMMENT ON FUNCTION topics.assignment(text) IS
'The partitions that a member has (Kafka: assignment, position, paused). Those that another member has still to give up are not among them. position: what the next poll reads; NULL: from the committed offset.
Errors: TP003 no such member, 42501 no right to it, TP004 another node leads';

CREATE FUNCTION topics.seek(
	member_id text, topic text, partition integer, to_offset bigint DEFAULT NULL) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_seek';
COMMENT ON FUNCTION topics.seek(text, text, integer, bigint) IS
'Has a member poll on from an offset in a partition that it has; at once, also if the caller rolls back (Kafka: seek).
to_offset: within the log; NULL: the committed offset, as after a rollback of what was polled.
Errors: TP001 out of range, 55000 the partition is not assigned to the member, TP003 no such member, 42501 no right, 42704 no such topic, 22023 no such partition, TP004 another node leads';

CREATE FUNCTION topics.pause(member_id text, topic text, partition integer) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_pause';
COMMENT ON FUNCTION topics.pause(text, text, integer) IS
'Has a member poll nothing from a partition that it has, until topics.resume() or another member has it; at once, also if the caller rolls back (Kafka: pause).
Errors: as topics.seek';

CREATE FUNCTION topics.resume(member_id text, topic text, partition integer) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_resume';
COMMENT ON FUNCTION topics.resume(text, text, integer) IS
'Ends topics.pause() (Kafka: resume).
Errors: as topics.seek';

CREATE FUNCTION topics.leave_group(member_id text) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_leave_group';
COMMENT ON FUNCTION topics.leave_group(text) IS
'Takes a member out of its group when the transaction commits; others get its partitions (Kafka: unsubscribe, close). A group whose last member leaves, and that has committed nothing, is gone. Where leaders are spread: what this node leads.
Errors: TP003 no such member, 42501 no right to it, TP004 another node leads';

CREATE FUNCTION topics.remove_member(group_id text, member_id text) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_remove_member';
COMMENT ON FUNCTION topics.remove_member(text, text) IS
'As topics.leave_group, for who looks after the group: its owner, and topics_admin (Kafka: removeMembersFromConsumerGroup).
Errors: TP003 no such member, 42704 no such group, 42501 no right to the group, TP004 another node leads';
CREATE FUNCTION topic_log.assign(
	assignor text, subscriptions jsonb, partitions jsonb, owned jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'topics_assign';
COMMENT ON FUNCTION topic_log.assign(text, jsonb, jsonb, jsonb) IS
'Which member of a group an assignor gives which partition: a function of its arguments alone, which reads no group and changes none (Kafka: ConsumerPartitionAssignor).
assignor: range, roundrobin, sticky or cooperative-sticky. subscriptions: of each member its topics, {"C0": ["t0", "t1"]}, or, of a static member, {"C0": {"topics": ["t0", "t1"], "group_instance_id": "i0"}}. partitions: how many each topic has, {"t0": 3}. owned: what members have so far, as the result is: {"C0": {"t0": [0, 1]}}. Members, topics and partitions that are not there are left out.
Errors: 22023 no such assignor, or JSON of another form';

CREATE FUNCTION topic_log.group_status(
	OUT group_id text, OUT owner oid, OUT group_type text, OUT state text) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_group_status';
COMMENT ON FUNCTION topic_log.group_status() IS 'The rows of the view topics.consumer_group';

CREATE FUNCTION topic_log.offset_status(
	OUT group_id text, OUT topic text, OUT partition integer, OUT committed_offset bigint,
	OUT metadata text, OUT commit_time timestamptz) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_offset_status';
COMMENT ON FUNCTION topic_log.offset_status() IS 'The rows of the view topics.consumer_offset';

CREATE FUNCTION topic_log.lag_status(
	OUT group_id text, OUT topic text, OUT partition integer, OUT current_offset bigint,
	OUT log_end_offset bigint, OUT lag bigint, OUT consumer_id text, OUT client_id text,
	OUT host text) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_lag_status';
COMMENT ON FUNCTION topic_log.lag_status() IS 'The rows of the view topics.consumer_lag';

CREATE VIEW topics.consumer_group AS
SELECT group_id,
	(SELECT r.oid::pg_catalog.regrole FROM pg_catalog.pg_roles r
		WHERE r.oid OPERATOR(pg_catalog.=) owner) AS owner, group_type, state
FROM topic_log.group_status();
COMMENT ON VIEW topics.consumer_group IS 'Consumer groups that one may use; all for members of topics_admin, topics_monitor and pg_monitor (Kafka: kafka-consumer-groups --list --state)';
COMMENT ON COLUMN topics.consumer_group.group_id IS 'Name (group.id)';
COMMENT ON COLUMN topics.consumer_group.owner IS 'Role that used the group first; NULL if it is not in this cluster';
COMMENT ON COLUMN topics.consumer_group.group_type IS 'consume: by topics.consume; member: by topics.join_group; simple: so far only by topics.commit_offset or topics.reset_offset';
COMMENT ON COLUMN topics.consumer_group.state IS 'Stable: a transaction has a partition claimed, or all members have their partitions; PreparingRebalance: some have still to poll; Empty: nobody consumes';

CREATE FUNCTION topic_log.member_status(
	OUT group_id text, OUT member_id text, OUT group_instance_id text, OUT client_id text,
	OUT host text, OUT role oid, OUT assignor text, OUT generation_id integer,
	OUT subscription text[], OUT partitions integer, OUT assignment jsonb,
	OUT session_timeout interval, OUT max_poll_interval interval,
	OUT last_heartbeat interval, OUT last_poll interval) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_member_status';
COMMENT ON FUNCTION topic_log.member_status() IS 'The rows of the view topics.group_member';

CREATE VIEW topics.group_member AS
SELECT group_id, member_id, group_instance_id, client_id, host,
	(SELECT r.oid::pg_catalog.regrole FROM pg_catalog.pg_roles r
		WHERE r.oid OPERATOR(pg_catalog.=) role) AS role, assignor, generation_id,
	subscription, partitions, assignment, session_timeout, max_poll_interval,
	last_heartbeat, last_poll
FROM topic_log.member_status();
COMMENT ON VIEW topics.group_member IS 'Members of the groups that topics.consumer_group shows (Kafka: kafka-consumer-groups --describe --members --verbose)';
COMMENT ON COLUMN topics.group_member.group_id IS 'Name of the group';
COMMENT ON COLUMN topics.group_member.member_id IS 'From topics.join_group';
COMMENT ON COLUMN topics.group_member.group_instance_id IS 'Of a static member';
COMMENT ON COLUMN topics.group_member.client_id IS 'What the client calls itself';
COMMENT ON COLUMN topics.group_member.host IS 'Address from which it joined; NULL if not by a network';
COMMENT ON COLUMN topics.group_member.role IS 'Role that may call for it; NULL if it is not in this cluster';
COMMENT ON COLUMN topics.group_member.assignor IS 'Of the group';
COMMENT ON COLUMN topics.group_member.generation_id IS 'That it has taken by its last poll; on a standby the group''s';
COMMENT ON COLUMN topics.group_member.subscription IS 'Names of topics, or one regular expression';
COMMENT ON COLUMN topics.group_member.partitions IS 'Number of partitions that it is assigned';
COMMENT ON COLUMN topics.group_member.assignment IS 'Which: an object of topics and lists of partitions';
COMMENT ON COLUMN topics.group_member.session_timeout IS 'It is removed after so long without a call';
COMMENT ON COLUMN topics.group_member.max_poll_interval IS 'Or without a poll';
COMMENT ON COLUMN topics.group_member.last_heartbeat IS 'Time since its last call; NULL on a standby';
COMMENT ON COLUMN topics.group_member.last_poll IS 'Time since its last poll; NULL on a standby';

CREATE VIEW topics.consumer_offset AS SELECT * FROM topic_log.offset_status();
COMMENT ON VIEW topics.consumer_offset IS 'Committed offsets of the groups that topics.consumer_group shows, in the topics that topics.topic shows (Kafka: __consumer_offsets)';
COMMENT ON COLUMN topics.consumer_offset.group_id IS 'Name of the group';
COMMENT ON COLUMN topics.consumer_offset.topic IS 'Name of the topic';
COMMENT ON COLUMN topics.consumer_offset.partition IS 'Number of the partition, from 0';
COMMENT ON COLUMN topics.consumer_offset.committed_offset IS 'Offset of the next record to be consumed';
COMMENT ON COLUMN topics.consumer_offset.metadata IS 'What topics.commit_offset was given; NULL after topics.consume';
COMMENT ON COLUMN topics.consumer_offset.commit_time IS 'When the transaction that set it committed';

CREATE FUNCTION topic_log.producer_status(
	OUT producer_id bigint, OUT producer_epoch integer, OUT producer_name text, OUT owner oid,
	OUT topic text, OUT partition integer, OUT last_sequence integer, OUT last_offset bigint,
	OUT last_time timestamptz) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_producer_status';
COMMENT ON FUNCTION topic_log.producer_status() IS 'The rows of the view topics.producer';

CREATE VIEW topics.producer AS
SELECT producer_id, producer_epoch, producer_name,
	(SELECT r.oid::pg_catalog.regrole FROM pg_catalog.pg_roles r
		WHERE r.oid OPERATOR(pg_catalog.=) owner) AS owner, topic, partition, last_sequence, last_offset, last_time
FROM topic_log.producer_status();
COMMENT ON VIEW topics.producer IS 'Producers that number their records, a row for each partition and one for each name; those that one may use, all for members of topics_admin, topics_monitor and pg_monitor (Kafka: kafka-transactions describe-producers)';
COMMENT ON COLUMN topics.producer.producer_id IS 'From topics.init_producer';
COMMENT ON COLUMN topics.producer.producer_epoch IS 'Who has a lower one is fenced';
COMMENT ON COLUMN topics.producer.producer_name IS 'NULL: it has none';
COMMENT ON COLUMN topics.producer.owner IS 'The role whose it is; NULL: no role of this name is left';
COMMENT ON COLUMN topics.producer.topic IS 'Name of the topic; NULL in the row of a name';
COMMENT ON COLUMN topics.producer.partition IS 'Number of the partition, from 0; NULL in the row of a name';
COMMENT ON COLUMN topics.producer.last_sequence IS 'The latest one that is stored there';
COMMENT ON COLUMN topics.producer.last_offset IS 'Offset of that record';
COMMENT ON COLUMN topics.producer.last_time IS 'When it has last produced there, repeated a record, or asked';

CREATE VIEW topics.consumer_lag AS SELECT * FROM topic_log.lag_status();
COMMENT ON VIEW topics.consumer_lag IS 'How far groups are behind, for each partition of the topics that they consume (Kafka: kafka-consumer-groups --describe)';
COMMENT ON COLUMN topics.consumer_lag.group_id IS 'Name of the group';
COMMENT ON COLUMN topics.consumer_lag.topic IS 'Name of the topic';
COMMENT ON COLUMN topics.consumer_lag.partition IS 'Number of the partition, from 0';
COMMENT ON COLUMN topics.consumer_lag.current_offset IS 'Committed offset; NULL if there is none so far';
COMMENT ON COLUMN topics.consumer_lag.log_end_offset IS 'Offset of the next record to be produced';
COMMENT ON COLUMN topics.consumer_lag.lag IS 'Offsets between the two, from where the group will begin or go on';
COMMENT ON COLUMN topics.consumer_lag.consumer_id IS 'Id of the member that has the partition; NULL if none has';
COMMENT ON COLUMN topics.consumer_lag.client_id IS 'What it calls itself';
COMMENT ON COLUMN topics.consumer_lag.host IS 'Address from which it joined; NULL if not by a network';

-- ======================================================================
-- Changes of tables
-- ======================================================================

CREATE FUNCTION topics.produce_change() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_produce_change';
COMMENT ON FUNCTION topics.produce_change() IS
'Trigger function for any table: produce_change(topic [, key column, ...]), AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW, or AFTER TRUNCATE FOR EACH STATEMENT. Produces a JSON record of the change when the transaction commits (Kafka: the outbox pattern, Debezium). Who changes the table needs INSERT on the topic''s view.
Value: JSON with op (INSERT, UPDATE, DELETE or TRUNCATE), schema, table, time (of the transaction), old (the row or null) and new (the row or null), in this order without blanks. The topic''s value type: any that takes this text, so text, varchar, json, jsonb, xml, a domain of these; or bytea (UTF-8).
Key: of the named columns, or of the primary key; of one column its value, of several a JSON array of their values in the order named, or in the table''s order. An UPDATE of the key is a DELETE under the old key and an INSERT under the new one. A DELETE is followed by a record without value if the topic''s cleanup_policy has compact. A TRUNCATE goes to every partition, without key.
Errors: 39P01 called in another way, 42703 no such key column, 55000 no primary key, and those of topics.produce';

-- ======================================================================
-- Administration
-- ======================================================================

CREATE FUNCTION topics.delete_records(
	topic text, partition integer, before_offset bigint) RETURNS bigint
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_delete_records';
COMMENT ON FUNCTION topics.delete_records(text, integer, bigint) IS
'Moves the log start of a partition up to an offset, -1: the log end, when the transaction commits, and returns it (Kafka: kafka-delete-records). Where it is higher, it stays. Nobody reads a record below it; disk space comes back by whole segments. For the topic''s owner.
Errors: TP001 beyond the log end or below -1 (OFFSET_OUT_OF_RANGE), 22023 no such partition, 42704 no such topic, 42501 not the owner';

CREATE PROCEDURE topics.maintain(topic text DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_maintain';
COMMENT ON PROCEDURE topics.maintain(text) IS
'Does the worker''s work for one topic, or for all that the caller owns, committing as it goes: cut segments that are too large or too old, attach spares, freeze and index sealed segments, move log starts up by retention_time and retention_bytes, drop segments below them, compact at full speed; for all, drop tables of dropped topics; for __consumer_offsets, which belongs to the extension''s owner, also note new names of the owners of groups. Work that failed, see topics.worker, is tried again by the worker, too. For the topic''s owner.
Errors: 25001 inside a transaction block, 42704 no such topic, 42501 not the owner';

CREATE PROCEDURE topics.roll_segment(topic text, partition integer DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_roll_segment';
COMMENT ON PROCEDURE topics.roll_segment(text, integer) IS
'Begins a new segment in one or all partitions of a topic now, if the active one has records, and seals the old one. It waits for a transaction that has queried or locked pg_inherits, such as pg_dump''s. For the topic''s owner.
Errors: 25001 inside a transaction block, 42704 no such topic, 42501 not the owner, 22023 no such partition';

-- ======================================================================
-- Several nodes
-- ======================================================================

CREATE VIEW topic_log.topic_description AS
SELECT 'topic/' || t.topic_id AS key, jsonb_build_object('topic', v.relname, 'uuid', t.notify_key, 'partitions', t.partitions,
	'key_type', format_type(k.atttypid, k.atttypmod), 'value_type', format_type(w.atttypid, w.atttypmod),
	'owner', pg_get_userbyid(v.relowner), 'settings', to_jsonb(t) - '{topic_id,view,partitions,notify_key,leader_sets}'::text[],
	'leader_sets', to_jsonb(t.leader_sets),
	'grants', (SELECT coalesce(jsonb_agg(g ORDER BY g::text), '[]') FROM (SELECT jsonb_build_object(
		'grantee', CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END, 'privilege', privilege_type, 'grantable', bool_or(is_grantable))
		FROM aclexplode(coalesce(v.relacl, acldefault('r', v.relowner))) WHERE privilege_type <> 'MAINTAIN'
		GROUP BY grantee, privilege_type) a(g))) AS value
FROM topic_log.topic t JOIN pg_class v ON v.oid = t.view
JOIN pg_class r ON r.relname = 't' || t.topic_id AND r.relnamespace = 'topic_log'::regnamespace
JOIN pg_attribute k ON k.attrelid = r.oid AND k.attname = 'key' JOIN pg_attribute w ON w.attrelid = r.oid AND w.attname = 'value'
WHERE v.relname <> '__cluster_metadata';
COMMENT ON COLUMN topic_log.topic_description.key IS 'topic/ and the topic''s id';
COMMENT ON COLUMN topic_log.topic_description.value IS 'Name, notify_key, partitions, types, owner, settings and grants';
COMMENT ON VIEW topic_log.topic_description IS 'What a cluster''s nodes agree on of each topic, as it is in this database, under the keys of __cluster_metadata';

CREATE FUNCTION topics.create_cluster(node text, conninfo text, advertised_conninfo text DEFAULT NULL) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_create_cluster';
COMMENT ON FUNCTION topics.create_cluster(text, text, text) IS 'Makes this database the first node of a cluster, which leads; its topics stay as they are. node: from 1 to 40 lower-case letters, digits and underscores. conninfo: how other nodes reach it, for superusers only to see. advertised_conninfo: where clients find it, by default host, port and dbname of conninfo. Superusers only. Raises 42710 in a cluster, 42602 for a bad name, 22023 for a bad conninfo (Kafka: advertised.listeners, node.id)';

CREATE FUNCTION topics.alter_cluster(acks_followers integer) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_alter_cluster';
COMMENT ON FUNCTION topics.alter_cluster(integer) IS 'Says how many followers must have a commit with records, or committed offsets, before it is acknowledged and can be read, on the node that leads. acks_followers: from 0, for which no commit waits, to the number of followers that have caught up once; NULL: half of the nodes, rounded down, however many there are. Superusers only. Raises 22023 for another number, TP004 on a follower, 55000 in no cluster (Kafka: the broker''s part in acks=all, min.insync.replicas - 1 of the whole cluster)';

CREATE PROCEDURE topics.add_node(node text, conninfo text, advertised_conninfo text DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_add_node';
COMMENT ON PROCEDURE topics.add_node(text, text, text) IS 'Adds a database as a node, on the node that leads: the database has the extension, and no topics; it gets all of the cluster''s and follows. It connects as a superuser by conninfo. Can be called again after any failure. Raises TP004 on a follower, 55000 if the database has topics, 42710 if it is in a cluster or another one of the name follows, 0A000 for another encoding, TP005 for another version, 25001 inside a transaction block, errors of class 08 if it cannot be reached or cannot reach the leader, 42501 if a role of one of the two ways may not do that (Kafka: a broker that joins)';

CREATE FUNCTION topics.alter_node(node text, conninfo text, advertised_conninfo text DEFAULT NULL) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_alter_node';
COMMENT ON FUNCTION topics.alter_node(text, text, text) IS 'Says where a node is, on the node that leads: conninfo and advertised_conninfo as of topics.create_cluster. Of the node that leads, all others go by it when they connect the next time. On a follower, of the node that leads: where this follower looks for it, until that one says otherwise. Superusers only. Raises 42704 for an unknown node, TP004 on a follower for another node, 55000 in no cluster, 22023 for a bad conninfo (Kafka: advertised.listeners)';

CREATE PROCEDURE topics.remove_node(node text)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_remove_node';
COMMENT ON PROCEDURE topics.remove_node(text) IS 'Removes a node that follows: on the node that leads, or on another one, which has the leader do it. If the node can be reached it keeps its topics, and leads them itself from then on; otherwise a WARNING says so. Raises 42704 for an unknown node, 55000 for this node or the one that leads, class 08 if the leader cannot be reached, 25001 inside a transaction block (Kafka: a broker that is unregistered)';

CREATE FUNCTION topics.route(
	topic text, key text DEFAULT NULL, OUT partition integer, OUT leader text, OUT advertised_conninfo text,
	OUT is_self boolean) RETURNS record
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'topics_route';
COMMENT ON FUNCTION topics.route(text, text) IS 'Where records with a key go: the partition, NULL without a key; the node that leads it and where clients find that node, NULL in no cluster; and whether that is this node. key: text as of topics.produce. Needs what producing or reading needs. Raises 42704 for an unknown topic (Kafka: Metadata)';

CREATE PROCEDURE topics.move_leader(to_node text, from_node text DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_move_leader';
COMMENT ON PROCEDURE topics.move_leader(text, text) IS 'Has another node lead, with nothing lost, doubled or reordered, whatever pg_topics.acks is: commits with records wait until the other node has all and leads, and then raise TP004. from_node: the node that leads, by default this one; on any other node the leader is told. Returns when the other node leads; after any failure it can be called again. Superusers only. Raises 42704 for an unknown node, TP004 if from_node does not lead, TP009 if to_node does not have all within 5 s, or too few nodes promise to follow it, 55006 during another move, 55000 in no cluster, 25001 inside a transaction block, class 08 if a node cannot be reached (Kafka: controlled shutdown, kafka-leader-election)';

CREATE PROCEDURE topics.failover(lost_node text, allow_data_loss boolean DEFAULT false)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_failover';
COMMENT ON PROCEDURE topics.failover(text, boolean) IS 'Has this node lead in place of one that is lost, which is not asked. Enough of the others must promise to follow, for nothing that was acknowledged to be lost. allow_data_loss: lead also without them, with what this node has; who is ahead of it goes back to that. If this node leads already, nothing is done; after any failure it can be called again. Superusers only. Raises TP009 if too few nodes promise, with each one''s reason, TP004 if this node follows, and hears, another one than lost_node, 0A000 if it has a lower feature level than the cluster, 42704 for an unknown node, 55000 for this node, in no cluster, or if this node lacks what it was stopped in, 40001 if another one was faster, 25001 inside a transaction block (Kafka: leader election; with allow_data_loss: unclean leader election)';

CREATE PROCEDURE topics.rebalance_leaders()
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_rebalance_leaders';
COMMENT ON PROCEDURE topics.rebalance_leaders() IS 'Has the preferred node lead again, the one that has made the cluster, as topics.move_leader does. Superusers only. Raises what that raises (Kafka: preferred replica election)';

CREATE FUNCTION topic_log.promise(leader_set integer, voter text, voter_incarnation text, voter_server text, cluster_id text, candidate text, incarnation text, server text, term bigint, last_term bigint, ends text, only_asks boolean,
	OUT refusal text, OUT promised_term bigint) RETURNS record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_promise';
COMMENT ON FUNCTION topic_log.promise(integer, text, text, text, text, text, text, text, bigint, bigint, text, boolean) IS 'Has this node promise to follow a candidate, in src/node/promise.c; why it does not, and the term that it is in or has promised. For roles with the attribute REPLICATION (Kafka: Vote)';

CREATE FUNCTION topic_log.follow(leader_set integer, cluster_id text, leader text, incarnation text, term bigint) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_follow';
COMMENT ON FUNCTION topic_log.follow(integer, text, text, text, bigint) IS 'Tells this node who leads, in a term; called by that node. For roles with the attribute REPLICATION (Kafka: BeginQuorumEpoch)';

CREATE FUNCTION topic_log.leadership(leader_set integer, node text, cluster_id text, promised_term bigint, OUT leader text, OUT leads boolean, OUT term bigint) RETURNS record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_leadership';
COMMENT ON FUNCTION topic_log.leadership(integer, text, text, bigint) IS 'Who leads, as far as this node knows, whether it is this one, and the term that it is in or has promised; promised_term: that of the node that asks. For roles with the attribute REPLICATION (Kafka: FetchSnapshot''s and Vote''s leader id)';

CREATE FUNCTION topic_log.admit(node text, cluster_id text, incarnation text, server text) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_admit';
COMMENT ON FUNCTION topic_log.admit(text, text, text, text) IS 'Has this node take a server, which is a copy of a node, for that node, and no other server any more; called by the copy. For roles with the attribute REPLICATION. No Kafka counterpart';

CREATE FUNCTION topic_log.feature_level() RETURNS integer LANGUAGE SQL IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp RETURN 1;
COMMENT ON FUNCTION topic_log.feature_level() IS 'What this version can write, and read, of what nodes share: src/node/feature_level.c (Kafka: metadata.version)';

CREATE FUNCTION topic_log.find_divergence(leader_set integer, node text, incarnation text, server text, cluster_id text, promised_term bigint, term bigint, numbers text, ids text, feature_level integer,
	OUT leader_term bigint, OUT epoch bigint, OUT epoch_id text, OUT epoch_term bigint, OUT ends text, OUT data_loss boolean, OUT began_with text) RETURNS record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_find_divergence';
COMMENT ON FUNCTION topic_log.find_divergence(integer, text, text, text, text, bigint, bigint, text, text, integer) IS 'Where a node''s log and this one''s part, in src/node/divergence.c. For roles with the attribute REPLICATION (Kafka: OffsetsForLeaderEpoch)';

CREATE PROCEDURE topic_log.take_lead(leader_set integer, prepares boolean)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_take_lead';
COMMENT ON PROCEDURE topic_log.take_lead(integer, boolean) IS 'Has this node lead, or prepares that; called by the node that does so far, see topics.move_leader. For roles with the attribute REPLICATION';

CREATE PROCEDURE topic_log.hand_over(leader_set integer, to_node text)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_hand_over';
COMMENT ON PROCEDURE topic_log.hand_over(integer, text) IS 'Has another node lead a leader set that this node leads; called by a node where topics.move_leader was. Superusers only';

CREATE FUNCTION topic_log.leader_set() RETURNS integer
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'topics_own_leader_set';
COMMENT ON FUNCTION topic_log.leader_set() IS 'The leader set that this process acts for: 0 but for those that replicate, and what they call on other nodes';

CREATE FUNCTION topic_log.join_cluster(node text, leader text, cluster_id text, conninfo text, advertised_conninfo text, topic_id text, notify_key text) RETURNS text
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_join_cluster';
COMMENT ON FUNCTION topic_log.join_cluster(text, text, text, text, text, text, text) IS 'Makes this database a follower, if it is not that already, and returns its incarnation: which joining it is a node by. Called by the node that leads, see topics.add_node';

CREATE FUNCTION topic_log.leave_cluster() RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_leave_cluster';
COMMENT ON FUNCTION topic_log.leave_cluster() IS 'Takes this database out of its cluster: it leads its topics itself. Called by the node that leads, see topics.remove_node; by hand where that could not be';

CREATE FUNCTION topic_log.check_follower(node text, cluster_id text) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_check_follower';
COMMENT ON FUNCTION topic_log.check_follower(text, text) IS 'Raises an error if this database does not lead that cluster, or the role that calls may not replicate; called by a node that is to join, see topics.add_node';

CREATE PROCEDURE topic_log.replica_fetch(request bytea, INOUT response bytea)
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_replica_fetch';
COMMENT ON PROCEDURE topic_log.replica_fetch(bytea, bytea) IS 'What a follower lacks of all partitions, and what it confirms: the replication protocol, in src/node/replica_feed.c. For roles with the attribute REPLICATION (Kafka: Fetch with a replica id)';

CREATE FUNCTION topics.create_roles(take_over boolean DEFAULT false) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_create_roles';
COMMENT ON FUNCTION topics.create_roles(boolean) IS
'Makes the roles topics_reader, which reads and consumes all topics, also those to come, topics_writer, which produces to them, topics_admin, which may use all consumer groups and sees and repairs all topics, and topics_monitor, which sees what pg_monitor sees; and gives them their rights in this database (Kafka: ACLs on *). For superusers. Roles are of the whole cluster: in another database, and after a restore or pg_upgrade, call it again with take_over.
take_over: roles of these names that were not made by this function in this database and cluster get the rights, with all their members. Otherwise they are an error, since by a name alone a role has no rights.
Errors: 42710 a role of the name is there, 42501 not a superuser';

CREATE FUNCTION topic_log.may_see(view oid) RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'topics_may_see';
COMMENT ON FUNCTION topic_log.may_see(oid) IS 'Whether the views show the topic to the current user, who may read it, owns it, or looks after the server';

CREATE FUNCTION topic_log.partition_status(
	OUT topic text, OUT partition integer, OUT log_start_offset bigint, OUT log_end_offset bigint,
	OUT size_bytes bigint, OUT first_timestamp timestamptz,
	OUT last_timestamp timestamptz) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_partition_status';
COMMENT ON FUNCTION topic_log.partition_status() IS 'The rows of the view topics.partition';

CREATE FUNCTION topic_log.segment_status(
	OUT topic text, OUT partition integer, OUT log_start_offset bigint, OUT log_end_offset bigint,
	OUT size_bytes bigint, OUT first_timestamp timestamptz, OUT last_timestamp timestamptz,
	OUT base_offset bigint, OUT end_offset bigint, OUT state text) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_segment_status';
COMMENT ON FUNCTION topic_log.segment_status() IS 'The rows of the view topics.segment';

CREATE FUNCTION topic_log.broken_status(
	OUT topic text, OUT topic_id bigint, OUT partition integer, OUT problem text,
	OUT hint text) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_broken_status';
COMMENT ON FUNCTION topic_log.broken_status() IS 'The rows of the view topics.broken_topic';

CREATE FUNCTION topic_log.node_status(
	OUT node text, OUT advertised_conninfo text, OUT role text, OUT is_self boolean, OUT epoch bigint,
	OUT counts boolean, OUT in_sync boolean, OUT last_asked timestamptz, OUT feature_level integer) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_node_status';
COMMENT ON FUNCTION topic_log.node_status() IS 'The rows of the view topics.node';

CREATE FUNCTION topic_log.replica_status(
	OUT topic text, OUT partition integer, OUT node text, OUT role text, OUT epoch bigint,
	OUT log_end_offset bigint, OUT high_watermark bigint, OUT lag bigint, OUT lag_bytes bigint,
	OUT lag_time interval, OUT in_sync boolean, OUT state text, OUT message text) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_replica_status';
COMMENT ON FUNCTION topic_log.replica_status() IS 'The rows of the view topics.replica';

CREATE FUNCTION topic_log.worker_status(
	OUT pid integer, OUT state text, OUT state_since timestamptz, OUT next_round timestamptz,
	OUT last_round timestamptz, OUT partitions integer, OUT topic text,
	OUT partition integer, OUT step text, OUT failing_since timestamptz, OUT failures integer,
	OUT sqlstate text, OUT message text, OUT hint text, OUT next_try timestamptz) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_worker_status';
COMMENT ON FUNCTION topic_log.worker_status() IS 'The rows of the view topics.worker';

CREATE FUNCTION topic_log.append_wait_status(
	OUT topic text, OUT partition integer, OUT waiter_pid integer, OUT holder_pid integer,
	OUT since timestamptz) RETURNS SETOF record
LANGUAGE C AS 'MODULE_PATHNAME', 'topics_append_wait_status';
COMMENT ON FUNCTION topic_log.append_wait_status() IS 'The rows of the view topics.append_wait';

CREATE VIEW topics.topic WITH (security_barrier) AS
SELECT c.relname::text AS topic, t.topic_id, c.relowner::regrole AS owner, t.partitions,
	t.retention_time, t.retention_bytes, t.segment_bytes, t.segment_time, t.max_message_bytes,
	t.timestamp_type, t.cleanup_policy, t.delete_retention_time, t.min_compaction_lag_time,
	t.min_cleanable_dirty_ratio, t.notify, t.min_insync_replicas
FROM topic_log.topic t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.view
WHERE topic_log.may_see(t.view);
COMMENT ON VIEW topics.topic IS 'Topics that one may read or owns; all for members of topics_admin, topics_monitor and pg_monitor, as in the other views (Kafka: kafka-topics --describe, kafka-configs --describe)';

CREATE VIEW topics.partition AS SELECT * FROM topic_log.partition_status();
COMMENT ON VIEW topics.partition IS 'Partitions of the topics that topics.topic shows. Of one that cannot be read what is not known is NULL, here and in topics.segment and topics.consumer_lag, and a WARNING says why';

CREATE VIEW topics.segment AS SELECT * FROM topic_log.segment_status();
COMMENT ON VIEW topics.segment IS 'Segments of partitions of the topics that topics.topic shows (Kafka: log segments)';

CREATE VIEW topics.broken_topic AS SELECT * FROM topic_log.broken_status();
COMMENT ON VIEW topics.broken_topic IS 'What topics lack that one may read or owns: after a dump or a replica in part, or changes by hand; a row each, none if all is well. Until it is put right such a topic is not produced to, or read by offset (55000). While a dump is being restored it shows what is still to come. No Kafka counterpart';

CREATE VIEW topics.cluster AS SELECT cluster_id, node, nullif(leader, '') AS leader, term AS epoch, acks_followers, feature_level FROM topic_log.cluster WHERE leader_set OPERATOR(pg_catalog.=) 0;
COMMENT ON VIEW topics.cluster IS 'The cluster that this database is in: one row, or none (Kafka: kafka-metadata-quorum describe --status)';

CREATE VIEW topics.truncated WITH (security_barrier) AS
SELECT topic, partition, "offset", "timestamp", key, value, headers, epoch, truncated_at
FROM topic_log.truncated r
WHERE pg_catalog.pg_has_role('pg_read_all_data', 'USAGE') OR EXISTS (SELECT FROM topic_log.topic t
	WHERE t.topic_id OPERATOR(pg_catalog.=) r.topic_id AND t.notify_key OPERATOR(pg_catalog.=) r.notify_key
	AND pg_catalog.has_table_privilege(t.view::oid, 'SELECT'));
COMMENT ON VIEW topics.truncated IS 'Records that were taken out of this node''s logs, since the node that leads does not have them: nobody had confirmed them when another leader was elected. The newest 100,000, or 64 MB, of the topics that one may read (Kafka drops them)';

CREATE VIEW topics.node AS SELECT * FROM topic_log.node_status();
COMMENT ON VIEW topics.node IS 'The nodes of the cluster that this database is in; no row if it is in none (Kafka: brokers)';

CREATE VIEW topics.replica AS SELECT * FROM topic_log.replica_status();
COMMENT ON VIEW topics.replica IS 'The replicas of each partition of the topics that one may read or owns, as far as this node knows: the leader of all that have asked since it started, a follower of itself and the leader (Kafka: replicas, as kafka-topics --describe shows them)';

CREATE VIEW topics.progress AS
SELECT node, 'catching up'::text AS phase, sum(log_end_offset)::bigint AS done, sum(log_end_offset + lag)::bigint AS total
FROM topics.replica
WHERE role = 'follower'
GROUP BY node
HAVING sum(lag) > 0;
COMMENT ON VIEW topics.progress IS 'What takes its time: followers that catch up, as far as this node knows of them, in the topics that one may read or owns (Kafka: kafka-reassign-partitions --verify)';

CREATE VIEW topics.worker AS SELECT * FROM topic_log.worker_status();
COMMENT ON VIEW topics.worker IS 'This database''s worker, with a row for each piece of its work that fails, or one without if none does; a row for each piece that a lock or snapshot of others has been in the way of for 5 s, until it is tried again; and a row if there is work and the worker cannot come, if a process does not answer, or if the server has pg_topics behind other libraries. A worker comes when there is work, and goes when there is none. What fails for a topic is shown to the topic''s owner, members of topics_admin, topics_monitor and pg_monitor; for all topics, to these members; who holds up a group''s members, to the group''s owner, too. What failed is tried again after 1 s, then after twice as long each time, up to 5 minutes (10 s if it was only locked out, 3 s if another node cannot be reached, or refuses); at once after topics.alter_topic and topics.maintain. No Kafka counterpart';

CREATE VIEW topics.append_wait AS SELECT * FROM topic_log.append_wait_status();
COMMENT ON VIEW topics.append_wait IS 'Processes of this database that wait, mostly at their commit, for the right to append to a partition, each with the one that has it. pg_locks and pg_blocking_pids do not know of these waits. For partitions of topics that one may read or owns; for members of topics_admin, topics_monitor and pg_monitor, of all topics. No Kafka counterpart';

COMMENT ON COLUMN topics.cluster.cluster_id IS 'The same on all nodes, and of no other cluster (Kafka: cluster.id)';
COMMENT ON COLUMN topics.cluster.node IS 'Name of this node';
COMMENT ON COLUMN topics.cluster.leader IS 'Name of the node that leads the metadata, and all that is not spread, or that this one has promised to follow; NULL: none is known';
COMMENT ON COLUMN topics.cluster.epoch IS 'As in topics.node';
COMMENT ON COLUMN topics.cluster.acks_followers IS 'How many followers a commit waits for, see topics.alter_cluster()';
COMMENT ON COLUMN topics.cluster.feature_level IS 'The lowest feature level of all nodes; 0: not heard of yet (Kafka: metadata.version, finalized)';
COMMENT ON SEQUENCE topic_log.truncated_number_seq IS 'Order of the rows of topic_log.truncated';
COMMENT ON COLUMN topics.truncated.topic IS 'Name of the topic, as it was then';
COMMENT ON COLUMN topics.truncated.partition IS 'Number of the partition, from 0';
COMMENT ON COLUMN topics.truncated."offset" IS 'The offset that it had, which another record may have by now';
COMMENT ON COLUMN topics.truncated."timestamp" IS 'As of the record';
COMMENT ON COLUMN topics.truncated.key IS 'As of the record, as text';
COMMENT ON COLUMN topics.truncated.value IS 'As of the record, as text';
COMMENT ON COLUMN topics.truncated.headers IS 'As of the record';
COMMENT ON COLUMN topics.truncated.epoch IS 'The leader epoch that this node was in before';
COMMENT ON COLUMN topics.truncated.truncated_at IS 'When it was taken out';
COMMENT ON COLUMN topics.node.node IS 'Name';
COMMENT ON COLUMN topics.node.advertised_conninfo IS 'Where clients find it (Kafka: advertised.listeners)';
COMMENT ON COLUMN topics.node.role IS 'leader: of the metadata, and of all that is not spread; or follower';
COMMENT ON COLUMN topics.node.is_self IS 'True for this node';
COMMENT ON COLUMN topics.node.epoch IS 'Leader epoch, from 1 on: each election begins one; 0: a follower that has not come into one yet';
COMMENT ON COLUMN topics.node.counts IS 'Whether it has had all that the leader has, once: until then it is not among the nodes of which topics.alter_cluster() takes half';
COMMENT ON COLUMN topics.node.in_sync IS 'On the leader: whether it is connected, and has had within 10 s all that there was then; true for the leader; NULL on a follower, which does not know (Kafka: in-sync replica)';
COMMENT ON COLUMN topics.node.last_asked IS 'On the leader, of a follower: when it last asked for what is new; NULL: not since the server started';
COMMENT ON COLUMN topics.node.feature_level IS 'What its version can do, as it said when it last began to follow (Kafka: metadata.version, supported)';
COMMENT ON COLUMN topics.progress.node IS 'The node that it is about';
COMMENT ON COLUMN topics.progress.phase IS 'catching up: it reads what it lacks from the leader';
COMMENT ON COLUMN topics.progress.done IS 'Offsets that it has, of all partitions';
COMMENT ON COLUMN topics.progress.total IS 'Offsets that there are';
COMMENT ON COLUMN topics.replica.topic IS 'Name of the topic';
COMMENT ON COLUMN topics.replica.partition IS 'Number of the partition, from 0';
COMMENT ON COLUMN topics.replica.node IS 'The node that has it';
COMMENT ON COLUMN topics.replica.role IS 'leader or follower';
COMMENT ON COLUMN topics.replica.epoch IS 'Leader epoch, as in topics.node';
COMMENT ON COLUMN topics.replica.log_end_offset IS 'Where its log ends there; NULL: this node does not know (Kafka: LEO)';
COMMENT ON COLUMN topics.replica.high_watermark IS 'How far it is read there: to what enough followers have, or on a follower to what it knows of that; NULL: this node does not know (Kafka: high watermark)';
COMMENT ON COLUMN topics.replica.lag_bytes IS 'About how much that is, by the size of records that came last; NULL: this node does not know';
COMMENT ON COLUMN topics.replica.in_sync IS 'On the leader: whether the node is in sync, and the partition not stopped there; NULL on a follower, but for itself if it is stopped (Kafka: Isr)';
COMMENT ON COLUMN topics.replica.state IS 'leading; following; catching up: it lacks more than what has just come; stopped: this partition cannot be brought on, and the others go on without it; not connected; NULL: this node does not know. A follower knows of itself and of the leader only';
COMMENT ON COLUMN topics.replica.message IS 'On the follower itself: the last error, if it is stopped or not connected';
COMMENT ON COLUMN topics.replica.lag IS 'Offsets that the follower lacks; NULL: this node does not know';
COMMENT ON COLUMN topics.replica.lag_time IS 'How long ago the first record was produced that it lacks, by its timestamp; NULL: it lacks none, or this node does not have it';

COMMENT ON COLUMN topics.topic.topic IS 'Name';
COMMENT ON COLUMN topics.topic.topic_id IS 'Id, never used again; names the log tables topic_log.t<id>';
COMMENT ON COLUMN topics.topic.owner IS 'Owner of the view, and so of the topic';
COMMENT ON COLUMN topics.topic.partitions IS 'Number of partitions, which are numbered from 0';
COMMENT ON COLUMN topics.topic.retention_time IS 'How long records are kept; negative: for ever (retention.ms)';
COMMENT ON COLUMN topics.topic.retention_bytes IS 'Bytes kept per partition; -1: unlimited (retention.bytes)';
COMMENT ON COLUMN topics.topic.segment_bytes IS 'Bytes at which a segment is rolled (segment.bytes)';
COMMENT ON COLUMN topics.topic.segment_time IS 'Age of the first record at which a segment is rolled; negative: never (segment.ms)';
COMMENT ON COLUMN topics.topic.max_message_bytes IS 'Most bytes of key, value and headers of a record (max.message.bytes)';
COMMENT ON COLUMN topics.topic.timestamp_type IS 'CreateTime: the producer''s time; LogAppendTime: the time of the commit (message.timestamp.type)';
COMMENT ON COLUMN topics.topic.cleanup_policy IS 'delete, compact, or compact,delete (cleanup.policy)';
COMMENT ON COLUMN topics.topic.delete_retention_time IS 'How long a tombstone is kept after compaction (delete.retention.ms)';
COMMENT ON COLUMN topics.topic.min_compaction_lag_time IS 'Age below which records are not compacted (min.compaction.lag.ms)';
COMMENT ON COLUMN topics.topic.min_cleanable_dirty_ratio IS 'Share of the log not yet compacted at which compaction begins (min.cleanable.dirty.ratio)';
COMMENT ON COLUMN topics.topic.notify IS 'Whether NOTIFY tells of new records';
COMMENT ON COLUMN topics.topic.min_insync_replicas IS 'Replicas, with the leader, that must be in sync for records to be taken with pg_topics.acks = all (min.insync.replicas)';
COMMENT ON COLUMN topics.partition.topic IS 'Name of the topic';
COMMENT ON COLUMN topics.partition.partition IS 'Number of the partition, from 0';
COMMENT ON COLUMN topics.partition.log_start_offset IS 'First offset that can be read (logStartOffset)';
COMMENT ON COLUMN topics.partition.log_end_offset IS 'Offset of the next record (logEndOffset)';
COMMENT ON COLUMN topics.partition.size_bytes IS 'Bytes on disk, with TOAST';
COMMENT ON COLUMN topics.partition.first_timestamp IS 'Timestamp of the first record; NULL without records';
COMMENT ON COLUMN topics.partition.last_timestamp IS 'Timestamp of the last record; NULL without records';
COMMENT ON COLUMN topics.segment.topic IS 'Name of the topic';
COMMENT ON COLUMN topics.segment.partition IS 'Number of the partition, from 0';
COMMENT ON COLUMN topics.segment.log_start_offset IS 'First offset that can be read in the segment';
COMMENT ON COLUMN topics.segment.log_end_offset IS 'One above the last offset in the segment; log_start_offset without records';
COMMENT ON COLUMN topics.segment.size_bytes IS 'Bytes on disk, with TOAST';
COMMENT ON COLUMN topics.segment.first_timestamp IS 'Timestamp of the first record; NULL without records';
COMMENT ON COLUMN topics.segment.last_timestamp IS 'Timestamp of the last record; NULL without records';
COMMENT ON COLUMN topics.segment.base_offset IS 'First offset that the segment may hold (base offset)';
COMMENT ON COLUMN topics.segment.end_offset IS 'First offset above the segment: planned while it is active or spare';
COMMENT ON COLUMN topics.segment.state IS 'deleted: below the log start, waiting to be dropped; sealed: full, frozen and indexed soon; active: appended to; spare: waiting for its first record';
COMMENT ON COLUMN topics.broken_topic.topic IS 'Name; NULL: it has no view';
COMMENT ON COLUMN topics.broken_topic.topic_id IS 'Id, which names its log tables topic_log.t<id>';
COMMENT ON COLUMN topics.broken_topic.partition IS 'Number of the partition; NULL: the whole topic';
COMMENT ON COLUMN topics.broken_topic.problem IS 'What is missing, or cannot be read';
COMMENT ON COLUMN topics.broken_topic.hint IS 'What puts it right, or removes it';
COMMENT ON COLUMN topics.worker.pid IS 'Process id; NULL if there is no worker now';
COMMENT ON COLUMN topics.worker.state IS 'resting: there is no worker, since there is nothing to do; starting: it comes; busy; idle: it waits for more; waiting: for one of pg_topics.max_workers places; missing: it is wanted and cannot be started; hung: it does not answer';
COMMENT ON COLUMN topics.worker.state_since IS 'Since when it is busy or wanted, or has not answered; else NULL';
COMMENT ON COLUMN topics.worker.next_round IS 'When one comes that is resting, if nobody asks before; NULL: not before somebody does';
COMMENT ON COLUMN topics.worker.last_round IS 'When one had last looked at all partitions, and done what was due';
COMMENT ON COLUMN topics.worker.partitions IS 'How many partitions that were';
COMMENT ON COLUMN topics.worker.topic IS 'Topic for which work fails; NULL: nothing fails, or work for all topics';
COMMENT ON COLUMN topics.worker.partition IS 'Its partition; NULL: work for the whole topic';
COMMENT ON COLUMN topics.worker.step IS 'What fails. look: finding out what is to be done; roll: beginning a new segment; spare: attaching the next one; seal: freezing and indexing; expire: moving the log start, or without a topic seeing to members of groups and to producers; drop: dropping segments below it, or tables of a dropped topic; compact; owners: noting new names of the owners of groups; floors: storing the ends of logs; notify; start: there is no worker, though one is wanted, and why; hang: a process does not answer; load: pg_topics is not the first of shared_preload_libraries';
COMMENT ON COLUMN topics.worker.failing_since IS 'When it failed first; since when somebody is in the way (failures is NULL then); of hang, since when it was to answer; NULL of start and load, as failures and next_try';
COMMENT ON COLUMN topics.worker.failures IS 'How often it has failed in a row';
COMMENT ON COLUMN topics.worker.sqlstate IS 'SQLSTATE of the last error; NULL if there was none, but the worker or the server ended; 55P03 if a lock is in the way, 55006 if a snapshot may still see what is to go, 00000 if nobody is in the way any more and the next try is to come';
COMMENT ON COLUMN topics.worker.message IS 'Message of the last error, or who is in the way: a process, a prepared transaction, a standby, a replication slot';
COMMENT ON COLUMN topics.worker.hint IS 'What puts it right, of start, hang and load, and if somebody is in the way';
COMMENT ON COLUMN topics.worker.next_try IS 'When it is tried again; NULL if somebody is in the way and it is tried all the time';
COMMENT ON COLUMN topics.append_wait.topic IS 'Name of the topic; NULL: a transaction with more than 100 partitions has, or wants, all of the database for itself';
COMMENT ON COLUMN topics.append_wait.partition IS 'Number of the partition, from 0; NULL as topic is';
COMMENT ON COLUMN topics.append_wait.waiter_pid IS 'Process that waits';
COMMENT ON COLUMN topics.append_wait.holder_pid IS 'Process that it waits for, one a row; NULL: the partition is just being released, or its active segment is being cut';
COMMENT ON COLUMN topics.append_wait.since IS 'When it began to wait';

-- ======================================================================
-- Rights
-- ======================================================================

REVOKE ALL ON ALL ROUTINES IN SCHEMA topics, topic_log FROM PUBLIC;

-- A view's functions are called as its reader.  They show a role what it may
-- see; schema topic_log is closed, so nobody gets at them but by a view.
GRANT EXECUTE ON FUNCTION topic_log.may_see(oid), topic_log.partition_status(),
	topic_log.segment_status(), topic_log.broken_status(), topic_log.worker_status(),
	topic_log.append_wait_status(), topic_log.group_status(), topic_log.member_status(), topic_log.offset_status(),
	topic_log.lag_status(), topic_log.producer_status(), topic_log.node_status(),
	topic_log.replica_status() TO PUBLIC;

-- A node's role comes as any client; the functions look who it is.
GRANT EXECUTE ON PROCEDURE topic_log.replica_fetch(bytea, bytea), topic_log.take_lead(integer, boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION topic_log.check_follower(text, text),
	topic_log.promise(integer, text, text, text, text, text, text, text, bigint, bigint, text, boolean), topic_log.follow(integer, text, text, text, bigint),
	topic_log.leadership(integer, text, text, bigint),
	topic_log.find_divergence(integer, text, text, text, text, bigint, bigint, text, text, integer),
	topic_log.admit(text, text, text, text) TO PUBLIC;

-- As PostgreSQL's own: pg_monitor reads all administration views
GRANT USAGE ON SCHEMA topics TO pg_monitor;
GRANT SELECT ON ALL TABLES IN SCHEMA topics TO pg_monitor;
GRANT EXECUTE ON FUNCTION topics.describe_topic(text) TO pg_monitor;
