"""The policy of a running workspace is changed from the command line; a real guest meets it at once."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

NAME = "live"
# Asks two hosts over and over, each answer a line.
SCRIPT = """
probe() { curl -sk -m 5 -o /dev/null -w "$1 %{http_code}\\n" https://$1/; }
while :; do probe api.ok.test; probe other.test; sleep 0.2; done
"""


@pytest.fixture(scope="module")
def started(lab: Lab) -> Iterator[Lab]:
    """A strict workspace that tries api.ok.test and other.test until the module is over."""
    made = lab.cli("create", NAME, "--image", "base", "--egress", "strict", "--", "sh", "-c", SCRIPT)
    assert made.returncode == 0, made.stderr
    assert lab.cli("start", NAME).returncode == 0
    yield lab
    lab.cli("kill", NAME)


@pytest.fixture
def running(started: Lab, scratch: Path) -> Lab:
    """The same, with a policy that allows api.ok.test alone."""
    policy = scratch / "first.yaml"
    policy.write_text("allow: [api.ok.test]\n", "utf-8")
    change(started, "set", str(policy))
    return started


def changes(lab: Lab) -> list[dict[str, Any]]:
    return [record for record in lab.records(NAME) if record["event"] == "policy_change"]


def change(lab: Lab, *words: str) -> dict[str, Any]:
    done = lab.cli("--json", "policy", words[0], NAME, *words[1:])
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def until(lab: Lab, wanted: Callable[[str], bool], seconds: float = 20.0) -> str:
    """The guest's lines from now on, once `wanted` says yes to one."""
    start = len(lab.cli("logs", NAME).stdout)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = lab.cli("logs", NAME).stdout[start:].splitlines()
        if any(map(wanted, lines)):
            return "\n".join(lines)
        time.sleep(0.2)
    raise AssertionError(f"the guest did not see it; its last lines: {lines[-6:]}")


def test_an_entry_counts_at_once_and_is_gone_when_revoked(running: Lab) -> None:
    until(running, lambda line: line == "api.ok.test 200")
    until(running, lambda line: line == "other.test 000")

    answer = change(running, "allow", "other.test")
    assert (answer["changed"], answer["running"]) == (True, True)
    until(running, lambda line: line == "other.test 200")

    change(running, "revoke", "other.test")
    until(running, lambda line: line == "other.test 000")
    after = until(running, lambda line: line == "api.ok.test 200")
    assert "other.test 200" not in after.splitlines()[1:]

    allowed, revoked = changes(running)[-2:]
    assert (allowed["added"], allowed.get("removed")) == (["allow: other.test"], None)
    assert (revoked.get("added"), revoked["removed"]) == (None, ["allow: other.test"])
    assert (allowed["who"], allowed["old"]) == ("root", revoked["new"])


def test_a_grant_ends_by_itself(running: Lab) -> None:
    change(running, "allow", "other.test", "--for", "10s")
    shown = json.loads(running.cli("--json", "policy", "show", NAME).stdout)
    assert [entry["entry"] for entry in shown["entries"] if "until" in entry] == ["other.test"]
    until(running, lambda line: line == "other.test 200")
    until(running, lambda line: line == "other.test 000")
    shown = json.loads(running.cli("--json", "policy", "show", NAME).stdout)
    assert [entry["entry"] for entry in shown["entries"]] == ["api.ok.test"]
    last = changes(running)[-1]
    assert (last["who"], last["removed"]) == ("the end of a grant", ["allow: other.test"])


def test_passthrough_and_back(running: Lab) -> None:
    change(running, "passthrough", "api.ok.test")
    # The guest asks for no trust (-k), so both go well, and the record tells which it was.
    until(running, lambda line: line == "api.ok.test 200")
    until(running, lambda line: line == "api.ok.test 200")
    taken = [r for r in running.records(NAME) if r["event"] == "egress_allow"][-1]
    assert (taken["host"], taken["tls"], taken["rule"]) == ("api.ok.test", "passthrough", "passthrough: api.ok.test")
    refused = running.cli("policy", "allow", NAME, "api.ok.test")
    assert refused.returncode == 1
    assert "beats an allow entry" in refused.stderr


def test_what_is_wrong_changes_nothing(running: Lab, scratch: Path) -> None:
    before = running.cli("--json", "policy", "show", NAME).stdout
    broken = scratch / "policy.yaml"
    broken.write_text("allow: [other.test]\nallowed: [x.test]\n", "utf-8")
    wrong = {
        ("allow", NAME, "*.ok.test"): 2,
        ("allow", NAME, "other.test", "--for", "ten"): 2,
        ("allow", NAME, "other.test", "--for", "400d"): 2,
        ("revoke", NAME, "other.test"): 1,
        ("set", NAME, str(broken)): 2,
        ("allow", "nowhere", "other.test"): 1,
    }
    for words, code in wrong.items():
        answer = running.cli("policy", *words)
        assert (answer.returncode, answer.stdout) == (code, ""), words
        assert answer.stderr.startswith(("error:", "Usage")), words
    assert running.cli("--json", "policy", "show", NAME).stdout == before


def test_set_is_kept_for_the_next_start(lab: Lab, scratch: Path) -> None:
    policy = scratch / "policy.yaml"
    policy.write_text("allow: [other.test]\n", "utf-8")
    command = "curl -s -m 5 http://api.ok.test/; curl -s -m 5 http://other.test/; true"
    flags = ("--egress", "strict", "--egress-allow", "api.ok.test")
    assert lab.cli("create", "later", "--image", "base", *flags, "--", "sh", "-c", command).returncode == 0
    grant = lab.cli("--json", "policy", "allow", "later", "api.ok.test", "--for", "1s")
    assert json.loads(grant.stdout)["changed"] is False
    answer = json.loads(lab.cli("--json", "policy", "set", "later", str(policy)).stdout)
    assert (answer["changed"], answer["running"]) == (True, False)
    assert lab.cli("policy", "allow", "later", "api.ok.test", "--for", "1s").returncode == 0
    time.sleep(1.1)
    assert lab.cli("start", "later").returncode == 0
    deadline = time.monotonic() + 20
    while "hello from other.test" not in (said := lab.cli("logs", "later").stdout) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "hello from other.test" in said
    assert "hello from api.ok.test" not in said
    lab.cli("kill", "later")
    assert lab.cli("delete", "later").returncode == 0


def test_off_has_no_policy_to_change(lab: Lab) -> None:
    assert lab.cli("create", "open", "--image", "base", "--egress", "off").returncode == 0
    answer = lab.cli("policy", "allow", "open", "api.ok.test")
    assert answer.returncode == 1
    assert "egress is off" in answer.stderr
    assert lab.cli("delete", "open").returncode == 0


def test_explain_knows_this_host(running: Lab) -> None:
    answer = running.cli("--json", "policy", "explain", NAME, "198.51.100.2:22")
    assert json.loads(answer.stdout)["address_class"] == "never_by_name"
    assert (
        subprocess.run(
            running.argv("policy", "explain", "nowhere", "a.test"),
            env=running.environment(),
            capture_output=True,
            check=False,
        ).returncode
        == 1
    )
