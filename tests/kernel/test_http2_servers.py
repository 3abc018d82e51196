"""Servers that speak HTTP/2 rarely, wrongly or too much: what is fine passes, what is not ends there, on record."""

import json
from collections.abc import Iterator

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.programs import python_server
from tests.kernel.workspace import Workspace

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

NAME = "h2.ok.test"
FINE = ["plain", "interim", "trailers", "goaway", "unknown"]
GATEWAY = ["switch", "no-status", "data-first", "split", "endless-interim"]
BROKEN = ["push", "odd-stream", "even-stream", "not-hpack"]
FLOODS = ["window", "ping", "settings", "continuation", "bomb"]


@pytest.fixture
def lab(internet: Internet, workspace: MakeWorkspace, oracle: Oracle) -> Iterator[Workspace]:
    with python_server(internet, "h2_misbehaves.py"):
        yield workspace(allow=[NAME])
    assert oracle.leaks({Destination("tcp", world.PROGRAMS, 443)}, {NAME}) == ()


def test_a_server_may_do_what_is_rare_and_nothing_else(lab: Workspace) -> None:
    def ask(path: str) -> str:
        return lab.guest.curl("--http2", "-w", "%{http_version} %{http_code}", f"https://{NAME}/{path}").stdout

    for path in FINE:
        assert ask(path) == "hello\n2 200", path
        lab.wait_for("egress_request", path=f"/{path}", status=200, http="2")
    for path in GATEWAY:
        body, _, status = ask(path).rpartition("\n")
        assert status == "2 502", path
        said = json.loads(body)
        record = lab.wait_for("egress_mitm_upstream_error", id=said["decision"])
        assert (said["reason"], record["host"]) == ("upstream_malformed", NAME)
        lab.wait_for("egress_request", path=f"/{path}", status=502)
    for path in BROKEN:
        before = len(lab.records("egress_mitm_upstream_error"))
        assert "hello" not in ask(path), path
        assert len(lab.records("egress_mitm_upstream_error")) > before, path
        lab.wait_for("egress_request", path=f"/{path}")
    for path in FLOODS:
        before = len(lab.records("egress_cap_exceeded"))
        assert "hello" not in ask(path), path
        assert len(lab.records("egress_cap_exceeded")) > before, path
        lab.wait_for("egress_request", path=f"/{path}")
    assert "hello" not in ask("reset")
    lab.wait_for("egress_request", path="/reset", status=0)
    assert ask("plain") == "hello\n2 200"
