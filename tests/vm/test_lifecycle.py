"""A workspace's life from the command line: what is set up once, what is asked, and commands that come at once."""

import contextlib
import json
import os
import pty
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_for

from microagent.demo.internet import Internet
from microagent.demo.lab import Lab
from microagent.workspace.states import State

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

wait_patiently = partial(wait_for, looks=600)


@pytest.fixture
def own_lab(guest_dir: Path, images: Path) -> Iterator[Lab]:
    with Internet() as internet, Lab(internet, guest_dir, images=images) as made_up:
        yield made_up


def status(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.cli("--json", "status", name).stdout)
    return found


def test_a_workspace_from_a_file_is_set_up_once(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "microagent.yaml"
    file.write_text(
        "image: base\nmemory: 256\ndisk: 256\nenv: {WHO: me}\nentrypoint: [sh, -c]\ncommand: ['cat /log; df -m /']\n"
        "setup:\n  - echo $WHO $(id -u) > /log\n  - echo second >> /log; echo said\n"
    )
    assert lab.cli("create", "file", "--file", str(file), "--dry-run").returncode == 0
    assert lab.cli("status", "file").returncode == 1
    assert lab.cli("create", "file", "--file", str(file)).returncode == 0
    # A set-up that is over before the agent has answered goes without a word.
    for told in ({"", "file: its set-up runs; `microagent logs file -f` follows it\n"}, {""}):
        started = lab.cli("start", "file")
        assert (started.returncode, started.stderr in told) == (0, True), started.stderr
        wait_patiently(lambda: status(lab, "file")["state"] == "stopped")
    output = lab.cli("logs", "file").stdout.splitlines()
    assert [line for line in output if "overlay" not in line and "Filesystem" not in line] == [
        *("said", "me 0", "second"),
        *("me 0", "second"),
    ]
    (size,) = {int(line.split()[1]) for line in output if line.startswith("overlay")}
    assert 128 < size <= 256
    assert lab.cli("delete", "file").stdout == "file: deleted\n"


def test_a_setup_command_that_fails_is_the_end_and_comes_again(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "microagent.yaml"
    file.write_text(
        "image: base\ncommand: [echo, ran]\nsetup:\n"
        "  - test -e /second || { touch /second; printf 'colou\\033[31mred\\n'; exit 9; }\n"
        "  - until test -e /go; do sleep 0.1; done\n"
    )
    assert lab.cli("create", "fails", "--file", str(file)).returncode == 0
    started = lab.cli("start", "fails")
    assert (started.returncode, started.stdout) == (1, "")
    said = started.stderr.removeprefix("fails: its set-up runs; `microagent logs fails -f` follows it\n").splitlines()
    assert (said[0], said[-1]) == (
        "error: fails: its set-up failed with 9",
        "hint: `microagent logs fails` has all that it said; the next start begins it anew",
    )
    # From two streams, whose order is nobody's promise.
    assert sorted(said[1:-1]) == [
        "error: colou\\x1b[31mred",
        "error: microagent: setup command 1 of 2 failed with 9",
    ]
    now = status(lab, "fails")
    assert (now["state"], now["reason"], now["exit_code"]) == ("failed", "its set-up failed with 9", 9)
    assert "microagent: setup command 1 of 2 failed with 9\n" in lab.cli("logs", "fails").stdout
    assert lab.cli("exec", "fails", "true").stderr.startswith("error: workspace fails does not run, it has failed\n")

    # The second time it waits, as one does that installs things: the workspace can be used and changed meanwhile.
    with subprocess.Popen(lab.argv("start", "fails"), env=lab.environment(), stderr=subprocess.DEVNULL):
        wait_patiently(lambda: status(lab, "fails")["setting_up"])
        shown = lab.cli("status", "fails").stdout.splitlines()
        assert ["reason", "its set-up goes on"] in [line.split(maxsplit=1) for line in shown]
        assert lab.cli("policy", "allow", "fails", "late.ok.test").returncode == 0
        # Another agent goes on with it.
        lab.end_agent(signal.SIGKILL)
        lab.start_agent()
        assert status(lab, "fails")["setting_up"]
        assert lab.cli("exec", "fails", "--", "touch", "/go").returncode == 0
        wait_patiently(lambda: status(lab, "fails")["state"] == "stopped")
    assert status(lab, "fails")["reason"] == "the command ended with 0"
    assert lab.cli("logs", "fails").stdout.endswith("\nran\n")
    assert lab.cli("delete", "fails").returncode == 0


@pytest.mark.parametrize(("typed", "code", "left"), [("n\n", 1, True), ("y\n", 0, False)])
def test_delete_asks_on_a_terminal(lab: Lab, typed: str, code: int, left: bool) -> None:
    lab.cli("create", "asked", "--image", "base")
    master, slave = pty.openpty()
    os.write(master, typed.encode())
    command = lab.argv("delete", "asked")
    done = subprocess.run(command, stdin=slave, stdout=slave, stderr=slave, env=lab.environment(), timeout=60)
    seen = os.read(master, 65536).decode()
    os.close(master)
    os.close(slave)
    assert done.returncode == code, seen
    assert "Delete workspace asked, with all that was written in it" in seen
    assert (lab.cli("status", "asked").returncode == 0) is left
    lab.cli("delete", "asked", "--yes")


def test_a_guest_that_ends_before_it_begins_is_started_again(lab: Lab) -> None:
    def machines() -> set[int]:
        """Those with a kernel: QEMU is also asked what this machine can do, for a moment."""
        found = set()
        for pid in lab.processes():
            with contextlib.suppress(OSError):
                if b"\0-kernel\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(pid)
        return found

    assert lab.cli("create", "again", "--image", "base").returncode == 0
    before = machines()
    with lab.start("start", "again") as starting:
        wait_patiently(lambda: bool(machines() - before))
        (first,) = machines() - before
        os.kill(first, signal.SIGKILL)
        assert starting.wait(60) == 0
    (second,) = machines() - before
    assert status(lab, "again")["guest_pid"] == second != first
    assert lab.cli("exec", "again", "true").returncode == 0
    assert lab.cli("delete", "again", "--force").returncode == 0


def test_stopping_what_does_not_run_says_so(lab: Lab) -> None:
    assert lab.cli("create", "still", "--image", "base").returncode == 0
    answer = lab.cli("stop", "still")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "error: cannot stop a workspace that is created\nhint: it was never started\n"
    assert lab.cli("delete", "still").returncode == 0
    again = lab.cli("delete", "still")
    assert (again.returncode, again.stdout) == (0, "still: there is no such workspace, nothing to delete\n")


def test_commands_at_once_leave_a_legal_state_and_in_the_end_nothing(own_lab: Lab) -> None:
    """Whatever comes in whatever order: each is done or refused, and no state is one that nobody meant."""
    lab, names = own_lab, ["one", "two"]
    chance = random.Random(os.environ.get("SEED", "1"))
    verbs = [
        ("create", "--image", "base", "--memory", "256"),
        *(("start",), ("start",), ("stop",), ("kill",), ("delete",), ("delete", "--force"), ("status",)),
    ]

    def fire(_: int) -> "subprocess.CompletedProcess[str]":
        verb, *flags = chance.choice(verbs)
        time.sleep(chance.random())
        return lab.cli(verb, chance.choice(names), *flags)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(fire, range(40)))
    for answer in answers:
        assert answer.returncode in (0, 1, 75), answer
        assert "internal" not in answer.stderr, answer
        assert "mistake" not in answer.stderr, answer
    assert {answer.returncode for answer in answers} >= {0, 1}
    for workspace in json.loads(lab.cli("--json", "ps").stdout)["workspaces"]:
        assert workspace["state"] in (State.CREATED, State.RUNNING, State.STOPPED), workspace
        assert (workspace["guest_pid"] is not None) == (workspace["state"] == State.RUNNING)
    # By chance none of them may have been started yet.
    for command in (("create", "three", "--image", "base", "--memory", "256"), ("start", "three")):
        assert lab.cli(*command).returncode == 0
    for name in [*names, "three"]:
        assert lab.cli("delete", name, "--force").returncode == 0
    wait_patiently(lambda: len(lab.processes()) == 2)  # the agent and its nursery
    run = lab.socket.parent
    assert [*(run / "sockets").iterdir(), *(run / "workspaces").iterdir(), *(run / "netns").iterdir()] == []
    assert [*(lab.state / "workspaces").iterdir()] == []
