"""The sockets a mediator is handed: made by root in the workspace's namespace, used without privilege."""

import socket
import struct
from dataclasses import dataclass

from microagent.api.link import DNS_PORT, LISTEN_ADDRESS, NFLOG_GROUP, TCP_PORT, UDP_PORT

_NETLINK_NETFILTER = 12
_IP_TRANSPARENT = 19
_IP_RECVORIGDSTADDR = 20
_SO_RCVBUFFORCE = 33
_SO_RXQ_OVFL = 40

# A ClientHello of 64 KiB must fit into the receive buffer while it is only peeked at; the kernel counts its own
# overhead against the same figure.
_RECEIVE_BUFFER = 1 << 20

# linux/netfilter/nfnetlink_log.h
_NFULNL_SUBSYS = 4
_NFULNL_MSG_CONFIG = 1
_NFULA_CFG_CMD = 1
_NFULA_CFG_MODE = 2
_NFULA_CFG_TIMEOUT = 4
_NFULA_CFG_QTHRESH = 5
_CMD_BIND = 1
_COPY_PACKET = 2
_NLM_F_REQUEST_ACK = 5


@dataclass(frozen=True, slots=True)
class MediatorSockets:
    """Listening sockets in a workspace's namespace, in the order in which they are handed over."""

    tcp: socket.socket
    dns_tcp: socket.socket
    dns_udp: socket.socket
    udp: socket.socket
    raw: socket.socket
    nflog: socket.socket

    def all(self) -> tuple[socket.socket, ...]:
        """Every socket, in handing-over order."""
        return (self.tcp, self.dns_tcp, self.dns_udp, self.udp, self.raw, self.nflog)

    def close(self) -> None:
        """Close the agent's copies."""
        for sock in self.all():
            sock.close()


def open_all() -> MediatorSockets:
    """Open them in the calling thread's namespace."""
    return MediatorSockets(
        tcp=_tcp_listener(TCP_PORT),
        dns_tcp=_tcp_listener(DNS_PORT),
        # Bound to every address, so that an answer can leave from port 53 of the one that was asked (IP_PKTINFO).
        dns_udp=_datagrams("0.0.0.0", 53),  # noqa: S104  (inside a namespace that has no way in but the tap)
        udp=_datagrams(str(LISTEN_ADDRESS), UDP_PORT),
        raw=_raw(),
        nflog=_nflog(),
    )


def _tcp_listener(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    sock.setblocking(False)
    sock.bind((str(LISTEN_ADDRESS), port))
    sock.listen(1024)
    return sock


def _datagrams(address: str, port: int) -> socket.socket:
    """Gets datagrams with the address they were sent to, and with the number of those it had no room for (ip(7))."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    sock.setsockopt(socket.SOL_IP, _IP_RECVORIGDSTADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    sock.setblocking(False)
    sock.bind((address, port))
    return sock


def _raw() -> socket.socket:
    """Sends packets that are whole but for their checksum, from any address (raw(7)); receives none.

    Root alone can make it. In a namespace whose only way out is the tap it reaches the guest and nobody else: answers
    from the addresses that the guest asked, and refusals.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.setblocking(False)
    return sock


def _nflog() -> socket.socket:
    """A netlink socket on which the namespace's `log group` packets arrive (kernel: nfnetlink_log)."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    sock.bind((0, 0))
    _nflog_config(sock, _attribute(_NFULA_CFG_CMD, struct.pack("=B", _CMD_BIND)))
    mode = _attribute(_NFULA_CFG_MODE, struct.pack("!IBx", 128, _COPY_PACKET))
    # Hand over each packet at once (threshold 1): the record of a refusal should not wait a second for company.
    threshold = _attribute(_NFULA_CFG_QTHRESH, struct.pack("!I", 1))
    timeout = _attribute(_NFULA_CFG_TIMEOUT, struct.pack("!I", 1))
    _nflog_config(sock, mode + threshold + timeout)
    sock.setblocking(False)
    return sock


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def _nflog_config(sock: socket.socket, attributes: bytes) -> None:
    header = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(NFLOG_GROUP))
    length = 16 + len(header) + len(attributes)
    kind = _NFULNL_SUBSYS << 8 | _NFULNL_MSG_CONFIG
    sock.send(struct.pack("=IHHII", length, kind, _NLM_F_REQUEST_ACK, 1, 0) + header + attributes)
    answer = sock.recv(4096)
    (error,) = struct.unpack_from("=i", answer, 16)
    if error:
        raise OSError(-error, "nfnetlink_log refused the group")
