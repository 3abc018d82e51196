"""Header blocks: HPACK off the wire (RFC 7541), and back without a table."""

from collections import deque
from typing import Final, TypeAlias

from hpack import Decoder, HPACKError, OversizedHeaderListError

from microagent.wire.http2.faults import ConnectionFault, ErrorCode
from microagent.wire.http2.frames import HEADER, PADDED, PRIORITY, FrameType

# What Chrome and Firefox ask for; the largest table that either side may make us keep.
MAX_TABLE: Final = 65536
_DEFAULT_TABLE: Final = 4096
# SETTINGS that the other side has not acknowledged; clients and servers send one or two in all.
_MAX_UNACKNOWLEDGED: Final = 16

Fields: TypeAlias = list[tuple[bytes, bytes]]


class BlockDecoder:
    """The decompression state of one direction.

    How large its table may be is what the receiver of the blocks says in SETTINGS; the sender keeps to it from
    its acknowledgement on (RFC 7541 section 4.2), and until then either size may be in use.
    """

    __slots__ = ("_decoder", "_table", "_waiting")

    def __init__(self, most: int) -> None:
        """`most` bytes of fields are decoded of one block; each counts 32 more (RFC 9113 section 6.5.2)."""
        self._decoder = Decoder(max_header_list_size=most)
        self._table = _DEFAULT_TABLE
        self._waiting: deque[int | None] = deque()

    def announced(self, table: int | None) -> None:
        """The receiver's SETTINGS have passed; `table` is the size they state, None for none."""
        if len(self._waiting) >= _MAX_UNACKNOWLEDGED:
            raise ConnectionFault("SETTINGS that are never acknowledged", ErrorCode.ENHANCE_YOUR_CALM)
        self._waiting.append(table)
        self._allow()

    def acknowledged(self) -> None:
        """The sender has applied the oldest of them."""
        if not self._waiting:
            raise ConnectionFault("an acknowledgement of SETTINGS that were never sent")
        table = self._waiting.popleft()
        if table is not None:
            self._table = table
        self._allow()

    def _allow(self) -> None:
        self._decoder.max_allowed_table_size = max(self._table, *(size or 0 for size in self._waiting), 0)

    def decode_untrusted(self, block: bytes) -> Fields:
        """The fields of a whole block, in order; raises only ConnectionFault, for what comes after cannot be read."""
        try:
            return list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise ConnectionFault("more fields than an HTTP head may have", ErrorCode.ENHANCE_YOUR_CALM) from None
        except (HPACKError, ValueError, IndexError):
            raise ConnectionFault("a header block that does not decode", ErrorCode.COMPRESSION_ERROR) from None


def fragment_untrusted(wire: bytes) -> bytes:
    """The part of a block that a HEADERS or CONTINUATION frame carries; raises only ConnectionFault."""
    payload = wire[HEADER:]
    if len(wire) < HEADER or wire[3] != FrameType.HEADERS:
        return payload
    flags, padding = wire[4], 0
    if flags & PADDED:
        padding = payload[0] if payload else 0
        payload = payload[1:]
    if flags & PRIORITY:
        padding += 5
    if padding > len(payload) or (flags & PADDED and len(wire) == HEADER):
        raise ConnectionFault("more padding than frame")
    start = 5 if flags & PRIORITY else 0
    return payload[start : len(payload) - (padding - start)]


def encode_literal(fields: Fields, *, shrink: bool) -> bytes:
    """A block that neither reads nor changes the receiver's table, except that `shrink` empties it for good.

    Every field is a literal without indexing (RFC 7541 section 6.2.2), or never indexed where it came so. An update of
    the table's size to nothing is valid whatever the receiver last asked for, and asks for no other after it.
    """
    parts = [b"\x20" if shrink else b""]
    for field in fields:
        name, value = field
        sensitive = not getattr(field, "indexable", True)
        parts += [b"\x10" if sensitive else b"\x00", _length(len(name)), name, _length(len(value)), value]
    return b"".join(parts)


def _length(number: int) -> bytes:
    """An integer with a prefix of seven bits, no Huffman coding (RFC 7541 sections 5.1 and 5.2)."""
    if number < 127:
        return bytes((number,))
    encoded = bytearray((127,))
    number -= 127
    while number >= 128:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
