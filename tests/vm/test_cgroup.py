"""The bounds of a workspace's processes, on a kernel that has cgroup v2 alone: a guest's own.

The module itself runs there, with what a machine's agent would do with it.
"""

from pathlib import Path

import pytest

import microagent.errors
import microagent.host.cgroup
from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

_BODY = '''
import subprocess, sys
from pathlib import Path
groups = Cgroups.open("microagent")
groups.create("w", {"guest": Bounds(64, 20, 1), "mediator": Bounds(64, 5, 2)})
groups.create("w", {"guest": Bounds(64, 20, 1), "mediator": Bounds(64, 5, 2)})
root = next(Path(l.split()[1]) for l in open("/proc/self/mounts") if l.split()[2] == "cgroup2") / "microagent"

def bounded(role, command):
    """Waits in a shell until it is in its group, then becomes the command."""
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(["sh", "-c", "read go; " + command], **pipes)
    groups.enter("w", role, child.pid)
    _, errors = child.communicate("go")
    return child.returncode, errors

print("fits", bounded("guest", "python3 -c 'x = bytearray(30 << 20)'")[0])
print("too much", bounded("guest", "exec python3 -c 'x = bytearray(200 << 20)'")[0])
print("forks", "fork" in bounded("mediator", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait")[1])
print("cpu", (root / "w/guest/cpu.max").read_text().strip(), (root / "w/mediator/cpu.max").read_text().strip())
sleeper = subprocess.Popen(["sleep", "600"])
groups.enter("w", "mediator", sleeper.pid)
groups.remove("w")
groups.remove("w")
print("killed", sleeper.wait())
groups.create("w", {"guest": Bounds(64, 20, 1)})
groups.enter("w", "guest", sleeper.pid)
groups.remove("w")
groups.close()
print("left", root.exists())
'''


def test_memory_processes_and_cpu_are_bounded_and_nothing_is_left(lab: Lab) -> None:
    sources = [Path(str(module.__file__)).read_text() for module in (microagent.errors, microagent.host.cgroup)]
    script = "\n".join(sources).replace("from microagent.errors import HostError\n", "") + _BODY
    done = lab.cli("run", "base", "python3", "-", stdin=script)
    assert done.stdout.splitlines() == [
        "fits 0",
        "too much -9",
        "forks True",
        "cpu 100000 100000 200000 100000",
        "killed -9",
        "left False",
    ], done.stderr
