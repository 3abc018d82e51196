"""The guest's frames: every request is decided before its header block goes on."""

from typing import Final

from microagent.decision.verdict import Reason, Verdict
from microagent.errors import Malformed
from microagent.flows import records
from microagent.flows.http1_body import doubt_without_length
from microagent.flows.http2.connection import Connection
from microagent.flows.http2.limits import MAX_STREAMS
from microagent.flows.http2.settings import for_upstream, stated
from microagent.flows.http2.stream import Stream
from microagent.wire.http2 import (
    ACK,
    END_STREAM,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    Fields,
    Frame,
    FrameType,
    Request,
    Setting,
    build_settings,
    check_trailers_untrusted,
    data_length_untrusted,
    parse_settings_untrusted,
    read_request_untrusted,
)

# Dropped DATA of at least this much has cost its sender something; less of it is noise.
WORTH_SENDING: Final = 1024


class GuestSide:
    """What comes from the guest."""

    __slots__ = ("_connection", "_greeted", "_greeting")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._greeting = b""
        self._greeted = False

    def arrive(self, data: bytes, now: float) -> None:
        """Bytes, in any pieces; raises ConnectionFault."""
        if not self._greeted:
            data = self._greet(data)
        for frame in self._connection.out.arrive(data):
            self._frame(frame, now)

    def _greet(self, data: bytes) -> bytes:
        """The preface, which may come in pieces; returns what follows it."""
        self._greeting += data
        if not self._greeting.startswith(PREFACE[: len(self._greeting)]):
            raise ConnectionFault("no HTTP/2 preface, where HTTP/2 was agreed on")
        if len(self._greeting) < len(PREFACE):
            return b""
        self._greeted = True
        self._connection.out.send(PREFACE)
        return self._greeting[len(PREFACE) :]

    def _frame(self, frame: Frame, now: float) -> None:
        lane = self._connection.out
        lane.expect(frame)
        block = lane.gather(frame, now)
        if block is not None:
            self._block(block, now)
        elif lane.mid_block:
            return
        elif frame.kind == FrameType.DATA:
            self._data(frame, now)
        elif frame.kind == FrameType.WINDOW_UPDATE:
            self._window_update(frame, now)
        elif frame.kind == FrameType.SETTINGS:
            self._settings(frame, now)
        else:
            self._connection.pass_rare(lane, frame, now)

    def _block(self, block: list[Frame], now: float) -> None:
        connection, lane = self._connection, self._connection.out
        number, ends = block[0].stream, bool(block[0].flags & END_STREAM)
        fields = lane.decode(block)
        if number > connection.last and number & 1:
            connection.last = number
            self._request(block, fields, now)
            return
        stream = connection.known(number)
        if stream is None:
            lane.noise.take(now)
            lane.drop_block()
            return
        try:
            if stream.guest_done or not ends:
                raise Malformed("a second head in one request")
            check_trailers_untrusted(fields, connection.most)
            stream.take_body(0, ends=True)
        except Malformed as fault:
            lane.drop_block()
            connection.cut(number, stream, fault.what, now)
            return
        if held := stream.let_go():
            lane.send(held)
        stream.bytes_out += len(held) + sum(len(frame.wire) for frame in block)
        lane.send_block(block, fields)
        connection.close_if_done(number, stream, now)

    def _request(self, block: list[Frame], fields: Fields, now: float) -> None:
        connection, head = self._connection, block[0]
        if len(connection.streams) >= MAX_STREAMS:
            connection.resets.take(now)
            connection.out.drop_block()
            connection.back.reset(head.stream, ErrorCode.REFUSED_STREAM)
            return
        try:
            request = read_request_untrusted(fields, connection.most)
            stream = Stream(request, now, bytes_out=sum(len(frame.wire) for frame in block))
            stream.take_body(0, ends=bool(head.flags & END_STREAM))
        except Malformed as fault:
            connection.deny(head, 400, Reason.REQUEST_MALFORMED, None, fault.what, now)
            return
        reason, verdict = self._judge(request)
        if reason is not None:
            connection.deny(head, 403, reason, request, records.hint(verdict) if verdict else "", now)
            return
        stream.doubt = doubt_without_length(request.method)
        connection.streams[head.stream] = stream
        connection.out.send_block(block, fields)

    def _judge(self, request: Request) -> tuple[Reason | None, Verdict | None]:
        """The reason to refuse this request, if there is one, and the policy's verdict where it was asked."""
        connection = self._connection
        if request.host != connection.name or request.port not in (None, connection.port):
            return Reason.HOST_MISMATCH, None
        if request.connect:
            return Reason.CONNECT_REFUSED, None
        verdict = connection.decide()
        return (None if verdict.allowed else verdict.reason), verdict

    def _data(self, frame: Frame, now: float) -> None:
        connection = self._connection
        stream, ends = connection.known(frame.stream), bool(frame.flags & END_STREAM)
        length = data_length_untrusted(frame.wire)
        if frame.length < WORTH_SENDING and (stream is None or not (length or ends)):
            connection.out.noise.take(now)
        if stream is None:
            connection.owed_guest += frame.length
            return
        try:
            if stream.guest_done:
                raise Malformed("data behind the end of a request")
            stream.take_body(length, ends=ends)
            wire = stream.pass_untrusted(frame, ends=ends)
        except Malformed as fault:
            connection.owed_guest += frame.length
            connection.cut(frame.stream, stream, fault.what, now)
            return
        if wire:
            stream.bytes_out += len(wire)
            connection.out.send(wire)
        connection.back.noise.earn()
        connection.close_if_done(frame.stream, stream, now)

    def _window_update(self, frame: Frame, now: float) -> None:
        connection, lane = self._connection, self._connection.out
        lane.noise.take(now)
        if frame.stream:
            if connection.known(frame.stream):
                lane.send(frame.wire)
            return
        amount = int.from_bytes(frame.payload, "big")
        passed = connection.keep_back(amount)
        if passed:
            lane.credit(passed)

    def _settings(self, frame: Frame, now: float) -> None:
        connection, lane = self._connection, self._connection.out
        lane.noise.take(now)
        if frame.flags & ACK:
            lane.decoder.acknowledged()
            lane.send(frame.wire)
            return
        entries = for_upstream(parse_settings_untrusted(frame.payload), first=not lane.greeted)
        lane.greeted = True
        connection.back.decoder.announced(stated(entries, Setting.HEADER_TABLE_SIZE))
        window = stated(entries, Setting.INITIAL_WINDOW_SIZE)
        connection.window = connection.window if window is None else window
        lane.send(build_settings(entries))
