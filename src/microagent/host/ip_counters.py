"""What the kernel drops before any rule sees it, in the kernel's own words: /proc/net/snmp (proc(5), RFC 4293).

Pieces of a datagram are put together first (nf_defrag_ipv4), and given up when one does not come in time (links.py
says how long), when they overlap, when there is no room. A header that contradicts itself or its checksum goes no
further than that. Rules do not look at the checksums of what IP carries, nor at what UDP says of its length: what is
wrong is steered to its socket, and dropped there. All are named here as the counters of steer.nft are, among which they
are reported.
"""

from pathlib import Path
from typing import Final

# name -> the kernel's figures that make it, those behind a minus taken off: of datagrams that did not become whole; of
# packets whose header is wrong; of what they carry. A UDP error is a checksum, a lack of room, or else a length that is
# less than the header's or more than there is.
COUNTERS: Final = {
    "drop_fragment": ("Ip:ReasmFails",),
    "drop_header": ("Ip:InHdrErrors", "IpExt:InTruncatedPkts"),
    "drop_checksum": ("Icmp:InCsumErrors", "Tcp:InCsumErrors", "Udp:InCsumErrors"),
    "drop_length": ("Udp:InErrors", "-Udp:InCsumErrors", "-Udp:RcvbufErrors", "-Udp:MemErrors"),
}
_TABLES: Final = ("snmp", "netstat")


def read() -> dict[str, tuple[int, int]]:
    """name -> (packets, 0: nobody counts their bytes), since the calling thread's namespace was made."""
    figures: dict[str, int] = {}
    for table in _TABLES:
        lines = [line.split() for line in Path("/proc/thread-self/net", table).read_text().splitlines()]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            for name, value in zip(names[1:], values[1:], strict=True):
                figures[names[0] + name], figures[f"-{names[0]}{name}"] = int(value), -int(value)
    return {name: (sum(figures[figure] for figure in parts), 0) for name, parts in COUNTERS.items()}
