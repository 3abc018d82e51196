"""One record as a line for people: a rich Text for terminals, plain columns for pipes.

Every string in a record may have been chosen by a guest or by a server it spoke to. So nothing reaches a terminal
before `inert`, and rich gets Text objects, whose content it never reads as markup.
"""

import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from microagent.audit.reader import UNREADABLE, host_of, is_denial

if TYPE_CHECKING:
    from rich.text import Text

Record = Mapping[str, Any]

HEADINGS = ("TIME", "VERDICT", "HOST", "DST", "WHAT", "BYTES")
_WIDTHS = (15, 7, 32, 21, 44, 0)
_STYLES = {"allow": "green", "deny": "bold red", "drop": "red", "error": "yellow", "request": "cyan"}
# Control, format (bidi, zero width), surrogate, private, unassigned; line and paragraph separators.
_LOUD = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def inert(text: object) -> str:
    """The text with everything that could move a cursor, colour, hide or reorder written as an escape."""
    return "".join(_escape(char) if unicodedata.category(char) in _LOUD else char for char in str(text))


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
    """Time, verdict, host, destination, what, bytes: inert, uncut, "-" where there is nothing."""
    clock = str(record.get("ts", "")).partition("T")[2].removesuffix("Z")
    fields = (
        clock, verdict(record), _host(record), record.get("dst", ""), what(record), _bytes(record)
    )  # fmt: skip
    return tuple(inert(field) or "-" for field in fields)


def plain(record: Record) -> str:
    """The columns padded with spaces; a field that is too long pushes the rest, nothing is cut."""
    return _padded(columns(record))


def headings() -> str:
    """The line above the plain columns."""
    return _padded(HEADINGS)


def rich_line(record: Record) -> "Text":
    """The columns as a rich Text, coloured by verdict."""
    from rich.text import Text

    cells = columns(record)
    style = _STYLES.get(cells[1], "dim")
    line = Text(no_wrap=True, overflow="ellipsis")
    for index, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True)):
        line.append(f"{cell:<{width}} ", style="dim" if index == 0 else style if index in (1, 2) else "")
    return line


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
        return " ".join(str(record[key]) for key in ("method", "path", "status") if record.get(key))
    if event == "egress_drop":
        return f"{record.get('what', '')} {record.get('packets', '')} packets"
    if event.startswith("egress_dns"):
        return f"dns {record.get('qtype', '')}{_answers(record)}".rstrip()
    if event == UNREADABLE:
        return f"line {record.get('line')} of the log cannot be read"
    if verdict(record) == "info" or event == "gap":
        return event
    return " ".join(str(record[key]) for key in ("proto", "tls") if record.get(key))


def _answers(record: Record) -> str:
    """What came back, where this is the record of that and not of the question."""
    if "rcode" not in record:
        return ""
    answers = record.get("answers")
    return " → " + (" ".join(map(str, answers[:3])) if isinstance(answers, list) and answers else "nothing")


def _host(record: Record) -> str:
    host = host_of(record)
    return "" if host == record.get("dst") else host


def _bytes(record: Record) -> str:
    if "bytes_out" in record or "bytes_in" in record:
        return f"↑{_count(record, 'bytes_out')} ↓{_count(record, 'bytes_in')}"
    return _count(record, "bytes") if "bytes" in record else ""


def _count(record: Record, key: str) -> str:
    value = record.get(key)
    return size(value) if isinstance(value, int) else "?"


def _padded(cells: tuple[str, ...]) -> str:
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
