"""Random queries, and what they are used in: cursors, prepared statements, EXPLAIN."""

from sql import identifier, literal
from world import RECORD_COLUMNS


class Queries:
    """A part of Statements."""

    def relation(self):
        """(what stands in FROM, its columns)"""
        kind = self.random.random()
        if kind < 0.72:
            return self.values.topic_view(), RECORD_COLUMNS
        if kind < 0.88:
            return self.random.choice(self.world.views if self.chance(0.1) else self.world.public_views)
        function = self.plain_function(sets=True)
        return self.expression(function), function.columns or [("f", "text")]

    def condition(self, columns, alias):
        name, type_name = self.random.choice(columns)
        if len(columns) == len(RECORD_COLUMNS) and self.chance(0.6):
            name, type_name = self.random.choice(RECORD_COLUMNS[:3])
        column = f"{alias}.{identifier(name)}"
        value = self.values.argument({"offset": "from_offset"}.get(name, name), type_name)
        kind = self.random.randrange(16)
        if kind < 9:
            return f"{column} {self.pick('=', '=', '<', '>', '>=', '>=', '<=', '<>', 'IS DISTINCT FROM')} {value}"
        return (
            lambda: f"{column} IN ({value}, {self.values.argument(name, type_name)})",
            lambda: f"{column} = ANY (ARRAY[{value}]::{type_name}[])",
            lambda: f"{column} BETWEEN {value} AND {self.values.argument(name, type_name)}",
            lambda: f"{column} IS {self.pick('', 'NOT ')}NULL",
            lambda: f"{column} >= (SELECT {value})",
            lambda: f"{column}::text LIKE '%1%'",
            lambda: f"{value} <= {column}",
        )[kind - 9]()

    def conditions(self, columns, alias="f"):
        """WHERE, ORDER BY, LIMIT."""
        sql = ""
        columns = [column for column in columns if column[0]]
        if columns and self.chance(0.7):
            parts = [self.condition(columns, alias) for _ in range(self.random.randrange(1, 4))]
            sql += f" WHERE {self.pick('', '', '', 'NOT ')}" + self.pick(" AND ", " AND ", " OR ").join(parts)
        if columns and self.chance(0.55):
            names = [column[0] for column in columns]
            keys = [
                f"{alias}.{identifier(name)} {self.pick('', 'DESC', 'NULLS FIRST')}"
                for name in (
                    self.random.sample(names, min(len(names), self.random.randrange(1, 3)))
                    if self.chance(0.4) or "offset" not in names
                    else ["partition", "offset"][self.pick(0, 1) :]
                )
            ]
            sql += " ORDER BY " + ", ".join(keys)
        if self.chance(0.5):
            sql += f" LIMIT {self.pick('1', '2', '10', '100', '0', 'ALL', 'NULL', '-1', '(SELECT 3)')}"
        if self.chance(0.12):
            sql += f" OFFSET {self.pick('0', '1', '7', '1000', '-1')}"
        if self.chance(0.04):
            sql += f" FOR {self.pick('UPDATE', 'SHARE', 'KEY SHARE', 'NO KEY UPDATE')}{self.pick('', ' NOWAIT', ' SKIP LOCKED')}"
        return sql

    def query(self, depth=0):
        relation, columns = self.relation()
        tail = self.conditions(columns, "r")
        kind = self.random.randrange(22 if depth < 2 else 8)
        if kind < 8:
            names = [f"r.{identifier(name)}" for name, _ in columns if name]
            what = self.pick("*", "*", "r", "r.*", "count(*) OVER ()", ", ".join(names[:3]) or "*", "lag(r) OVER ()")
            return (
                f"SELECT {self.pick('', '', '', 'DISTINCT ')}{what} FROM "
                f"{self.pick('', '', '', 'ONLY ') if '(' not in relation else ''}{relation} r{tail}"
            )
        other, others = self.relation()
        name = self.random.choice([name for name, _ in columns if name] or ["x"])
        other_name = self.random.choice([name for name, _ in others if name] or ["x"])
        return (
            lambda: f"SELECT count(*), min(r::text), max(r::text) FROM {relation} r{tail}",
            lambda: f"SELECT count(*) FROM {relation} r {self.pick('', 'LEFT ', 'FULL ', 'RIGHT ')}JOIN {other} s ON "
            f"r.{identifier(name)} = s.{identifier(other_name)}",
            lambda: f"SELECT * FROM {relation} r JOIN {other} s USING "
            f"({self.pick('partition', 'offset', 'partition, key', 'topic')}) ORDER BY 1 LIMIT 10",
            lambda: f"({self.query(depth + 1)}) {self.pick('UNION ALL', 'UNION', 'EXCEPT', 'INTERSECT')} "
            f"({self.query(depth + 1)})",
            lambda: f"SELECT * FROM ({self.query(depth + 1)}) q LIMIT {self.pick(1, 10, 100)}",
            lambda: f"SELECT r.{identifier(name)}, count(*) FROM {relation} r GROUP BY "
            f"{self.pick('1', 'ROLLUP (1)', 'GROUPING SETS ((1), ())')} HAVING count(*) > 0",
            lambda: f"SELECT (SELECT count(*) FROM {other} s WHERE s.{identifier(other_name)} = r.{identifier(name)}) "
            f"FROM {relation} r{tail}",
            lambda: f"SELECT * FROM {relation} r, LATERAL (SELECT * FROM {other} s WHERE s.{identifier(other_name)} >= "
            f"r.{identifier(name)} LIMIT 2) l LIMIT 20",
            lambda: f"SELECT * FROM generate_series(0, 3) n, LATERAL (SELECT * FROM {self.values.topic_view()} r WHERE "
            f"r.partition = n AND r.offset >= n * 2 "
            f"ORDER BY r.offset {self.pick('', 'DESC')} LIMIT 3) l",
            lambda: f"WITH RECURSIVE c AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM c, {relation} r WHERE n < 5) "
            f"SELECT * FROM c LIMIT 50",
            lambda: f"SELECT * FROM {relation} r TABLESAMPLE {self.pick('SYSTEM', 'BERNOULLI')} (50)",
            lambda: f"SELECT row_number() OVER (PARTITION BY r.{identifier(name)}), r FROM {relation} r{tail}",
            lambda: f"SELECT r.{self.pick('ctid', 'tableoid', 'xmin', 'tableoid::regclass')} FROM {relation} r{tail}",
            lambda: f"TABLE {self.values.topic_view()}",
        )[kind - 8]()

    def select(self):
        return self.query()

    def explain(self):
        options = ", ".join(
            option
            for option, probability in (
                ("ANALYZE", 0.6),
                ("VERBOSE", 0.4),
                ("COSTS off", 0.4),
                ("BUFFERS", 0.2),
                ("SETTINGS", 0.1),
                ("FORMAT JSON", 0.1),
                ("FORMAT XML", 0.1),
                ("GENERIC_PLAN", 0.02),
                ("MEMORY", 0.02),
                ("SERIALIZE", 0.02),
            )
            if self.chance(probability)
        )
        return f"EXPLAIN {'(' + options + ') ' if options else ''}{self.pick(self.query(), self.scan(), self.scan(), self.insert_plain(), 'EXECUTE p1(1)')}"

    def cursor(self):
        name = f"c{self.pick(1, 1, 2)}"
        kind = self.random.random()
        if kind < 0.3:
            query = (
                self.query()
                if self.chance(0.5)
                else (
                    f"SELECT * FROM {self.values.topic_view()} r WHERE r.partition = {self.pick(0, 1)} AND r.offset >= "
                    f"{self.pick(0, 3, 30)} "
                    f"ORDER BY r.offset {self.pick('', 'DESC')}"
                )
            )
            if self.chance(0.2):
                query = f"SELECT * FROM {self.expression(self.plain_function(sets=True))}"
            return (
                f"DECLARE {name} {self.pick('', 'BINARY ', '', '', 'INSENSITIVE ')}{self.pick('', 'SCROLL', 'SCROLL', 'NO SCROLL')} CURSOR "
                f"{self.pick('', 'WITH HOLD')} FOR {query}"
            )
        if kind < 0.85:
            return self.fetch(name)
        if kind < 0.95:
            return f"CLOSE {self.pick(name, name, 'ALL')}"
        return (
            f"{self.pick('DELETE FROM', 'UPDATE')} {self.values.topic_view()} {self.pick('', 'SET key = NULL')} "
            f"WHERE CURRENT OF {name}"
        )

    def fetch(self, name):
        return (
            f"{self.pick('FETCH', 'FETCH', 'FETCH', 'MOVE')} "
            f"{self.pick('', 'BACKWARD', 'FORWARD 3', 'BACKWARD 2', 'ALL', 'BACKWARD ALL', 'ABSOLUTE 2', 'ABSOLUTE -1', 'ABSOLUTE 0', 'RELATIVE 0', 'RELATIVE -2', 'LAST', 'FIRST', 'PRIOR', '0', '-3', '100')}"
            f" FROM {name}"
        )

    def prepared(self):
        name = f"p{self.pick(1, 2, 3)}"
        kind = self.random.random()
        if kind < 0.25:
            return self.prepare(name)
        if kind < 0.93:
            return self.execute(name)
        return f"DEALLOCATE {self.pick(name, name, 'ALL')}"

    def prepare(self, name):
        topic = self.values.topic_view()
        return self.pick(
            f"PREPARE {name}(bigint) AS SELECT * FROM {topic} r WHERE r.partition = 0 AND r.offset >= $1 ORDER BY "
            f"r.offset LIMIT 5",
            f"PREPARE {name}(int) AS SELECT * FROM {topic} r WHERE r.partition = $1 AND r.offset = $1",
            f"PREPARE {name}(int) AS SELECT * FROM topics.fetch({literal(self.values.topic_name())}, $1, $1 * 2, "
            f"max_records => $1 + 1)",
            f"PREPARE {name}(text) AS SELECT topics.produce({literal(self.values.topic_name())}, $1)",
            f"PREPARE {name}(text) AS SELECT * FROM topics.consume({literal(self.values.group_name())}, $1)",
            f"PREPARE {name}(text) AS INSERT INTO {topic} (value) VALUES ($1) RETURNING *",
            f"PREPARE {name} AS {self.query()}",
        )

    def execute(self, name):
        return f"EXECUTE {name}{self.pick('', '(0)', '(0)', '(1)', '(1)', '(3)', '(NULL)', '(-1)', '(9223372036854775807)', '(2147483647)')}"

    def row_type(self):
        relation = self.pick(self.values.topic_view(), self.random.choice(self.world.views)[0])
        value = self.pick("()", "(,,,,,)", '(1,now,0,a,b,"{}")', "(1,2", "x", "(a,b,c)", "(,,,,,,,,,,,,,,)")
        return self.pick(
            f"SELECT ('{value}'::{relation}).*",
            f"SELECT NULL::{relation} IS NULL",
            f"SELECT ARRAY['{value}'::{relation}]",
            f'SELECT * FROM jsonb_populate_record(NULL::{relation}, \'{{"partition": "1", "offset": 7}}\')',
            f"SELECT row_to_json(r) FROM {relation} r LIMIT 3",
            f"SELECT pg_column_size(r), hash_record(r) FROM {relation} r LIMIT 3",
            f"SELECT pg_get_viewdef('{relation.replace(chr(39), chr(39) * 2)}'::regclass)",
        )
