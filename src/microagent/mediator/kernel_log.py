"""What the kernel refused or dropped by itself, as it reports it through nfnetlink_log.

A "refuse" or "inside" line is one packet of a kind that clients notice (TCP, UDP): it becomes a record, with the reason
the engine gives. A "drop" line only says that counters have moved: the agent is asked for them, at most once a second.
A "piece" line says that they may have moved when the kernel has given up waiting for the other pieces.
The rules log at a limited rate; the refusals beyond it are recorded as a number, so that all records together say
exactly what the counters say.
"""

import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from microagent.audit.record import Event, Record, timestamp
from microagent.decision.engine import Proto, Question
from microagent.decision.verdict import Verdict
from microagent.errors import Malformed
from microagent.flows import records
from microagent.mediator.reactor import IN
from microagent.mediator.services import Services
from microagent.wire.packet import Packet, parse_ipv4_untrusted

# linux/netfilter/nfnetlink_log.h
_PACKET = 4 << 8 | 0
_ATTR_PAYLOAD = 9
_ATTR_PREFIX = 10
_BATCH = 64
# The kernel waits two seconds for the rest of a datagram (host/links.py); one line a second may stand for more pieces.
_GIVEN_UP_SECONDS = 4.0

# Counters of steer.nft for what was refused: the protocol, and whether the destination was inside.
_REFUSALS = {
    "refused_inside_tcp": ("tcp", True),
    "refused_inside_udp": ("udp", True),
    "refused_udp": ("udp", False),
}


class KernelLog:
    """Reads the netlink socket; `counters_moved` is called when there is something to count."""

    def __init__(self, services: Services, sock: socket.socket, counters_moved: Callable[[], None]) -> None:
        self._services = services
        self._sock = sock
        self._counters_moved = counters_moved
        self._unsettled: Counter[str] = Counter()  # by counter of steer.nft: recorded one by one, not yet counted
        self._settled = _now()
        self._heard = ""  # when the first drop since then was logged

    def start(self) -> None:
        """Begin."""
        self._services.reactor.watch(self._sock.fileno(), IN, self._readable, self)

    def abort(self, error: Exception) -> None:
        """ENOBUFS, most likely: the kernel had more to say than we read. The counters are exact all the same."""
        if not isinstance(error, OSError):
            self._services.fault("kernel log", error)
        self._counters_moved()

    def _readable(self, _mask: int) -> None:
        for _ in range(_BATCH):
            try:
                data = self._sock.recv(65536)
            except BlockingIOError:
                return
            for prefix, payload in _lines(data):
                if prefix in (b"refuse", b"inside"):
                    self._refused_untrusted(payload, inside=prefix == b"inside")
                elif not self._heard:
                    self._heard = _now()
                if prefix == b"piece":
                    self._services.reactor.later(_GIVEN_UP_SECONDS, self._counters_moved)
                else:  # there may be more of its kind than lines
                    self._counters_moved()

    def settle(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """The counters' increase since the last time: (packets, bytes) by name. What has no record yet gets one."""
        # All that was logged before the counters were read is on the socket by now.
        self._readable(IN)
        first, last = self._heard or self._settled, _now()
        self._settled, self._heard = last, ""
        for name, (packets, size) in sorted(counts.items()):
            if name.startswith("drop_"):
                what = name.removeprefix("drop_")
                fields = {"what": what, "packets": packets, "bytes": size, "first": first, "last": last}
                self._services.write(Record(Event.DROP, fields))
            elif name in _REFUSALS:
                proto, internal = _REFUSALS[name]
                missing = packets - self._unsettled[name]
                self._unsettled[name] = max(0, -missing)
                if missing > 0:
                    self._services.write(records.more_refused(proto, missing, internal=internal))

    def _refused_untrusted(self, payload: bytes, *, inside: bool) -> None:
        try:
            packet = parse_ipv4_untrusted(payload)
        except Malformed:
            return
        proto = "udp" if packet.proto == socket.IPPROTO_UDP else "tcp"
        self._unsettled[f"refused_inside_{proto}" if inside else f"refused_{proto}"] += 1
        self._services.write(
            records.decision(
                self._verdict(packet),
                dst=f"{packet.dst}:{packet.dport}",
                proto=proto,
                flow=self._services.new_id(),
            )
        )

    def _verdict(self, packet: Packet) -> Verdict:
        services = self._services
        proto = Proto.UDP if packet.proto == socket.IPPROTO_UDP else Proto.TCP
        leased = services.leases.names_for(packet.dst, services.reactor.now)
        question = Question(proto, packet.dport or 0, address=packet.dst, leased=leased)
        return records.refused_by_kernel(services.engine.decide(question))


def _now() -> str:
    return timestamp(datetime.now(UTC))


def _lines(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(prefix, packet) of each message in what one read gave (linux/netlink.h: lengths include the header)."""
    at = 0
    while at + 20 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 20:
            return
        if kind == _PACKET:
            attributes = dict(_attributes(data[at + 20 : at + length]))
            yield attributes.get(_ATTR_PREFIX, b"").rstrip(b"\0"), attributes.get(_ATTR_PAYLOAD, b"")
        at += length + 3 & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x7FFF, data[at + 4 : at + length]
        at += length + 3 & ~3
