"""What each event's record holds: one table, from which docs/records.md and docs/records.schema.json are made. Pure.

How this works: `FIELDS` says of each field what it is, `EVENTS` of each event which fields it has. Nothing is checked
while records are written, for that is what every connection waits for; instead the tests hold each line that any
mediator of theirs writes against the schema, and the pages against this table (`make pages` writes them anew).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from microagent.audit.record import MAX_TEXT, VERSION, Event
from microagent.decision.engine import Proto
from microagent.decision.verdict import Reason, Signal, Tls
from microagent.policy.model import Mode

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_TEXTS: Final[Json] = {"type": "array", "items": {**_TEXT, "minLength": 0}, "minItems": 1}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_TRUE: Final[Json] = {"const": True}
_ENDPOINT: Final[Json] = {"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]{1,3}){3}:[0-9]{1,5}$"}
_TIME: Final[Json] = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"}
_ID: Final[Json] = {"type": "string", "pattern": "^[0-9a-hjkmnp-tv-z]{12}$"}
_DIGEST: Final[Json] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SIGNALS: Final[str] = "|".join(Signal)


def _one_of(*words: str) -> Json:
    return {"enum": [str(word) for word in words]}


@dataclass(frozen=True, slots=True)
class Field:
    """What a field is: as JSON Schema has it, and in a few words for people."""

    json: Json
    says: str


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of one event besides the common ones; names that are in FIELDS.

    `needs` are in every record of the event, `may` in those that have something to say there. Where records come in
    kinds, `kinds` are what each needs besides; `fixed` is what a field always is in this event.
    """

    says: str
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    kinds: tuple[tuple[str, ...], ...] = ()
    fixed: Mapping[str, Json] | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """All of them, in the order of the table in the docs."""
        return tuple(dict.fromkeys((*self.needs, *(name for kind in self.kinds for name in kind), *self.may)))


COMMON: Final[Mapping[str, Field]] = {
    "v": Field({"const": VERSION}, "the version of this format"),
    "ts": Field(_TIME, "when, RFC 3339, UTC, microseconds"),
    "seq": Field({"type": "integer", "minimum": 1}, "counts from 1, without gaps"),
    "id": Field(_ID, "this record's name; of a denial, what the guest was told"),
    "event": Field(_one_of(*Event), "see below"),
    "workspace": Field({"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"}, "whose"),
    "chain": Field(_DIGEST, "SHA-256 over the chain of the line before and this line's own bytes"),
}
ANYWHERE: Final[Mapping[str, Field]] = {
    "signal": Field(
        {"type": "string", "pattern": f"^({_SIGNALS})(,({_SIGNALS}))*$"}, "worth an eye; several are joined by commas"
    ),
    "reason": Field(_one_of(*Reason), "why, in one word"),
    "rule": Field(_TEXT, "the policy entry that decided"),
    "hint": Field(_TEXT, "what would permit it, or help"),
    "flow": Field(_ID, "what all records of one connection share"),
    "truncated": Field(_TRUE, f"a text was longer than {MAX_TEXT} characters, and was cut there"),
}
FIELDS: Final[Mapping[str, Field]] = {
    "host": Field(_TEXT, "the name that was asked for"),
    "dst": Field(_ENDPOINT, "address and port that the guest sent to"),
    "dialed": Field(_ENDPOINT, "address and port that the mediator connects to"),
    "proto": Field(_one_of(Proto.TLS, Proto.HTTP, Proto.TCP, Proto.UDP), "what the guest speaks"),
    "tls": Field(_one_of(*Tls), "what happens to its TLS"),
    "unlisted": Field(_TRUE, "no entry names it: guarded mode allows it"),
    "internal": Field(_TRUE, "the destination is inside (not the public internet)"),
    "opaque": Field(_TRUE, "relayed without being read"),
    "bytes_out": Field(_COUNT, "bytes from the guest"),
    "bytes_in": Field(_COUNT, "bytes to the guest"),
    "duration_ms": Field({"type": "number", "minimum": 0}, "milliseconds from beginning to end"),
    "minted": Field(
        {"type": "integer", "minimum": 1}, "certificates that were minted since the last record that says so"
    ),
    "why": Field(_TEXT, "how it came to an end, or about"),
    "error": Field(_TEXT, "what went wrong"),
    "method": Field(_TEXT, "of the HTTP request"),
    "path": Field(_TEXT, "of the HTTP request, without its query"),
    "status": Field({"type": "integer", "minimum": 0, "maximum": 999}, "of the response; 0 when none began"),
    "http": Field(_one_of("1.1", "2"), "version"),
    "qname": Field(_TEXT, "the name in the question; escaped where it is none"),
    "qtype": Field(_TEXT, "the type of the question, such as A or TYPE65"),
    "server": Field({"type": "string", "pattern": r"^[0-9.]{7,15}$"}, "the address that the guest asked"),
    "answers": Field(_TEXTS, "addresses that came back"),
    "ttl": Field(_COUNT, "seconds"),
    "rcode": Field({"type": "integer", "minimum": 0, "maximum": 4095}, "of the answer"),
    "limit": Field(_TEXT, "its name in agent.yaml, or the flood in words"),
    "max": Field(_COUNT, "its value"),
    "count": Field({"type": "integer", "minimum": 1}, "so many in one"),
    "aggregated": Field(_TRUE, "stands for `count` refusals without a record each"),
    "what": Field({"type": "string", "pattern": "^[a-z0-9_]{2,20}$"}, "the kind of packet"),
    "packets": Field({"type": "integer", "minimum": 1}, "exactly so many"),
    "bytes": Field(_COUNT, "exactly so many"),
    "first": Field(_TIME, "they came, or it began, no earlier"),
    "last": Field(_TIME, "and no later"),
    "sockets": Field(_TEXTS, "protocol, address and port of each"),
    "mode": Field(_one_of(*Mode), "of the egress"),
    "policy": Field(_DIGEST, "the policy's digest"),
    "pid": Field({"type": "integer", "minimum": 1}, "the mediator's process"),
    "torn": Field(_TRUE, "the line before was never finished"),
    "who": Field(_TEXT, "the person or program that did it"),
    "old": Field(_DIGEST, "the policy's digest before"),
    "new": Field(_DIGEST, "and after"),
    "added": Field(_TEXTS, "entries that came, the first 20"),
    "removed": Field(_TEXTS, "entries that went, the first 20"),
    "added_count": Field(_COUNT, "how many came"),
    "removed_count": Field(_COUNT, "how many went"),
    "checks": Field(_TEXTS, "what was tried"),
    "failed": Field(_TEXTS, "those of them that did not hold; absent when all did"),
}

_TOGETHER: Final = ("count", "aggregated")
_DENIED: Final = (("dst", "flow", "reason"), _TOGETHER)
_ENDED: Final = ("dst", "proto", "bytes_out", "bytes_in", "duration_ms", "why", "flow")
_ASKED: Final = ("server", "flow")

EVENTS: Final[Mapping[Event, Shape]] = {
    Event.ALLOW: Shape(
        "a connection is about to be dialled", ("dst", "dialed", "proto", "tls", "reason", "flow"), ("host", "unlisted")
    ),
    Event.CLOSE: Shape("it has ended", (*_ENDED, "tls"), ("host", "opaque", "minted")),
    Event.DENY: Shape(
        "a connection or a request was refused; `id` is what the guest was told",
        ("proto",),
        ("host", "error", "method", "path"),
        _DENIED,
    ),
    Event.INTERNAL_DENY: Shape(
        "the same, and the destination is inside",
        ("proto", "internal"),
        ("host", "error"),
        _DENIED,
    ),
    Event.REQUEST: Shape(
        "an HTTP request and its response have passed",
        ("host", "method", "path", "status", "bytes_out", "bytes_in", "duration_ms", "http", "flow"),
    ),
    Event.DNS_ALLOW: Shape(
        "a question is about to be sent on, the guest's own or, without `server`, one for a connection's address; "
        "and once more with what came back",
        ("flow", "qname", "qtype", "reason"),
        ("server", "unlisted", "answers", "ttl", "rcode"),
    ),
    Event.DNS_DENY: Shape("a question was refused", ("reason",), ("qname", "qtype", "error"), (_ASKED, _TOGETHER)),
    Event.DNS_ERROR: Shape("nobody could answer it", (*_ASKED, "qname", "qtype", "error"), ("unlisted",)),
    Event.UDP_ALLOW: Shape(
        "the first datagram of a flow is about to leave",
        ("dst", "dialed", "proto", "reason", "flow"),
        ("host", "tls", "unlisted"),
        fixed={"proto": {"const": "udp"}},
    ),
    Event.UDP_CLOSE: Shape("a UDP flow has ended", _ENDED, ("host",), fixed={"proto": {"const": "udp"}}),
    Event.UDP_DENY: Shape(
        "a datagram was refused, by the rules or the mediator",
        ("proto",),
        ("host",),
        _DENIED,
        {"proto": {"const": "udp"}},
    ),
    Event.UDP_INTERNAL_DENY: Shape(
        "the same, and the destination is inside",
        ("proto", "internal"),
        ("host",),
        _DENIED,
        {"proto": {"const": "udp"}},
    ),
    Event.UPSTREAM_ERROR: Shape(
        "the server's certificate, handshake or answer is no good, or it asks for a client certificate",
        ("host", "dst", "error", "flow"),
    ),
    Event.HANDSHAKE_ERROR: Shape(
        "the guest did not accept our certificate, or left before it sent anything", ("host", "dst", "error", "flow")
    ),
    Event.DIAL_ERROR: Shape("the server cannot be reached", ("dst", "error", "flow"), ("host",)),
    Event.CAP_EXCEEDED: Shape(
        "more than a [limit](operations.md#limits): turned away, refused or ended, `count` of them in a second; or an"
        " HTTP/2 connection was a flood",
        ("limit",),
        ("host",),
        (("max", "count"), ("max", "dst", "flow", "reason"), ("dst", "flow")),
    ),
    Event.LOOP_GUARD: Shape(
        "refused, whatever the policy says: it would lead to the agent's own port, or to itself",
        ("proto", "reason"),
        ("host", "internal"),
        (("dst", "flow"), _TOGETHER),
        {"reason": {"const": str(Reason.LOOP)}},
    ),
    Event.DROP: Shape(
        "the kernel dropped packets of a kind that is never relayed",
        ("what", "packets", "first", "last"),
        ("bytes",),
    ),
    Event.LISTEN: Shape("the mediator has its sockets", ("sockets",)),
    Event.MEDIATOR_UP: Shape("the mediator begins", ("mode", "policy", "pid")),
    Event.MEDIATOR_DOWN: Shape("it ends", ("why",), ("minted",)),
    Event.GAP: Shape(
        "the mediator before this one ended without a word; or rules or tap were changed from outside, and put back; "
        "or, with `torn`, a line was never finished",
        ("why",),
        ("torn",),
    ),
    Event.POLICY_CHANGE: Shape(
        "from here on another policy decides",
        ("who", "old", "new", "added_count", "removed_count"),
        ("added", "removed"),
    ),
    Event.ENFORCEMENT_VERIFIED: Shape(
        "somebody had the workspace's enforcement tried, from inside, since `first`; with `host`, an allowed one",
        ("who", "checks"),
        ("failed", "first", "host"),
    ),
}


def json_schema() -> Json:
    """JSON Schema, draft 2020-12, of one line of egress.jsonl: one of `$defs`, which are named for their events."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A record of microagent, version {VERSION}",
        "type": "object",
        "properties": {
            name: {**field.json, "description": field.says} for name, field in {**COMMON, **ANYWHERE, **FIELDS}.items()
        },
        "oneOf": [{"$ref": f"#/$defs/{event}"} for event in EVENTS],
        "$defs": {str(event): _event_schema(event, shape) for event, shape in EVENTS.items()},
    }


def _event_schema(event: Event, shape: Shape) -> Json:
    properties: Json = {name: {"$ref": f"#/properties/{name}"} for name in (*COMMON, *shape.fields, *ANYWHERE)}
    properties |= {"event": {"const": str(event)}, **(shape.fixed or {})}
    schema: Json = {
        "description": shape.says,
        "properties": properties,
        "required": [*COMMON, *shape.needs],
        "additionalProperties": False,
    }
    if shape.kinds:
        schema["anyOf"] = [{"required": list(kind)} for kind in shape.kinds]
    return schema


def tables() -> str:
    """The same as Markdown, for docs/records.md: the fields that any record has or may have, the events, the fields."""
    return "\n\n".join(
        (
            _table(("every record has", "which is"), _rows(COMMON)),
            _table(("any record may have", "which is"), _rows(ANYWHERE)),
            _table(
                ("event", "says", "fields"),
                ((f"`{event}`", shape.says, _fields(shape)) for event, shape in EVENTS.items()),
            ),
            _table(("field", "is"), _rows(FIELDS)),
        )
    )


def _fields(shape: Shape) -> str:
    """Those that every record has, then in brackets those that may be absent."""
    own = [name for name in shape.fields if name not in ANYWHERE]
    needed, may = (", ".join(n for n in own if (n in shape.needs) is sure) for sure in (True, False))
    return " ".join(part for part in (needed, f"[{may}]" if may else "") if part)


def _rows(fields: Mapping[str, Field]) -> list[tuple[str, str]]:
    return [(f"`{name}`", field.says) for name, field in fields.items()]


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
