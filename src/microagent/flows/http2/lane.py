"""One direction of a connection: what has come and is not whole, what goes on, and its compression state.

How this works: header blocks go on as they came, so sender and receiver share one HPACK table and ours only follows.
A block that must not go on would leave the receiver's table behind the sender's. From the first such block, and the
first of our own, the lane writes every later one itself, as literals that need no table; the receiver's is emptied.
So one stream can be refused and the others live on, and until then not a bit of a header is changed.
"""

from microagent.flows.http2.limits import MAX_CONTINUATIONS, Bucket, noise_bucket
from microagent.wire.http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    BlockDecoder,
    ConnectionFault,
    ErrorCode,
    Fields,
    Frame,
    FrameType,
    build_frame,
    build_headers,
    encode_literal,
    fragment_untrusted,
    split_frames_untrusted,
)


class Lane:
    """The way from one side to the other."""

    __slots__ = ("_block", "_emptied", "_most", "_out", "_own", "_size", "_unread", "decoder", "greeted", "noise")

    def __init__(self, most: int) -> None:
        """`most` bytes of a header block are taken, compressed or not."""
        self._most = most
        self.decoder = BlockDecoder(most)
        self.noise: Bucket = noise_bucket()
        # Whether the SETTINGS that must come first have come (RFC 9113 section 3.4).
        self.greeted = False
        self._unread = b""
        self._block: list[Frame] = []
        self._size = 0
        self._own = False
        self._emptied = False
        self._out: list[bytes] = []

    # --- arrivals

    def arrive(self, data: bytes) -> list[Frame]:
        """Whole frames, in order; what is left is kept. ConnectionFault for what cannot be one."""
        unread = self._unread + data if self._unread else data
        frames, used = split_frames_untrusted(unread)
        self._unread = unread[used:] if used < len(unread) else b""
        return frames

    def expect(self, frame: Frame) -> None:
        """ConnectionFault if this is the first frame, and not the SETTINGS it must be."""
        if not self.greeted and (frame.kind != FrameType.SETTINGS or frame.flags & ACK):
            raise ConnectionFault("a connection that does not begin with SETTINGS")

    def gather(self, frame: Frame, now: float) -> list[Frame] | None:
        """The frames of a header block once it is whole; None while it is not, or if this frame belongs to none.

        Nothing may come between them (RFC 9113 section 6.10).
        """
        if self._block:
            first = self._block[0]
            if frame.kind != FrameType.CONTINUATION or frame.stream != first.stream:
                raise ConnectionFault("a header block that is not continued")
            self.noise.take(now)
        elif frame.kind == FrameType.CONTINUATION:
            raise ConnectionFault("CONTINUATION of nothing")
        elif frame.kind != FrameType.HEADERS:
            return None
        self._block.append(frame)
        self._size += frame.length
        if self._size > self._most or len(self._block) > MAX_CONTINUATIONS:
            raise ConnectionFault("a header block without an end", ErrorCode.ENHANCE_YOUR_CALM)
        if not frame.flags & END_HEADERS:
            return None
        block, self._block, self._size = self._block, [], 0
        return block

    @property
    def mid_block(self) -> bool:
        """Whether a header block has begun and not ended."""
        return bool(self._block)

    def decode(self, block: list[Frame]) -> Fields:
        """The fields of a whole block; every block passes here, whatever becomes of it."""
        return self.decoder.decode_untrusted(b"".join([fragment_untrusted(frame.wire) for frame in block]))

    # --- departures

    def send(self, wire: bytes) -> None:
        """Let a frame go on, or send one of our own."""
        self._out.append(wire)

    def send_block(self, block: list[Frame], fields: Fields) -> None:
        """Let a header block go on."""
        if self._own:
            self.send_fields(block[0].stream, fields, end_stream=bool(block[0].flags & END_STREAM))
        else:
            self._out += [frame.wire for frame in block]

    def send_fields(self, stream: int, fields: Fields, *, end_stream: bool) -> None:
        """Send a header block of our own."""
        self._own = True
        block = encode_literal(fields, shrink=not self._emptied)
        self._emptied = True
        self._out.append(build_headers(stream, block, end_stream=end_stream))

    def drop_block(self) -> None:
        """A header block does not go on."""
        self._own = True

    def reset(self, stream: int, code: ErrorCode) -> None:
        """Send RST_STREAM."""
        self._out.append(build_frame(FrameType.RST_STREAM, 0, stream, code.to_bytes(4, "big")))

    def credit(self, amount: int) -> None:
        """Send WINDOW_UPDATE for the connection."""
        self._out.append(build_frame(FrameType.WINDOW_UPDATE, 0, 0, amount.to_bytes(4, "big")))

    def goodbye(self, last: int, code: ErrorCode) -> None:
        """Send GOAWAY."""
        payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self._out.append(build_frame(FrameType.GOAWAY, 0, 0, payload))

    def depart(self) -> bytes:
        """Everything to send now."""
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out = []
        return data
