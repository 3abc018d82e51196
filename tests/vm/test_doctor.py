"""`microagent doctor NAME` on real guests: one where all holds, and the same with something broken in it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from microagent.demo.lab import Lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

NAME = "looked-at"

_LIAR = """#!/bin/sh
while read -r what _; do
	case $what in
	clock) date +"clock %s" ;;
	tcp | udp) echo refused ;;
	frame) echo silent ;;
	*) echo answer 00 ;;
	esac
done
"""


def install_probe(text: str) -> str:
    """A script that puts another program in the probe's place."""
    return f"cp /run/microagent/probe /saved && cat > /run/microagent/probe << 'EOF'\n{text}EOF"


@pytest.fixture(scope="module")
def workspace(lab: Lab) -> Iterator[Lab]:
    """A strict workspace that idles."""
    settings = ("--image", "base", "--egress", "strict", "--egress-allow", "api.ok.test")
    made = lab.cli("create", NAME, *settings, "--", "sleep", "100000")
    assert made.returncode == 0, made.stderr
    assert lab.cli("start", NAME).returncode == 0
    yield lab
    assert lab.cli("delete", NAME, "--force").returncode == 0


def examined(lab: Lab) -> tuple[int, dict[str, dict[str, Any]]]:
    done = lab.cli("--json", "doctor", NAME)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)["checks"]}


def in_guest(lab: Lab, script: str) -> None:
    done = lab.cli("exec", NAME, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr


def test_all_holds_and_is_on_record(workspace: Lab) -> None:
    code, checks = examined(workspace)
    assert {name: one["detail"] for name, one in checks.items() if not one["ok"]} == {}
    assert code == 0
    tried = {"mediator", "rules", "gateway", "resolver", "clock", "ca", "ca of curl", "ca of python3", "ca of openssl"}
    tried |= {"allowed host", "foreign resolver", "quic", "ipv6", "metadata", "direct address"}
    assert checks.keys() == tried
    # Other tests have had it examined too, in this or that order: the last is ours.
    record = [one for one in workspace.records(NAME) if one["event"] == "enforcement_verified"][-1]
    assert record["who"] == "root"
    assert set(record["checks"]) == tried
    assert "failed" not in record


@pytest.mark.parametrize(
    ("breaking", "mending", "failed"),
    [
        (
            "cp /run/microagent/ca-bundle.pem /saved && : > /run/microagent/ca-bundle.pem",
            "cat /saved > /run/microagent/ca-bundle.pem",
            # The others also look into OpenSSL's directory, which still has it.
            {"ca", "ca of curl"},
        ),
        (
            "cp /etc/resolv.conf /saved && echo 'nameserver 127.0.0.53' > /etc/resolv.conf",
            "cat /saved > /etc/resolv.conf",
            {"resolver"},
        ),
        # A guest that can send nothing has nothing open, and does not pass for it.
        (
            "ip link set eth0 down",
            "ip link set eth0 up && ip route add default via 10.43.0.1",
            {"gateway", "resolver", "allowed host", "foreign resolver", "quic", "ipv6", "metadata", "direct address"}
            | {"ca of curl", "ca of python3", "ca of openssl"},
        ),
        # One that lies without having sent anything: each lie has its witness on the host.
        (
            install_probe(_LIAR),
            "cp /saved /run/microagent/probe",
            {"gateway", "resolver", "allowed host", "foreign resolver", "quic", "ipv6", "metadata", "direct address"},
        ),
    ],
    ids=["trust", "resolv.conf", "no network", "a liar"],
)
def test_what_is_broken_is_found(workspace: Lab, breaking: str, mending: str, failed: set[str]) -> None:
    in_guest(workspace, breaking)
    try:
        code, checks = examined(workspace)
        assert {name for name, one in checks.items() if not one["ok"]} == failed
        assert code == 1
        assert all(one["fix"] for one in checks.values() if not one["ok"])
    finally:
        in_guest(workspace, mending)
    last = [one for one in workspace.records(NAME) if one["event"] == "enforcement_verified"][-1]
    assert set(last["failed"]) == failed


def test_who_speaks_nonsense_is_an_error(workspace: Lab) -> None:
    in_guest(workspace, install_probe("#!/bin/sh\necho hello\n"))
    done = workspace.cli("doctor", NAME)
    in_guest(workspace, "cp /saved /run/microagent/probe")
    assert done.returncode == 1
    assert "the probe in the guest gives no answer" in done.stderr


def test_a_guarded_workspace_has_less_to_try(lab: Lab) -> None:
    """What is open by design is not called closed; and a table for people."""
    made = lab.cli("create", "guarded", "--image", "base", "--", "sleep", "100000")
    assert made.returncode == 0, made.stderr
    try:
        stopped = lab.cli("doctor", "guarded")
        assert (stopped.returncode, "does not run" in stopped.stderr) == (1, True), stopped.stderr
        assert lab.cli("start", "guarded").returncode == 0
        done = lab.cli("doctor", "guarded")
        assert done.returncode == 0, done.stdout
        heading, *rows = [re.split("  +", line) for line in done.stdout.splitlines()]
        assert heading == ["CHECK", "RESULT", "DETAIL"]
        closed = {"foreign resolver", "quic", "ipv6", "metadata"}
        assert {row[0] for row in rows} == {"mediator", "rules", "gateway", "resolver", "clock", "ca"} | closed
        untried = re.findall("^not tried: (.*?):", done.stderr, re.MULTILINE)
        assert untried == ["allowed host", "direct address", "trust of each runtime"]
    finally:
        assert lab.cli("delete", "guarded", "--force").returncode == 0


def test_where_nothing_is_enforced_there_is_nothing_to_try(lab: Lab) -> None:
    assert lab.cli("create", "open", "--image", "base", "--egress", "off", "--", "true").returncode == 0
    done = lab.cli("doctor", "open")
    assert lab.cli("delete", "open", "--force").returncode == 0
    assert done.returncode == 1
    assert "is off: nothing is enforced" in done.stderr
