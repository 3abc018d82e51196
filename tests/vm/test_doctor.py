"""`microagent doctor NAME` on real guests: one where all holds, and the same with something broken in it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from microagent.demo.lab import Lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

STRICT, GUARDED = "strict", "guarded"
NEEDED = {"mediator", "rules", "gateway", "resolver", "clock", "ca", "ca of python3", "ca of openssl", "allowed host"}
CLOSED = {"foreign resolver", "quic", "ipv6", "metadata", "private address"}

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
    """A strict workspace that idles, and a guarded one."""
    for name, mode in ((STRICT, "strict"), (GUARDED, "guarded")):
        settings = ("--image", "base", "--memory", "256", "--egress", mode, "--egress-allow", "api.ok.test")
        made = lab.cli("create", name, *settings, "--", "sleep", "100000")
        assert made.returncode == 0, made.stderr
        assert lab.cli("start", name).returncode == 0
    yield lab
    for name in (STRICT, GUARDED):
        assert lab.cli("delete", name, "--force").returncode == 0


def examined(lab: Lab, name: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = lab.cli("--json", "doctor", name)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)["checks"]}


def in_guest(lab: Lab, name: str, script: str) -> None:
    done = lab.cli("exec", name, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr


def test_all_holds_and_is_on_record(workspace: Lab) -> None:
    code, checks = examined(workspace, STRICT)
    assert {name: one["detail"] for name, one in checks.items() if not one["ok"]} == {}
    assert code == 0
    assert checks.keys() == NEEDED | CLOSED | {"direct address", "ca of curl"}
    assert checks["allowed host"]["detail"] == "api.ok.test, port 443, answers TLS"
    # Other tests have had it examined too, in this or that order: the last is ours.
    record = [one for one in workspace.records(STRICT) if one["event"] == "enforcement_verified"][-1]
    assert record["who"] == "root"
    assert set(record["checks"]) == checks.keys()
    assert "failed" not in record
    # What it did itself can be told from what the workload did.
    asked = [one["ts"] for one in workspace.records(STRICT) if one.get("qname") == record["host"] == "api.ok.test"]
    assert record["first"] < asked[-1] < record["ts"]
    # In guarded mode it leaves more handshakes: none of them is a client's that pins.
    assert examined(workspace, GUARDED)[0] == 0
    events = [one["event"] for one in workspace.records(GUARDED)]
    assert "egress_mitm_handshake_error" in events
    suggested = workspace.cli("policy", "suggest", GUARDED).stdout
    assert "  - api.ok.test\n" in suggested
    assert "passthrough" not in suggested


def test_a_guarded_workspace_has_less_to_try(workspace: Lab) -> None:
    """What is open by design is not called closed; and a table for people."""
    done = workspace.cli("doctor", GUARDED)
    assert done.returncode == 0, done.stdout
    heading, *rows = [re.split("  +", line) for line in done.stdout.splitlines()]
    assert heading == ["CHECK", "RESULT", "DETAIL"]
    assert {row[0] for row in rows} == NEEDED | CLOSED
    assert re.findall("^not tried: (.*?):", done.stderr, re.MULTILINE) == ["direct address"]


@pytest.mark.parametrize(
    ("name", "breaking", "mending", "failed"),
    [
        (
            STRICT,
            "cp $PIP_CERT /etc/resolv.conf / && : > $PIP_CERT && echo nameserver 127.0.0.53 > /etc/resolv.conf",
            "cat /ca-bundle.pem > /run/microagent/ca-bundle.pem; cat /resolv.conf > /etc/resolv.conf",
            # The others also look into OpenSSL's directory, which still has it.
            {"ca", "ca of curl", "resolver"},
        ),
        # A guest that can send nothing has nothing open, and does not pass for it.
        (
            GUARDED,
            "ip link set eth0 down",
            "ip link set eth0 up && ip route add default via 10.43.0.1",
            {"gateway", "resolver", "allowed host"} | CLOSED,
        ),
        # One that lies without having sent anything: each lie has its witness on the host.
        (
            STRICT,
            install_probe(_LIAR),
            "cp /saved /run/microagent/probe",
            {"gateway", "resolver", "allowed host", "direct address"} | CLOSED,
        ),
    ],
    ids=["trust and resolv.conf", "no network", "a liar"],
)
def test_what_is_broken_is_found(workspace: Lab, name: str, breaking: str, mending: str, failed: set[str]) -> None:
    in_guest(workspace, name, breaking)
    try:
        code, checks = examined(workspace, name)
        assert {name for name, one in checks.items() if not one["ok"]} == failed
        assert code == 1
        assert all(one["fix"] for one in checks.values() if not one["ok"])
    finally:
        in_guest(workspace, name, mending)
    last = [one for one in workspace.records(name) if one["event"] == "enforcement_verified"][-1]
    assert set(last["failed"]) == failed


def test_who_speaks_nonsense_is_an_error(workspace: Lab) -> None:
    in_guest(workspace, GUARDED, install_probe("#!/bin/sh\necho hello\n"))
    done = workspace.cli("doctor", GUARDED)
    in_guest(workspace, GUARDED, "cp /saved /run/microagent/probe")
    assert done.returncode == 1
    assert "the probe in the guest gives no answer" in done.stderr


def test_where_nothing_is_enforced_there_is_nothing_to_try(lab: Lab) -> None:
    assert lab.cli("create", "open", "--image", "base", "--egress", "off", "--", "true").returncode == 0
    assert lab.cli("create", "stopped", "--image", "base").returncode == 0
    answers = [lab.cli("doctor", name) for name in ("open", "stopped")]
    for name in ("open", "stopped"):
        assert lab.cli("delete", name).returncode == 0
    assert [one.returncode for one in answers] == [1, 1]
    assert "is off: nothing is enforced" in answers[0].stderr
    assert "does not run" in answers[1].stderr
