"""P12 and the guests of P9: from `microagent run` to the first byte that the guest's command writes; twenty starts."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench.row import Row

from microagent.guests.accelerator import probe_kvm
from microagent.workspace.store import FIRST_UID

_RUNS: Final = 5
_GUESTS: Final = 20
_SMALL: Final = "256"  # MiB; twenty of them beside whatever else the machine does


def run() -> list[Row]:
    """An agent of its own, so that no workspace of the machine's is touched."""
    target = "≤ 0.5 s under KVM" if probe_kvm(FIRST_UID, FIRST_UID) else "≤ 4 s under TCG"
    with ExitStack() as undo:
        agent = undo.enter_context(_agent())
        first = [agent.first_byte() for _ in range(_RUNS)]
        starts = [agent.start(f"g{number}") for number in range(_GUESTS)]
        told = agent.call("run", "base", "echo", "all", "well")
        if told != "all well\n":
            raise AssertionError(f"the guest said {told!r}")
    early, late = statistics.median(starts[:5]), statistics.median(starts[-5:])
    return [
        Row("P12", "`microagent run base`, to its first byte", f"{min(first):.1f} s ({_spread(first)})", target),
        Row(
            "P9",
            f"a guest's start, the last 5 of {_GUESTS} against the first 5",
            f"{late / early:.2f} × ({late:.1f} s, {early:.1f} s)",
            "≤ 1.10 ×",
        ),
    ]


def _spread(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.1f}, slowest {max(seconds):.1f}"


class _Agent:
    def __init__(self, directory: Path) -> None:
        self._command = [sys.executable, "-m", "microagent.cli", "--socket", str(directory / "agent.sock")]

    def call(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], stdout=subprocess.PIPE, text=True, timeout=120, check=True)
        return done.stdout

    def first_byte(self) -> float:
        """Seconds until the guest's command has said something."""
        began = time.perf_counter()
        with subprocess.Popen([*self._command, "run", "base", "echo", "here"], stdout=subprocess.PIPE) as command:
            assert command.stdout is not None
            said = os.read(command.stdout.fileno(), 100)
            seconds = time.perf_counter() - began
            if said != b"here\n" or command.wait():
                raise AssertionError(f"the guest said {said!r}")
        return seconds

    def start(self, name: str) -> float:
        """Seconds until a workspace that is kept runs; it goes on."""
        self.call("create", name, "--image", "base", "--memory", _SMALL)
        began = time.perf_counter()
        self.call("start", name)
        return time.perf_counter() - began


@contextmanager
def _agent() -> Iterator[_Agent]:
    directory = Path(tempfile.mkdtemp(prefix="microagent-bench-", dir="/tmp"))
    config = directory / "agent.yaml"
    settings: dict[str, Any] = {name: directory / name for name in ("state_dir", "run_dir", "resolv_conf")}
    settings["socket"] = directory / "agent.sock"
    config.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    settings["resolv_conf"].write_text("nameserver 192.0.2.1\n")
    with (directory / "agent.log").open("w") as log:
        command = [sys.executable, "-m", "microagent.cli", "agent", "--config", str(config)]
        agent = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(directory / "agent.sock", agent)
            yield _Agent(directory)
        finally:
            agent.send_signal(2)  # SIGINT: every workspace is stopped first
            agent.wait(timeout=120)
    shutil.rmtree(directory)


def _wait_for(socket: Path, agent: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while not socket.exists():
        if agent.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no agent: {(socket.parent / 'agent.log').read_text()}")
        time.sleep(0.05)
