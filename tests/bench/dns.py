"""P6: questions a second and their delay, against dnsmasq and unbound, both with caches, on the same rig.

"A core" is the mediator's own processor time: the one that asks and whatever else the machine does have the rest.
"""

import json
import re
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from typing import Final

from tests.bench import cost
from tests.bench.rig import HOST_FOR_CLIENT, NAME, UPSTREAM, Guest, Rig
from tests.bench.row import Row, ratio

from microagent.api.limits import Limits
from microagent.api.link import GATEWAY
from microagent.demo.namespaces import Namespace

_SECONDS: Final = 5
# One question at a time shows the delay, many at once the rate.
_AT_ONCE: Final = 64
_REFUSED: Final = "refused.example.org"
# Until the last of the refusals that are recorded together is.
_SETTLED_SECONDS: Final = 2

_UNBOUND: Final = """
server:
    interface: {address}
    access-control: 0.0.0.0/0 allow
    do-daemonize: no
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    use-syslog: no
    num-threads: 1
    module-config: "iterator"
    do-not-query-localhost: no
forward-zone:
    name: "."
    forward-addr: {upstream}
"""


def run() -> list[Row]:
    """Rates with many questions on the way, delays with one."""
    with Rig() as rig:
        found = {name: _peer(rig, name) for name in ("dnsmasq", "unbound")}
        limits = Limits(dns_queries_per_second=1_000_000)
        with Guest(rig, allow=[NAME], limits=limits) as guest:
            spent = [cost.seconds([guest.pid])]
            cached = measure(rig, guest.namespace, str(GATEWAY.ip), NAME)
            spent.append(cost.seconds([guest.pid]))
            refused = measure(rig, guest.namespace, str(GATEWAY.ip), _REFUSED)
            time.sleep(_SETTLED_SECONDS)
            spent.append(cost.seconds([guest.pid]))
            records = sum(_questions(line) for line in guest.log.open("rb") if b'"event":"egress_dns_' in line)
    for name, (rate, delay, _) in {**found, "ours, cached": cached, "ours, refused": refused}.items():
        sys.stderr.write(f"  {name:14} {rate:10.0f}/s {delay:6.2f} ms\n")
    asked = cached[2] * 2 + refused[2]  # an allowed question has two records
    if records < asked:
        raise AssertionError(f"{asked} records belong to the questions that were answered, {records} were written")
    each = [
        done[2] / (after - before) for done, (before, after) in zip((cached, refused), pairwise(spent), strict=True)
    ]
    best = max(rate for rate, _, _ in found.values())
    quickest = min(delay for _, delay, _ in found.values())
    peers = ", ".join(f"{name} {rate:.0f}/s {delay:.2f} ms" for name, (rate, delay, _) in found.items())
    return [
        Row(
            "P6",
            "DNS, allowed and cached, a second",
            f"{each[0]:.0f} a core; {cached[0]:.0f}, {ratio(cached[0], best)} the best ({peers})",
            "≥ 10 000 a core",
        ),
        Row(
            "P6",
            "DNS, refused, a second",
            f"{each[1]:.0f} a core; {refused[0]:.0f}, {ratio(refused[0], best)} the best",
            "≥ 10 000 a core",
        ),
        Row("P6", "DNS, delay added to the quickest peer's", f"{cached[1] - quickest:.2f} ms", "≤ 0.3 ms"),
    ]


def _questions(line: bytes) -> int:
    """How many a record stands for: refusals in a flood have one together."""
    return int(json.loads(line).get("count", 1))


def _peer(rig: Rig, name: str) -> tuple[float, float, int]:
    with ExitStack() as undo:
        if name == "dnsmasq":
            flags = ("-k", "-R", "-h", "-C", "/dev/null", "--user=root", "-c", "1000")
            rig.start(undo, rig.host, "dnsmasq", *flags, "-S", UPSTREAM, "-a", HOST_FOR_CLIENT, "--bind-interfaces")
        else:
            config = rig.directory / "unbound.conf"
            text = _UNBOUND.format(address=HOST_FOR_CLIENT, directory=rig.directory, upstream=UPSTREAM)
            config.write_text(text)
            rig.start(undo, rig.host, "unbound", "-d", "-c", str(config))
        rig.wait(rig.host, HOST_FOR_CLIENT, 53)
        return measure(rig, rig.client, HOST_FOR_CLIENT, NAME)


def measure(rig: Rig, where: Namespace, server: str, name: str) -> tuple[float, float, int]:
    """Questions a second, the mean delay of one at a time in milliseconds, and how many were answered in all."""
    questions = rig.directory / "questions"
    questions.write_text(f"{name} A\n")

    def perf(at_once: int) -> tuple[float, float, int]:
        flags = ("-s", server, "-d", str(questions), "-l", str(_SECONDS), "-q", str(at_once), "-c", "1", "-T", "1")
        said = rig.run(where, "dnsperf", *flags)
        rate, delay, done = (
            re.search(pattern, said)
            for pattern in (
                r"Queries per second:\s+([0-9.]+)",
                r"Average Latency \(s\):\s+([0-9.]+)",
                r"Queries completed:\s+(\d+)",
            )
        )
        if rate is None or delay is None or done is None:
            raise AssertionError(said)
        return float(rate[1]), float(delay[1]) * 1000, int(done[1])

    rate, _, first = perf(_AT_ONCE)
    _, delay, second = perf(1)
    return rate, delay, first + second
