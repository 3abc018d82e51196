"""200 000 refused packets from one guest, as fast as they come: its neighbour notices nothing, and all are counted."""

import subprocess
import sys
import time

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.frames import ether, ip
from tests.kernel.workspace import Workspace

from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

API_TLS = Destination("tcp", world.API, 443)
EACH = 50_000
_PATIENCE = 30.0

# A process of its own, so that this one's lock does not slow it down: argv are a descriptor, a count and frames.
_FLOOD = """
import os, sys
wire, count, frames = int(sys.argv[1]), int(sys.argv[2]), [bytes.fromhex(word) for word in sys.argv[3:]]
for _ in range(count):
    for frame in frames:
        os.write(wire, frame)
"""

# What is refused with a record each (up to a rate), and what is only counted.
REFUSED = [
    ether() / ip(dst=world.EVIL) / UDP(sport=4000, dport=443) / Raw(b"secret"),
    ether() / ip(dst=world.METADATA) / TCP(sport=4000, dport=80, flags="S"),
]
# The rules that end a flood of refused packets first of all must not take these for theirs.
DROPPED = [
    ether() / ip(src="10.43.0.9") / UDP(sport=4000, dport=443),
    ether() / IPv6(src="fe80::2", dst=world.EVIL_V6) / UDP(sport=4000, dport=443),
]


def test_a_flood_is_counted_to_the_packet_and_hurts_no_neighbour(oracle: Oracle, workspace: MakeWorkspace) -> None:
    neighbour = workspace(name="neighbour", allow=["api.ok.test"])
    flooder = workspace(name="flooder", allow=[".ok.test"])
    wire = flooder.guest.wire
    frames = [(wire.header + bytes(frame)).hex() for frame in (*REFUSED, *DROPPED)]
    argv = [sys.executable, "-c", _FLOOD, str(wire.fd), str(EACH), *frames]
    urls = ["https://api.ok.test/"] * 10
    answers, rounds = "", 0
    with subprocess.Popen(argv, pass_fds=[wire.fd]) as flood:
        while flood.poll() is None or rounds < 3:
            answers += neighbour.guest.curl(*urls).stdout
            rounds += 1
    assert flood.returncode == 0
    assert answers == "hello from api.ok.test\n" * 10 * rounds

    counted = flooder.network.counters()
    names = ("refused_udp", "refused_inside_tcp", "drop_spoof", "drop_ipv6")
    assert [counted[name][0] for name in names] == [EACH] * 4
    deadline = time.monotonic() + _PATIENCE
    while _recorded(flooder) != (EACH, EACH, {"spoof": EACH, "ipv6": EACH}):
        assert time.monotonic() < deadline, _recorded(flooder)
        time.sleep(0.2)
    # Its own requests are answered as well, by the mediator that was there before.
    assert flooder.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert len(flooder.records("mediator_up")) == 1
    assert not neighbour.records("egress_drop", "egress_deny", "egress_udp_deny")
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def _recorded(lab: Workspace) -> tuple[int, int, dict[str, int]]:
    """Refused datagrams and connections, and drops by kind, as all records together say."""

    def refused(event: str) -> int:
        return sum(record.get("count", 1) for record in lab.records(event))

    drops: dict[str, int] = {}
    for record in lab.records("egress_drop"):
        drops[record["what"]] = drops.get(record["what"], 0) + record["packets"]
    return refused("egress_udp_deny"), refused("egress_internal_deny"), drops
