"""One record in words for people, and as plain columns for pipes; `cli.live_lines` lays the words out on a terminal.

Every string in a record may have been chosen by a guest or by a server it spoke to. So nothing reaches a terminal
before `inert`.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from microagent.audit.reader import UNREADABLE, host_of, is_denial

Record = Mapping[str, Any]

HEADINGS = ("TIME", "VERDICT", "HOST", "DST", "WHAT", "BYTES", "TOOK")
_WIDTHS = (15, 7, 32, 21, 44, 13, 0)
_WORKSPACE_WIDTH = 16
_COUNTABLE = 1 << 63
_STYLES = {"allow": "green", "deny": "bold red", "drop": "red", "error": "yellow", "request": "cyan"}
# Letters, numbers, punctuation, symbols. Not: control, format (bidi, zero width), surrogate, private, unassigned, marks
# that pile up on what stands before them, and every space but the one.
_QUIET = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"}) | {
    *("Sm", "Sc", "Sk", "So")
}
# Written from right to left: a terminal that reorders would let these move what stands beside them (UAX #9).
_REORDERED = frozenset({"R", "AL", "AN"})
_NXDOMAIN = 3  # RFC 1035, 4.1.1
# Letters and symbols that show nothing: Hangul fillers and the empty Braille cell.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def inert(text: object) -> str:
    """The text with everything that could move a cursor, colour, hide or reorder written as an escape."""
    found = str(text)
    if found.isascii() and found.isprintable():
        return found
    return "".join(char if _is_inert(char) else _escape(char) for char in found)


def _is_inert(char: str) -> bool:
    return char == " " or (
        unicodedata.category(char) in _QUIET
        and unicodedata.bidirectional(char) not in _REORDERED
        and char not in _BLANK
    )


def verdict(record: Record) -> str:
    """One word: allow, deny, drop, error, request, close, or what the agent itself did (info)."""
    event = str(record.get("event", ""))
    if is_denial(record):
        return "deny"
    if event.endswith("_error") or event in {UNREADABLE, "gap"}:
        return "error"
    word = event.rpartition("_")[2]
    return word if word in {"allow", "drop", "request", "close"} else "info"


def what(record: Record) -> str:
    """What was asked, or why it was decided so: `GET /v1 200`, a reason, a rule, an error."""
    parts = [_subject(record)]
    if record.get("unlisted"):
        parts.append("unlisted")
    parts += [str(record[key]) for key in ("reason", "error", "limit", "why", "hint") if record.get(key)]
    if record.get("rule"):
        parts.append(f"rule {record['rule']}")
    # That it was denied is what the verdict says.
    signals = [signal for signal in str(record.get("signal") or "").split(",") if signal not in ("", "denied")]
    if signals:
        parts.append(f"signal {', '.join(signals)}")
    return " · ".join(part for part in parts if part)


def columns(record: Record) -> tuple[str, ...]:
    """Time, verdict, host, destination, what, bytes, time taken: inert, uncut, "-" where there is nothing."""
    clock = str(record.get("ts", "")).partition("T")[2].removesuffix("Z")
    fields = (
        clock, verdict(record), host(record), record.get("dst", ""), what(record), carried(record), took(record)
    )  # fmt: skip
    return tuple(inert(field) or "-" for field in fields)


def plain(record: Record, *, workspaces: bool = False) -> str:
    """The columns padded with spaces; a field that is too long pushes the rest, nothing is cut."""
    return _padded(columns(record), inert(record.get("workspace") or "-") if workspaces else "")


def headings(*, workspaces: bool = False) -> str:
    """The line above the plain columns."""
    return _padded(HEADINGS, "WORKSPACE" if workspaces else "")


def style_of(word: str) -> str:
    """The colour of a verdict, as rich names it."""
    return _STYLES.get(word, "dim")


def number(record: Record, key: str) -> int:
    """A field that should be a number, 0 when it is none, or none that anything could have counted."""
    value = record.get(key)
    if not isinstance(value, int | float) or not 0 <= value < _COUNTABLE:
        return 0
    return round(value)


def duration(milliseconds: int) -> str:
    """A time in at most five characters: 87ms, 1.2s, 34s, 5m, 2h, 3d."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    seconds = milliseconds / 1000
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    for unit, length in (("s", 1), ("m", 60), ("h", 3600)):
        if seconds < 120 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def took(record: Record) -> str:
    """How long it lasted, "" where the record does not say."""
    return duration(number(record, "duration_ms")) if "duration_ms" in record else ""


def brief(record: Record) -> str:
    """`what` for narrow terminals: a denial's reason comes first, an allow's rule last, and hints not at all."""
    word = verdict(record)
    if word == "deny":
        parts = (record.get("reason") or record.get("limit"), _subject(record))
    elif word == "allow":
        parts = (_subject(record), record.get("rule") or ("unlisted" if record.get("unlisted") else ""))
    elif word == "close":
        parts = (record.get("why"), _subject(record))
    else:
        return what(record)
    return " · ".join(str(part) for part in parts if part)


def size(count: int) -> str:
    """A number of bytes in at most five characters: 999, 1.2k, 34M."""
    scaled = float(count)
    for unit in ("", "k", "M", "G", "T"):
        if scaled < 999.5 or unit == "T":
            break
        scaled /= 1000
    return f"{scaled:.1f}{unit}" if unit and scaled < 9.95 else f"{scaled:.0f}{unit}"


def _subject(record: Record) -> str:
    event = str(record.get("event", ""))
    if event == "egress_request":
        # The status first: a path may be long, and is what is cut then.
        return " ".join(str(record[key]) for key in ("status", "method", "path") if record.get(key))
    if event == "egress_drop":
        return str(record.get("what", ""))
    if event.startswith("egress_dns"):
        return f"dns {record.get('qtype', '')}{_answers(record)}".rstrip()
    if event == UNREADABLE:
        return f"{record.get('bytes')} bytes at {record.get('offset')} of {record.get('file')} cannot be read"
    if verdict(record) == "info" or event == "gap":
        return " · ".join((event, *_told(record)))
    return " ".join(str(record[key]) for key in ("proto", "tls") if record.get(key) and record[key] != "none")


def _told(record: Record) -> Iterator[str]:
    """What the agent or the mediator says of itself."""
    for key in ("mode", "who"):
        if record.get(key):
            yield str(record[key])
    for key, sign in (("added", "+"), ("removed", "-"), ("sockets", ""), ("checks", ""), ("failed", "FAILED ")):
        if isinstance(values := record.get(key), list):
            yield ", ".join(f"{sign}{value}" for value in values)


def _answers(record: Record) -> str:
    """What came back, where this is the record of that and not of the question."""
    if record.get("rcode") is None:
        return ""
    answers = record.get("answers")
    if isinstance(answers, list) and answers:
        return " → " + " ".join(map(str, answers[:3]))
    if record["rcode"] == _NXDOMAIN:
        return " → no such name"
    # Of what is no address, as in TXT and PTR, the record has the time it is good for.
    return " → answered" if number(record, "ttl") else " → nothing"


def host(record: Record) -> str:
    """What was asked for by name, "" where it was an address."""
    found = host_of(record)
    return "" if found == record.get("dst") else found


def carried(record: Record) -> str:
    """Bytes out and in, "" where the record does not say."""
    if "packets" in record:
        return packets(number(record, "packets"))
    if "bytes_out" in record or "bytes_in" in record:
        return f"↑{_count(record, 'bytes_out')} ↓{_count(record, 'bytes_in')}"
    return _count(record, "bytes") if "bytes" in record else ""


def packets(count: int) -> str:
    """How many packets, in words."""
    return f"{size(count)} packet{'' if count == 1 else 's'}"


def _count(record: Record, key: str) -> str:
    value = record.get(key)
    return size(value) if isinstance(value, int) else "?"


def _padded(cells: tuple[str, ...], workspace: str) -> str:
    """The workspace, where there is one, comes second."""
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)]
    if workspace:
        padded.insert(1, f"{workspace:<{_WORKSPACE_WIDTH}}")
    return " ".join(padded).rstrip()


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
