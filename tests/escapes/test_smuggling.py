"""The smuggling corpus through the mediator, to servers of eight parsers: they read the requests on record, no others.

What the mediator refuses goes to nobody, whoever listens; so all cases are tried on one server, and those of which
anything goes on are tried on all of them. Three stand behind proxies of other people's, which read the bytes first.
"""

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.fronts import FRONTS, front
from tests.kernel.programs import SERVERS, program
from tests.kernel.workspace import Workspace
from tests.vectors.http1 import CASES, HOST

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

PLAIN = 8000
DIRECT = {"plain": PLAIN, "h11": 8001, "aiohttp": 8002, "deaf": 8004}
PURE = 8003
BEHIND = {"nginx": 8010, "haproxy": 8011, "apache": 8012}
PORTS = (*DIRECT.values(), PURE, *BEHIND.values())
NUMBERS = {case: f"c{number}" for number, case in enumerate(CASES)}


def say(port: int, *cases: str) -> None:
    """Send each case on a connection of its own, with nothing behind it, and hear the answer to its end."""
    for case in cases:
        data = CASES[case].replace(b"CASE", f"{NUMBERS[case]}-{port}".encode())
        with suppress(OSError), socket.create_connection((world.PROGRAMS, port), timeout=5) as stream:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(65536):
                pass


class Rig:
    """A workspace, and what the servers wrote down."""

    def __init__(self, lab: Workspace, log: Path) -> None:
        self.lab = lab
        self._log = log

    def hosts(self) -> set[str]:
        """Whom the requests were for, as the servers read them."""
        return {str(host).lower().partition(":")[0] for *_, host in self._lines()}

    def dialled(self) -> int:
        """How many connections have been let through."""
        return len(self.lab.records("egress_allow"))

    def quarrel(self) -> str:
        """Requests that a server has read and no record tells of, and the other way round; none are the promise."""
        seen = Counter(target.removeprefix(f"http://{HOST}").partition("?")[0] for _, _, target, _ in self._lines())
        records = self.lab.records("egress_request")
        recorded = Counter(record["path"] for record in records)
        served = Counter(record["path"] for record in records if record["status"] == 200)
        return ", ".join(
            [f"not on record: {path}" for path in seen - recorded] + [f"never came: {path}" for path in served - seen]
        )

    def _lines(self) -> list[list[str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def rig(internet: Internet, workspace: MakeWorkspace, tmp_path: Path) -> Iterator[Rig]:
    log = tmp_path / "seen"
    log.touch()
    pem = internet.directory / f"{world.PROGRAMS}.pem"
    server = (sys.executable, str(SERVERS / "parsers.py"), str(pem), world.PROGRAMS, str(log))
    behind = {name: port + 100 for name, port in BEHIND.items()}
    with ExitStack() as undo:
        direct = [f"{kind}:{port}" for kind, port in DIRECT.items()]
        undo.enter_context(program(internet, *server, *direct, *(f"plain:{port}" for port in behind.values())))
        undo.enter_context(program(internet, "env", "AIOHTTP_NO_EXTENSIONS=1", *server, f"aiohttp:{PURE}"))
        for name in FRONTS:
            undo.enter_context(front(internet, name, tmp_path, BEHIND[name], behind[name]))
        yield Rig(workspace(allow=[HOST]), log)


def test_servers_read_the_requests_on_record_and_no_others(rig: Rig, oracle: Oracle) -> None:
    lab = rig.lab
    assert lab.guest.dig("+short", HOST).strip() == world.PROGRAMS
    passed = []
    for case in CASES:
        before = rig.dialled()
        lab.guest.call(partial(say, PLAIN, case))
        if rig.dialled() > before:
            passed.append(case)
    for port in set(PORTS) - {PLAIN}:
        lab.guest.call(partial(say, port, *passed))
    for port in PORTS:  # the control: every one of them is there, and reads what is right
        answer = lab.guest.curl("-o", "/dev/null", "-w", "%{http_code}", f"http://{HOST}:{port}/control-{port}")
        assert answer.stdout == "200", (port, answer)
    assert 0 < len(passed) < len(CASES) / 4
    deadline = time.monotonic() + 10
    while rig.quarrel() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rig.hosts() == {HOST}
    assert rig.quarrel() == ""
    assert oracle.leaks({Destination("tcp", world.PROGRAMS, port) for port in PORTS}, {HOST}) == ()
