"""Pieces of SQL."""

import re

OFFSET, RETURN_RULE, EMPTY = '"offset"', '"_RETURN"', "''"  # where quotes are in the way


class Statement:
    """SQL, and for COPY FROM STDIN what follows it."""

    def __init__(self, sql, copy_data=None):
        self.sql = sql
        self.copy_data = copy_data
        self.copies = bool(re.search(r"\b(FROM STDIN|TO STDOUT)\b", sql))


def literal(text):
    """A string as SQL."""
    text = text.replace("'", "''")
    return f"E'{text}'".replace("\\", "\\\\").replace("\n", "\\n") if "\\" in text or "\n" in text else f"'{text}'"


def identifier(text):
    return '"' + text.replace('"', '""') + '"'
