"""An agent that is killed or restarted: guests and mediators go on, and the next agent takes over what is right."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from tests.records import Witness
from tests.waiting import wait_for

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.lab import Lab
from microagent.demo.oracle import Destination, Oracle
from microagent.host import netns, nft

pytestmark = pytest.mark.vm

ALLOWED = {Destination("tcp", world.API, 80), Destination("udp", world.RESOLVER, 53)}
# Asks for what it may have and for what it may not, with and without an agent.
# A refusal by the kernel and a dropped packet, each counted there.
DROPS = "echo x | nc -u -w 1 10.1.2.3 9; ping -c 1 -W 1 10.1.2.3"
EVIL = f"curl -s -m 5 --resolve evil.test:80:{world.EVIL} http://evil.test/"
ASKING = f"while :; do curl -s -m 5 http://api.ok.test/; {EVIL}; {DROPS}; sleep 0.5; done"


@pytest.fixture
def lab(guest_dir: Path, images: Path) -> Iterator[Lab]:
    """An internet and an agent of its own: these tests end agents."""
    with Internet() as internet, Lab(internet, guest_dir, images=images) as made_up, Witness(made_up.state):
        yield made_up


def status(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.cli("--json", "status", name).stdout)
    return found


def log_of(lab: Lab, name: str) -> list[dict[str, Any]]:
    """The records, without asking an agent."""
    lines = (lab.state / "workspaces" / name / "egress.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def goes_on(lab: Lab, name: str, *events: str) -> None:
    """The guest asks, and is answered, refused and recorded, now."""
    for event in events or ("egress_request", "egress_deny"):
        before = [r["event"] for r in log_of(lab, name)].count(event)
        wait_for(lambda event=event, before=before: [r["event"] for r in log_of(lab, name)].count(event) > before)  # type: ignore[misc]


def dropped(lab: Lab, since: str) -> int:
    """Packets of ping, by the log."""
    found = [r for r in log_of(lab, "a") if r.get("what") == "icmp" and r["ts"] >= since]
    return sum(r["packets"] for r in found)


def test_guest_and_mediator_outlive_their_agent(lab: Lab) -> None:
    oracle = Oracle(lab.internet)
    flags = ("--egress", "strict", "--egress-allow", "api.ok.test")
    assert lab.cli("create", "a", "--image", "base", *flags, "--", "sh", "-c", ASKING).returncode == 0
    assert lab.cli("start", "a").returncode == 0
    goes_on(lab, "a")
    before = status(lab, "a")
    namespace = lab.socket.parent / "netns" / "a"

    lab.end_agent(signal.SIGKILL)
    goes_on(lab, "a")
    lab.start_agent()
    moves = {"traffic": {}, "denied": "", "last_denials": [], "uptime_seconds": 0}
    after = status(lab, "a")
    assert {**after, **moves} == {**before, **moves}
    # The figures are the record's, so they go on where they were.
    for what in ("flows_allowed", "questions_allowed", "requests", "bytes_out", "bytes_in"):
        assert 0 < after["traffic"][what] >= before["traffic"][what]
    assert after["traffic"]["flows_allowed"] > before["traffic"]["flows_allowed"]
    goes_on(lab, "a")
    assert not [r for r in lab.records("a") if r["event"] in ("gap", "mediator_down")]

    # While nobody looks: the rules are flushed, and the mediator is killed.
    lab.end_agent(signal.SIGTERM)
    netns.run_inside(namespace, lambda: nft.apply("flush ruleset"))
    os.kill(before["mediator_pid"], signal.SIGKILL)
    lab.start_agent()
    now = status(lab, "a")
    assert (now["state"], now["guest_pid"]) == ("running", before["guest_pid"])
    assert now["mediator_pid"] != before["mediator_pid"]
    goes_on(lab, "a")
    assert [r["event"] for r in lab.records("a")].count("gap") == 1
    assert "rules repaired workspace=a" in lab.log.read_text()
    # The new agent changes the policy of the guest it did not start.
    assert lab.cli("policy", "revoke", "a", "api.ok.test").returncode == 0
    wait_for(lambda: any(r["event"] == "egress_dns_deny" for r in log_of(lab, "a")))

    # Whoever was there to count: the records are what the kernel counted, but for what nobody saw.
    assert lab.cli("stop", "a").returncode == 0
    assert lab.cli("start", "a").returncode == 0
    assert lab.cli("policy", "allow", "a", "api.ok.test").returncode == 0
    goes_on(lab, "a")
    started = status(lab, "a")["started"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        lab.end_agent(number)
        goes_on(lab, "a")
        lab.start_agent()
    pings = netns.run_inside(namespace, nft.counters)["drop_icmp"][0]
    wait_for(lambda: dropped(lab, started) >= pings)
    assert dropped(lab, started) <= netns.run_inside(namespace, nft.counters)["drop_icmp"][0]

    # A way out that is not ours: such a guest is not taken over.
    lab.end_agent(signal.SIGKILL)

    def add_interface() -> None:
        with IPRoute() as ip:
            ip.link("add", ifname="d0", kind="veth", peer={"ifname": "d1"})
            ip.link("set", index=ip.link_lookup(ifname="d0")[0], state="up")

    netns.run_inside(namespace, add_interface)
    lab.start_agent()
    now = status(lab, "a")
    assert (now["state"], now["reason"]) == ("failed", "its network has interfaces that are not ours: d0")
    wait_for(lambda: len(lab.processes()) == 2)  # the agent and its nursery
    assert not namespace.exists()
    assert [*(lab.socket.parent / "sockets").iterdir(), *(lab.socket.parent / "workspaces").iterdir()] == []
    assert oracle.leaks(ALLOWED, {"api.ok.test"}) == ()


def test_a_host_that_is_offline_keeps_its_workspaces(lab: Lab) -> None:
    """Its resolv.conf names no resolver, as NetworkManager leaves it; one that is back is asked within seconds."""
    conf = lab.internet.resolv_conf
    online = conf.read_text()
    flags = ("--egress", "strict", "--egress-allow", "api.ok.test")
    assert lab.cli("create", "a", "--image", "base", *flags, "--", "sh", "-c", ASKING).returncode == 0
    assert lab.cli("start", "a").returncode == 0
    goes_on(lab, "a")
    before = status(lab, "a")

    lab.end_agent(signal.SIGTERM)
    conf.write_text("# Generated by NetworkManager\n")
    lab.start_agent()
    now = status(lab, "a")
    assert [now[what] for what in ("state", "guest_pid", "mediator_pid")] == [
        before[what] for what in ("state", "guest_pid", "mediator_pid")
    ]
    os.kill(before["mediator_pid"], signal.SIGKILL)
    goes_on(lab, "a", "gap", "egress_dns_error")
    assert status(lab, "a")["state"] == "running"

    conf.write_text(online)
    goes_on(lab, "a", "egress_request")
    assert lab.cli("kill", "a").returncode == 0


def test_an_agent_killed_within_a_rotation_leaves_no_log_behind(lab: Lab) -> None:
    """The file has been renamed, and the mediator not told: it writes where nobody looks, seals or rotates."""
    flags = ("--egress", "strict", "--egress-allow", "api.ok.test")
    assert lab.cli("create", "a", "--image", "base", *flags, "--", "sh", "-c", ASKING).returncode == 0
    assert lab.cli("start", "a").returncode == 0
    goes_on(lab, "a")
    mediator = status(lab, "a")["mediator_pid"]

    lab.end_agent(signal.SIGKILL)
    log = lab.state / "workspaces" / "a" / "egress.jsonl"
    log.rename(log.with_name("egress.jsonl.1"))
    log.touch(0o600)
    rotated = log.with_name("egress.jsonl.1").stat().st_size
    wait_for(lambda: log.with_name("egress.jsonl.1").stat().st_size > rotated)
    assert log.stat().st_size == 0
    lab.start_agent()
    goes_on(lab, "a")
    assert status(lab, "a")["mediator_pid"] == mediator
    wait_for(
        lambda: json.loads(lab.cli("--json", "audit", "verify", "a").stdout)["sealed"] >= log_of(lab, "a")[0]["seq"]
    )
    assert lab.cli("stop", "a").returncode == 0
    found = json.loads(lab.cli("--json", "audit", "verify", "a").stdout)
    assert (found["whole"], found["first"], found["files"]) == (True, 1, 2), found["faults"]


def test_a_grant_ends_by_itself_though_its_agent_is_gone(lab: Lab) -> None:
    oracle = Oracle(lab.internet)
    asking = "while :; do curl -s -m 5 http://api.ok.test/; curl -s -m 5 http://other.test/; sleep 0.2; done"
    flags = ("--egress", "strict", "--egress-allow", "api.ok.test")
    assert lab.cli("create", "a", "--image", "base", *flags, "--", "sh", "-c", asking).returncode == 0
    assert lab.cli("start", "a").returncode == 0
    assert lab.cli("policy", "allow", "a", "other.test", "--for", "15s").returncode == 0
    wait_for(lambda: any(r["event"] == "egress_request" and r["host"] == "other.test" for r in log_of(lab, "a")))

    lab.end_agent(signal.SIGKILL)
    wait_for(lambda: any(r["event"] == "policy_change" and "removed" in r for r in log_of(lab, "a")))
    goes_on(lab, "a", "egress_request", "egress_dns_deny")
    lab.start_agent()
    goes_on(lab, "a", "egress_request", "egress_dns_deny")
    given, taken = [r for r in log_of(lab, "a") if r["event"] == "policy_change"]
    assert (given["added"], taken["removed"]) == (["allow: other.test"], ["allow: other.test"])
    assert taken["who"] == "the end of a grant"
    late = [r for r in log_of(lab, "a") if r["seq"] > taken["seq"] and r.get("host", r.get("qname")) == "other.test"]
    assert {r["event"] for r in late} <= {"egress_dns_deny", "egress_close"}
    assert lab.cli("kill", "a").returncode == 0
    other = Destination("tcp", world.OTHER, 80)
    assert oracle.leaks({*ALLOWED, other}, {"api.ok.test", "other.test"}) == ()


def test_the_exit_code_of_a_run_whose_agent_and_client_are_gone(lab: Lab) -> None:
    with lab.start("run", "--name", "r", "--keep", "base", "sh", "-c", "echo up; sleep 3; echo done; exit 9") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        lab.end_agent(signal.SIGTERM)
        assert run.wait(timeout=30) == 75
        assert run.stderr is not None
        assert "the agent ends; workspace r goes on" in run.stderr.read()
    # Nothing in the agent that started the guest tried to end it, and merely failed to.
    assert "Traceback" not in lab.log.read_text()
    time.sleep(4)
    lab.start_agent()
    wait_for(lambda: status(lab, "r")["state"] == "stopped")
    found = status(lab, "r")
    assert (found["exit_code"], found["reason"]) == (9, "the command ended with 9")
    assert lab.cli("logs", "r").stdout == "up\ndone\n"
    # Nothing but the agent and its nursery is left; Ctrl-C ends those.
    wait_for(lambda: len(lab.processes()) == 2)
    lab.end_agent(signal.SIGINT)
    assert lab.processes() == set()
    assert lab.mounts() == []


def test_an_agent_killed_at_any_moment_of_a_start_is_cleaned_up_after(lab: Lab) -> None:
    """And of a stop. Nothing is left that the next start does not take away, or take over."""
    moments = [0.02, 0.05, 0.1, 0.3, 1.0, 2.5]
    for number, moment in enumerate(moments):
        name = f"w{number}"
        assert lab.cli("create", name, "--image", "base", "--", "sleep", "600").returncode == 0
        with lab.start("start", name) as starting:
            # The command itself takes a moment before it asks.
            time.sleep(0.15 + moment)
            lab.end_agent(signal.SIGKILL)
            starting.kill()
        lab.start_agent()
        state = status(lab, name)["state"]
        assert state in ("created", "stopped", "running"), state
        assert lab.cli("delete", name, "--force").returncode == 0
        wait_for(lambda: len(lab.processes()) == 2)  # the agent and its nursery
    run = lab.socket.parent
    assert [*(run / "sockets").iterdir(), *(run / "workspaces").iterdir(), *(run / "netns").iterdir()] == []
    assert [*(lab.state / "workspaces").iterdir()] == []
