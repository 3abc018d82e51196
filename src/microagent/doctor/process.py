"""What bounds the processes of a workspace: a mediator's confinement, and cgroups."""

import json
import os
import subprocess
import sys

from microagent.errors import HostError

# The mediator's own confinement, in a process of its own; each refusal has its positive control before it.
_CONFINED = """
import json, os, sys
def tried(work):
    try:
        work()
    except OSError as error:
        return error.errno
    return 0
def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
def read():
    open("/etc/passwd").close()
before = [tried(read), tried(fork)]
from microagent.mediator.confine import confine
confine(65534, 1024)
print(json.dumps([before, [tried(read), tried(fork)]]))
"""
_NOBODY_CAN = {"Landlock": "a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in `lsm=` of its command line"}
_EPERM, _EACCES = 1, 13
_PROBE_SECONDS = 20


def confinement() -> str:
    """Seccomp and Landlock: a confined process can open no file and start no process, and could before."""
    if os.geteuid() != 0:
        raise HostError("cannot be tried by this user", "run doctor as root")
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CONFINED], capture_output=True, text=True, check=False, timeout=_PROBE_SECONDS
    )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no words"])[-1]
        if "No module named 'seccomp'" in words:
            hint = "apt-get install python3-seccomp, and make the venv with --system-site-packages"
            raise HostError("the seccomp bindings cannot be imported", hint)
        hint = next((fix for word, fix in _NOBODY_CAN.items() if word in words), "a kernel with CONFIG_SECCOMP_FILTER")
        raise HostError(words, hint)
    before, after = json.loads(done.stdout)
    if before != [0, 0] or after != [_EACCES, _EPERM]:
        raise HostError(f"a confined process was not refused: open and fork gave {after}, {before} before")
    return "seccomp and Landlock: a confined process could open no file and start none"


def cgroups() -> str:
    """A group with bounds is made, entered by a process, and ended."""
    from microagent.host.cgroup import Bounds, Cgroups

    groups = Cgroups.open(f"microagent-doctor-{os.getpid()}")
    try:
        groups.create("probe", {"guest": Bounds(memory_mib=64, processes=8, cpus=1)})
        with subprocess.Popen(["sleep", "60"]) as child:
            groups.enter("probe", "guest", child.pid)
            groups.remove("probe")
            if child.wait(_PROBE_SECONDS) != -9:
                raise HostError("a process of a group was not ended with it")
    finally:
        groups.remove("probe")
        groups.close()
    return "memory, CPU and processes can be bounded"
