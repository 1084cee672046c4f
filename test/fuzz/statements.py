"""Random statements: calls, transactions, settings; and what is derived from it.

Statements.next() gives one that suits the session's state, mostly; it is SQL
with its values in it, so a history can be given to psql.  To add a kind of
statement: a method that returns SQL, and its weight in the table.
"""

import collections

from changes import Changes
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR
from queries import Queries
from scenarios import Scenarios
from sql import EMPTY, Statement, identifier, literal
from world import NEW_NAMES, OWN_TOPICS, TEMPORARY

# In a DO block an error is handled, and seen nevertheless if it is an internal one
HANDLER = "EXCEPTION WHEN OTHERS THEN IF SQLSTATE LIKE 'XX%' THEN RAISE; END IF;"

SETTINGS = {
    "pg_topics.early_lock_release": ["auto", "on", "off"],
    "pg_topics.enable_offset_scan": ["on", "off"],
    "pg_topics.worker_interval": ["1s"], "pg_topics.max_partitions": ["5"], "pg_topics.nonsense": ["1"],
    "work_mem": ["64kB", "4MB"], "hash_mem_multiplier": ["1", "2"], "temp_buffers": ["800kB"], "cursor_tuple_fraction": ["0.0001", "1"],
    "jit": ["on", "off"], "jit_above_cost": ["0", "100000"], "jit_inline_above_cost": ["0", "500000"], "jit_optimize_above_cost": ["0", "500000"],
    "enable_seqscan": ["on", "off"], "enable_sort": ["on", "off"], "enable_hashjoin": ["on", "off"], "enable_mergejoin": ["on", "off"],
    "enable_nestloop": ["on", "off"], "enable_material": ["on", "off"], "enable_memoize": ["on", "off"], "enable_hashagg": ["on", "off"],
    "enable_bitmapscan": ["on", "off"], "enable_indexscan": ["on", "off"], "enable_incremental_sort": ["on", "off"],
    "enable_partition_pruning": ["on", "off"], "enable_partitionwise_join": ["on", "off"], "enable_partitionwise_aggregate": ["on", "off"],
    "enable_parallel_append": ["on", "off"], "constraint_exclusion": ["on", "off", "partition"],
    "max_parallel_workers_per_gather": ["0", "2"], "parallel_setup_cost": ["0", "1000"], "parallel_tuple_cost": ["0", "0.1"],
    "min_parallel_table_scan_size": ["0", "8MB"], "parallel_leader_participation": ["on", "off"],
    "force_parallel_mode": ["on", "off", "regress"], "debug_parallel_query": ["on", "off", "regress"],
    "plan_cache_mode": ["auto", "force_generic_plan", "force_custom_plan"], "geqo_threshold": ["2", "12"], "from_collapse_limit": ["1", "8"],
    "statement_timeout": ["1ms", "3ms", "10ms", "50ms", "300ms", "1s"], "lock_timeout": ["1ms", "20ms", "500ms", "0"],
    "idle_in_transaction_session_timeout": ["1ms", "500ms", "0"], "transaction_timeout": ["5ms", "100ms", "1s", "0"],
    "default_transaction_isolation": ["read committed", "repeatable read", "serializable"],
    "default_transaction_read_only": ["on", "off", "off"],
    "transaction_isolation": ["serializable", "repeatable read"], "transaction_read_only": ["on", "off"],
    "synchronous_commit": ["on", "off", "local", "remote_apply"],
    "DateStyle": ["ISO", "German", "SQL, DMY"], "IntervalStyle": ["iso_8601", "sql_standard", "postgres"], "TimeZone": ["UTC", "Asia/Kolkata", "-20"],
    "bytea_output": ["hex", "escape"], "client_min_messages": ["debug1", "notice", "error"], "standard_conforming_strings": ["on"],
    "extra_float_digits": ["-15", "3"], "lc_messages": ["C"], "row_security": ["on", "off"], "check_function_bodies": ["on", "off"],
    "default_table_access_method": ["heap", "topic_log"], "default_tablespace": ["", "pg_default"], "session_replication_role": ["replica"],
    "role": ["owners", "none", "other", "granted"], "search_path": ["public", "", "topic, topics", "topic_log, topics, public",
                                                                    "evil, pg_catalog", "evil, pg_catalog, topics", "evil, topic, pg_temp, pg_catalog",
                                                                    "pg_temp, topics, pg_catalog", "no_such"],
    "client_encoding": ["UTF8", "UTF8", "LATIN1", "SQL_ASCII"], "array_nulls": ["on", "off"], "xmlbinary": ["hex"],
    "debug_discard_caches": ["1"], "commit_siblings": ["0"], "wal_compression": ["on"], "trace_sort": ["on"],
    "debug_print_plan": ["off"], "plpgsql.variable_conflict": ["error", "use_column"], "exit_on_error": ["off"],
}


RARE = ("drop_topic", "rename_topic", "insert_record", "append_only", "produce_change", "create_roles")  # undo the work of others, or always fail

OWNERS = ("create_topic", "alter_topic", "add_partitions", "delete_records", "repair_topic", "rename_topic", "drop_topic", "roll_segment", "maintain")


class Statements(Scenarios, Queries, Changes):
    def __init__(self, random, world, values, client):
        self.random = random
        self.world = world
        self.values = values
        self.chance = values.chance
        self.pick = values.pick
        self.number = 0
        self.client = client
        self.queue = collections.deque()  # the rest of a scenario
        self.savepoints = 0
        self.table = self._weighted(
            {
                self.call: 30,
                self.select: 20,
                self.insert: 10,
                self.copy: 3,
                self.change: 2,
                self.do_block: 5,
                self.cursor: 3,
                self.prepared: 2,
                self.explain: 3,
                self.scan: 6,
                self.set: 5,
                self.ddl: 3,
                self.temporary: 3,
                self.wrapper: 2,
                self.write_table: 4,
                self.session: 1,
                self.locks: 1,
                self.settle: 2,
                self.multiple: 1,
                self.listen: 1,
                self.row_type: 1,
            }
        )

        self.scenarios = [
            self.scene_of_a_cursor,
            self.scene_of_a_cursor,
            self.scene_of_a_plan,
            self.scene_of_a_consumer,
            self.scene_of_a_producer,
            self.scene_of_an_owner,
            self.scene_of_two_phases,
            self.scene_of_a_table,
        ]

    @staticmethod
    def _weighted(weights):
        return [method for method, weight in weights.items() for _ in range(weight)]

    def next(self, status):
        self.values.tame = self.chance(0.6)
        if status == TRANSACTION_STATUS_INERROR and self.chance(0.95):
            if self.savepoints and self.chance(0.5):
                return Statement("ROLLBACK TO s1")
            self.savepoints = 0
            self.queue.clear()
            return Statement(self.pick("ROLLBACK", "ROLLBACK", "COMMIT", "ROLLBACK AND CHAIN"))
        if status == TRANSACTION_STATUS_IDLE:
            self.savepoints = 0
        if self.queue and self.chance(0.93):
            step = self.queue.popleft()
            result = step() if callable(step) else step
        elif status == TRANSACTION_STATUS_IDLE and self.chance(0.08):
            self.queue.extend(self.random.choice(self.scenarios)())
            return self.next(status)
        elif status == TRANSACTION_STATUS_IDLE and self.chance(0.25):
            result = self.begin()
        elif status != TRANSACTION_STATUS_IDLE and self.chance(0.2):
            result = self.within()
        else:
            result = self.random.choice(self.table)()
        return result if isinstance(result, Statement) else Statement(result)

    # ------------------------------------------------------------------
    # Transactions
    # ------------------------------------------------------------------

    def begin(self):
        if self.chance(0.5):
            self.savepoints = self.pick(0, 0, 1)
            return "BEGIN; SAVEPOINT s1" if self.savepoints else "BEGIN"
        if self.chance(0.08):
            # not where a savepoint can be gone back to before the snapshot is had: in PostgreSQL
            # a cancel of the wait for a safe one leaves what an assertion does not expect
            return "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; SELECT 1"
        return "BEGIN ISOLATION LEVEL {}{}".format(
            self.pick("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "READ UNCOMMITTED"),
            self.pick("", "", "", " READ ONLY", " READ WRITE"),
        )

    def within(self):
        """What goes on with, or ends, a transaction."""
        kind = self.random.random()
        if kind < 0.38:
            return self.pick("COMMIT", "COMMIT", "COMMIT", "COMMIT AND CHAIN")
        if kind < 0.5:
            return self.pick("ROLLBACK", "ROLLBACK", "ROLLBACK AND CHAIN", "ABORT")
        if kind < 0.7:
            return self.savepoint()
        if kind < 0.8 and self.savepoints:
            return f"ROLLBACK TO s{self.pick(1, 1, 2, 3)}"
        if kind < 0.88 and self.savepoints:
            return f"RELEASE s{self.pick(1, 1, 2, 3)}"
        if kind < 0.97:
            self.number += 1
            return f"PREPARE TRANSACTION 'fuzz-{self.client}-{self.number % 3}'"
        return self.pick(
            "SET TRANSACTION READ ONLY",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET CONSTRAINTS ALL IMMEDIATE",
            "SET TRANSACTION SNAPSHOT '00000003-0000001B-1'",
            "SELECT pg_export_snapshot()",
            "BEGIN",
        )

    def settle(self):
        return f"{self.pick('COMMIT', 'ROLLBACK')} PREPARED 'fuzz-{self.client}-{self.random.randrange(3)}'"

    # ------------------------------------------------------------------
    # Calls
    # ------------------------------------------------------------------

    def function(self):
        # those of topic_log are for the views
        functions = self.world.functions
        function = self.random.choice(functions)
        while (function.schema == "topic_log" or function.name in RARE) and self.chance(0.85):
            function = self.random.choice(functions)
        return function

    def arguments(self, function):
        """What stands between the parentheses."""
        arguments = function.arguments
        if self.chance(0.01):  # too few, too many, of other types
            return ", ".join(
                self.values.value(self.pick("text", "integer", "bytea", "jsonb", "text[]"))
                for _ in range(self.random.randrange(6))
            )
        if function.name == "reset_offset" and self.values.tame:
            target = self.pick(
                "to_position => 'earliest'",
                "to_position => 'latest'",
                f"to_offset => {self.pick(0, 1, 5)}",
                "to_time => now()",
                f"shift_by => {self.pick(-3, 2)}",
            )
            return (
                f"{literal(self.values.group_name())}, {literal(self.values.topic_name())}, "
                f"{target}{self.pick('', ', partition => 0', ', dry_run => true')}"
            )
        parts = []
        named = self.chance(0.4)
        count = len(arguments) if named else self.random.randrange(function.required, len(arguments) + 1)
        if self.values.tame and not named:
            count = min(count, function.required + self.pick(0, 0, 1, 2))
        seen_default = False
        for number, (name, type_name, _mode) in enumerate(arguments[:count]):
            if named and number >= function.required and self.chance(0.8 if self.values.tame else 0.6):
                seen_default = True
                continue
            if self.values.tame and name == "topic" and function.name in OWNERS:
                value = literal(
                    self.pick(*NEW_NAMES[:4])
                    if function.name in ("create_topic", "drop_topic", "rename_topic")
                    else self.pick(*OWN_TOPICS, *NEW_NAMES[:4])
                )
            else:
                value = self.values.argument(name, type_name)
            if self.chance(0.6):
                value = f"({value})::{type_name}" if type_name not in ("internal", "cstring") else value
            if named and (seen_default or number >= function.required or self.chance(0.2)):
                seen_default = True
                value = f"{identifier(name or 'x')} => {value}"
            parts.append(value)
        if parts and self.chance(0.005):
            parts[-1] = "VARIADIC " + parts[-1]
        return ", ".join(parts)

    def expression(self, function=None):
        function = function or self.function()
        return f"{function}({self.arguments(function)})"

    def plain_function(self, sets=None):
        """One that is no procedure."""
        while True:
            function = self.function()
            if not function.is_procedure and (sets is None or function.returns_set == sets):
                return function

    def call(self):
        function = self.function()
        call = self.expression(function)
        if function.is_procedure:
            return f"CALL {call}" if self.chance(0.98) else f"SELECT {call}"
        kind = self.random.randrange(26)
        if kind < 7:
            return f"SELECT {call}"
        if kind < 14:
            return f"SELECT * FROM {call}"
        return (
            lambda: f"SELECT {call}, {self.expression(self.plain_function())}",
            lambda: f"SELECT * FROM ROWS FROM ({call}, {self.expression(self.plain_function())}) WITH ORDINALITY",
            lambda: f"SELECT * FROM generate_series(1, {self.pick(2, 5, 50)}) n, LATERAL {call} f "
            f"{self.pick('', 'LIMIT 3', 'WHERE n > 1')}",
            lambda: f"SELECT n, f FROM generate_series(1, 3) n LEFT JOIN LATERAL {call} f ON "
            f"{self.pick('true', 'n = 2', 'false')}",
            lambda: f"SELECT * FROM {call} f {self.conditions(function.columns)}",
            lambda: f"SELECT count(*), max(f::text) FROM {call} f",
            lambda: f"WITH c AS {self.pick('', 'MATERIALIZED', 'NOT MATERIALIZED')} (SELECT * FROM {call}) SELECT * "
            f"FROM c a, c b LIMIT 5",
            lambda: f"SELECT * FROM {self.values.topic_view()} r WHERE EXISTS (SELECT {call}) LIMIT 3",
            lambda: f"SELECT 1 ORDER BY {call}",
            lambda: f"SELECT ARRAY(SELECT f FROM {call} f)::text",
            lambda: f"SELECT (f).* FROM (SELECT {call} AS f {self.pick('', 'OFFSET 0')}) f",
            lambda: f"SELECT CASE WHEN random() < 0.5 THEN {call}::text END FROM generate_series(1, 4)",
        )[self.random.randrange(12)]()

    def do_block(self):
        """PL/pgSQL: handled errors, loops, commits within, cursors."""
        body = []
        for _ in range(self.random.randrange(1, 5)):
            body.append(self.block_step())
        declare = "DECLARE r record; n int; p int; o bigint; t text; "
        return f"DO $do${declare}BEGIN {' '.join(body)} END$do$"

    def block_step(self):
        function = self.function()
        call = self.expression(function)
        if function.is_procedure:
            step = f"CALL {call};"
            if function.name.startswith("send") and self.chance(0.5):
                step = f"CALL {function}({literal(self.values.topic_name())}, {self.values.value(function.arguments[1][1])}, NULL, NULL, p, NULL, o);"
        else:
            step = self.pick(
                f"PERFORM * FROM {call};",
                f"SELECT {call} INTO t;",
                f"t := {call};" if not function.returns_set else f"PERFORM {call};",
                f"FOR r IN SELECT * FROM {call} LOOP PERFORM {self.expression(self.plain_function())}; "
                f"{self.pick('', 'EXIT;', 'COMMIT;')} END LOOP;",
                f"EXECUTE $e$SELECT {call}$e$;",
                f"PERFORM {call} FROM generate_series(1, {self.pick(2, 20)});",
            )
        kind = self.random.random()
        if kind < 0.45:
            return f"BEGIN {step} {self.pick('', '', 'RAISE EXCEPTION $m$mine$m$;', 'PERFORM 1/0;')} {HANDLER} END;"
        if kind < 0.6:
            return step + self.pick("COMMIT;", "ROLLBACK;", "COMMIT AND CHAIN;")
        if kind < 0.75:
            return f"FOR i IN 1..{self.pick(2, 10, 40)} LOOP BEGIN {step} {HANDLER} END; END LOOP;"
        if kind < 0.85:
            return f"BEGIN {self.insert_plain()}; {self.pick('', 'PERFORM 1/0;')} {HANDLER} END; {step}"
        return step

    def wrapper(self):
        """Functions of the role's own, triggers, defaults and indexes that call ours."""
        function = self.plain_function()
        call = self.expression(function)
        temporary = self.pick(*TEMPORARY)
        name = f"w{self.pick(1, 2)}"
        trigger = self.pick(
            "topics.produce_change", "topics.produce_change", "topics.insert_record", "topics.append_only"
        )
        arguments = self.pick(
            "",
            f"{literal(self.values.topic_name())}",
            f"{literal(self.values.topic_name())}, 'id'",
            "'shared', 'n', 't'",
            "'json', 'no_such'",
            "'shared', 'id', 'id'",
            "'', ''",
        )
        return self.pick(
            f"CREATE OR REPLACE FUNCTION pg_temp.{name}() RETURNS SETOF record LANGUAGE sql "
            f"{self.pick('STABLE', 'VOLATILE', 'IMMUTABLE')} AS $w$SELECT f FROM {call} f$w$",
            f"CREATE OR REPLACE FUNCTION pg_temp.{name}() RETURNS text LANGUAGE plpgsql "
            f"{self.pick('', 'SECURITY DEFINER', 'PARALLEL SAFE', 'SET search_path = evil')} "
            f"AS $w$DECLARE r record; BEGIN FOR r IN SELECT * FROM {call} LOOP RETURN r::text; END LOOP; RETURN NULL; "
            f"END$w$",
            f"SELECT pg_temp.{name}()",
            f"SELECT * FROM pg_temp.{name}() AS f(x text)",
            f"CREATE INDEX ON pg_temp.{temporary} ((pg_temp.{name}()))",
            f"ALTER TABLE pg_temp.{temporary} ADD COLUMN c{self.pick(1, 2)} text DEFAULT ({call})::text",
            f"ALTER TABLE pg_temp.{temporary} ADD CHECK (({call})::text <> 'x')",
            f"CREATE {self.pick('', 'CONSTRAINT ')}TRIGGER t{self.pick(1, 2)} {self.pick('AFTER', 'BEFORE')} "
            f"{self.pick('INSERT', 'INSERT OR UPDATE OR DELETE', 'UPDATE OF id')} ON "
            f"pg_temp.{temporary} {self.pick('', 'DEFERRABLE INITIALLY DEFERRED')} FOR EACH "
            f"{self.pick('ROW', 'ROW', 'STATEMENT')} EXECUTE FUNCTION {trigger}({arguments})",
            f"CREATE TRIGGER t3 AFTER INSERT ON public.plain REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT "
            f"EXECUTE FUNCTION {trigger}({arguments})",
            f"CREATE TRIGGER t4 INSTEAD OF INSERT ON topic.plain_view FOR EACH ROW EXECUTE FUNCTION "
            f"{trigger}({arguments})",
            f"CREATE OR REPLACE TEMP VIEW v{self.pick(1, 2)} AS SELECT * FROM {call}",
            f"CREATE OR REPLACE TEMP VIEW v{self.pick(1, 2)} AS SELECT * FROM {self.values.topic_view()}",
            f"CREATE MATERIALIZED VIEW m1 AS SELECT * FROM {call}",
            "REFRESH MATERIALIZED VIEW m1",
            "DROP MATERIALIZED VIEW m1",
            f"SELECT * FROM v{self.pick(1, 2)} LIMIT 10",
            f"DROP VIEW v{self.pick(1, 2)} CASCADE",
            f"INSERT INTO v{self.pick(1, 2)} DEFAULT VALUES",
        )

    # ------------------------------------------------------------------
    # The session
    # ------------------------------------------------------------------

    def set(self):
        name = self.random.choice(list(SETTINGS))
        if self.chance(0.15):
            name = self.pick("role", "search_path", "statement_timeout")
        value = self.random.choice(SETTINGS[name])
        if self.chance(0.15):
            return self.pick(
                "RESET ALL", f"RESET {name}", f"SHOW {name}", "SET SESSION AUTHORIZATION DEFAULT", "RESET ROLE"
            )
        local = self.pick("", "", "LOCAL ")
        if name in ("search_path", "DateStyle"):
            return f"SET {local}{name} = {value or EMPTY}"
        return f"SET {local}{name} = {literal(value)}"

    def session(self):
        return self.pick(
            "DISCARD ALL",
            "DISCARD PLANS",
            "DISCARD TEMP",
            "DISCARD SEQUENCES",
            "RESET ALL",
            "DEALLOCATE ALL",
            "UNLISTEN *",
            "SELECT pg_advisory_unlock_all()",
            "SET SESSION AUTHORIZATION stranger",
            "SELECT pg_sleep(0.01)",
            "SELECT pg_notify('a', 'b')",
        )

    def listen(self):
        topic = literal(self.values.topic_name())
        return self.pick(
            "LISTEN a",
            f"DO $l$BEGIN EXECUTE format('LISTEN %I', topics.channel({topic})); END$l$",
            "NOTIFY a, 'x'",
            "UNLISTEN *",
            f"DO $l$BEGIN PERFORM pg_notify(topics.channel({topic}), '{{}}'); END$l$",
        )

    def locks(self):
        return self.pick(
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT pg_try_advisory_lock(2)",
            "LOCK TABLE public.item IN SHARE MODE",
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'pg_topics%'",
        )

    def multiple(self):
        """Several statements at once: an implicit transaction."""
        return "; ".join(
            self.pick(self.call, self.select, self.insert, self.set, self.within, self.begin)()
            for _ in range(self.random.randrange(2, 5))
        )
