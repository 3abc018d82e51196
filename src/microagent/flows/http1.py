"""An HTTP/1.1 conversation, watched as it passes: every request is decided before a byte of it goes on.

How this works: one exchange at a time. A request's head is parsed strictly and decided; then it goes on as it
came, byte for byte, and its body is counted past. The next request is not even looked at until the response to
this one has ended, so that "what belongs to which request" never depends on how the server reads. Two ends that
could disagree about where a message ends are exactly what request smuggling needs; what is ambiguous is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from microagent.audit.record import Event, Record
from microagent.decision.verdict import Reason, Verdict
from microagent.errors import Malformed
from microagent.flows import records
from microagent.flows.http1_body import Body, Doubt, doubt_of
from microagent.wire.http1 import (
    DEFAULT_LIMITS,
    FamiliarRequests,
    FamiliarResponses,
    HeadLimits,
    RequestHead,
    ResponseHead,
    accepts,
    find_head_end,
)
from microagent.wire.http1_reply import deny_response

# RFC 9110 15.2 lets a server send any number of 1xx; more than this is a stall, not an interim answer.
MAX_INTERIM = 16


@dataclass(frozen=True, slots=True)
class ToUpstream:
    """Send to the server."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToGuest:
    """Send to the guest."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """Append the record; if that fails, end the connection."""

    record: Record


@dataclass(frozen=True, slots=True)
class Finish:
    """Send what is queued, then close both sides."""

    why: str


Effect: TypeAlias = ToUpstream | ToGuest | Write | Finish


@dataclass(slots=True)
class _Exchange:
    """A request that was let through, until its response has ended."""

    request: RequestHead
    started: float
    request_body: Body
    response_body: Body | None = None
    status: int = 0
    interim: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    close: bool = False
    response_done: bool = False
    doubt: Doubt | None = None


@dataclass(slots=True)
class HttpConversation:
    """One guest connection's requests to `name`:`port`, already dialled.

    `decide` gives the verdict for a request to the name (the policy may have changed since the last one);
    `new_id` makes decision ids; `flow` is the id of the connection's own record, `most` what a head
    may have.
    """

    decide: Callable[[], Verdict]
    name: str
    port: int
    destination: str
    flow: str
    new_id: Callable[[], str]
    most: HeadLimits = DEFAULT_LIMITS
    bytes_out: int = 0
    bytes_in: int = 0
    tunnel: bool = False
    finished: bool = False
    _familiar: FamiliarRequests = field(init=False)
    _familiar_back: FamiliarResponses = field(init=False)
    _requests: bytearray = field(default_factory=bytearray)
    _responses: bytearray = field(default_factory=bytearray)
    _exchange: _Exchange | None = None

    def __post_init__(self) -> None:
        self._familiar = FamiliarRequests(self.most)
        self._familiar_back = FamiliarResponses(self.most)

    @property
    def wants_guest(self) -> bool:
        """Whether the guest's bytes should be read now: not while a whole request waits for its answer."""
        exchange = self._exchange
        return not self.finished and (self.tunnel or exchange is None or not exchange.request_body.done)

    def from_guest(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the guest, in any pieces."""
        exchange = self._exchange
        if self.tunnel:
            self.bytes_out += len(data)
            return [ToUpstream(data)]
        idle = exchange is None and not self._requests and not self.finished
        if idle and find_head_end(data) == len(data) <= self.most.size:
            return self._request(data, b"", now)  # as most requests come: whole, and nothing else
        if exchange is None or exchange.request_body.done or self._requests:
            self._requests += data
            return self._next_requests(now)
        return self._request_body(exchange, data, now)

    def from_upstream(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the server, in any pieces."""
        if self.tunnel:
            self.bytes_in += len(data)
            return [ToGuest(data)]
        exchange = self._exchange
        if exchange is not None and exchange.response_body is not None:
            return self._response_body(exchange, exchange.response_body, data, now)
        if self._responses:
            self._responses += data
            if find_head_end(self._responses) < 0 and len(self._responses) < self.most.size:
                return []
            data = bytes(self._responses)
            self._responses.clear()
        return self._next_response(data, now)

    def guest_ended(self, now: float) -> list[Effect]:
        """The guest sends no more. A half-closed client may still be waiting for its answer."""
        exchange = self._exchange
        if exchange is not None and exchange.request_body.done and not self.tunnel:
            exchange.close = True
            return []
        return self._finish("guest closed", now)

    def upstream_ended(self, now: float) -> list[Effect]:
        """The server sends no more."""
        exchange = self._exchange
        if exchange and exchange.response_body and exchange.response_body.ends_with_connection():
            exchange.response_done = True
        return self._finish("upstream closed", now)

    def too_slow(self, now: float) -> list[Effect]:
        """The connection has idled for too long: what a guest reads that waits for a response; nothing if none does."""
        exchange = self._exchange
        if exchange is None or not exchange.request_body.done or exchange.response_body is not None:
            return []
        exchange.status = 504
        ident = self.new_id()
        fields = {"host": self.name, "dst": self.destination, "error": "no response in time", "flow": self.flow}
        body = deny_response(504, self.name, "response_timeout", ident, "the server did not answer in time")
        written = Write(Record(Event.UPSTREAM_ERROR, fields, ident=ident))
        return [written, ToGuest(body), *self._finish("tcp_idle_seconds", now)]

    def refuse_http2(self, now: float) -> list[Effect]:
        """The server begins HTTP/2, on which the guest has not agreed by ALPN, before there was a request."""
        return self._deny(403, Reason.UPGRADE_REFUSED, None, "", now)

    # --- requests

    def _next_requests(self, now: float) -> list[Effect]:
        if self._exchange is not None or not self._requests or self.finished:
            return []
        end = find_head_end(self._requests)
        if end < 0 and len(self._requests) < self.most.size:
            return []
        head = bytes(self._requests[:end]) if 0 < end <= self.most.size else b""
        rest = bytes(self._requests[end:])
        self._requests.clear()
        return self._request(head, rest, now)

    def _request(self, head: bytes, rest: bytes, now: float) -> list[Effect]:
        """A request's head, and what came behind it; an empty head is one that was too long."""
        try:
            request = self._familiar.parse_untrusted(head)
        except Malformed as fault:
            return self._deny(400, Reason.REQUEST_MALFORMED, None, fault.what, now)
        reason, verdict = self._judge(request)
        if reason is not None:
            hint = records.hint(verdict) if verdict else ""
            return self._deny(403, reason, request, hint, now)
        doubt = doubt_of(request.method, request.framing)
        self._exchange = _Exchange(request, now, Body(request.framing), bytes_out=len(head), doubt=doubt)
        self.bytes_out += len(head)
        return [ToUpstream(head), *(self.from_guest(rest, now) if rest else [])]

    def _judge(self, request: RequestHead) -> tuple[Reason | None, Verdict | None]:
        """The reason to refuse this request, if there is one, and the policy's verdict where it was asked."""
        if request.host != self.name or request.port not in (None, self.port):
            return Reason.HOST_MISMATCH, None
        if request.connect:
            return Reason.CONNECT_REFUSED, None
        if request.upgrade is not None and request.websocket_key is None:
            return Reason.UPGRADE_REFUSED, None
        verdict = self.decide()
        return (None if verdict.allowed else verdict.reason), verdict

    def _request_body(self, exchange: _Exchange, data: bytes, now: float) -> list[Effect]:
        try:
            if exchange.doubt is not None:
                data = exchange.doubt.pass_untrusted(data)
            used = exchange.request_body.take(data)
        except Malformed as fault:
            return self._deny(400, Reason.REQUEST_MALFORMED, exchange.request, fault.what, now)
        exchange.bytes_out += used
        self.bytes_out += used
        effects: list[Effect] = [ToUpstream(data[:used])] if used else []
        if used < len(data):
            # Pipelined: kept until the response has ended; the driver stops reading meanwhile.
            self._requests += data[used:]
        return effects + (self._exchange_over(now) if exchange.request_body.done else [])

    def _deny(self, status: int, reason: Reason, request: RequestHead | None, hint: str, now: float) -> list[Effect]:
        ident = self.new_id()
        host = request.host if request else self.name
        asked = (request.method, request.path) if request else None
        denial = records.request_denial(
            reason, hint, host=host, dst=self.destination, flow=self.flow, ident=ident, asked=asked
        )
        effects: list[Effect] = [Write(denial)]
        answered = self._exchange is not None and self._exchange.bytes_in > 0
        head_only = request is not None and request.method == "HEAD"
        if not answered:
            effects.append(ToGuest(deny_response(status, host, str(reason), ident, hint, head_only=head_only)))
        return effects + self._finish("denied", now)

    # --- responses

    def _next_response(self, data: bytes, now: float) -> list[Effect]:
        """`data` are the server's bytes that nobody has looked at."""
        effects: list[Effect] = []
        while data and not self.finished:
            exchange = self._exchange
            if exchange is None:
                # Nobody asked: a server that speaks first, or an answer too many.
                return effects + self._finish("unsolicited response", now)
            end = find_head_end(data)
            if end < 0 and len(data) < self.most.size:
                self._responses += data
                return effects
            head = data[:end] if 0 < end <= self.most.size else b""
            try:
                response = self._familiar_back.parse_untrusted(head, exchange.request.method)
            except Malformed as fault:
                return effects + self._bad_gateway(exchange, fault.what, now)
            data = data[end:]
            exchange.status = response.status
            exchange.bytes_in += len(head)
            self.bytes_in += len(head)
            if response.status == 101:
                return effects + self._switch(exchange, response, head, data, now)
            if response.status < 200:
                effects.append(ToGuest(head))
                exchange.interim += 1
                if exchange.interim > MAX_INTERIM:
                    return effects + self._finish("too many interim responses", now)
                continue
            exchange.close |= response.close or exchange.request.close
            exchange.response_body = body = Body(response.framing)
            return effects + self._response_body(exchange, body, data, now, head)
        return effects

    def _response_body(
        self, exchange: _Exchange, body: Body, data: bytes, now: float, head: bytes = b""
    ) -> list[Effect]:
        try:
            used = body.take(data) if data else 0
        except Malformed as fault:
            return self._finish(f"upstream sent {fault.what}", now)
        exchange.bytes_in += used
        self.bytes_in += used
        passing = head + data[:used] if head or used < len(data) else data
        if not body.done:
            return [ToGuest(passing)] if passing else []
        exchange.response_done = True
        if used < len(data):
            over = self._finish("unsolicited response", now)
        elif not exchange.request_body.done:
            # Nor may the rest of the body go on: a server that does not want it takes it for the next request.
            over = self._finish("answered before the request's end", now)
        else:
            over = self._exchange_over(now)
        # The request is on record before the guest has the last of its answer.
        return [*over[:1], ToGuest(passing), *over[1:]] if over else [ToGuest(passing)]

    def _switch(
        self, exchange: _Exchange, response: ResponseHead, head: bytes, rest: bytes, now: float
    ) -> list[Effect]:
        """101: only the WebSocket that was asked for, and is proven to be the answer, becomes a tunnel."""
        key = exchange.request.websocket_key
        if key is None or response.upgrade != "websocket" or not accepts(key, response.websocket_accept):
            return self._bad_gateway(exchange, "101 that is no answer to a WebSocket handshake", now)
        self.tunnel = True
        exchange.response_done = True
        self.bytes_in += len(rest)
        effects: list[Effect] = [self._request_record(exchange, now), ToGuest(head + rest)]
        self._exchange = None
        if self._requests:
            self.bytes_out += len(self._requests)
            effects.append(ToUpstream(bytes(self._requests)))
            self._requests.clear()
        return effects

    def _bad_gateway(self, exchange: _Exchange, what: str, now: float) -> list[Effect]:
        exchange.status = 502
        ident = self.new_id()
        fields = {"host": self.name, "dst": self.destination, "error": what, "flow": self.flow}
        body = deny_response(502, self.name, "upstream_malformed", ident, "the server's answer is malformed")
        written = Write(Record(Event.UPSTREAM_ERROR, fields, ident=ident))
        return [written, ToGuest(body), *self._finish("malformed response", now)]

    # --- ends

    def _exchange_over(self, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None or not (exchange.response_done and exchange.request_body.done):
            return []
        if exchange.close:
            return self._finish("closed after the response", now)
        self._exchange = None
        return [self._request_record(exchange, now), *self._next_requests(now)]

    def _finish(self, why: str, now: float) -> list[Effect]:
        if self.finished:
            return []
        self.finished = True
        exchange, self._exchange = self._exchange, None
        effects: list[Effect] = [self._request_record(exchange, now)] if exchange else []
        return [*effects, Finish(why)]

    def _request_record(self, exchange: _Exchange, now: float) -> Write:
        fields = {
            "host": self.name,
            "method": exchange.request.method,
            "path": exchange.request.path,
            "status": exchange.status,
            "bytes_out": exchange.bytes_out,
            "bytes_in": exchange.bytes_in,
            "duration_ms": round((now - exchange.started) * 1000, 1),
            "http": "1.1",
            "flow": self.flow,
        }
        return Write(Record(Event.REQUEST, fields))
