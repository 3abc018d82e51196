"""What both sides of a connection share: its streams, and how one is refused, broken off or ended.

A refused stream never reaches the server: it is answered here, and what still comes for it, as for any stream that
has ended, is dropped. Dropped data has used up window that the other side will never give back, so it is given back
here; and the data of our own answers uses window of the guest's that was kept back from the server beforehand.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from microagent.audit.record import Event, Record
from microagent.decision.verdict import Reason, Verdict
from microagent.flows import records
from microagent.flows.http1 import Effect, Finish, ToGuest, ToUpstream, Write
from microagent.flows.http2.lane import Lane
from microagent.flows.http2.limits import Bucket, reset_bucket
from microagent.flows.http2.stream import Stream
from microagent.wire.http1 import HeadLimits
from microagent.wire.http1_reply import deny_body
from microagent.wire.http2 import (
    END_STREAM,
    ConnectionFault,
    ErrorCode,
    Frame,
    FrameType,
    Request,
    build_frame,
)

# Of the guest's window for the connection, for our own answers: some forty of them in flight.
_RESERVE: Final = 16384
_DEFAULT_WINDOW: Final = 65535


@dataclass(slots=True)
class Connection:
    """Two lanes, and the streams between them; `out` goes to the server, `back` to the guest."""

    decide: Callable[[], Verdict]
    name: str
    port: int
    destination: str
    flow: str
    new_id: Callable[[], str]
    most: HeadLimits
    out: Lane = field(init=False)
    back: Lane = field(init=False)
    streams: dict[int, Stream] = field(default_factory=dict)
    # The highest stream that the guest has opened, refused ones too.
    last: int = 0
    resets: Bucket = field(default_factory=reset_bucket)
    # What the guest takes of one stream's data before it says more.
    window: int = _DEFAULT_WINDOW
    # Window used up by data that was dropped: whoever sent it gets it back.
    owed_guest: int = 0
    owed_upstream: int = 0
    finished: bool = False
    _reserve: int = 0
    _effects: list[Effect] = field(default_factory=list)
    _why: str = ""

    def __post_init__(self) -> None:
        self.out = Lane(self.most.size)
        self.back = Lane(self.most.size)

    def known(self, number: int) -> Stream | None:
        """The stream, None if it has ended or was refused; ConnectionFault if the guest has never opened it."""
        stream = self.streams.get(number)
        if stream is None and (number > self.last or not number & 1):
            raise ConnectionFault(f"a frame of stream {number}, which was never opened")
        return stream

    def keep_back(self, amount: int) -> int:
        """Of a window update of the guest's, keep what our own answers need; returns what the server may have."""
        kept = min(amount, _RESERVE - self._reserve)
        self._reserve += kept
        return amount - kept

    def pass_rare(self, lane: Lane, frame: Frame, now: float) -> None:
        """Frames that mean the same from either side: some go on, the others do not."""
        if frame.kind == FrameType.RST_STREAM:
            self.resets.take(now)
            stream = self.known(frame.stream)
            if stream is not None:
                lane.send(frame.wire)
                self.close(frame.stream, stream, now)
            return
        if frame.kind == FrameType.PUSH_PROMISE:
            raise ConnectionFault("PUSH_PROMISE, where push is switched off")
        lane.noise.take(now)
        # PRIORITY is deprecated. Of what is unknown, ALTSVC and ORIGIN would lead the guest to other connections.
        if frame.kind in (FrameType.PING, FrameType.GOAWAY):
            lane.send(frame.wire)

    # --- refusals

    def deny(self, head: Frame, status: int, reason: Reason, request: Request | None, hint: str, now: float) -> None:
        """Answer a request that does not go on; `head` is its first frame."""
        self.resets.take(now)
        self.out.drop_block()
        ident = self._record_denial(reason, request, hint)
        host = request.host if request else self.name
        head_only = request is not None and request.method == "HEAD"
        body = b"" if head_only else deny_body(status, host, str(reason), ident, hint)
        self._answer(head.stream, status, ident, body)
        if not head.flags & END_STREAM:
            self.back.reset(head.stream, ErrorCode.NO_ERROR)

    def cut(self, number: int, stream: Stream, what: str, now: float) -> None:
        """End a stream whose request turned out to be malformed after it was let through."""
        self.resets.take(now)
        reason = Reason.REQUEST_MALFORMED
        ident = self._record_denial(reason, stream.request, what)
        self.out.reset(number, ErrorCode.PROTOCOL_ERROR)
        if not stream.answered:
            stream.status = 400
            self._answer(number, 400, ident, deny_body(400, self.name, str(reason), ident, what))
        self.back.reset(number, ErrorCode.PROTOCOL_ERROR)
        self.close(number, stream, now)

    def bad_gateway(self, number: int, stream: Stream, what: str, now: float) -> None:
        """End a stream whose response is malformed."""
        self.resets.take(now)
        ident = self._record_error(what)
        self.out.reset(number, ErrorCode.PROTOCOL_ERROR)
        if stream.answered:
            self.back.reset(number, ErrorCode.INTERNAL_ERROR)
        else:
            stream.status = 502
            hint = "the server's answer is malformed"
            self._answer(number, 502, ident, deny_body(502, self.name, "upstream_malformed", ident, hint))
            if not stream.guest_done:
                self.back.reset(number, ErrorCode.NO_ERROR)
        self.close(number, stream, now)

    def _answer(self, number: int, status: int, ident: str, body: bytes) -> None:
        """A whole response of our own; without its body where the guest's windows are too small for it."""
        fits = 0 < len(body) <= min(self.window, self._reserve)
        fields = [
            (b":status", str(status).encode("ascii")),
            (b"content-type", b"application/json"),
            (b"x-microagent-decision", ident.encode("ascii")),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
        if fits:
            fields.append((b"content-length", str(len(body)).encode("ascii")))
        self.back.send_fields(number, fields, end_stream=not fits)
        if fits:
            self._reserve -= len(body)
            self.back.send(build_frame(FrameType.DATA, END_STREAM, number, body))

    def _record_denial(self, reason: Reason, request: Request | None, hint: str) -> str:
        ident = self.new_id()
        host, asked = (request.host, (request.method, request.path)) if request else (self.name, None)
        self._write(
            records.request_denial(
                reason, hint, host=host, dst=self.destination, flow=self.flow, ident=ident, asked=asked
            )
        )
        return ident

    def _record_error(self, what: str) -> str:
        ident = self.new_id()
        fields = {"host": self.name, "dst": self.destination, "error": what, "flow": self.flow}
        self._write(Record(Event.UPSTREAM_ERROR, fields, ident=ident))
        return ident

    # --- ends

    def close_if_done(self, number: int, stream: Stream, now: float) -> None:
        """End a stream that both sides have ended."""
        if stream.done:
            self.close(number, stream, now)

    def close(self, number: int, stream: Stream, now: float) -> None:
        """Forget a stream, and record it: before its last frame goes on."""
        del self.streams[number]
        self.owed_guest += stream.owed
        fields = {"host": self.name, **stream.fields(now), "flow": self.flow}
        self._write(Record(Event.REQUEST, fields))

    def break_guest(self, fault: ConnectionFault, now: float) -> None:
        """The guest broke the connection's rules: tell it, and end."""
        self._record_fault(fault)
        self.back.goodbye(self.last, fault.code)
        self.finish("denied", now)

    def break_upstream(self, fault: ConnectionFault, now: float) -> None:
        """The server did: tell both."""
        if not self._record_cap(fault):
            self._record_error(fault.what)
        self.out.goodbye(0, fault.code)
        self.back.goodbye(self.last, ErrorCode.INTERNAL_ERROR)
        self.finish("malformed response", now)

    def _record_fault(self, fault: ConnectionFault) -> None:
        if not self._record_cap(fault):
            self._record_denial(Reason.REQUEST_MALFORMED, None, fault.what)

    def _record_cap(self, fault: ConnectionFault) -> bool:
        if fault.code is not ErrorCode.ENHANCE_YOUR_CALM:
            return False
        fields = {"host": self.name, "dst": self.destination, "limit": fault.what, "flow": self.flow}
        self._write(Record(Event.CAP_EXCEEDED, fields))
        return True

    def finish(self, why: str, now: float) -> None:
        """End the connection, and record what was under way."""
        if self.finished:
            return
        self.finished = True
        self._why = why
        for number, stream in tuple(self.streams.items()):
            self.close(number, stream, now)

    def carry_out(self) -> list[Effect]:
        """What is to be done now: the records first, then the bytes that they are about."""
        if self.owed_guest:
            self.back.credit(self.owed_guest)
        if self.owed_upstream:
            self.out.credit(self.owed_upstream)
        self.owed_guest = self.owed_upstream = 0
        effects, self._effects = self._effects, []
        if out := self.out.depart():
            effects.append(ToUpstream(out))
        if back := self.back.depart():
            effects.append(ToGuest(back))
        if self._why:
            effects.append(Finish(self._why))
            self._why = ""
        return effects

    def _write(self, record: Record) -> None:
        self._effects.append(Write(record))
