"""What request and response heads share: the field grammar, the limits, and the framing of the body.

How this works: one regular expression of possessive parts says whether a head is well formed, and a second one picks
the few fields that mean something here. Both run in C and neither can backtrack, so a head costs
microseconds whatever its bytes are. Only a head that is refused is looked at again, to say why.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from microagent.errors import Malformed


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Contract 12: bytes and fields of a head. Twice what common servers take (nginx: 32 KiB, Apache: 100 fields)."""

    size: int = 65536
    fields: int = 200


DEFAULT_LIMITS: Final = HeadLimits()

# RFC 9110 sections 5.5 and 5.6.2. The value excludes every control byte but tab: no CR, LF, NUL can hide in it.
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
# No possessive groups: CPython before 3.11.5 can keep what a failed repetition has taken (gh-106052). Nothing here can
# backtrack far, since a field ends at its only CRLF.
FIELDS: Final = rb"(?:" + TOKEN + rb":" + VALUE + rb"\r\n)*\r\n"

_END: Final = re.compile(rb"\n\r?\n")
# No trimming of the value here: `.strip` is cheaper than what a lazy pattern would cost.
_NOTABLE: Final = re.compile(
    rb"\r\n(host|content[-_]length|transfer[-_]encoding|connection|upgrade|sec-websocket-(?:key|version|accept)):([^\r]*+)",
    re.IGNORECASE,
)
# At most 18 digits, which 63 bits hold, and no leading zero, which some read as octal.
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")

# The first that matches names the fault; the order is that of how telling they are.
_FAULTS: Final = (
    (re.compile(rb"\x00"), "a NUL in an HTTP head"),
    (re.compile(rb"(?<!\r)\n"), "a line of an HTTP head ends in a bare LF"),
    (re.compile(rb"\r(?!\n)"), "a bare CR in an HTTP head"),
    (re.compile(rb"\n[ \t]"), "a folded line in an HTTP head"),
    (re.compile(rb"\n[^:\r\n]*[ \t]:"), "a space before the colon of an HTTP field"),
    (re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]"), "a control byte in an HTTP head"),
)


class BodyKind(StrEnum):
    """How the end of a body is known (RFC 9112 section 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until-close"


@dataclass(frozen=True, slots=True)
class Framing:
    """Where a message ends; `length` in bytes, more than 0 with LENGTH, 0 with the others."""

    kind: BodyKind
    length: int = 0


NO_BODY: Final = Framing(BodyKind.NONE)
CHUNKED: Final = Framing(BodyKind.CHUNKED)
UNTIL_CLOSE: Final = Framing(BodyKind.UNTIL_CLOSE)


def find_head_end(buffer: bytes | bytearray, start: int = 0) -> int:
    """Return where the head that begins at `start` ends, just behind its blank line; -1 if it does not yet.

    Bare LFs end a head too, so that a sender of them is refused at once instead of waited for.
    """
    match = _END.search(buffer, start)
    return match.end() if match else -1


def check_size(head: bytes, limits: HeadLimits) -> None:
    """Refuse a head over the limits."""
    if len(head) > limits.size:
        raise Malformed(f"an HTTP head of more than {limits.size} bytes")
    if head.count(b"\n") > limits.fields + 2:
        raise Malformed(f"an HTTP head of more than {limits.fields} fields")


def fault(head: bytes) -> Malformed:
    """Say why `head` is not well formed."""
    for pattern, what in _FAULTS:
        if pattern.search(head):
            return Malformed(what)
    return Malformed("an HTTP head that does not parse")


def notable_fields(head: bytes) -> dict[bytes, list[bytes]]:
    """Return the values of the fields that framing, routing or upgrades depend on, by lower-case name.

    Malformed for a field that only looks like one of them.
    """
    found: dict[bytes, list[bytes]] = {}
    for name, value in _NOTABLE.findall(head):
        if b"_" in name:
            # To whatever hands fields on as CGI does (RFC 3875 section 4.1.18), the underscore is a hyphen.
            raise Malformed("a field that some take for the body's framing")
        found.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return found


def body_framing(fields: dict[bytes, list[bytes]], minor: int) -> Framing | None:
    """Read the one framing that the fields state; None if they state none.

    Stricter than RFC 9112 section 6.3 wherever it lets a recipient choose: one field, one value, one kind.
    """
    lengths = fields.get(b"content-length")
    codings = fields.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise Malformed("both Content-Length and Transfer-Encoding")
        if minor == 0:
            raise Malformed("Transfer-Encoding in HTTP/1.0")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise Malformed("a Transfer-Encoding other than chunked")
        return CHUNKED
    if lengths is None:
        return None
    if len(lengths) != 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise Malformed("a Content-Length that is not one number")
    length = int(lengths[0])
    return Framing(BodyKind.LENGTH, length) if length else NO_BODY


# All that most messages say.
_USUAL: Final = {name: frozenset((name.lower(),)) for name in (b"keep-alive", b"Keep-Alive", b"close", b"Close")}


def connection_options(fields: dict[bytes, list[bytes]]) -> frozenset[bytes]:
    """Return the Connection options in lower case (RFC 9110 section 7.6.1)."""
    values = fields.get(b"connection")
    if values is None:
        return frozenset()
    if (usual := _USUAL.get(values[0])) is not None and len(values) == 1:
        return usual
    options = frozenset(option.strip(b" \t") for option in b",".join(values).lower().split(b","))
    # An intermediary behind us deletes what is listed: naming these would change the message after we read it.
    if options & {b"host", b"content-length", b"transfer-encoding"}:
        raise Malformed("a Connection option that removes framing or routing")
    return options


def closes(options: frozenset[bytes], minor: int) -> bool:
    """Say whether the connection ends with this message (RFC 9112 section 9.3)."""
    return b"close" in options or (minor == 0 and b"keep-alive" not in options)
