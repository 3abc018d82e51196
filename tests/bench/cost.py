"""The processor time that a proxy takes: what stays comparable when others use the machine as well."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from microagent.demo.namespaces import Namespace

_TICK: Final = os.sysconf("SC_CLK_TCK")


def inside(namespace: Namespace) -> list[int]:
    """The processes whose network is `namespace`."""
    wanted = os.fstat(namespace.descriptor).st_ino
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "ns" / "net").stat().st_ino == wanted:
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended
    return found


def seconds(processes: Iterable[int]) -> float:
    """User and system time of all of them so far (proc(5), stat); of those that have ended, none."""
    total = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICK
