"""A real agent on a made-up internet, and the command line that a user would use with it.

How this works: the agent is started in the internet's `host` namespace, with all its files in a temporary directory,
and is spoken to through the command `microagent` alone. `close` leaves nothing, also when the agent has failed to
clean up: what still runs in the namespace is ended, what is still mounted below the directory is unmounted.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from microagent.demo.internet import Internet, python_environment
from microagent.errors import HostError
from microagent.guests.qemu import WORKSPACE_VARIABLE

GUEST_DIR = Path("/var/cache/microagent/guest")

_MICROAGENT = (sys.executable, "-P", "-m", "microagent.cli")
_MNT_DETACH = 2
_AGENT_READY = 30.0  # seconds
_AGENT_STOPS = 20.0
_COMMAND = 120.0


class Lab:
    """One agent with its state; a context manager."""

    def __init__(
        self,
        internet: Internet,
        guest_dir: Path = GUEST_DIR,
        agent_environment: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        images: Path | None = None,
    ) -> None:
        """`agent_environment` overrides variables of the agent's, `settings` are more keys of its agent.yaml.

        `images` is what another lab's agent has made of its images: it is copied, and need not be made again.

        Raises HostError when the agent does not come up.
        """
        self._undo = ExitStack()
        self.internet = internet
        self._agent_environment = agent_environment or {}
        self._settings = settings or {}
        with ExitStack() as undo:
            self._start(guest_dir, images, undo)
            self._undo = undo.pop_all()

    def _start(self, guest_dir: Path, images: Path | None, undo: ExitStack) -> None:
        # A short path: the socket's has to fit into 107 bytes (unix(7)).
        self.directory = Path(tempfile.mkdtemp(prefix="microagent-demo-"))
        undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
        undo.callback(self._unmount_all)
        undo.callback(self._end_all)
        self.directory.chmod(0o711)  # as /run/microagent: the guest's uid passes through, and sees nothing
        self.socket = self.directory / "run" / "agent.sock"
        self.state = self.directory / "state"
        self.images = self.state / "images"
        if images:
            self.state.mkdir(mode=0o700)
            subprocess.run(["cp", "-a", "--reflink=auto", images, self.images], check=True)
        config = self._config_file = self.directory / "agent.yaml"
        # JSON is YAML, and leaves nothing to quote.
        config.write_text(json.dumps(self._config(guest_dir)), "utf-8")
        self.log = self.directory / "agent.log"
        self.agent = self._spawn()
        undo.callback(self.stop_agent)
        self._await_agent()

    def start_agent(self) -> None:
        """Start the next agent, when one has ended; returns when it answers."""
        self.agent = self._spawn()
        self._await_agent()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                # When this process dies without a word, so does the agent, and all that it runs.
                ["setpriv", "--pdeathsig", "INT", *self.argv_on_host("agent", "--config", str(self._config_file))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment(), **self._agent_environment},
                start_new_session=True,  # the terminal's Ctrl-C is for us: the agent ends when we say so
            )

    def end_agent(self, number: signal.Signals) -> None:
        """Send the agent a signal that ends it, and wait until it has ended: SIGTERM leaves its workspaces running."""
        self.agent.send_signal(number)
        self.agent.wait(timeout=_AGENT_STOPS)

    def _config(self, guest_dir: Path) -> dict[str, Any]:
        return {
            "state_dir": str(self.state),
            "run_dir": str(self.socket.parent),
            "socket": str(self.socket),
            "resolv_conf": str(self.internet.resolv_conf),
            "upstream_ca": [str(self.internet.ca)],
            "guest_dir": str(guest_dir),
            **self._settings,
        }

    def argv(self, *arguments: str) -> list[str]:
        """`microagent ARGUMENTS`, for `environment`."""
        return [*_MICROAGENT, *arguments]

    def argv_on_host(self, *arguments: str) -> list[str]:
        """The same, in the internet's host namespace."""
        return self.internet.host.argv(*_MICROAGENT, *arguments)

    def environment(self) -> dict[str, str]:
        """The environment in which `microagent` finds this lab's agent."""
        return {**python_environment(), "MICROAGENT_SOCKET": str(self.socket)}

    def cli(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `microagent ARGUMENTS` to its end, as a program would: its output is not a terminal."""
        return subprocess.run(
            self.argv(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=_COMMAND,
            check=False,
            env=self.environment(),
        )

    @contextmanager
    def start(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """`microagent ARGUMENTS`, running, with its output in a pipe; ended on leaving if it has not ended."""
        command = subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env=self.environment(),
        )
        with command:
            try:
                yield command
            finally:
                with suppress(ProcessLookupError):
                    command.kill()

    def records(self, workspace: str) -> list[dict[str, Any]]:
        """What `microagent egress WORKSPACE --json` prints."""
        answer = self.cli("--json", "egress", workspace, "--limit", "100000")
        if answer.returncode != 0:
            raise HostError(f"microagent egress failed: {answer.stderr.strip()}")
        return [json.loads(line) for line in answer.stdout.splitlines()]

    def processes(self) -> set[int]:
        """All that runs in the host namespace, the agent and its mediators, and its guests, which are in none of it."""
        namespace = self.internet.host.path.stat().st_ino
        guest = f"{WORKSPACE_VARIABLE}={self.directory}/".encode()
        return {int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _is_ours(entry, namespace, guest)}

    def mounts(self) -> list[str]:
        """Where something is mounted in the lab's directory."""
        lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
        found = [line.split(" ")[1] for line in lines]
        return [mount for mount in found if mount.startswith(f"{self.directory}/")]

    def stop_agent(self) -> None:
        """Ask the agent to stop its workspaces and end, and insist after a while. Idempotent."""
        if self.agent.poll() is not None:
            return
        self.agent.send_signal(signal.SIGINT)
        try:
            self.agent.wait(timeout=_AGENT_STOPS)
        except subprocess.TimeoutExpired:
            self.agent.kill()
            self.agent.wait()

    def close(self) -> None:
        """Leave nothing behind; idempotent."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_agent(self) -> None:
        deadline = time.monotonic() + _AGENT_READY
        while time.monotonic() < deadline and self.agent.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
                probe.connect(str(self.socket))
                return
            time.sleep(0.05)
        last_words = self.log.read_text("utf-8", errors="replace").strip()[-2000:]
        raise HostError(f"the agent did not start; its last words:\n{last_words}")

    def _end_all(self) -> None:
        for _ in range(50):
            left = self.processes()
            if not left:
                return
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def _unmount_all(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        for mount in sorted(self.mounts(), reverse=True):
            libc.umount2(mount.encode(), _MNT_DETACH)


def _is_ours(process: Path, namespace: int, guest: bytes) -> bool:
    try:
        if (process / "ns" / "net").stat().st_ino == namespace:
            return True
        return any(word.startswith(guest) for word in (process / "environ").read_bytes().split(b"\0"))
    except OSError:  # it has just ended, or is a zombie
        return False
