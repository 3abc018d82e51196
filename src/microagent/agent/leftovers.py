"""Taking away all that a workspace may have left on this machine, whoever made it and however far they came.

How this works. What is noted in the ledger is killed by pid and start time. A process that was started in the moment
before it could be noted is found by what it was given: a mediator by the socket on which it listens for us, a guest by
the workspace in its environment. Then go namespace, sockets, and last the note itself.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path

from microagent.agent.ledger import Process
from microagent.agent.services import Services, netns_directory, sockets_directory
from microagent.api.control import send
from microagent.api.lines import connect
from microagent.errors import HostError
from microagent.guests.qemu import WORKSPACE_VARIABLE
from microagent.host import netns
from microagent.workspace.store import FIRST_UID

log = logging.getLogger(__name__)

_END_SECONDS = 5.0


def clear(services: Services, name: str) -> None:
    """Ends and removes what is there of workspace `name`; fine when there is nothing."""
    place = sockets_directory(services.config) / name
    for role, process in services.ledger.processes(name).items():
        if process.kill():
            log.warning("ended leftover workspace=%s %s=%d", name, role, process.pid)
            process.wait()
    if place.exists():
        _end_mediator(place)
        for process in _guests(place):
            if process.kill():
                log.warning("ended leftover workspace=%s guest=%d", name, process.pid)
                process.wait()
    if services.cgroups:
        services.cgroups.remove(name)
    netns.remove(netns_directory(services.config) / name)
    shutil.rmtree(place, ignore_errors=True)
    services.ledger.forget(name)


def _end_mediator(place: Path) -> None:
    """It may have been forked and never heard of; it obeys whoever connects, once it has come so far."""
    with contextlib.suppress(HostError, OSError), connect(place, "mediator") as line:
        send(line, {"stop": "its agent was killed"})
        # It greets first, and would take a line that nobody holds for one that broke.
        line.settimeout(_END_SECONDS)
        while line.recv(65536):
            pass


def _guests(place: Path) -> list[Process]:
    wanted = f"{WORKSPACE_VARIABLE}={place}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                process = Process.of(int(entry.name))
                # Anybody may have such a variable, in a process that no signal ends. Guests begin as root.
                ours = all(uid == 0 or uid >= FIRST_UID for uid in process.uids())
                if ours and wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(process)
    return found
