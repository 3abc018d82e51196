"""Every packet the host put on its uplink, counted by whom it was for.

How this works: a packet socket at the far end of the wire, which nothing on the near side can close, flush or
filter. It ignores what the far end itself sends. Packets are kept as counts per flow, so that a download
costs no memory; the kernel's own count of packets it could not hand over is kept too, because an oracle that
missed one proves nothing.
"""

import contextlib
import ipaddress
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass

from microagent.demo.namespaces import Namespace

_ETH_P_ALL = 3  # <linux/if_ether.h>
_SOL_PACKET = 263
_PACKET_STATISTICS = 6  # <linux/if_packet.h>
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_BUFFER = 32 << 20  # a burst of a hundred megabytes a second for as long as this thread may be kept waiting
_SNAP = 128  # Ethernet, IPv6, an extension header and TCP fit

_NEIGHBOUR_DISCOVERY = frozenset({133, 134, 135, 136, 143})  # RFC 4861, RFC 3810: never leave the link
_LINK = (ipaddress.ip_network("ff02::/16"), ipaddress.ip_network("fe80::/10"))


@dataclass(frozen=True, slots=True)
class Flow:
    """Packets of one conversation. `proto` is tcp, udp, icmp, icmp6, fragment, ip-N or ether-0xN.

    For icmp and icmp6 `port` is the type and `sport` the code; for what has no ports both are 0.
    """

    proto: str
    src: str
    dst: str
    sport: int
    port: int

    def __str__(self) -> str:
        """`tcp 198.51.100.2:40000 > 203.0.113.66:443`."""
        return f"{self.proto} {self.src}:{self.sport} > {self.dst}:{self.port}"


class Capture:
    """Counts packets from the moment it is made until `close`."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        """`interface` is the far end of the wire, in `namespace`."""
        self._socket = namespace.run(lambda: _listen(interface))
        self._flows: Counter[Flow] = Counter()
        self._lock = threading.Lock()
        self._lost = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)
        self._thread.start()

    def flows(self) -> dict[Flow, int]:
        """Packets seen so far, by flow, in the order the flows began."""
        with self._lock:
            return dict(self._flows)

    def lost(self) -> int:
        """Packets the kernel had to throw away before they were counted."""
        with contextlib.suppress(OSError):  # closed: the last count stands
            _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            self._lost += dropped  # reading it sets the kernel's count to zero
        return self._lost

    def close(self) -> None:
        """Stop counting; what was counted stays. Idempotent."""
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while not self._stopping.is_set():
            try:
                frame = self._socket.recv(_SNAP)
            except TimeoutError:
                continue
            flow = flow_of(frame)
            if flow is not None:
                with self._lock:
                    self._flows[flow] += 1


def _listen(interface: str) -> socket.socket:
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    receiver.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    receiver.bind((interface, _ETH_P_ALL))
    receiver.settimeout(0.05)  # how late `close` may be noticed
    return receiver


def flow_of(frame: bytes) -> Flow | None:
    """Whom an Ethernet frame is for; None for ARP and neighbour discovery, which never leave the wire."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0806:
        return None
    if kind == 0x0800 and len(frame) >= 34:
        return _ipv4(frame[14:])
    if kind == 0x86DD and len(frame) >= 54:
        return _ipv6(frame[14:])
    return Flow(f"ether-{kind:#06x}", frame[6:12].hex(":"), frame[0:6].hex(":"), 0, 0)


def _ipv4(packet: bytes) -> Flow:
    src, dst = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    if int.from_bytes(packet[6:8], "big") & 0x1FFF:
        return Flow("fragment", src, dst, 0, 0)
    return _transport(packet[9], src, dst, packet[(packet[0] & 15) * 4 :])


def _ipv6(packet: bytes) -> Flow | None:
    src = socket.inet_ntop(socket.AF_INET6, packet[8:24])
    dst = socket.inet_ntop(socket.AF_INET6, packet[24:40])
    proto, payload = packet[6], packet[40:]
    if proto == 0 and len(payload) >= 8:  # hop-by-hop options, in front of every multicast listener report
        proto, payload = payload[0], payload[8 * (payload[1] + 1) :]
    flow = _transport(proto, src, dst, payload)
    local = any(ipaddress.ip_address(dst) in network for network in _LINK)
    neighbours = flow.proto == "icmp6" and flow.port in _NEIGHBOUR_DISCOVERY
    return None if neighbours and (local or flow.port in (135, 136)) else flow


def _transport(proto: int, src: str, dst: str, payload: bytes) -> Flow:
    if proto in (6, 17) and len(payload) >= 4:
        sport, port = struct.unpack_from("!HH", payload)
        return Flow("tcp" if proto == 6 else "udp", src, dst, sport, port)
    if proto in (1, 58) and len(payload) >= 2:
        return Flow("icmp" if proto == 1 else "icmp6", src, dst, payload[1], payload[0])
    return Flow(f"ip-{proto}", src, dst, 0, 0)
