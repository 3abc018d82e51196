"""A command line that is killed at any step of a workspace's life: nothing of it stays, and the workspace is whole.

What was asked for and needs nobody (create, start, stop, delete) is done to its end; what belongs to its client (run,
exec, what is followed) ends with it. The moments are random, the seed is in the failure's words.
"""

import random
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from tests.waiting import wait_for

from microagent.api.client import call
from microagent.api.messages import WORKSPACES
from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

until = partial(wait_for, looks=600, apart=0.05)

NAME = "cut"


def state(lab: Lab) -> str:
    """Where the workspace is, "" when there is none."""
    found = call(lab.socket, "GET", WORKSPACES)["workspaces"]
    return next((str(one["state"]) for one in found if one["name"] == NAME), "")


def held(lab: Lab) -> dict[int, int]:
    """The lab's processes, and how many descriptors each holds."""
    found = {}
    for pid in lab.processes():
        with suppress(OSError):
            found[pid] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return found


def at_rest(lab: Lab) -> dict[int, int]:
    """What they hold once nothing has changed for a second: a start, and each look at the rules, opens a few."""
    seen = [held(lab)]

    def resting() -> bool:
        seen.append(held(lab))
        return len(seen) > 20 and all(one == seen[-1] for one in seen[-20:])

    until(resting)
    return seen[-1]


def commands(lab: Lab) -> str:
    """What runs in the guest."""
    return lab.cli("exec", NAME, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout


def cut(lab: Lab, after: float, *arguments: str) -> None:
    """Run a command, and kill it so many seconds later."""
    with lab.start(*arguments) as command:
        time.sleep(after)
        command.send_signal(signal.SIGKILL)


def test_whenever_a_command_is_killed_nothing_of_it_stays(lab: Lab) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    moments = random.Random(seed)
    alone = set(held(lab))
    try:
        # Early moments are before the command has asked, later ones while it waits.
        while state(lab) == "":
            cut(
                lab,
                moments.uniform(0, 0.6),
                "create",
                NAME,
                "--image",
                "base",
                "--memory",
                "256",
                "--",
                "sleep",
                "1000",
            )
        while state(lab) == "created":
            cut(lab, moments.uniform(0, 1.5), "start", NAME)
        until(lambda: state(lab) == "running")

        held_before = at_rest(lab)
        for arguments in (
            ("logs", NAME, "-f"),
            ("egress", NAME, "--follow"),
            ("egress", "--all", "--follow"),
            ("exec", NAME, "sleep", "4716"),
        ):
            with lab.start(*arguments) as command:
                # The control: somebody who follows or waits does hold something.
                until(lambda: sum(held(lab).values()) > sum(held_before.values()))
                time.sleep(moments.uniform(0, 0.5))
                command.send_signal(signal.SIGKILL)
            until(lambda: held(lab) == held_before)
        until(lambda: "sleep 4716" not in commands(lab))
        assert "sleep 1000" in commands(lab)

        while state(lab) == "running":
            cut(lab, moments.uniform(0, 1.0), "stop", NAME)
        until(lambda: state(lab) == "stopped")
        while state(lab) != "":
            cut(lab, moments.uniform(0, 0.6), "delete", NAME)
        cut(lab, moments.uniform(0.3, 4.0), "run", "--name", NAME, "--memory", "256", "base", "sleep", "1000")

        until(lambda: set(held(lab)) == alone and state(lab) == "")
        assert lab.mounts() in ([], [mount for mount in lab.mounts() if mount.endswith("/run/netns")])
        run = lab.socket.parent
        for place in (run / "netns", run / "workspaces", run / "sockets", lab.state / "workspaces"):
            assert list(place.iterdir()) == []
        assert [path.name for path in lab.images.iterdir() if path.name.startswith(".")] == []
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
