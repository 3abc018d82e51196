"""The server's frames: answers to requests that were let through, and nothing else."""

from microagent.errors import Malformed
from microagent.flows.http2.connection import Connection
from microagent.flows.http2.guest_side import WORTH_SENDING
from microagent.flows.http2.limits import MAX_INTERIM
from microagent.flows.http2.settings import for_guest, stated
from microagent.flows.http2.stream import Stream
from microagent.wire.http1 import HeadLimits
from microagent.wire.http2 import (
    ACK,
    END_STREAM,
    Fields,
    Frame,
    FrameType,
    Setting,
    build_settings,
    check_trailers_untrusted,
    data_length_untrusted,
    parse_settings_untrusted,
    read_response_untrusted,
)


class UpstreamSide:
    """What comes from the server."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def arrive(self, data: bytes, now: float) -> None:
        """Bytes, in any pieces; raises ConnectionFault."""
        for frame in self._connection.back.arrive(data):
            self._frame(frame, now)

    def _frame(self, frame: Frame, now: float) -> None:
        lane = self._connection.back
        lane.expect(frame)
        block = lane.gather(frame, now)
        if block is not None:
            self._block(block, now)
        elif lane.mid_block:
            return
        elif frame.kind == FrameType.DATA:
            self._data(frame, now)
        elif frame.kind == FrameType.WINDOW_UPDATE:
            lane.noise.take(now)
            if not frame.stream or self._connection.known(frame.stream):
                lane.send(frame.wire)
        elif frame.kind == FrameType.SETTINGS:
            self._settings(frame, now)
        else:
            self._connection.pass_rare(lane, frame, now)

    def _block(self, block: list[Frame], now: float) -> None:
        connection, lane = self._connection, self._connection.back
        number, ends = block[0].stream, bool(block[0].flags & END_STREAM)
        fields = lane.decode(block)
        stream = connection.known(number)
        if stream is None:
            lane.noise.take(now)
            lane.drop_block()
            return
        try:
            _read_response(stream, fields, connection.most, ends=ends)
        except Malformed as fault:
            lane.drop_block()
            connection.bad_gateway(number, stream, fault.what, now)
            return
        stream.bytes_in += sum(len(frame.wire) for frame in block)
        lane.send_block(block, fields)
        connection.close_if_done(number, stream, now)

    def _data(self, frame: Frame, now: float) -> None:
        connection = self._connection
        stream, ends = connection.known(frame.stream), bool(frame.flags & END_STREAM)
        length = data_length_untrusted(frame.wire)
        if frame.length < WORTH_SENDING and (stream is None or not (length or ends)):
            connection.back.noise.take(now)
        if stream is None:
            connection.owed_upstream += frame.length
            return
        if stream.upstream_done or not stream.answered:
            connection.owed_upstream += frame.length
            connection.bad_gateway(frame.stream, stream, "data before a response, or behind its end", now)
            return
        stream.upstream_done = ends
        stream.bytes_in += len(frame.wire)
        connection.back.send(frame.wire)
        connection.out.noise.earn()
        connection.close_if_done(frame.stream, stream, now)

    def _settings(self, frame: Frame, now: float) -> None:
        connection, lane = self._connection, self._connection.back
        lane.noise.take(now)
        if frame.flags & ACK:
            lane.decoder.acknowledged()
            lane.send(frame.wire)
            return
        entries = for_guest(parse_settings_untrusted(frame.payload), first=not lane.greeted)
        lane.greeted = True
        connection.out.decoder.announced(stated(entries, Setting.HEADER_TABLE_SIZE))
        lane.send(build_settings(entries))


def _read_response(stream: Stream, fields: Fields, most: HeadLimits, *, ends: bool) -> None:
    """A final response, interim ones before it, trailers behind it (RFC 9113 section 8.1)."""
    if stream.upstream_done:
        raise Malformed("a head behind the end of a response")
    if stream.answered:
        if not ends:
            raise Malformed("a second head in one response")
        check_trailers_untrusted(fields, most)
    else:
        status = read_response_untrusted(fields, most).status
        if status < 200:
            stream.interim += 1
            if ends or stream.interim > MAX_INTERIM:
                raise Malformed("an interim response that ends its stream, or one too many")
        stream.status = status
    stream.upstream_done = ends
