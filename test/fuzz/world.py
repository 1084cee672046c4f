"""What the fuzz works on: roles, topics, tables, and the functions that there are.

The functions and the columns of the views are read from the catalogue, so one
that is new is called, too.

An ordinary role, "granted", has the rights that README.md's reference gives to
one that produces, consumes and creates topics.  "stranger" may call all
functions and read the administration views, and has a right on no topic but its
own; "nobody" has been granted nothing; "insider" is "granted" with USAGE on
schema topic_log.  None of them has a right on the topics of SECRETS, whose
records, group and metadata have CANARY in them, and whose names have NAMED.
"""

import collections

from sql import identifier

CANARY = "canary7e3"
CANARY_BYTES = CANARY.encode().hex()
NAMED = "hidden5c1"
SECRETS = [f"{NAMED}.one", f"{NAMED}-two"]

ROLES = {"granted": 16, "stranger": 4, "insider": 2, "nobody": 1}

# What topics there are at first; granted: rights of "granted" on it
Topic = collections.namedtuple("Topic", "name options granted")
TOPICS = [
    Topic("shared", "partitions => 3", "SELECT, INSERT"),
    Topic("json", "partitions => 2, key_type => 'int', value_type => 'jsonb', segment_bytes => 65536", "SELECT, INSERT"),
    Topic("bytes", "partitions => 2, key_type => 'bytea', value_type => 'bytea'", "SELECT, INSERT"),
    Topic("state", "partitions => 2, cleanup_policy => 'compact', segment_bytes => 65536, segment_time => '1 s', "
                   "min_cleanable_dirty_ratio => 0.1", "SELECT, INSERT"),
    Topic("typed", "key_type => 'public.short_text', value_type => 'public.pair'", "SELECT, INSERT"),
    Topic("arrays", "key_type => 'public.mood', value_type => 'numeric[]'", "SELECT, INSERT"),
    Topic("small", "max_message_bytes => 100, timestamp_type => 'LogAppendTime'", "SELECT, INSERT"),
    Topic("aged", "retention_time => '2 s', segment_bytes => 65536, segment_time => '1 s'", "SELECT, INSERT"),
    Topic("readable", "partitions => 2", "SELECT"),
    Topic("writable", "notify => false", "INSERT"),
]
OWN_TOPICS = ["own", "own.1", "Own-2"]  # of "granted"

# Names that calls use; some become topics
NEW_NAMES = ["new1", "new2", "new.3", "NEW-4", "x" * 63, "_"]
ODD_NAMES = ["", " ", ".", "..", "__consumer_offsets", "__mine", "a b", 'a"b', "a'b", "a\\b", "ünï.cödé", "日本", "\n", "x" * 64,
             "x" * 300, "topics.topic", "topic.shared", 'topic."shared"', "public.item", "item", "t1", "t2_p0", "t2_p0_s0",
             "SHARED", "plain_view", "plain_table", "pg_class", "%s", "$1", "-", "*", "null", "1"]
GROUPS = ["g1", "g2", "g3", "group four", f"{NAMED}_group", "", "x" * 63, "x" * 64, "ü", "g1\n"]

TYPES = ["text", "jsonb", "bytea", "int", "bigint", "numeric(5,2)", "varchar(3)", "text[]", "int[3][3]", "uuid", "timestamptz",
         "public.short_text", "public.pair", "public.mood", "public.positive", "public.item", "int4range", "xml", "json",
         "\"char\"", "name", "regclass", "oid", "bit(3)", "point", "tsvector", "interval day to second(2)", "double precision",
         "int4multirange", "hstore", "record", "anyelement", "void", "trigger", "cstring", "internal", "unknown", "any",
         "pg_node_tree", "refcursor", "oidvector", "table_am_handler", "SETOF text", "topics.topic", "topic.shared",
         "topic_log.topic", "text COLLATE \"C\"", "text; SELECT 1", "text NOT NULL", "text DEFAULT 'x'", "", "(", "nonsense", "a.b.c.d",
         "%TYPE", "topics.topic.topic%TYPE", "x" * 70, "serial", "text[][][][][][][]"]

# temporary tables that bear the names of others
TEMPORARY = ["topic", "partition", "segment", "pg_class", "pg_type", "t1", "t2_p0_s0", "shared", "item", "new"]

RECORD_COLUMNS = [("offset", "bigint"), ("timestamp", "timestamp with time zone"), ("partition", "integer"),
                  ("key", "text"), ("value", "text"), ("headers", "jsonb")]


SCHEMA = f"""
CREATE EXTENSION pg_topics;
SELECT topics.create_roles();
CREATE ROLE owners;
CREATE ROLE granted LOGIN IN ROLE owners;
CREATE ROLE insider LOGIN IN ROLE granted;
CREATE ROLE stranger LOGIN;
CREATE ROLE nobody LOGIN;
CREATE ROLE other;
GRANT USAGE ON SCHEMA topics, topic TO owners, stranger;
GRANT CREATE ON SCHEMA topic TO owners, stranger;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO owners, stranger;
GRANT SELECT ON ALL TABLES IN SCHEMA topics TO owners, stranger;
GRANT USAGE ON SCHEMA topic_log TO insider;
GRANT CREATE ON SCHEMA public TO owners;

CREATE DOMAIN public.short_text AS text CHECK (length(VALUE) < 20);
CREATE DOMAIN public.positive AS int NOT NULL CHECK (VALUE > 0);
CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE public.pair AS (a int, b public.short_text);
CREATE TABLE public.item (id int PRIMARY KEY, name text, data jsonb);
CREATE TABLE public.two_keys (a int, b text, c bytea, PRIMARY KEY (a, b));
CREATE TABLE public.plain (n int, t text);
GRANT ALL ON public.item, public.two_keys, public.plain TO owners;
CREATE VIEW topic.plain_view AS SELECT 1 AS one;
CREATE TABLE topic.plain_table (n int);
GRANT ALL ON topic.plain_view, topic.plain_table TO owners;

SET SESSION AUTHORIZATION granted;
{"".join(f"SELECT topics.create_topic('{name}', partitions => 2);" for name in OWN_TOPICS)}
RESET SESSION AUTHORIZATION;
{"".join(f"SELECT topics.create_topic('{t.name}', {t.options}); GRANT {t.granted} ON topic.{identifier(t.name)} TO owners;" for t in TOPICS)}
{"".join(f"SELECT topics.create_topic('{name}', partitions => 2);" for name in SECRETS)}
{"".join(f'''SELECT topics.produce('{name}', '{CANARY} value ' || n, key => '{CANARY} key ' || n % 20,
    headers => '[["h", "{CANARY} header"]]') FROM generate_series(1, 200) n;''' for name in SECRETS)}
-- then
SELECT topics.commit_offset('{NAMED}_group', '{SECRETS[0]}', 0, 1, metadata => '{CANARY} metadata');
SELECT topics.produce('shared', n::text, key => (n % 20)::text) FROM generate_series(1, 500) n;

CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON public.item
    FOR EACH ROW EXECUTE FUNCTION topics.produce_change('json', 'id');
CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON public.two_keys
    FOR EACH ROW EXECUTE FUNCTION topics.produce_change('shared');

-- what a search_path leads to: whoever calls these as another role than a session's own is reported
CREATE SCHEMA evil;
CREATE TABLE evil.caught (who name, what text, query text);
GRANT USAGE, CREATE ON SCHEMA evil TO PUBLIC;
GRANT INSERT ON evil.caught TO PUBLIC;
"""

# Made by "granted": what a hostile search_path puts before pg_catalog
EVIL_OPERATORS = [("=", "bigint", "bigint"), ("=", "integer", "integer"), ("=", "text", "text"), ("=", "oid", "oid"),
                  ("<", "bigint", "bigint"), (">=", "bigint", "bigint"), ("<>", "oid", "oid"), ("=", "name", "name")]
EVIL_FUNCTIONS = [("now", ""), ("quote_ident", "text"), ("lower", "text"), ("length", "text"), ("to_regclass", "text"),
                  ("pg_relation_size", "regclass"), ("has_table_privilege", "text, text"), ("format", "text"),
                  ("gen_random_uuid", ""), ("current_setting", "text"), ("set_config", "text, text, boolean")]


def evil_schema():
    """SQL that makes them."""
    def body(what, result):
        return f"""LANGUAGE plpgsql AS $evil$BEGIN
            IF current_user NOT IN ('granted', 'insider', 'stranger', 'nobody', 'owners', 'other') THEN
                INSERT INTO evil.caught VALUES (current_user, '{what}', pg_catalog.current_query());
            END IF;
            RETURN {result};
            END$evil$;\n"""
    sql = ["SET SESSION AUTHORIZATION granted;\n"]
    for number, (name, left, right) in enumerate(EVIL_OPERATORS):
        sql.append(f"CREATE FUNCTION evil.operator_{number}({left}, {right}) RETURNS boolean " + body(name, "true"))
        sql.append(f"CREATE OPERATOR evil.{name} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = evil.operator_{number});\n")
    for name, arguments in EVIL_FUNCTIONS:
        sql.append(f"CREATE FUNCTION evil.{name}({arguments}) RETURNS text " + body(name, "'1'"))
    for table in ("topic", "partition", "segment", "pg_class", "pg_proc", "pg_type", "generate_series"):
        sql.append(f"CREATE TABLE evil.{table} (topic_id bigint, partition int, oid oid, relname name);\n")
    sql.append("CREATE DOMAIN evil.int8 AS text; CREATE DOMAIN evil.int4 AS text; CREATE DOMAIN evil.text AS int;\n")
    sql.append("RESET SESSION AUTHORIZATION;\n")
    return "".join(sql)


class Function:
    """A function or procedure, as the catalogue knows it."""

    def __init__(self, row):
        self.schema, self.name, self.kind, self.returns_set, self.result, self.defaults, self.signature, arguments = row
        # [name, type, mode] of what is passed in
        self.arguments = [argument for argument in arguments if argument[2] in ("i", "b", "v")]
        self.has_columns = any(argument[2] in ("o", "t") for argument in arguments)
        self.columns = [(argument[0], argument[1]) for argument in arguments if argument[2] in ("o", "b", "t")]

    @property
    def is_procedure(self):
        return self.kind == "p"

    @property
    def required(self):
        return len(self.arguments) - self.defaults

    def __str__(self):
        return f"{self.schema}.{identifier(self.name)}"


FUNCTIONS = """
SELECT n.nspname, p.proname, p.prokind, p.proretset, p.prorettype::regtype::text, p.pronargdefaults,
    p.oid::regprocedure::text,
    coalesce((SELECT jsonb_agg(jsonb_build_array(p.proargnames[a.i], a.t::regtype::text, coalesce(p.proargmodes[a.i]::text, 'i'))
                               ORDER BY a.i)
              FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY AS a (t, i)), '[]')
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('topics', 'topic_log')
ORDER BY n.nspname, p.proname, p.oid::regprocedure::text"""

VIEWS = """
SELECT n.nspname || '.' || quote_ident(c.relname), jsonb_agg(jsonb_build_array(a.attname, a.atttypid::regtype::text) ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE n.nspname IN ('topics', 'topic_log') AND c.relkind IN ('v', 'r', 'S', 'p') AND NOT c.relispartition AND c.relname !~ '_p[0-9]+'
GROUP BY n.nspname, c.relname ORDER BY 1"""


class World:
    """What there is to be used, read through a superuser's connection."""

    def __init__(self, connection):
        cursor = connection.cursor()
        cursor.execute(FUNCTIONS)
        self.functions = [Function(row) for row in cursor.fetchall()]
        cursor.execute(VIEWS)
        self.views = [(name, [tuple(column) for column in columns]) for name, columns in cursor.fetchall()]
        self.public_views = [view for view in self.views if view[0].startswith("topics.")]
        self.topics = OWN_TOPICS + [topic.name for topic in TOPICS]
