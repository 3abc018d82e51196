"""JSON to nodes that know their places (RFC 8259), no more lenient than the standard and no deeper than we need.

The standard library's reader forgets where things were, and keeps the last of two equal keys.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from microagent.errors import PolicyError, Problem
from microagent.policy.document import MAX_DEPTH, NULL, Items, Node, Other, Pairs, Text


def read_json(text: str, filename: str) -> tuple[Node | None, list[Problem]]:
    """The root, and no problems: what JSON forbids is never read on from. Raises PolicyError (RFC 8259)."""
    return _Json(text, filename).read(), []


_SPACE: Final = re.compile(r"[ \t\n\r]*")
_TOKEN: Final = re.compile(
    r"""(?P<string>"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")"""
    r"""|(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"""
    r"""|(?P<word>true|false|null)"""
    r"""|(?P<mark>[][{}:,])"""
)


class _Json:
    """Recursive descent, no deeper than MAX_DEPTH."""

    def __init__(self, text: str, filename: str) -> None:
        self._text = text
        self._filename = filename
        self._at = 0
        self._line_starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def read(self) -> Node | None:
        if not self._text.strip(" \t\n\r"):
            return None
        root = self._value(0)
        if self._skip() < len(self._text):
            raise self._expected("the end of the file")
        return root

    def _value(self, depth: int) -> Node:
        start = self._skip()
        place = self._place(start)
        found = _TOKEN.match(self._text, start)
        if found is None or (found.lastgroup == "mark" and found[0] not in "[{"):
            raise self._expected("a value")
        if found.lastgroup == "mark" and depth >= MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} deep", "a policy is two deep")
        self._at = found.end()
        written = found[0]
        match found.lastgroup:
            case "string":
                return Text(json.loads(written) if "\\" in written else written[1:-1], *place)
            case "mark" if written == "[":
                return Items(tuple(self._members("]", depth)), *place)
            case "mark":
                return Pairs(tuple(self._pairs(depth)), *place)
            case "number":
                return Other("a number", written, *place)
        return Other(NULL if written == "null" else "a boolean", written, *place)

    def _members(self, end: str, depth: int) -> Iterator[Node]:
        if self._take(end):
            return
        while True:
            yield self._value(depth + 1)
            if self._take(end):
                return
            if not self._take(","):
                raise self._expected(f"a comma or {end}")

    def _pairs(self, depth: int) -> Iterator[tuple[Node, Node]]:
        for key in self._members("}", depth):
            if not isinstance(key, Text):
                raise self._expected("a key in double quotes before this")
            if not self._take(":"):
                raise self._expected("a colon")
            yield key, self._value(depth + 1)

    def _skip(self) -> int:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at

    def _take(self, mark: str) -> bool:
        here = self._skip()
        if self._text.startswith(mark, here):
            self._at = here + 1
            return True
        return False

    def _place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def _expected(self, what: str) -> PolicyError:
        return self._error(f"not JSON: expected {what}", 'a policy file reads: {"allow": ["api.example.org"]}')

    def _error(self, what: str, hint: str) -> PolicyError:
        return PolicyError((Problem(what, hint, self._filename, *self._place(self._skip())),))
