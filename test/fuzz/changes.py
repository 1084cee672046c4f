"""Random changes of topics, tables, views and their definitions."""

from sql import OFFSET, RETURN_RULE, Statement, identifier, literal
from world import RECORD_COLUMNS, TEMPORARY


class Changes:
    """A part of Statements."""

    def insert_plain(self):
        view = self.values.topic_view()
        kind = self.random.random()
        columns = self.random.sample(RECORD_COLUMNS, self.random.randrange(1, 5))
        if self.chance(0.8):
            columns = [column for column in columns if column[0] not in ("offset",)] or [("value", "text")]
        names = ", ".join(identifier(name) for name, _ in columns)
        rows = ", ".join(
            "("
            + ", ".join(
                self.pick("DEFAULT", *[self.values.argument(name, type_name)] * 9) for name, type_name in columns
            )
            + ")"
            for _ in range(self.pick(1, 1, 2, 5))
        )
        if kind < 0.5:
            return f"INSERT INTO {view} ({names}) VALUES {rows}"
        if kind < 0.62:
            return (
                f"INSERT INTO {view} (key, value) SELECT {self.pick('n', 'n % 7', 'NULL', 'n::text')}, "
                f"{self.pick('n', 'n::text', 'NULL', 'repeat(n::text, 500)')} FROM generate_series(1, "
                f"{self.pick(1, 10, 100, 1000)}) n"
            )
        if kind < 0.72:
            return (
                f"INSERT INTO {view} ({names}) VALUES {rows} RETURNING "
                f"{self.pick('*', 'partition', OFFSET, 'key || value', '1/0')}"
            )
        if kind < 0.78:
            return f"INSERT INTO {view} ({names}) VALUES {rows} ON CONFLICT DO NOTHING"
        if kind < 0.84:
            return (
                f"WITH i AS (INSERT INTO {view} ({names}) VALUES {rows} RETURNING *) SELECT i.*, "
                f"{self.expression(self.plain_function())} FROM i"
            )
        if kind < 0.9:
            return (
                f"INSERT INTO {view} (value, key, headers) SELECT value, key, headers FROM "
                f"{self.values.topic_view()} LIMIT 20"
            )
        if kind < 0.94:
            return f"INSERT INTO {view} DEFAULT VALUES"
        if kind < 0.97:
            return (
                f"INSERT INTO {view} (key, value) OVERRIDING {self.pick('SYSTEM', 'USER')} VALUE SELECT key, value "
                f"FROM {self.values.topic_view()} LIMIT 2"
            )
        return f"INSERT INTO {view} TABLE {self.values.topic_view()} LIMIT 1"

    def insert(self):
        return self.insert_plain()

    def copy(self):
        view = self.values.topic_view()
        if self.chance(0.3):
            return Statement(f"COPY ({self.query()}) TO STDOUT {self.pick('', '(FORMAT csv)', '(FORMAT binary)')}")
        if self.chance(0.1):
            return Statement(f"COPY {view} TO STDOUT")
        columns = self.pick(
            "(partition, key, value, headers)", "(key, value)", "(value)", "", "(partition, value)", '("offset", value)'
        )
        options = self.pick(
            "",
            "",
            "",
            " (FORMAT csv, DELIMITER E'\\t')",
            " (FORMAT binary)",
            " (FREEZE)",
            " (HEADER)",
            " (NULL 'a')",
            " WHERE key = 'a'",
            " (ON_ERROR ignore)",
        )
        lines = [self.values.copy_text() for _ in range(self.pick(0, 1, 3, 300))]
        if columns != "(partition, key, value, headers)":
            lines = ["\t".join(line.split("\t")[1 : 1 + columns.count(",") + 1]) for line in lines]
        return Statement(
            f"COPY {view} {columns} FROM STDIN{options}",
            "".join(line + "\n" for line in lines) + self.pick("", "", "\\.\n", "x"),
        )

    def change(self):
        view = self.values.topic_view()
        where = self.pick("", f" WHERE {self.condition(RECORD_COLUMNS, 'r')}")
        return self.pick(
            f"UPDATE {view} r SET value = NULL{where}",
            f"DELETE FROM {view} r{where} RETURNING *",
            f"DELETE FROM {view} r USING public.item{where}",
            f"TRUNCATE {view}",
            f"TRUNCATE topic_log.t{self.pick(1, 2, 5)}",
            f"MERGE INTO {view} r USING (VALUES (1, 'a')) s(n, t) ON r.key = s.t WHEN MATCHED THEN "
            f"{self.pick('DELETE', 'DO NOTHING', 'UPDATE SET key = s.t')} "
            f"WHEN NOT MATCHED THEN INSERT (value) VALUES (s.t)",
            f"INSERT INTO {self.random.choice(self.world.views)[0]} DEFAULT VALUES",
            f"DELETE FROM {self.random.choice(self.world.views)[0]}",
            f"INSERT INTO topic_log.t{self.pick(1, 2, 5)} VALUES (0, now(), 0, 'a', 'b', NULL)",
            f"SELECT * FROM topic_log.t{self.pick(1, 2, 5)}{self.pick('', '_p0', '_p0_s0')} LIMIT 5",
            "SELECT nextval('topic_log.topic_id_seq')",
        )

    def write_table(self):
        """Tables with a trigger of ours."""
        key = self.pick("1", "2", "3", str(self.random.randrange(1000)))
        return self.pick(
            f"INSERT INTO public.item VALUES ({key}, {self.values.text()}, {self.values.value('jsonb')}) ON CONFLICT "
            f"(id) DO UPDATE SET name = excluded.name",
            f"UPDATE public.item SET id = id + {self.pick(0, 1000)}, name = {self.values.text()} WHERE id "
            f"{self.pick('=', '>', '<')} {key}",
            f"DELETE FROM public.item WHERE id {self.pick('=', '>')} {key}",
            f"INSERT INTO public.two_keys VALUES ({key}, left({self.values.text()}, 100), {self.values.bytes()}) ON "
            f"CONFLICT DO NOTHING",
            f"UPDATE public.two_keys SET b = b || 'x', c = NULL WHERE a = {key}",
            f"DELETE FROM public.two_keys WHERE a >= {key}",
            f"INSERT INTO public.plain SELECT n, n::text FROM generate_series(1, {self.pick(1, 100)}) n",
            "DELETE FROM public.plain",
            "TRUNCATE public.plain",
            f"ALTER TABLE public.{self.pick('item', 'two_keys', 'plain')} ADD COLUMN IF NOT EXISTS x{self.pick(1, 2)} "
            f"{self.pick('int', 'text DEFAULT $$a$$', 'public.pair')}",
        )

    def ddl(self):
        """Of topics' views and log tables, as their owner or not.

        Without DROP OWNED: it drops temporary tables of other sessions, and
        those with ON COMMIT DELETE ROWS then fail at each commit (XX000).
        """
        view = self.values.topic_view()
        table = f"topic_log.t{self.random.randrange(1, 20)}{self.pick('', '_p0', '_p0_s0')}"
        new = identifier(self.values.topic_name())
        whom = self.pick("granted", "stranger", "PUBLIC", "other", "owners")
        return self.pick(
            f"ALTER VIEW {view} RENAME TO {new}",
            f"ALTER VIEW {view} OWNER TO {self.pick('owners', 'granted', 'other', 'CURRENT_USER')}",
            f"ALTER VIEW {view} SET SCHEMA public",
            f"ALTER VIEW {view} SET (security_barrier = {self.pick('true', 'false')})",
            f"ALTER VIEW {view} SET (security_invoker = true)",
            f"ALTER VIEW {view} ALTER COLUMN value SET DEFAULT 'x'",
            f"ALTER VIEW {view} RENAME COLUMN value TO v",
            f"ALTER TABLE {view} RENAME TO {new}",
            f"DROP VIEW {view} {self.pick('', 'CASCADE')}",
            f"CREATE OR REPLACE VIEW {view} AS "
            f"{self.pick('SELECT 1 AS one', 'SELECT * FROM topic.shared', self.query())}",
            f"GRANT {self.pick('SELECT', 'INSERT', 'ALL', 'SELECT (value)', 'UPDATE')} ON {view} TO {whom}",
            f"REVOKE {self.pick('SELECT', 'ALL')} ON {view} FROM {whom} CASCADE",
            f"COMMENT ON VIEW {view} IS {self.pick('NULL', literal('a comment'))}",
            f"COMMENT ON COLUMN {view}.value IS 'x'",
            f"CREATE RULE r AS ON {self.pick('INSERT', 'UPDATE', 'DELETE')} TO {view} DO "
            f"{self.pick('INSTEAD NOTHING', 'ALSO SELECT 1')}",
            f"DROP RULE {self.pick('r', RETURN_RULE)} ON {view}",
            f"CREATE TRIGGER mine {self.pick('INSTEAD OF', 'AFTER', 'BEFORE')} INSERT ON {view} FOR EACH ROW EXECUTE "
            f"FUNCTION topics.insert_record()",
            f"DROP TRIGGER {self.pick('produce', 'append_only', 'mine')} ON {view}",
            f"ALTER TRIGGER produce ON {view} RENAME TO x",
            f"LOCK TABLE {view} IN {self.pick('ACCESS SHARE', 'SHARE', 'ACCESS EXCLUSIVE', 'ROW EXCLUSIVE')} MODE "
            f"NOWAIT",
            f"ALTER TABLE {table} {self.pick('ADD COLUMN x int', 'DROP COLUMN value', 'DETACH PARTITION ' + table + '_p0', 'SET UNLOGGED', 'OWNER TO granted')}",
            f"DROP TABLE {table} {self.pick('', 'CASCADE')}",
            f"{self.pick('ANALYZE', 'VACUUM', 'CLUSTER', 'VACUUM FULL', 'ANALYZE VERBOSE')} "
            f"{self.pick(view, table, '')}",
            f"REINDEX TABLE {table}",
            f"CREATE INDEX ON {self.pick(view, table)} (partition)",
            f"CREATE STATISTICS ON partition, key FROM {self.pick(view, table)}",
            f"CREATE {self.pick('VIEW', 'MATERIALIZED VIEW', 'TABLE')} topic.{new} AS SELECT 1 AS one",
            f"DROP TABLE IF EXISTS topic.{new}",
            f"CREATE SEQUENCE topic.{new}",
            f"CREATE POLICY p ON {view} USING (true)",
            f"CREATE PUBLICATION p FOR TABLE {view}",
            f"REASSIGN OWNED BY CURRENT_USER TO {self.pick('owners', 'granted', 'other')}",
            f"ALTER DOMAIN public.short_text {self.pick('SET NOT NULL', 'DROP NOT NULL')}",
            "ALTER EXTENSION pg_topics UPDATE",
            "DROP EXTENSION pg_topics CASCADE",
            f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {whom}",
            f"SECURITY LABEL ON VIEW {view} IS 'x'",
            f"DROP SCHEMA {self.pick('topic', 'topics', 'topic_log')} CASCADE",
            f"CREATE TABLE evil.child () INHERITS ({table})",
            f"CREATE TABLE evil.like (LIKE {view} INCLUDING ALL)",
            "DROP TABLE IF EXISTS evil.child, evil.like",
            "CHECKPOINT",
        )

    def temporary(self):
        """Temporary tables that bear the names of others."""
        name = self.pick(*TEMPORARY)
        return self.pick(
            f"CREATE TEMP TABLE IF NOT EXISTS {name} (id int PRIMARY KEY, n int, t text) "
            f"{self.pick('', 'ON COMMIT DELETE ROWS', 'ON COMMIT DROP')}",
            f"CREATE TEMP TABLE IF NOT EXISTS {name} AS {self.query()}",
            f"INSERT INTO pg_temp.{name} SELECT n FROM generate_series(1, {self.pick(1, 30)}) n ON CONFLICT DO NOTHING",
            f"UPDATE pg_temp.{name} SET t = 'x'",
            f"DELETE FROM pg_temp.{name}",
            f"DROP TABLE IF EXISTS pg_temp.{name} CASCADE",
            f"TRUNCATE pg_temp.{name}",
            f"SELECT * INTO TEMP {name} FROM {self.values.topic_view()}",
            f"CREATE TEMP VIEW {name} AS SELECT 1 AS one",
            f'CREATE TEMP TABLE IF NOT EXISTS {name} (id int, partition int, "offset" bigint) USING topic_log',
        )
