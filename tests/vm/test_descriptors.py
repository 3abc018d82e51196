"""What the children of an agent have open: each process what is its own, and nothing of the agent's or of another's."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.vm.test_killed_agent import ask

from microagent.api.messages import WORKSPACES, workspace_path
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def two(lab: Lab) -> Iterator[dict[str, dict[str, int]]]:
    """Two workspaces that run: by name, the pids of guest and mediator."""
    found = {}
    for name in ("a", "b"):
        spec = {"name": name, "image": "base", "memory_mib": 256, "command": ["sleep", "1000"]}
        assert ask(lab, "POST", WORKSPACES, spec)
        assert ask(lab, "POST", workspace_path(name, "start"))
        status = ask(lab, "GET", workspace_path(name))
        found[name] = {role: status[f"{role}_pid"] for role in ("guest", "mediator")}
    yield found
    for name in found:
        ask(lab, "DELETE", workspace_path(name), force="1")


def open_in(pid: int) -> list[str]:
    """What its descriptors are open on."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.append(str(fd.readlink()))
    return found


def paths_of(lab: Lab, pid: int) -> set[str]:
    """Files of the agent's that it has open, below the lab's directory."""
    prefix = f"{lab.directory}/"
    return {target.removeprefix(prefix) for target in open_in(pid) if target.startswith(prefix)} - {"agent.log"}


def listeners(pid: int, path: str) -> set[str]:
    """The sockets that are bound to this path in the process's namespace, as descriptors name them."""
    lines = (line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:])
    return {f"socket:[{words[6]}]" for words in lines if words[7:] == [path]}


def test_each_process_has_what_is_its_own(lab: Lab, two: dict[str, dict[str, int]]) -> None:
    agent = lab.agent.pid
    kept = paths_of(lab, agent)
    # The control: the agent has locks, logs and the seals' directory open, and listens.
    assert {"state/agent.lock", "run/agent.lock", "state/seals", "state/workspaces"} <= kept
    assert {f"state/workspaces/{name}/egress.jsonl" for name in two} <= kept
    api = listeners(agent, str(lab.socket))
    assert api & set(open_in(agent))
    ours = {pid for roles in two.values() for pid in roles.values()}
    (nursery,) = lab.processes() - ours - {agent}
    assert paths_of(lab, nursery) == set()
    for name, roles in two.items():
        assert paths_of(lab, roles["mediator"]) == {f"state/workspaces/{name}/egress.jsonl"}
        guests = paths_of(lab, roles["guest"])
        assert f"state/workspaces/{name}/overlay.ext4" in guests
        other = "b" if name == "a" else "a"
        assert not any(re.match(rf"(run|state/seals|.*\.lock|.*/{other}/|.*(\.pem|\.jsonl))", path) for path in guests)
        assert "/dev/net/tun" in open_in(roles["guest"])
        assert "/dev/net/tun" not in open_in(roles["mediator"])
    # What the agent writes its log to may be a terminal: its mediators cannot read or write there.
    assert str(lab.log) in open_in(agent)
    assert not any(str(lab.log) in open_in(pid) for pid in ours)
    for pid in {nursery, *ours}:
        assert not api & set(open_in(pid))
    # No socket is in two workspaces, but for standard output and error.
    for role in ("guest", "mediator"):
        a, b = ({target for target in open_in(two[name][role]) if target.startswith("socket:")} for name in "ab")
        assert a
        assert b
        assert not a & b


def test_a_guests_process_has_no_network_but_the_tap(lab: Lab, two: dict[str, dict[str, int]]) -> None:
    """What a guest could do that has broken out of QEMU: make sockets, where nothing leads anywhere."""
    reach = f"import socket; socket.create_connection(({world.API!r}, 80), timeout=5).close()"

    def reached(pid: int) -> str:
        inside = ["nsenter", "--net", "--target", str(pid), sys.executable, "-c", reach]
        done = subprocess.run(inside, capture_output=True, text=True, check=False)
        return done.stderr.splitlines()[-1] if done.returncode else "reached"

    before = lab.internet.capture.flows()
    assert {reached(roles["guest"]) for roles in two.values()} == {"OSError: [Errno 101] Network is unreachable"}
    assert lab.internet.capture.flows() == before
    # The control: from where the agent and its mediators are, one does get there.
    assert reached(two["a"]["mediator"]) == "reached"


def test_programs_that_the_agent_runs_get_no_descriptor(guest_dir: Path, images: Path, tmp_path: Path) -> None:
    """mke2fs stands for all of them: the one that makes a disk is replaced by one that says what it was given."""
    witness, real = tmp_path / "descriptors", shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin")
    assert real
    fake = tmp_path / "bin" / "mke2fs"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nls -l /proc/self/fd >>{witness}\nexec {real} "$@"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    with Internet() as internet, Lab(internet, guest_dir, environment, images=images) as other:
        assert ask(other, "POST", WORKSPACES, {"name": "a", "image": "base", "memory_mib": 256})
        assert ask(other, "POST", workspace_path("a", "start"))
        assert ask(other, "DELETE", workspace_path("a"), force="1")
    given = [line.rpartition(" -> ")[2] for line in witness.read_text().splitlines() if " -> " in line]
    assert given
    # Standard streams, the file that ls writes, its own view, and the script that dash reads.
    known = re.compile(rf"/dev/null|pipe:|/proc/|{witness}|{fake}|.*/agent\.log")
    assert not [one for one in given if not known.match(one)]


def test_a_mediator_has_its_own_key_and_no_other(lab: Lab, two: dict[str, dict[str, int]]) -> None:
    """Its memory is read, which root can: the key of its workspace is there, and that of the other is not."""
    keys = {name: (lab.state / "workspaces" / name / "ca-key.pem").read_bytes().splitlines()[1] for name in two}
    for name, roles in two.items():
        memory = memory_of(roles["mediator"])
        assert keys[name] in memory
        assert keys["b" if name == "a" else "a"] not in memory
    guest = memory_of(two["a"]["guest"])
    assert not any(key in guest for key in keys.values())


def memory_of(pid: int) -> bytes:
    """All that a process has written into its private memory."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if rights == "rw-p":
                start, end = (int(text, 16) for text in span.split("-"))
                with suppress(OSError):
                    memory.seek(start)
                    found.append(memory.read(end - start))
    return b"".join(found)
