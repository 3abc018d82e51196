"""The record of a real run is verified, exported, tampered with, and found out, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from microagent.audit import chain
from microagent.audit.record import Event, Record, body
from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

NAME = "audited"


def verify(lab: Lab, what: str) -> tuple[int, dict[str, Any]]:
    answer = lab.cli("--json", "audit", "verify", what)
    return answer.returncode, json.loads(answer.stdout)


def test_the_record_of_a_run_is_whole_here_and_elsewhere_until_it_is_touched(lab: Lab, scratch: Path) -> None:
    command = "curl -s https://api.ok.test/; curl -s http://evil.test/"
    flags = ("--egress", "strict", "--egress-allow", "api.ok.test")
    ran = lab.cli("run", "--name", NAME, "--keep", *flags, "base", "sh", "-c", command)
    assert ran.stdout == "hello from api.ok.test\n", ran.stderr

    code, report = verify(lab, NAME)
    records = len(lab.records(NAME))
    assert (code, report["whole"], report["records"], report["sealed"]) == (0, True, records, records)

    archive = scratch / "audited.tar"
    assert lab.cli("audit", "export", NAME, "--output", str(archive)).returncode == 0
    assert verify(lab, str(archive)) == (0, report)

    log = lab.state / "workspaces" / NAME / "egress.jsonl"
    written = log.read_bytes()
    log.write_bytes(written.replace(b"evil.test", b"evit.test", 1))
    code, report = verify(lab, NAME)
    assert (code, report["whole"]) == (1, False)
    assert report["faults"][0]["file"] == "egress.jsonl"
    log.write_bytes(b"".join(written.splitlines(keepends=True)[:-2]))
    code, report = verify(lab, NAME)
    assert (code, "the log ends at record" in report["faults"][0]["what"]) == (1, True)
    # A record that fits the chain, and that no agent sealed.
    last = json.loads(written.splitlines()[-1])
    forged = body(Record(Event.GAP, {"why": "x"}), ts=last["ts"], seq=last["seq"] + 1, ident="0" * 12, workspace=NAME)
    log.write_bytes(written + chain.link(last["chain"], forged)[0])
    code, report = verify(lab, NAME)
    assert (code, "after the last seal" in report["faults"][0]["what"]) == (1, True)
    # Seals are not in the workspace's directory: putting all of that back brings none.
    log.write_bytes(written)
    assert verify(lab, NAME)[0] == 0

    assert lab.cli("delete", NAME).returncode == 0
    assert not (lab.state / "seals" / f"{NAME}.jsonl").exists()


def test_what_cannot_be_verified_is_said(lab: Lab, scratch: Path) -> None:
    noise = scratch / "noise.tar"
    noise.write_bytes(b"noise" * 1000)
    for what, code in (("nowhere", 1), (str(scratch / "none.tar"), 2), (str(noise), 2)):
        answer = lab.cli("audit", "verify", what)
        assert (answer.returncode, answer.stdout) == (code, "")
        assert answer.stderr.startswith("error: ")
