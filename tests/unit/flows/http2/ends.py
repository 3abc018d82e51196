"""A client and a server of the `h2` package, joined by the conversation under test."""

import itertools
from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event

from microagent.decision.verdict import Action, Reason, Verdict
from microagent.flows.http1 import Effect, Finish, ToGuest, ToUpstream, Write
from microagent.flows.http2 import Http2Conversation

Fields = list[tuple[str, str]]

GET: Fields = [(":method", "GET"), (":scheme", "https"), (":authority", "api.ok.test"), (":path", "/a?token=secret")]
POST: Fields = [(":method", "POST"), *GET[1:]]
OK: Fields = [(":status", "200"), ("server", "made-up"), ("x-long", "v" * 300)]
ALLOWED = Verdict(Action.ALLOW, Reason.NAME_LISTED, host="api.ok.test")


def but(fields: Fields, **changes: str | None) -> Fields:
    """The fields with some pseudo-header fields changed or, with None, left out."""
    found = [(name, changes.get(name.strip(":"), value)) for name, value in fields]
    return [(name, value) for name, value in found if value is not None]


def conversation(verdict: Verdict = ALLOWED) -> Http2Conversation:
    ids = (f"d{n}" for n in itertools.count())
    return Http2Conversation(lambda: verdict, "api.ok.test", 443, "203.0.113.10:443", "flow1", lambda: next(ids))


def records(effects: Iterable[Effect]) -> list[dict[str, object]]:
    return [{"event": str(e.record.event), **e.record.fields} for e in effects if isinstance(e, Write)]


class Ends:
    """Both ends; `step` moves bytes until nobody has any, in pieces of `size`.

    `lenient`: the client sends what no client should.
    """

    def __init__(self, verdict: Verdict = ALLOWED, *, size: int = 1 << 20, lenient: bool = True) -> None:
        self.talk = conversation(verdict)
        self.size = size
        strict = not lenient
        self.client = H2Connection(
            H2Configuration(client_side=True, validate_outbound_headers=strict, normalize_outbound_headers=strict)
        )
        self.server = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
        self.effects: list[Effect] = []
        self.at_client: list[Event] = []
        self.at_server: list[Event] = []
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.now = 1.0
        self.client.initiate_connection()
        self.client.increment_flow_control_window(1 << 20)
        self.server.initiate_connection()
        self.step()

    def step(self) -> None:
        moved = True
        while moved:
            moved = False
            for source, feed in ((self.client, self.from_client), (self.server, self.from_server)):
                data = source.data_to_send()
                moved |= bool(data)
                feed(data)

    def from_client(self, data: bytes) -> None:
        for at in range(0, len(data), self.size):
            self._carry_out(self.talk.from_guest(data[at : at + self.size], self.now))

    def from_server(self, data: bytes) -> None:
        for at in range(0, len(data), self.size):
            self._carry_out(self.talk.from_upstream(data[at : at + self.size], self.now))

    def _carry_out(self, effects: list[Effect]) -> None:
        self.effects += effects
        for effect in effects:
            if isinstance(effect, ToUpstream):
                self.to_server += effect.data
                self.at_server += self.server.receive_data(effect.data)
            elif isinstance(effect, ToGuest):
                self.to_client += effect.data
                self.at_client += self.client.receive_data(effect.data)

    def request(self, fields: Fields, body: bytes = b"", *, end: bool = True) -> int:
        """Send a request and let it arrive; returns its stream."""
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, fields, end_stream=end and not body)
        if body:
            _send(self.client, stream, body, end=end)
        self.step()
        return stream

    def respond(self, stream: int, fields: Fields = OK, body: bytes = b"hi") -> None:
        self.server.send_headers(stream, fields, end_stream=not body)
        if body:
            _send(self.server, stream, body, end=True)
        self.step()

    def finished(self) -> str:
        """Why the conversation is over, "" while it is not."""
        return next((effect.why for effect in self.effects if isinstance(effect, Finish)), "")

    def records(self) -> list[dict[str, object]]:
        return records(self.effects)

    def body_at_server(self, stream: int | None) -> bytes:
        return b"".join(e.data for e in self.at_server if isinstance(e, DataReceived) and stream in (None, e.stream_id))

    def client_saw(self, kind: type, stream: int | None = None) -> list[Event]:
        return _of(self.at_client, kind, stream)

    def server_saw(self, kind: type, stream: int | None = None) -> list[Event]:
        return _of(self.at_server, kind, stream)


def _send(side: H2Connection, stream: int, body: bytes, *, end: bool) -> None:
    for at in range(0, len(body), 16000):
        side.send_data(stream, body[at : at + 16000], end_stream=end and at + 16000 >= len(body))


def _of(events: list[Event], kind: type, stream: int | None) -> list[Event]:
    return [e for e in events if isinstance(e, kind) and stream in (None, getattr(e, "stream_id", None))]
