"""A log of a mediator that somebody has taken over holds anything: who reads all logs must not end over one of them."""

import json
import math
from itertools import product
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from microagent.agent.metrics import Metrics, Tally
from microagent.audit import chain, otlp, render, syslog
from microagent.audit.record import Event

ODD: list[Any] = [
    [],
    {},
    [["a"]],
    None,
    True,
    -1,
    10**4000,
    1e308,
    math.nan,
    math.inf,
    "\ud800",
    "\x1b[2J\n",
    "1" * 5000,
]
WHOLE: dict[str, Any] = {
    "ts": "2026-01-31T15:04:05.000000Z",
    "host": "a.test",
    "dst": "203.0.113.5:443",
    "proto": "tls",
    "reason": "name_listed",
    "signal": "x",
    "limit": "dns",
    **dict.fromkeys(("bytes_out", "bytes_in", "duration_ms", "status", "count", "packets", "minted"), 3),
}


@pytest.mark.parametrize("key", ["event", *WHOLE])
def test_a_record_with_any_value_in_any_place_is_read(key: str) -> None:
    metrics, registry = Metrics(), CollectorRegistry()
    tally = metrics.tallies["box"] = Tally()
    for event, value in product(Event, ODD):
        record = {"event": str(event), **WHOLE, key: value}
        assert "\x1b" not in "".join(render.columns(record))
        tally.add(record)
        line = json.dumps(record).encode()
        assert syslog.message(line, 1).startswith(b"<")
        json.loads(otlp.export_request("box", [line]))
    registry.register(metrics)
    assert b"microagent_dropped_packets_total" in generate_latest(registry)
    assert all(count >= 0 for count in tally.carried.values())


@pytest.mark.parametrize("inside", [b"[" * 50_000, b'"a":' + b"1" * 5000, b"\xff", b"}{"])
def test_a_line_that_only_looks_like_a_record_is_sent_on(inside: bytes) -> None:
    line = b'{"v":1,"ts":"2026-01-31T15:04:05.000000Z","seq":1,' + inside + b',"chain":"' + b"0" * 64 + b'"}'
    assert chain.head(line) is not None
    assert syslog.message(line, 1).endswith(line)
    (scope,) = json.loads(otlp.export_request("box", [line]))["resourceLogs"][0]["scopeLogs"]
    assert scope["logRecords"][0]["body"]["stringValue"].startswith('{"v":1')
