"""The chain that links each line of the log to the one before. Pure.

How this works: a line is a JSON object whose last member is `chain`. Its value is SHA-256 over the previous line's
chain (64 hexadecimal digits, as ASCII) and the line's own bytes up to that member. So a line that is changed,
missing, added or moved breaks every chain value from there on. What the chain alone cannot show is a log that
ends early: that is what the agent's seals are for.
"""

import hashlib
import re
from dataclasses import dataclass

START = "0" * 64
_MEMBER = b',"chain":"'
_BEGIN = re.compile(rb'\{"v":1,"ts":"([0-9T:.Z-]{20,40})","seq":([0-9]{1,18}),')
_END = re.compile(rb',"chain":"([0-9a-f]{64})"\}\Z')
_SUFFIX_LENGTH = len(_MEMBER) + 64 + len(b'"}')


def link(previous: str, body: bytes) -> tuple[bytes, str]:
    """`body` is a JSON object, non-empty; returns the line with its chain member and newline, and the new chain."""
    unlinked = body[:-1]
    chain = hashlib.sha256(previous.encode() + unlinked).hexdigest()
    return unlinked + _MEMBER + chain.encode() + b'"}\n', chain


@dataclass(frozen=True, slots=True)
class Head:
    """Where a line stands: its time (RFC 3339), its number, and its link."""

    ts: str
    seq: int
    chain: str


def head(line: bytes) -> Head | None:
    """The head of a line without its newline; None when it is no whole record.

    Read at the line's two ends, which are the mediator's: whatever a guest had a hand in is between them.
    """
    begin, end = _BEGIN.match(line), _END.search(line)
    if begin is None or end is None:
        return None
    return Head(begin[1].decode(), int(begin[2]), end[1].decode())


def check(previous: str, line: bytes) -> str | None:
    """The chain of `line` (without its newline) when it follows `previous`; None when it does not."""
    unlinked = line[:-_SUFFIX_LENGTH]
    expected, chain = link(previous, unlinked + b"}")
    return chain if expected[:-1] == line else None
