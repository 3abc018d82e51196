"""Records become figures, and Prometheus itself takes them."""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.unit.agent.test_agent import Agent
from tests.waiting import wait_for

from microagent.agent.metrics import Metrics, Tally
from microagent.api.client import call
from microagent.api.messages import WORKSPACES
from microagent.workspace.store import EGRESS

RECORDS: list[dict[str, Any]] = [
    {"event": "egress_dns_allow", "reason": "name_listed"},
    {"event": "egress_dns_allow", "reason": "name_listed", "rcode": 0},
    {"event": "egress_dns_allow", "reason": "name_listed", "qtype": "HTTPS", "rcode": 0},
    {"event": "egress_dns_allow", "reason": "ptr_leased", "qtype": "PTR", "rcode": 0},
    {"event": "egress_allow", "proto": "tls", "reason": "name_listed"},
    {"event": "egress_request", "status": 204, "duration_ms": 12.5},
    {"event": "egress_close", "bytes_out": 10, "bytes_in": 500, "duration_ms": 2500, "minted": 3},
    {"event": "egress_deny", "proto": "http", "reason": "name_not_listed"},
    {"event": "egress_udp_deny", "proto": "udp", "reason": "name_not_listed", "count": 7},
    {"event": "egress_deny", "proto": 'x"\n', "reason": 'evil{a="b"}'},
    {"event": "egress_dial_error"},
    {"event": "egress_drop", "what": "ipv6", "packets": 4},
    {"event": "policy_change"},
]


def lines() -> str:
    return "".join(json.dumps(record) + "\n" for record in RECORDS)


def promtool_says(exposition: bytes) -> str:
    checked = subprocess.run(["promtool", "check", "metrics"], input=exposition, capture_output=True, check=False)
    return (checked.stdout + checked.stderr).decode()


def exposed() -> bytes:
    metrics, registry = Metrics(), CollectorRegistry()
    metrics.tallies["box"] = Tally()
    for record in RECORDS:
        metrics.tallies["box"].add(record)
    registry.register(metrics)
    return generate_latest(registry)


def test_figures_and_no_label_that_a_guest_chose() -> None:
    found = dict(line.rsplit(" ", 1) for line in exposed().decode().splitlines() if not line.startswith("#"))
    decisions = 'microagent_decisions_total{kind="%s",reason="%s",verdict="%s",workspace="box"}'
    # One that was asked and answered, one that was answered without asking anybody.
    assert found[decisions % ("dns", "name_listed", "allow")] == "2.0"
    assert found[decisions % ("dns", "ptr_leased", "allow")] == "1.0"
    assert found[decisions % ("udp", "name_not_listed", "deny")] == "7.0"
    assert found[decisions % ("other", "other", "deny")] == "1.0"
    assert found['microagent_requests_total{code="2xx",workspace="box"}'] == "1.0"
    assert found['microagent_bytes_total{direction="in",workspace="box"}'] == "500.0"
    assert found['microagent_dropped_packets_total{workspace="box"}'] == "4.0"
    assert found['microagent_mints_total{workspace="box"}'] == "3.0"
    assert found['microagent_errors_total{event="egress_dial_error",workspace="box"}'] == "1.0"
    assert found['microagent_connection_seconds_bucket{le="1.0",workspace="box"}'] == "0.0"
    assert found['microagent_connection_seconds_bucket{le="2.5",workspace="box"}'] == "1.0"
    assert found['microagent_connection_seconds_sum{workspace="box"}'] == "2.5"
    assert "evil" not in str(found)


def test_promtool_finds_nothing_wrong() -> None:
    assert promtool_says(exposed()) == ""
    assert promtool_says(b"microagent_a 1\nmicroagent_a 2\n") != ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.terminate()


def get(url: str) -> bytes:
    """The body, as soon as somebody answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.kernel
def test_prometheus_scrapes_an_agent() -> None:
    port, server = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        image = home / "guest" / "images" / "tiny"
        image.mkdir(parents=True)
        (image / "hello").write_text("hello")
        paths = {"state_dir": home / "state", "run_dir": home / "run", "guest_dir": home / "guest"}
        settings = {**paths, "socket": home / "run" / "agent.sock", "metrics": f"127.0.0.1:{port}"}
        (home / "agent.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        scrape = {"job_name": "microagent", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        whole = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
        (home / "prometheus.yaml").write_text(json.dumps(whole))
        agent = [sys.executable, "-m", "microagent.cli", "agent", "--config", str(home / "agent.yaml")]
        prometheus = [
            "prometheus",
            f"--config.file={home / 'prometheus.yaml'}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address=127.0.0.1:{server}",
        ]
        with running(agent, home / "agent.log"), running(prometheus, home / "prometheus.log"):
            get(f"http://127.0.0.1:{port}/metrics")
            call(home / "run" / "agent.sock", "POST", WORKSPACES, {"name": "box", "image": "tiny"})
            (home / "state" / "workspaces" / "box" / EGRESS).write_text(lines())
            query = urllib.parse.quote('sum(microagent_decisions_total{workspace="box",verdict="deny"})')
            deadline = time.monotonic() + 30
            result: list[dict[str, Any]] = []
            while not result and time.monotonic() < deadline:
                time.sleep(0.2)
                answer = json.loads(get(f"http://127.0.0.1:{server}/api/v1/query?query={query}"))
                result = answer["data"]["result"]
            assert result[0]["value"][1] == "9"
            assert promtool_says(get(f"http://127.0.0.1:{port}/metrics")) == ""


class Measured(Agent):
    """An agent that says its figures on a loopback port."""

    port = 0

    def spawn(self) -> "subprocess.Popen[str]":
        self.port = self.port or free_port()
        with (self.home / "agent.yaml").open("a") as config:
            config.write(f"metrics: 127.0.0.1:{self.port}\n")
        return super().spawn()


@pytest.mark.kernel
def test_whoever_asks_for_figures_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    """Every local user may: without a bound, any of them could take all descriptors that the agent may have."""
    agent = Measured(tmp_path)
    try:
        descriptors = Path(f"/proc/{agent.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        taken = [socket.create_connection(("127.0.0.1", agent.port)) for _ in range(200)]
        for refused in taken[64:]:
            refused.settimeout(10)
            assert refused.recv(1) == b""
        assert len(list(descriptors.iterdir())) <= before + 65
        taken[0].sendall(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n")
        assert taken[0].recv(15) == b"HTTP/1.1 200 OK"
        for one in taken:
            one.close()
        wait_for(lambda: len(list(descriptors.iterdir())) == before)
        assert promtool_says(get(f"http://127.0.0.1:{agent.port}/metrics")) == ""
    finally:
        agent.stop()


@pytest.mark.kernel
def test_somebody_who_has_the_port_first_keeps_the_agent_from_nothing_else(tmp_path: Path) -> None:
    class Second(Measured):
        """An agent whose port somebody has."""

    with socket.create_server(("127.0.0.1", 0)) as first:
        Second.port = first.getsockname()[1]
        agent = Second(tmp_path)
        assert agent.create("box")["state"] == "created"
    try:
        assert promtool_says(get(f"http://127.0.0.1:{agent.port}/metrics")) == ""
    finally:
        agent.stop()
