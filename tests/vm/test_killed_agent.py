"""An agent that is killed at any moment of a workspace's life: the next one leaves nothing behind.

The moments are random, the seed is in the failure's words; `ROUNDS` of them are the suite's, more are for a night.
"""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from microagent.api.client import call
from microagent.api.messages import WORKSPACES, workspace_path
from microagent.demo.internet import Internet
from microagent.demo.lab import Lab
from microagent.errors import ApiError

pytestmark = pytest.mark.vm

ROUNDS = int(os.environ.get("MICROAGENT_KILLS", "4"))
NAMES = ("a", "b")
SPEC = {"image": "base", "memory_mib": 256, "command": ["sleep", "1000"]}


@pytest.fixture
def lab(guest_dir: Path, images: Path) -> Iterator[Lab]:
    with Internet() as internet, Lab(internet, guest_dir, images=images) as made_up:
        yield made_up


def ask(lab: Lab, method: str, path: str, body: object = None, **query: str) -> Any:
    """What the agent says; None when it refuses, or is killed."""
    # Not by the command, which would start another agent where there is none.
    with suppress(ApiError, OSError):
        return call(lab.socket, method, path, body, query)


def live(lab: Lab, name: str, over: threading.Event) -> None:
    """One life after the other."""
    while not over.is_set():
        ask(lab, "POST", WORKSPACES, SPEC | {"name": name})
        ask(lab, "POST", workspace_path(name, "start"))
        ask(lab, "POST", workspace_path(name, "kill" if name == "a" else "stop"))
        ask(lab, "DELETE", workspace_path(name), force="1")


def belongs_to_what_runs(lab: Lab) -> None:
    """Each workspace that is said to run does; of the others nothing is left."""
    found = {one["name"]: one for one in ask(lab, "GET", WORKSPACES)["workspaces"]}
    running = {name for name, one in found.items() if one["state"] == "running"}
    assert {one["state"] for one in found.values()} <= {"created", "running", "stopped", "failed"}
    for name in running:
        assert Path(f"/proc/{found[name]['guest_pid']}").exists()
        assert Path(f"/proc/{found[name]['mediator_pid']}").exists()
    run = lab.socket.parent
    assert {path.stem for path in (run / "workspaces").iterdir()} == running
    assert {path.name for path in (run / "sockets").iterdir()} == running
    assert {path.name for path in (run / "netns").glob("*")} == running
    assert {path.name for path in (lab.state / "workspaces").iterdir()} == set(found)
    ours = {found[name][role] for name in running for role in ("guest_pid", "mediator_pid")}
    assert ours <= lab.processes()
    # The agent and its nursery are the other two.
    assert len(lab.processes() - ours) == 2


def test_whenever_an_agent_is_killed_the_next_one_leaves_nothing_behind(lab: Lab) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    moments = random.Random(seed)
    states: list[str] = []
    # The image is made, and a start takes as long as it does here: moments before, in and after it are met.
    assert ask(lab, "POST", WORKSPACES, SPEC | {"name": "a"})
    made = monotonic()
    assert ask(lab, "POST", workspace_path("a", "start"))
    longest = 1.5 * (monotonic() - made)
    assert ask(lab, "DELETE", workspace_path("a"), force="1")
    try:
        for _ in range(ROUNDS):
            over = threading.Event()
            lives = [threading.Thread(target=live, args=(lab, name, over)) for name in NAMES]
            for one in lives:
                one.start()
            over.wait(moments.uniform(0, longest))
            states += [one["state"] for one in (ask(lab, "GET", WORKSPACES) or {"workspaces": []})["workspaces"]]
            over.set()
            lab.end_agent(signal.SIGKILL)
            for one in lives:
                one.join()
            lab.start_agent()
            belongs_to_what_runs(lab)
        for name in NAMES:
            ask(lab, "DELETE", workspace_path(name), force="1")
        belongs_to_what_runs(lab)
        lab.stop_agent()
        assert lab.processes() == set()
        assert lab.mounts() == []
        left = [path for path in lab.directory.rglob("*") if path.is_socket() or "workspaces" in path.parent.name]
        assert left == []
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, killed in {states}: {error}") from error
    # The control: lives were under way when they were killed.
    assert states
