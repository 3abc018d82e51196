"""A record is turned into a policy, and the policy is tried on the record, through the real command line."""

import json
from pathlib import Path

import pytest

from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm


def test_what_was_allowed_becomes_a_policy_that_allows_it(lab: Lab, scratch: Path) -> None:
    command = "curl -s https://api.ok.test/; curl -s http://other.test/; curl -s http://10.99.0.1/"
    command += "; curl -s http://agent.ok.test/"
    ran = lab.cli("run", "--name", "learn", "--keep", "base", "sh", "-c", command)
    assert ran.stdout == "hello from api.ok.test\nhello from other.test\n", ran.stderr

    suggested = lab.cli("policy", "suggest", "learn")
    assert suggested.returncode == 0, suggested.stderr
    policy = scratch / "policy.yaml"
    policy.write_text(suggested.stdout, "utf-8")
    checked = json.loads(lab.cli("--json", "policy", "check", str(policy)).stdout)
    assert checked["allow"] == ["api.ok.test", "other.test"]
    again = json.loads(lab.cli("--json", "policy", "replay", "learn", "--policy", str(policy)).stdout)
    assert again["decisions"] > 0
    # The name that was refused when it was dialled was looked up before.
    assert {change["target"] for change in again["changes"]} == {"agent.ok.test A", "agent.ok.test AAAA"}

    # A name of the host's own address stays shut, whatever entry names it.
    policy.write_text(f"{suggested.stdout}  - agent.ok.test\n", "utf-8")
    more = json.loads(lab.cli("--json", "policy", "replay", "learn", "--policy", str(policy)).stdout)
    assert [change for change in more["changes"] if change["proto"] != "dns"] == []

    policy.write_text("allow: [api.ok.test]\n", "utf-8")
    less = json.loads(lab.cli("--json", "policy", "replay", "learn", "--policy", str(policy)).stdout)
    assert {change["would_permit"] for change in less["changes"]} == {"allow: other.test", "allow: agent.ok.test"}


def test_a_policy_is_shown_with_where_each_entry_was_written(lab: Lab, scratch: Path) -> None:
    policy = scratch / "policy.yaml"
    policy.write_text("passthrough:\n  - pinned.test\n", "utf-8")
    flags = ("--egress", "strict", "--egress-allow", "api.ok.test", "--egress-policy", str(policy))
    assert lab.cli("create", "shown", "--image", "base", *flags).returncode == 0
    egress = json.loads(lab.cli("--json", "policy", "show", "shown").stdout)
    assert egress["mode"] == "strict"
    origins = {entry["entry"]: entry["origin"] for entry in egress["entries"]}
    assert origins["api.ok.test"] == "--egress-allow"
    assert origins["pinned.test"].endswith("policy.yaml:2:5")
    assert lab.cli("policy", "show", "nowhere").returncode == 1
    assert lab.cli("delete", "shown").returncode == 0
