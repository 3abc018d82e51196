"""What a workspace's mediator may take at most, and how long it waits (contract 12); what a guest may have. Pure.

All are whole numbers, so that they read the same in agent.yaml, in the settings of a mediator and in a record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """One value for each limit; those that default to 0 are unlimited then. `RANGES` says what each may be.

    Units are in the names: `_seconds`, `_ms`, `_bytes`; the others count. Connections are TCP connections of one
    workspace; bytes of a connection are those of both directions, and its rate is that of each direction.
    """

    sniff_seconds: int = 10
    sniff_bytes: int = 65536
    server_first_ms: int = 300
    dial_seconds: int = 10
    tls_handshake_seconds: int = 10
    http_head_bytes: int = 65536
    http_fields: int = 200
    tcp_idle_seconds: int = 0
    half_closed_seconds: int = 60
    connections: int = 1024
    dns_seconds: int = 5
    dns_queries_per_second: int = 200
    dns_new_names_per_minute: int = 120
    udp_idle_seconds: int = 30
    udp_flows: int = 4096
    udp_new_flows_per_second: int = 500
    leaf_cache: int = 1024
    leaf_mints_per_second: int = 50
    connection_bytes: int = 0
    connection_bytes_per_second: int = 0

    def __post_init__(self) -> None:
        """ValueError for a number that is out of its range."""
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is not a whole number from {least} to {most}")

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "Limits":
        """From JSON; TypeError for an unknown field or a value of another type, ValueError for one out of range."""
        if not all(type(value) is int for value in message.values()):
            raise TypeError("a limit that is not a whole number")
        return cls(**message)


_DAY = 86400
_MOST = 1 << 62
# The least is what still lets an honest client through; the most is where the machine would give way instead.
RANGES: dict[str, tuple[int, int]] = {
    "sniff_seconds": (1, 600),
    # More would not fit into the receive buffer that it is peeked at in (host.sockets).
    "sniff_bytes": (1024, 262144),
    "server_first_ms": (10, 10000),
    "dial_seconds": (1, 600),
    "tls_handshake_seconds": (1, 600),
    "http_head_bytes": (1024, 1 << 20),
    "http_fields": (10, 10000),
    "tcp_idle_seconds": (0, _DAY),
    "half_closed_seconds": (1, _DAY),
    "connections": (1, 32768),
    "dns_seconds": (1, 60),
    "dns_queries_per_second": (1, 1000000),
    "dns_new_names_per_minute": (1, 1000000),
    "udp_idle_seconds": (1, _DAY),
    "udp_flows": (1, 32768),
    "udp_new_flows_per_second": (1, 1000000),
    "leaf_cache": (1, 65536),
    "leaf_mints_per_second": (1, 100000),
    "connection_bytes": (0, _MOST),
    "connection_bytes_per_second": (0, _MOST),
}
DEFAULT_LIMITS = Limits()

# What a guest may have.
MEMORY_MIB = range(64, 1024 * 1024 + 1)
CPUS = range(1, 65)
# What it may write, in MiB: room for the file system's own, and what ext4 holds in blocks of 4 KiB.
DISK_MIB = range(64, 16 * 1024 * 1024 + 1)
