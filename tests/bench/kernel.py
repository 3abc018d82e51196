"""P7, and a flood: packets that the kernel decides, against a bare nft drop; and what a neighbour notices of it."""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.bench.rig import CLIENT, NAME, Guest, Rig
from tests.bench.row import Row, ratio

from microagent.api.link import GATEWAY_MAC, GUEST, GUEST_MAC
from microagent.demo.namespaces import Namespace
from microagent.host import nft

_SECONDS: Final = 5.0
# Refused by address in every policy; and a port that a bare rule can drop.
_INSIDE: Final = "169.254.169.254"
_PORT: Final = 9999

_BARE: Final = f"""
table ip bare {{
    counter dropped {{ }}
    chain in {{
        type filter hook prerouting priority mangle; policy accept;
        ip daddr {_INSIDE} counter name dropped drop
    }}
}}
"""
_ASK: Final = """
import json, sys, time, urllib.request
took, failed = [], 0
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    began = time.perf_counter()
    try:
        urllib.request.urlopen(sys.argv[1], timeout=5, context=__import__("ssl")._create_unverified_context()).read()
    except OSError:
        failed += 1
    took.append(time.perf_counter() - began)
    time.sleep(0.01)
print(json.dumps([sorted(took)[int(len(took) * 0.99)], failed, len(took)]))
"""


def run() -> list[Row]:
    """The same sender for both, as fast as it goes."""
    with Rig() as rig:
        bare = _bare(rig)
        with Guest(rig, allow=[NAME]) as flooding, Guest(rig, allow=[NAME]) as neighbour:
            idle = _ask(rig, neighbour.namespace)
            before = _cpu(flooding.pid)
            with _flood(rig, flooding.namespace, GUEST_MAC, GATEWAY_MAC, str(GUEST.ip)):
                began = time.monotonic()
                sent = flooding.counters()["refused_inside_udp"][0]
                busy = _ask(rig, neighbour.namespace)
                ours = (flooding.counters()["refused_inside_udp"][0] - sent) / (time.monotonic() - began)
            share = (_cpu(flooding.pid) - before) / _SECONDS
            told = _told(flooding)
            counted = flooding.counters()["refused_inside_udp"][0]
    if told != counted:
        raise AssertionError(f"the kernel refused {counted}, the records say {told}")
    sys.stderr.write(f"  bare {bare:.0f}/s, ours {ours:.0f}/s, mediator {share:.1%}, neighbour {idle} {busy}\n")
    return [
        Row(
            "P7",
            "packets refused by address, a second",
            f"{ratio(ours, bare)} ({ours:.0f}; bare nft drop {bare:.0f})",
            "≥ 0.95 × a bare nft drop",
        ),
        Row("P7", "a mediator's CPU while its guest floods", f"{share:.1%} of a core", "< 10 %"),
        Row(
            "P7",
            "a neighbour's requests meanwhile",
            f"{busy[2] - busy[1]} of {busy[2]} succeed, p99 {ratio(busy[0], idle[0])} idle",
            "all, < 2 × idle",
        ),
    ]


def _bare(rig: Rig) -> float:
    rig.host.run(lambda: nft.apply(_BARE))
    mac = rig.host.run(lambda: Path("/sys/class/net/client0/address").read_text().strip())
    own = rig.client.run(lambda: Path("/sys/class/net/eth0/address").read_text().strip())
    try:
        with _flood(rig, rig.client, own, mac, CLIENT):
            began, first = time.monotonic(), rig.host.run(nft.counters)["dropped"][0]
            time.sleep(_SECONDS)
            return (rig.host.run(nft.counters)["dropped"][0] - first) / (time.monotonic() - began)
    finally:
        rig.host.run(lambda: nft.apply("delete table ip bare"))


def _flood(rig: Rig, where: Namespace, source: str, target: str, address: str) -> ExitStack:
    config = rig.directory / "flood.cfg"
    packet = (
        f"eth(sa={source}, da={target}), ipv4(sa={address}, da={_INSIDE}), udp(sp=1000, dp={_PORT}), fill(0x41, 32)"
    )
    config.write_text(f"{{ {packet} }}\n")
    undo = ExitStack()
    rig.start(undo, where, "trafgen", "--dev", "eth0", "--conf", str(config), "--cpus", "1", "-q")
    time.sleep(1)
    return undo


def _ask(rig: Rig, where: Namespace) -> tuple[float, int, int]:
    """The 99th percentile of a request's time in seconds, how many failed, and how many there were."""
    said = rig.run(where, sys.executable, "-c", _ASK, f"https://{NAME}/", str(_SECONDS))
    found: tuple[float, int, int] = tuple(json.loads(said))
    return found


def _cpu(pid: int) -> float:
    """Seconds of processor time so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _told(guest: Guest) -> int:
    """What the records say was refused, once the last counting is in."""
    told, last = -1, 0
    while told != last:
        told = last
        time.sleep(2.5)
        records: list[dict[str, Any]] = [json.loads(line) for line in guest.log.read_text().splitlines()]
        last = sum(int(r.get("count", 1)) for r in records if r["event"] == "egress_udp_internal_deny")
    return last
