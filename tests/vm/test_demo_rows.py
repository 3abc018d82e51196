"""The promise, whole: a real guest, started through the real command line, gets to its two hosts and nowhere else."""

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from microagent.demo import rows, run, world
from microagent.demo.internet import python_environment
from microagent.demo.lab import Lab
from microagent.demo.oracle import Destination, Oracle

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

_PR_SET_CHILD_SUBREAPER = 36
Left: TypeAlias = Callable[[], list[str]]


@dataclass(frozen=True)
class Demonstration:
    """One run of the rows, seen from all sides."""

    code: int
    outcomes: dict[str, rows.Outcome]
    records: list[dict[str, Any]]
    leaks: tuple[str, ...]
    leaks_if_nothing_were_allowed: tuple[str, ...]
    served: set[tuple[str, str]]


@pytest.fixture(scope="module")
def demonstration(lab: Lab) -> Demonstration:
    program = rows.script(lab.internet.ca.read_text("ascii"))
    answer = lab.cli("run", "--name", "rows", "--keep", *run.FLAGS, "base", "sh", "-c", program)
    records = lab.records("rows")
    oracle = Oracle(lab.internet)
    allowed = {Destination("tcp", address, 443) for address, _ in rows.REACHED}
    return Demonstration(
        answer.returncode,
        {outcome.row.key: outcome for outcome in rows.judge(answer.stdout.splitlines(), records)},
        records,
        oracle.leaks(allowed, {name for _, name in rows.REACHED}),
        oracle.leaks((), ()),
        {(request.address, request.host) for request in lab.internet.evidence().requests},
    )


@pytest.mark.parametrize("key", [row.key for row in rows.ROWS])
def test_a_row_is_right(demonstration: Demonstration, key: str) -> None:
    outcome = demonstration.outcomes[key]
    assert outcome.right, outcome


def test_nothing_else_left_the_host(demonstration: Demonstration) -> None:
    assert demonstration.code == 0
    assert demonstration.leaks == ()


def test_the_allowed_hosts_were_reached_and_the_oracle_saw_it(demonstration: Demonstration) -> None:
    assert demonstration.served == set(rows.REACHED)
    for address, name in rows.REACHED:
        assert any(f"> {address}:443 " in leak for leak in demonstration.leaks_if_nothing_were_allowed)
        assert f"asked of the DNS: {name} A" in demonstration.leaks_if_nothing_were_allowed


def test_the_record_is_whole(demonstration: Demonstration) -> None:
    sequence = [record["seq"] for record in demonstration.records]
    assert sequence == list(range(1, len(sequence) + 1))
    assert {record["workspace"] for record in demonstration.records} == {"rows"}
    denied = {record.get("dst") for record in demonstration.records if record["event"].endswith("_deny")}
    assert {f"{world.EVIL}:443", f"{world.METADATA}:80", f"{world.PRIVATE}:80"} <= denied
    assert demonstration.records[-1]["event"] == "mediator_down"


def test_a_stopped_workspace_keeps_its_egress_for_the_next_start(lab: Lab) -> None:
    created = lab.cli("create", "kept", "--image", "base", *run.FLAGS)
    assert created.returncode == 0, created.stderr
    for _ in range(2):
        assert lab.cli("start", "kept").returncode == 0
        assert json.loads(lab.cli("--json", "status", "kept").stdout)["state"] == "running"
        assert lab.cli("stop", "kept").returncode == 0
    up = [record for record in lab.records("kept") if record["event"] == "mediator_up"]
    assert len(up) == 2
    assert {(record["mode"], record["policy"]) for record in up} == {("strict", up[0]["policy"])}
    assert lab.cli("delete", "kept").returncode == 0


@pytest.fixture
def left() -> Iterator[Left]:
    """What outlives the programs a test started: orphans come to this process, as the subreaper of its descendants."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _children()
    yield lambda: [_describe(pid) for pid in _children() - before if not _reaped(pid)]
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def test_the_demo_is_right_and_leaves_nothing(lab: Lab, left: Left, scratch: Path) -> None:
    environment = {**python_environment(), "TMPDIR": str(scratch)}
    demo = subprocess.run(lab.argv("demo"), capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "every row is right" in demo.stdout
    assert demo.stdout.count("right") == len(rows.ROWS) + 2
    _nothing_is_left(left, scratch)


def test_programs_get_the_judgement_as_one_object(lab: Lab, scratch: Path) -> None:
    environment = {**python_environment(), "TMPDIR": str(scratch)}
    command = lab.argv("demo", "--json")
    demo = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    judged = json.loads(demo.stdout)
    assert (judged["ok"], judged["leaks"], all(row["right"] for row in judged["rows"])) == (True, [], True)
    assert [row["tried"] for row in judged["rows"]] == [row.tried for row in rows.ROWS]


@pytest.mark.parametrize("after", ["made-up internet", "that may reach", "the guest tried"])
def test_ctrl_c_in_the_demo_leaves_nothing(lab: Lab, left: Left, scratch: Path, after: str) -> None:
    environment = {**python_environment(), "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        lab.argv("demo"), stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        assert any(after in line for line in demo.stdout)
        os.killpg(demo.pid, signal.SIGINT)  # to the whole foreground group, as a terminal does
        assert demo.wait(timeout=60) == 130
    _nothing_is_left(left, scratch)


def _nothing_is_left(left: Left, scratch: Path) -> None:
    assert left() == []
    assert list(scratch.iterdir()) == []
    assert str(scratch) not in Path("/proc/self/mounts").read_text("utf-8")


def _children() -> set[int]:
    found = Path("/proc/self/task").glob("*/children")
    return {int(pid) for file in found for pid in file.read_text("ascii").split()}


def _reaped(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _describe(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
