"""Random values of a type, as SQL expressions: the ends of ranges, what is odd, what is long."""

from sql import identifier, literal
from world import GROUPS, NEW_NAMES, ODD_NAMES, SECRETS, TYPES

INTEGERS = [0, 1, 2, 3, -1, 7, 100, 500, 16383, 65536, 10000, 10001, 2147483647, -2147483648]
BIGINTS = [0, 1, 2, 5, 10, 100, -1, 1000, 65536, 65535, 1 << 31, 1 << 32, (1 << 63) - 1, (1 << 63) - 2, -(1 << 63)]
FLOATS = ["0", "1", "0.5", "-1", "'NaN'", "'infinity'", "'-infinity'", "1e308", "1e-308", "0.1", "1.0000001"]
INTERVALS = ["0", "1 ms", "5 ms", "20 ms", "-1 ms", "1 s", "-1 s", "30 s", "1 min", "61 s", "1 day", "1 mon", "-1 mon 30 days",
             "24 days", "25 days", "2147483 s", "2147484 s", "178000000 years", "-178000000 years", "infinity", "-infinity",
             "0.000001 s", "1 mon -30 days", "9223372036854 s", "2562047788 hours"]
TIMES = ["now", "infinity", "-infinity", "epoch", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "yesterday",
         "2000-01-01 00:00:00+00", "1999-12-31 23:59:59.999999+00", "tomorrow"]
JSON = ["{}", "[]", "null", "1", '"text"', '{"a": 1}', '{"a": "b", "c": null}', '[["a", "b"]]', '[["a", "b"], ["a", "c"]]',
        '[["a", null]]', '[["a"]]', '[["a", "b", "c"]]', '[[1, "b"]]', '[[null, "b"]]', '[{"a": "b"}]', '{"": ""}', '[["", ""]]',
        '{"a": {"b": [1, 2]}}', '1e1000', "[[]]", "true", '{"a": "\\u00fc"}', '[1, 2, [3]]', '"\\\\x00"', '{"item": "tea"}']
TEXTS = ["", "a", "b", "c", "anna", " ", "1", "-5", "3.14", "earliest", "latest", "none", "EARLIEST", "delete", "compact", "compact,delete",
         "delete,compact", "CreateTime", "LogAppendTime", "createtime", "{}", "[1]", '{"a": 1}', "{1,2}", "(1,x)", "(1,)", "sad",
         "happy", "\\x00ff", "\\\\x", "ü", "日本", "a'b", 'a"b', "a\nb", "%", "$$", "now", "infinity", "true", "2026-01-01",
         "x" * 19, "x" * 20, "x" * 64, "NaN", "\x7f", "\ufeff", "\U0001f600"]
BYTES = ["", "\\x", "\\x00", "\\xff", "\\x61", "\\xc3bc", "\\xc3", "\\x" + "00" * 100, "abc", "\\x7b7d", "\\xf0908d"]
OIDS = ["0", "1", "4294967295", "'pg_class'::regclass", "'topic.shared'::regclass", "'topics.topic'::regclass", "16384",
        "'public.item'::regclass", "1259"]

# what an argument of a name most often gets
BY_NAME = {
    "topic": "topic", "new_name": "topic", "group_id": "group", "key_type": "type", "value_type": "type", "partition": "partition",
    "partitions": "partitions", "from_offset": "offset", "before_offset": "offset", "after_offset": "offset",
    "committed_offset": "offset", "to_offset": "offset", "shift_by": "offset", "max_records": "limit", "max_bytes": "limit",
    "max_wait": "wait", "segment_bytes": "segment_bytes", "topic_id": "offset", "take_over": "boolean", "auto_offset_reset": "position",
    "at": "position", "to_position": "position", "generation_id": "null", "member_id": "null", "cleanup_policy": "policy",
    "timestamp_type": "timestamp_type", "metadata": "text", "max_message_bytes": "message_bytes",
}


# what a call that is to succeed gets
TAME = {
    "partition": ["0", "0", "1"], "partitions": ["2", "3", "4"], "offset": ["0", "0", "1", "3", "10", "40"], "limit": ["1", "2", "5", "100", "10000"],
    "wait": ["'0'", "'0'", "'0'", "'5 ms'", "'50 ms'"], "segment_bytes": ["65536", "100000"], "message_bytes": ["1048576", "2000"],
    "position": ["'earliest'", "'latest'"], "policy": ["'delete'", "'compact'", "'compact,delete'"], "timestamp_type": ["'CreateTime'", "'LogAppendTime'"],
    "boolean": ["true", "false"], "null": ["NULL"], "type": ["'text'", "'text'", "'jsonb'", "'int'", "'bytea'", "'text[]'", "'public.short_text'", "'public.pair'"],
}
TAME_TEXTS = ["'1'", "'7'", "'12'", "'0'", "'3'", "NULL", "repeat('12', 400)", "repeat('7', 20000)"]  # of most of the topics' types
TAME_VALUES = {
    "text": TAME_TEXTS, "bytea": ["'1'", "'\\x35'", "NULL", "'77'", "convert_to(repeat('8', 3000), 'UTF8')"], "jsonb": ["'{}'", "'[]'", "'1'", "NULL", "'[[\"a\", \"b\"]]'"],
    "integer": ["0", "1", "2", "NULL"], "bigint": ["0", "1", "5", "20"], "boolean": ["true", "false"], "interval": ["'0'", "'1 s'", "'1 day'"],
    "timestamp with time zone": ["now()", "now() - interval '1 s'", "'epoch'"], "double precision": ["0", "0.1", "0.5"],
}


class Values:
    """While "tame" is set they are such that a call, as a whole, may succeed."""

    def __init__(self, random, world):
        self.random = random
        self.world = world
        self.tame = False

    def chance(self, probability):
        return self.random.random() < probability

    def pick(self, *choices):
        return self.random.choice(choices)

    # ------------------------------------------------------------------
    # Names
    # ------------------------------------------------------------------

    def topic_name(self):
        kind = self.random.random()
        if kind < (0.95 if self.tame else 0.6):
            return self.random.choice(self.world.topics)
        if kind < 0.86:
            return self.random.choice(NEW_NAMES)
        if kind < 0.92:
            return self.random.choice(SECRETS)
        return self.random.choice(ODD_NAMES)

    def topic_view(self):
        return "topic." + identifier(self.topic_name())

    def group_name(self):
        return self.random.choice(GROUPS[:3]) if self.tame or self.chance(0.7) else self.random.choice(GROUPS)

    # ------------------------------------------------------------------
    # Arguments
    # ------------------------------------------------------------------

    def argument(self, name, type_name):
        """For an argument, or a column, of a name and a type."""
        kind = BY_NAME.get(name)
        if self.tame and self.chance(0.98):
            choices = TAME.get(kind) or (TAME_VALUES.get(type_name) if kind not in ("topic", "group") else None)
            if choices and not (kind == "position" and type_name != "text"):
                return self.random.choice(choices)
            if type_name.endswith("[]") and type_name[:-2] in TAME_VALUES:  # all of one length
                return f"ARRAY[{', '.join(self.random.choice(TAME_VALUES[type_name[:-2]]) for _ in range(3))}]::{type_name}"
        if kind and self.chance(0.85):
            return getattr(self, "_" + kind)(type_name)
        return self.value(type_name)

    def _topic(self, _):
        return literal(self.topic_name())

    def _group(self, _):
        return literal(self.group_name())

    def _type(self, _):
        return literal(self.random.choice(TYPES[:14] if self.chance(0.6) else TYPES))

    def _partition(self, _):
        return self.pick("0", "0", "0", "1", "1", "2", "NULL", "-1", "3")

    def _partitions(self, _):
        return self.pick("1", "1", "2", "2", "3", "4", "5", "0", "-1", "30", "101", "10001", "NULL")

    def _offset(self, _):
        if self.chance(0.7):
            return str(self.random.randrange(0, self.pick(5, 50, 1000)))
        return self.pick("0", "NULL", str(self.random.choice(BIGINTS)), "-" + str(self.random.randrange(1, 100)))

    def _limit(self, _):
        return self.pick("1", "1", "2", "5", "100", "10000", "1048576", "2147483647", "0", "-1", "NULL")

    def _wait(self, _):
        return self.pick("'0'", "'0'", "'0'", "'1 ms'", "'10 ms'", "'100 ms'", "'-1'", "NULL", "'61 s'", "'1 mon'", "'infinity'", "'10 min'")

    def _segment_bytes(self, _):
        return self.pick("65536", "65536", "65536", "100000", "65535", "1073741824", "9223372036854775807", "0", "-1", "NULL")

    def _message_bytes(self, _):
        return self.pick("1048576", "1048576", "100", "1", "0", "-1", "268435456", "268435457", "NULL")

    def _position(self, type_name):
        if type_name != "text":
            return self.value(type_name)
        return self.pick("'earliest'", "'latest'", "'latest'", "'none'", "NULL", "''", "'x'")

    def _policy(self, _):
        return self.pick("'delete'", "'compact'", "'compact,delete'", "'compact, delete'", "NULL", "''", "'x'", "'delete,delete'")

    def _timestamp_type(self, _):
        return self.pick("'CreateTime'", "'LogAppendTime'", "NULL", "'x'", "''")

    def _boolean(self, _):
        return self.pick("true", "false", "false", "NULL")

    def _null(self, type_name):
        return "NULL" if self.chance(0.9) else self.value(type_name)

    def _text(self, _):
        return self.text()

    # ------------------------------------------------------------------
    # Types
    # ------------------------------------------------------------------

    def text(self):
        kind = self.random.random()
        if kind < 0.07:
            return "NULL"
        if kind < 0.5:
            return literal(self.random.choice(TEXTS).replace("\0", ""))
        if kind < 0.8:
            return f"'{self.random.randrange(40)}'"
        if kind < 0.9:  # no secret name, which would be stored
            return literal(self.random.choice(self.world.topics + ODD_NAMES))
        return (
            f"repeat({literal(self.pick('x', 'ab', 'ü'))}, "
            f"{self.pick(10, 100, 1000, 3000, 9000, 30000, 300000, 1100000)})"
        )

    def integer(self):
        return self.pick("NULL", "0", "1", str(self.random.choice(INTEGERS)), str(self.random.randrange(-5, 50)))

    def bytes(self):
        if self.chance(0.1):
            return f"convert_to(repeat('y', {self.pick(1000, 9000, 300000)}), 'UTF8')"
        return literal(self.random.choice(BYTES)) + "::bytea"

    def time(self):
        if self.chance(0.4):
            return (
                f"now() {self.pick('+', '-')} interval '{self.random.randrange(10)} "
                f"{self.pick('ms', 's', 'min', 'days')}'"
            )
        return literal(self.random.choice(TIMES)) + "::timestamptz"

    def array(self, element):
        kind = self.random.random()
        if kind < 0.08:
            return f"NULL::{element}[]"
        if kind < 0.16:
            return f"'{{}}'::{element}[]"
        items = ", ".join(f"({self.value(element)})::{element}" for _ in range(self.random.randrange(1, self.pick(3, 8))))
        array = f"ARRAY[{items}]"
        if kind < 0.22:
            return f"ARRAY[{array}, {array}]"
        if kind < 0.28:
            return f"'[{self.pick('5:6', '-2:-1', '0:1', '2147483645:2147483646')}]={{NULL,NULL}}'::{element}[]"
        if kind < 0.34:
            return f"array_fill(({self.value(element)})::{element}, ARRAY[{self.pick(1, 20, 700, 5000)}])"
        return array

    def value(self, type_name):
        """Of a type by its name."""
        if self.chance(0.04):
            return "NULL"
        if type_name.endswith("[]"):
            return self.array(type_name[:-2])
        random = self.random
        makers = {
            "text": self.text, "name": lambda: literal(random.choice(self.world.topics + ODD_NAMES)), "integer": self.integer, "bytea": self.bytes,
            "bigint": lambda: self.pick(self._offset(None), str(random.choice(BIGINTS))),
            "smallint": lambda: self.pick("0", "1", "-1", "32767", "-32768"),
            "double precision": lambda: random.choice(FLOATS) + "::float8",
            "boolean": lambda: self.pick("true", "false", "NULL"),
            "interval": lambda: literal(random.choice(INTERVALS)) + "::interval",
            "timestamp with time zone": self.time,
            "jsonb": lambda: literal(random.choice(JSON)) + "::jsonb",
            "oid": lambda: random.choice(OIDS), "regclass": lambda: random.choice(OIDS),
            "uuid": lambda: "gen_random_uuid()",
        }
        maker = makers.get(type_name)
        return maker() if maker else f"NULL::{type_name}"

    def copy_text(self):
        """A line for COPY in text format."""
        fields = [self.pick("0", "1", "\\N", "x"), self.pick("a", "\\N", "7", "sad"), self.pick("v", "\\N", "1", "{}", "(1,x)", "x" * 300),
                  self.pick("\\N", "{}", '[["a", "b"]]', "1")]
        return "\t".join(fields[:self.pick(4, 4, 4, 4, 3, 2)])
