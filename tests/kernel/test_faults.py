"""Fail closed: with the mediator dead, the rules flushed or the log full, a guest loses its egress, never its fence."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Workspace
from tests.waiting import wait_for

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle
from microagent.host import nft

pytestmark = pytest.mark.kernel

wait_until = partial(wait_for, looks=200, apart=0.05)

API_TLS = Destination("tcp", world.API, 443)
API_HTTP = Destination("tcp", world.API, 80)
TARGETS = ((world.API, 443), (world.EVIL, 443), (world.EVIL, 22), (world.METADATA, 80), (world.PRIVATE, 5432))


def probe_everything(lab: Workspace) -> None:
    """Try all ways out that a guest has; the oracle judges what came of it."""
    for address, port in TARGETS:
        lab.guest.tcp(address, port, b"secret", seconds=1)
        lab.guest.udp(address, port, b"secret", seconds=0.2)
    lab.guest.udp(world.EVIL, 53, b"secret", seconds=0.2)
    lab.guest.dig("secret.evil.test", "+timeout=1")


def ended(lab: Workspace) -> str:
    """Why the mediator ended, once it has."""

    async def wait() -> str:
        return await lab.mediator.ended

    return lab.room.call(wait())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_mediator_is_killed_during_a_download(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, scheme: str
) -> None:
    lab = workspace(allow=["api.ok.test"])
    url = f"{scheme}://api.ok.test/slow/1000000"
    with lab.guest.start("curl", "-sS", "--cacert", str(lab.guest.trust), "-o", "/dev/null", url) as download:
        lab.wait_for("egress_allow", host="api.ok.test")
        wait_until(lambda: bool(internet.evidence().requests))
        os.kill(lab.mediator.pid, signal.SIGKILL)
        assert ended(lab) == "died"
        assert download.wait(timeout=10) in (18, 35, 52, 56)  # an error, and not a whole file
    probe_everything(lab)
    assert oracle.leaks({API_TLS, API_HTTP}, {"api.ok.test"}) == ()

    lab.spawn_mediator()
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    lab.wait_for("gap")
    assert lab.guest.tcp(world.EVIL, 443, b"SSH-2.0-x\r\n").error
    assert oracle.leaks({API_TLS, API_HTTP}, {"api.ok.test"}) == ()


def test_a_stopped_mediator_is_no_way_out(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    os.kill(lab.mediator.pid, signal.SIGSTOP)
    try:
        probe_everything(lab)
        assert oracle.leaks((), ()) == ()
    finally:
        os.kill(lab.mediator.pid, signal.SIGCONT)
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS, API_HTTP}, {"api.ok.test"}) == ()


def test_a_flushed_ruleset_is_no_way_out_and_is_repaired(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    lab.in_netns(lambda: nft.apply("flush ruleset"))
    probe_everything(lab)
    assert lab.guest.curl("-m", "2", "https://api.ok.test/").stdout == ""
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()

    assert lab.network.repair()
    assert not lab.network.repair()
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_forwarding_switched_on_and_rules_gone_is_still_no_way_out(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """What Docker, ufw or an administrator may do to a host, done in the workspace's own namespace."""
    lab = workspace(allow=["api.ok.test"])

    def open_the_gates() -> None:
        nft.apply("flush ruleset")
        for name in ("ip_forward", "conf/all/route_localnet", "conf/all/proxy_arp"):
            Path("/proc/sys/net/ipv4", name).write_text("1", "ascii")

    lab.in_netns(open_the_gates)
    probe_everything(lab)
    assert oracle.leaks((), ()) == ()
    assert lab.network.repair()
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_a_mediator_that_was_stopped_is_no_way_out(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    lab.room.call(lab.mediator.stop("the end"))
    probe_everything(lab)
    assert lab.guest.curl("-m", "2", "https://api.ok.test/").stdout == ""
    assert lab.records("mediator_down")[-1]["why"] == "the end"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_a_silent_upstream_dns_is_a_servfail_and_nobody_else_is_asked(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"], resolvers=(world.SILENT,))
    assert "status: SERVFAIL" in lab.guest.dig("api.ok.test", "+timeout=10")
    lab.wait_for("egress_dns_error", qname="api.ok.test")
    asked = {Destination(proto, world.SILENT, 53) for proto in ("udp", "tcp")}
    assert oracle.leaks(asked) == ()


def test_a_server_that_refuses_is_said_to(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test", "closed.test"])
    answer = lab.guest.curl("-i", "http://closed.test/")
    assert answer.stdout.startswith("HTTP/1.1 502"), answer
    assert "dial_failed" in answer.stdout
    lab.wait_for("egress_dial_error", host="closed.test")
    assert lab.guest.curl("http://api.ok.test/").stdout == "hello from api.ok.test\n"
    allowed = {API_HTTP, Destination("tcp", world.CLOSED, 80)}
    assert oracle.leaks(allowed, {"api.ok.test", "closed.test"}) == ()


def test_the_mediator_has_no_privilege(workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    lines = Path(f"/proc/{lab.mediator.pid}/status").read_text("ascii").splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"61234"}
    assert all(int(status[kind], 16) == 0 for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
