"""What the probe in a guest is asked, and what it says (vm_fixtures/probe.c): lines both ways. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from microagent.errors import Malformed

# One question takes the probe at most twice its PATIENCE_MS.
SECONDS_EACH = 8
# The longest answer: 1500 bytes in hex, and its word.
LONGEST_LINE = 3100

_WORDS = (b"refused", b"reset", b"closed", b"open", b"silent")
_HEX = re.compile(rb"(?:[0-9a-f]{2}){1,1500}")
_NUMBER = re.compile(rb"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Said:
    """One answer: its word, `data` of an answer, `number` of an error (errno) or a clock (seconds since 1970)."""

    word: str
    data: bytes = b""
    number: int = 0

    def __str__(self) -> str:
        return f"error {self.number}" if self.word == "error" else self.word


def clock() -> str:
    """The guest's time."""
    return "clock"


def ping(address: str) -> str:
    """An ICMP echo; the answer begins with its IP header."""
    return f"ping {address}"


def udp(address: str, port: int, data: bytes) -> str:
    """A datagram, and what comes back for it."""
    return f"udp {address} {port} {data.hex()}"


def tcp(address: str, port: int, data: bytes = b"") -> str:
    """A connection, `data` through it, and what comes back first."""
    return f"tcp {address} {port} {data.hex() or '-'}"


def frame(interface: str, ether_type: int, data: bytes) -> str:
    """A whole Ethernet frame, and the first of its type that comes back."""
    return f"frame {interface} {ether_type} {data.hex()}"


def answers_untrusted(text: bytes, questions: Sequence[str]) -> list[Said]:
    """One answer to each question. Malformed for anything that the probe would not print."""
    lines = text.split(b"\n")
    if lines.pop() or len(lines) != len(questions):
        raise Malformed(f"{len(lines)} whole lines in answer to {len(questions)} questions")
    return [_answer(line, question) for line, question in zip(lines, questions, strict=True)]


def _answer(line: bytes, question: str) -> Said:
    word, _, rest = line.partition(b" ")
    if (word == b"clock") == (question == "clock"):
        if word == b"answer" and _HEX.fullmatch(rest):
            return Said("answer", data=bytes.fromhex(rest.decode()))
        if word in (b"error", b"clock") and _NUMBER.fullmatch(rest):
            return Said(word.decode(), number=int(rest))
        if not rest and line in _WORDS:
            return Said(line.decode())
    raise Malformed(f"{line[:40]!r} in answer to {question[:40]!r}")
