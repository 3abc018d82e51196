"""What a killed agent leaves on disk, and that only the right process is ended."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from microagent.agent.ledger import Ledger, Process
from microagent.errors import HostError


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_what_is_noted_is_left_until_it_is_forgotten(ledger: Ledger) -> None:
    ledger.note("a")
    ledger.note("b", [os.getpid()])
    assert ledger.left() == {"a": [], "b": [Process.of(os.getpid())]}
    ledger.forget("b")
    ledger.forget("b")
    assert ledger.left() == {"a": []}


def test_a_process_is_ended_once(child: "subprocess.Popen[bytes]") -> None:
    process = Process.of(child.pid)
    assert process.kill()
    child.wait()
    assert not process.kill()


def test_another_process_with_the_same_pid_is_left_alone(child: "subprocess.Popen[bytes]") -> None:
    process = Process.of(child.pid)
    assert not Process(process.pid, process.started + 1).kill()
    assert child.poll() is None


def test_a_process_that_is_gone_is_not_noted(ledger: Ledger) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    ledger.note("a", [gone.pid])
    assert ledger.left() == {"a": []}


def test_a_damaged_file_is_an_error_and_not_a_kill(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "workspaces" / "a.json").write_text('[["x"]]')
    with pytest.raises(HostError, match="damaged"):
        ledger.left()
