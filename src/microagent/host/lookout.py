"""Has anybody touched the rules, or the tap? Asked of the kernel in microseconds, however many rules there are.

The kernel numbers the rulesets of a namespace: every transaction makes a new generation (nf_tables, NFT_MSG_GETGEN).
Elements that rules add by themselves, and counters, make none. An interface keeps its number for life, whatever its
name. The socket belongs to the namespace it was opened in, so asking needs no way into it.
"""

import fcntl
import socket
import struct
from typing import Final

from microagent.api.link import TAP
from microagent.errors import HostError

_NETLINK_NETFILTER: Final = 12
# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_GETGEN: Final = 10 << 8 | 16
_NEWGEN: Final = 10 << 8 | 15
_REQUEST: Final = 1
_NFTA_GEN_ID: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
_ATTRIBUTE: Final = struct.Struct("=HH")
_SECONDS: Final = 1.0
# linux/sockios.h, netdevice(7); any socket will do.
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFINDEX: Final = 0x8933
_IFF_UP: Final = 1
_REQUEST_OF_TAP: Final = struct.pack("16s24x", TAP.encode())


class Lookout:
    """Looks into the namespace that the calling thread is in when this is made."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        # The kernel answers before send returns; waiting would be a fault of its own.
        self._sock.settimeout(_SECONDS)
        self._sequence = 0

    def raised_tap(self) -> int:
        """The number of the interface that has the tap's name and is up; 0 when none is."""
        try:
            (flags,) = struct.unpack_from("=H", fcntl.ioctl(self._sock, _SIOCGIFFLAGS, _REQUEST_OF_TAP), 16)
            if not flags & _IFF_UP:
                return 0
            return int(struct.unpack_from("=i", fcntl.ioctl(self._sock, _SIOCGIFINDEX, _REQUEST_OF_TAP), 16)[0])
        except OSError:
            return 0

    def generation(self) -> int:
        """The number of the ruleset that is in force. HostError when the kernel does not say."""
        self._sequence += 1
        length = _HEADER.size + len(_FAMILY)
        self._sock.send(_HEADER.pack(length, _GETGEN, _REQUEST, self._sequence, 0) + _FAMILY)
        answer = self._sock.recv(4096)
        _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
        at = length
        while kind == _NEWGEN and sequence == self._sequence and at + _ATTRIBUTE.size <= len(answer):
            size, attribute = _ATTRIBUTE.unpack_from(answer, at)
            if attribute == _NFTA_GEN_ID:
                return int.from_bytes(answer[at + 4 : at + 8], "big")
            at += size + 3 & ~3
        raise HostError("the kernel does not tell the generation of its rules")

    def close(self) -> None:
        """Gives the socket back."""
        self._sock.close()
