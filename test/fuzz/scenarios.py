"""Scenarios: lists of statements that belong together, or of what makes them."""

from sql import literal


class Scenarios:
    """A part of Statements."""

    def some(self, *makers, most=8):
        return [self.random.choice(makers) for _ in range(self.random.randrange(1, most))]

    def scene_of_a_cursor(self):
        name = f"c{self.pick(1, 2)}"
        return [
            self.begin(),
            f"DECLARE {name} {self.pick('SCROLL', 'SCROLL', '')} CURSOR {self.pick('', 'WITH HOLD')} FOR {self.scan()}",
            *self.some(
                lambda: self.fetch(name),
                lambda: self.fetch(name),
                lambda: self.fetch(name),
                self.insert,
                self.produce,
                most=15,
            ),
            self.pick("COMMIT", "COMMIT", "ROLLBACK"),
            lambda: self.fetch(name),
            lambda: self.fetch(name),
            f"CLOSE {name}",
        ]

    def scene_of_a_plan(self):
        name = f"p{self.pick(1, 2, 3)}"
        return [
            f"DEALLOCATE {name}",
            lambda: self.prepare(name),
            *self.some(
                lambda: self.execute(name),
                lambda: self.execute(name),
                lambda: self.execute(name),
                self.produce,
                self.insert,
                self.set,
                self.ddl,
                most=14,
            ),
        ]

    def scene_of_a_consumer(self):
        calls = [
            lambda name=name: f"SELECT * FROM {self.expression(self.named(name))}"
            for name in ("consume", "consume", "consume_bytea", "commit_offset", "reset_offset", "delete_group")
        ]
        return [
            self.begin(),
            *self.some(
                *calls, calls[0], self.savepoint, lambda: self.pick("ROLLBACK TO s1", "RELEASE s1"), self.produce
            ),
            self.pick("COMMIT", "COMMIT", "ROLLBACK"),
            lambda: f"CALL {self.expression(self.named('wait'))}",
        ]

    def scene_of_a_producer(self):
        return [
            self.begin(),
            *self.some(
                self.produce,
                self.insert,
                self.produce,
                self.savepoint,
                lambda: self.pick("ROLLBACK TO s1", "RELEASE s1"),
                self.write_table,
                most=15,
            ),
            self.pick("COMMIT", "COMMIT", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN"),
            "SELECT * FROM topics.last_produced()",
            lambda: f"CALL {self.expression(self.named('send'))}",
            "SELECT * FROM topics.last_produced()",
        ]

    def scene_of_an_owner(self):
        names = (
            "create_topic",
            "alter_topic",
            "add_partitions",
            "delete_records",
            "repair_topic",
            "rename_topic",
            "drop_topic",
            "describe_topic",
        )
        calls = [lambda name=name: f"SELECT * FROM {self.expression(self.named(name))}" for name in names]
        procedures = [
            lambda name=name: f"CALL {self.expression(self.named(name))}"
            for name in ("roll_segment", "roll_segment", "maintain")
        ]
        return [
            self.pick("SELECT 1", self.begin()),
            *self.some(*calls, *procedures, self.produce, self.insert, self.savepoint, self.ddl, most=12),
            self.pick("COMMIT", "ROLLBACK"),
        ]

    def scene_of_two_phases(self):
        name = f"'fuzz-{self.client}-{self.pick(1, 2)}'"
        return [
            self.begin(),
            *self.some(self.write_table, self.savepoint, self.insert, self.select, self.call, most=4),
            f"PREPARE TRANSACTION {name}",
            self.produce,
            f"{self.pick('COMMIT', 'ROLLBACK')} PREPARED {name}",
        ]

    def scene_of_a_table(self):
        """Changes of a temporary table that go to a topic, the rows of a query into another."""
        topic = literal(self.values.topic_name())
        return [
            f"CREATE TEMP TABLE IF NOT EXISTS new (id int PRIMARY KEY, n int, t text) "
            f"{self.pick('', '', 'ON COMMIT DELETE ROWS')}",
            f"CREATE {self.pick('', 'CONSTRAINT ')}TRIGGER t1 AFTER INSERT OR UPDATE OR DELETE ON pg_temp.new FOR EACH "
            f"ROW EXECUTE FUNCTION "
            f"topics.produce_change({topic}{self.pick('', '', ', $$id$$', ', $$n$$, $$t$$')})".replace("$$", "'"),
            *self.some(
                lambda: f"INSERT INTO pg_temp.new SELECT n, n, n FROM generate_series(1, {self.pick(1, 30)}) n ON "
                f"CONFLICT DO NOTHING",
                lambda: f"UPDATE pg_temp.new SET id = id + {self.pick(0, 100)}, t = {self.values.value('text')} WHERE "
                f"id < {self.pick(3, 30)}",
                lambda: f"DELETE FROM pg_temp.new WHERE id > {self.pick(0, 20)}",
                lambda: f"ALTER TABLE pg_temp.new ADD COLUMN IF NOT EXISTS a{self.pick(1, 2)} "
                f"{self.pick('int[]', 'jsonb', 'text')}",
                lambda: "ALTER TABLE pg_temp.new DROP COLUMN IF EXISTS n",
                "TRUNCATE pg_temp.new",
                self.savepoint,
            ),
            self.pick("DROP TABLE pg_temp.new", "DISCARD TEMP", "SELECT 1"),
        ]

    def savepoint(self):
        self.savepoints += 1
        return f"SAVEPOINT s{1 if self.savepoints == 1 else self.pick(1, 1, 2, 3)}"

    def named(self, name):
        return self.random.choice([function for function in self.world.functions if function.name == name])

    def produce(self):
        return f"SELECT {self.expression(self.named(self.pick('produce', 'produce', 'produce_batch', 'produce_batch_bytea')))}{self.pick('', '', ' FROM generate_series(1, 20)')}"

    def scan(self):
        """A query that an Offset Scan, or a Fetch Scan, is likely to answer."""
        view = self.values.topic_view()
        partition = self.pick(
            "r.partition = 0",
            "r.partition = 0",
            "r.partition = 1",
            "r.partition IN (0, 1)",
            "r.partition = ANY (ARRAY[0, 2])",
        )
        low = self.pick(
            "",
            f" AND r.offset >= {self.pick(0, 3, 30, 100)}",
            f" AND r.offset > {self.pick(-1, 3, 30, 9223372036854775807)}",
        )
        high = self.pick("", "", f" AND r.offset < {self.pick(0, 5, 50, 1000)}", f" AND r.offset <= {self.pick(5, 50)}")
        more = self.pick("", "", "", " AND r.key IS NOT NULL", " AND r.timestamp < now()")
        order = self.pick(
            "", " ORDER BY r.offset", " ORDER BY r.offset", " ORDER BY r.offset DESC", " ORDER BY r.partition, r.offset"
        )
        if self.chance(0.25):
            return (
                f"SELECT * FROM topics.fetch{self.pick('', '_bytea')}({literal(self.values.topic_name())}, "
                f"{self.pick(0, 1)}, {self.pick(0, 0, 5)}{self.pick('', ', max_records => 3', ', max_bytes => 100')}) r"
            )
        return (
            f"SELECT * FROM {view} r WHERE "
            f"{partition}{low}{high}{more}{order}{self.pick('', '', ' LIMIT 5', ' LIMIT 100', ' OFFSET 3')}"
        )
