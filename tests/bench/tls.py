"""P1 to P5: passthrough and interception against proxies that people use for it."""

import json
import sys
from typing import Final

from tests.bench import cost, load
from tests.bench.peers import peer
from tests.bench.rig import NAME, Guest, Rig
from tests.bench.row import Row, ratio

from microagent.demo.namespaces import Namespace

_SPLICERS: Final = ("haproxy", "nginx stream")
_INTERCEPTORS: Final = ("sslsplit", "squid", "mitmproxy")


def run() -> list[Row]:
    """All figures of one rig, one after the other."""
    with Rig() as rig:
        found = {name: _peer(rig, name) for name in ("routed", *_SPLICERS, *_INTERCEPTORS)}
        passed, read = _ours(rig, passthrough=True), _ours(rig, passthrough=False)
    return _rows(found, passed, read)


Figures = dict[str, float]


def _peer(rig: Rig, name: str) -> Figures:
    with peer(rig, name):
        return _measure(name, rig, rig.client, cost.inside(rig.host))


def _ours(rig: Rig, *, passthrough: bool) -> Figures:
    with Guest(rig, allow=[] if passthrough else [NAME], passthrough=[NAME] if passthrough else []) as guest:
        # Everything is decided and recorded.
        figures = _measure("ours", rig, guest.namespace, [guest.pid])
        events = [json.loads(line)["event"] for line in guest.log.read_text().splitlines()]
    served = sum(1 for _ in (rig.directory / "requests.log").open())
    (rig.directory / "requests.log").write_text("")
    recorded = events.count("egress_request")
    if not passthrough and not 0 <= recorded - served <= load.AT_ONCE * 3:
        raise AssertionError(f"{served} requests were served, {recorded} were recorded")
    return figures


def _measure(name: str, rig: Rig, where: Namespace, processes: list[int]) -> Figures:
    figures = {"bulk": load.bulk(rig, where)}
    sys.stderr.write(f"  {name:13} bulk         {figures['bulk']:10.0f}\n")
    for what in (load.connections, load.requests):
        before = cost.seconds(processes)
        rate = figures[what.__name__] = what(rig, where)
        spent = (cost.seconds(processes) - before) / (rate * load.SECONDS) * 1e6
        figures[f"{what.__name__} cost"] = spent
        sys.stderr.write(f"  {name:13} {what.__name__:12} {rate:10.0f} {spent:10.0f} µs\n")
    if name != "ours":
        (rig.directory / "requests.log").write_text("")
    return figures


def _rows(found: dict[str, Figures], passed: Figures, read: Figures) -> list[Row]:
    routed, haproxy, squid, mitmproxy = (found[name] for name in ("routed", "haproxy", "squid", "mitmproxy"))
    best = max(found[name]["bulk"] for name in _INTERCEPTORS)

    def made_of(ours: float, what: str, *names: str) -> str:
        others = ", ".join(f"{name} {found[name][what]:.0f}" for name in names)
        return f"({ours:.0f}; {others})"

    def spent(ours: Figures, what: str, *names: str) -> str:
        """Processor time of the proxy alone: what remains comparable on a machine with other work to do."""
        others = ", ".join(f"{name} {found[name][f'{what} cost']:.0f}" for name in names)
        return f"; CPU each, µs: {ours[f'{what} cost']:.0f}; {others}"

    bulk, fresh, kept = "bulk", "connections", "requests"
    return [
        Row(
            "P1",
            "passthrough, MB/s",
            f"{ratio(passed[bulk], haproxy[bulk])} {made_of(passed[bulk], bulk, 'routed', *_SPLICERS)}",
            "≥ 1.0 × haproxy",
        ),
        Row(
            "P2",
            "passthrough, new connections/s",
            f"{ratio(passed[fresh], haproxy[fresh])} {made_of(passed[fresh], fresh, 'routed', *_SPLICERS)}"
            + spent(passed, fresh, *_SPLICERS),
            "≥ 1.0 × haproxy",
        ),
        Row(
            "P3",
            "intercepted, MB/s",
            f"{ratio(read[bulk], best)} the best, {ratio(read[bulk], routed[bulk] / 2)} half of routed "
            f"{made_of(read[bulk], bulk, 'routed', *_INTERCEPTORS)}",
            "≥ 1.4 × the best interceptor; ≥ 0.85 × half of routed",
        ),
        Row(
            "P4",
            "intercepted, new connections/s",
            f"{ratio(read[fresh], squid[fresh])} squid, {ratio(read[fresh], mitmproxy[fresh])} mitmproxy "
            f"{made_of(read[fresh], fresh, *_INTERCEPTORS)}" + spent(read, fresh, *_INTERCEPTORS),
            "≥ 1.0 × squid, ≥ 5 × mitmproxy",
        ),
        Row(
            "P5",
            "intercepted, requests/s kept alive",
            f"{ratio(read[kept], squid[kept])} squid, {ratio(read[kept], mitmproxy[kept])} mitmproxy "
            f"{made_of(read[kept], kept, *_INTERCEPTORS)}" + spent(read, kept, *_INTERCEPTORS),
            "≥ 1.5 × squid, ≥ 20 × mitmproxy",
        ),
    ]
