"""UDP other than DNS: datagrams of guests to servers and back (contract 8).

How this works. All datagrams arrive on one socket, each with the address it was sent to. The first of a flow is
decided; an allowed flow gets a socket of its own in the host's namespace, connected to exactly that address, so that
the kernel lets nobody else answer. Answers go to the guest through a raw socket in the workspace's namespace, which
can speak from any address and reaches the guest alone; refusals too, as the ICMP message of a closed port, and as a
note to the rules, which then refuse the same destination for 10 s without asking again.

A guest can send faster than anybody can decide. So refusals have a budget for each second; with it spent, the socket
is left alone until the next second, and what it had no room for is counted by the kernel and recorded.
"""

import contextlib
import errno
import itertools
import socket
import struct
from collections import OrderedDict
from collections.abc import Collection
from datetime import UTC, datetime
from ipaddress import IPv4Address

from microagent.api.link import GUEST, NOTE_ADDRESS, NOTE_REFUSED, NOTE_REFUSED_NO_MORE
from microagent.audit.record import Event, Record, timestamp
from microagent.flows.udp import UdpDecision
from microagent.mediator.channel import is_own, is_with_itself
from microagent.mediator.rate import PerSecond
from microagent.mediator.reactor import IN
from microagent.mediator.services import Services
from microagent.policy.addresses import Address
from microagent.wire.packet import Endpoint, port_unreachable, udp_packets

_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0
_IP_ORIGDSTADDR = 20
_SO_RXQ_OVFL = 40
_ANCILLARY = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(4)
_LARGEST = 65535
# Datagrams handled in one turn before other descriptors get theirs.
_BATCH = 64
# A second's refusals that are looked at at all.
_REFUSED = 2000
# As long as the rules keep a note (steer.nft).
_NOTED_SECONDS = 10.0
_NOTES = 4096

_GUEST = GUEST.ip.packed
_NOBODY = NOTE_ADDRESS.packed

_Key = tuple[int, bytes, int]  # the guest's port; the address, packed, and port it sends to


class UdpRelay:
    """The listening socket, the flows that live, and the way back to the guest."""

    def __init__(self, services: Services, listener: socket.socket, raw: socket.socket) -> None:
        self._services = services
        self._listener = listener
        self._raw = raw
        self._flows: OrderedDict[_Key, _Flow] = OrderedDict()  # the one that was silent longest first
        self._idents = itertools.cycle(range(1, 65536))
        self._noted: dict[Endpoint, float] = {}
        most = services.limits.udp_new_flows_per_second
        self._new = PerSecond(services, "udp_new_flows_per_second", most)
        self._refused = 0
        self._overflow = 0
        self._overflow_told = 0
        self._looked = datetime.now(UTC)

    def start(self) -> None:
        """Begin."""
        self._services.reactor.watch(self._listener.fileno(), IN, self._readable, self)
        self._services.reactor.later(1.0, self._each_second)

    def close(self, why: str) -> None:
        """End every flow."""
        for flow in tuple(self._flows.values()):
            flow.close(why)
        self._tell_overflow()
        self._new.over.settle()

    def apply_policy(self) -> None:
        """End the flows that the policy of now would refuse. The agent has emptied the rules' notes."""
        self._noted.clear()
        engine = self._services.engine
        for flow in tuple(self._flows.values()):
            if self._services.mediated and not engine.decide(flow.decision.question).allowed:
                flow.close("policy_changed")
                self.tell_unreachable(flow.key)

    def leased(self, addresses: Collection[Address]) -> None:
        """These addresses have a name now: what was refused may be allowed, so the rules must not refuse it."""
        if not self._noted:
            return
        packed = {address.packed for address in addresses}
        for noted in [noted for noted in self._noted if noted[0] in packed]:
            del self._noted[noted]
            self._note(noted, NOTE_REFUSED_NO_MORE)

    def abort(self, error: Exception) -> None:
        """One datagram's surprise is not the next one's."""
        self._services.fault("udp", error)

    # --- from the guest

    def _readable(self, _mask: int) -> None:
        for _ in range(_BATCH):
            if self._refused >= _REFUSED:
                self._services.reactor.forget(self._listener.fileno())
                return
            try:
                payload, ancillary, _, guest = self._listener.recvmsg(_LARGEST, _ANCILLARY)
            except BlockingIOError:
                return
            destination = self._destination(ancillary)
            if destination is not None:
                self._datagram((guest[1], *destination), payload)

    def _destination(self, ancillary: list[tuple[int, int, bytes]]) -> Endpoint | None:
        found = None
        for level, kind, data in ancillary:
            if level == socket.SOL_IP and kind == _IP_ORIGDSTADDR:
                (port,) = struct.unpack_from("!H", data, 2)
                found = data[4:8], int(port)
            elif level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL:
                (self._overflow,) = struct.unpack("=I", data)
        return found

    def _datagram(self, key: _Key, payload: bytes) -> None:
        flow = self._flows.get(key) or self._begin(key)
        if flow is not None:
            self._flows.move_to_end(key)
            flow.send(payload)

    def _begin(self, key: _Key) -> "_Flow | None":
        services = self._services
        address = IPv4Address(key[1])
        now = services.reactor.now
        decision = UdpDecision.make(services.engine, services.leases, address, key[2], services.new_id(), now)
        if services.mediated and not decision.verdict.allowed:
            self._refuse(key, decision)
            return None
        if services.mediated and not self._new.take():
            # A host that tracks connections remembers each for half a minute, and so does the log for good.
            self._refused += 1
            self.tell_unreachable(key)
            return None
        if not services.write(decision.record()):
            self.tell_unreachable(key)
            return None
        if services.mediated and is_own(str(address), key[2]):
            decision = decision.at_home(services.engine)
            if not decision.verdict.allowed:
                self._refuse(key, decision)
                return None
        while len(self._flows) >= services.limits.udp_flows:
            next(iter(self._flows.values())).close("too many flows")
        flow = _Flow(services, self, key, decision)
        if flow.open():
            self._flows[key] = flow
            return flow
        return None

    def _refuse(self, key: _Key, decision: UdpDecision) -> None:
        self._refused += 1
        self._services.write(decision.record())
        self.tell_unreachable(key)
        if len(self._noted) < _NOTES:
            self._noted[key[1:]] = self._services.reactor.now + _NOTED_SECONDS
            self._note(key[1:], NOTE_REFUSED)

    # --- to the guest

    def answer(self, key: _Key, payload: bytes) -> None:
        """A datagram from the flow's server."""
        ident = next(self._idents)
        for packet in udp_packets(key[1:], (_GUEST, key[0]), payload, ident):
            self._send(packet, str(GUEST.ip))

    def tell_unreachable(self, key: _Key) -> None:
        """Nobody listens there, as far as the guest is concerned."""
        self._send(port_unreachable((_GUEST, key[0]), key[1:]), str(GUEST.ip))

    def _note(self, refused: Endpoint, what: int) -> None:
        (packet,) = udp_packets(refused, (_NOBODY, what), b"", 1)
        self._send(packet, str(NOTE_ADDRESS))

    def _send(self, packet: bytes, to: str) -> None:
        # The rules take notes and drop them, which is an error to the sender; a guest that is down has no queue.
        with contextlib.suppress(OSError):
            self._raw.sendto(packet, (to, 0))

    # --- each second

    def forget(self, flow: "_Flow") -> None:
        """A flow is over."""
        self._flows.pop(flow.key, None)

    def _each_second(self) -> None:
        services = self._services
        services.reactor.later(1.0, self._each_second)
        now = services.reactor.now
        longest = services.limits.udp_idle_seconds
        for flow in tuple(itertools.takewhile(lambda flow: now - flow.moved >= longest, self._flows.values())):
            flow.close("idle")
        self._tell_overflow()
        self._noted = {noted: until for noted, until in self._noted.items() if until > now}
        if self._refused >= _REFUSED:
            services.reactor.watch(self._listener.fileno(), IN, self._readable, self)
        self._refused = 0

    def _tell_overflow(self) -> None:
        before, self._looked = self._looked, datetime.now(UTC)
        if self._overflow != self._overflow_told:
            lost = self._overflow - self._overflow_told & 0xFFFFFFFF
            fields = {"first": timestamp(before), "last": timestamp(self._looked)}
            self._services.write(Record(Event.DROP, {"what": "udp_backlog", "packets": lost, **fields}))
            self._overflow_told = self._overflow


class _Flow:
    """The socket towards one server; `moved` is when the last datagram passed, either way."""

    def __init__(self, services: Services, relay: UdpRelay, key: _Key, decision: UdpDecision) -> None:
        self._services = services
        self._relay = relay
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._bytes_out = 0
        self._bytes_in = 0
        self._started = services.reactor.now
        self.key = key
        self.decision = decision
        self.moved = self._started

    def open(self) -> bool:
        """Connect; False when there is no way to the address, and the guest has been told."""
        # The guest's datagrams may be larger than the way's MTU: then they travel in fragments, as they would have.
        self._sock.setsockopt(socket.SOL_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        try:
            self._sock.connect((str(IPv4Address(self.key[1])), self.key[2]))
        except OSError as error:
            self._refused(error)
            return False
        if is_with_itself(self._sock):
            # The kernel gave it the very port that it sends to: it would hear itself.
            self._services.write(self.decision.looped())
            self._relay.tell_unreachable(self.key)
            self.close("a loop")
            return False
        self._services.reactor.watch(self._sock.fileno(), IN, self._readable, self)
        return True

    def send(self, payload: bytes) -> None:
        """One datagram of the guest's."""
        self.moved = self._services.reactor.now
        try:
            self._sock.send(payload)
        except BlockingIOError:
            return  # the way is full, and datagrams may be lost
        except OSError as error:
            self._refused(error)
            return
        self._bytes_out += len(payload)

    def close(self, why: str) -> None:
        """End it."""
        self._relay.forget(self)
        self._services.reactor.forget(self._sock.fileno())
        self._sock.close()
        seconds = self._services.reactor.now - self._started
        counts = {"bytes_out": self._bytes_out, "bytes_in": self._bytes_in}
        self._services.write(self.decision.closed(why, **counts, seconds=seconds))

    def abort(self, error: Exception) -> None:
        """Something here raised."""
        self._services.fault("udp flow", error)
        self.close(f"fault: {type(error).__name__}")

    def _readable(self, _mask: int) -> None:
        for _ in range(_BATCH):
            try:
                payload = self._sock.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                self._refused(error)
                return
            self.moved = self._services.reactor.now
            self._bytes_in += len(payload)
            self._relay.answer(self.key, payload)

    def _refused(self, error: OSError) -> None:
        """An ICMP error came for what was sent, or there is no route: the guest hears it as it would have."""
        if error.errno != errno.EMSGSIZE:
            self._relay.tell_unreachable(self.key)
            self.close(error.strerror or str(error))
