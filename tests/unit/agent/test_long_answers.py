"""Who asks for what takes long to write down waits for it, and nobody else does."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest
from tests.unit.agent.test_agent import Agent

from microagent.api.messages import AGENT, WORKSPACES

pytestmark = pytest.mark.kernel

ENTRIES = [{"verb": "allow", "entry": f"h{n}.example.org", "origin": "a test"} for n in range(60_000)]
WORKSPACES_OF_IT = 6


def answer(agent: Agent, request: bytes, body: bytes = b"") -> bytes:
    """As it comes: a client that reads the JSON would be what takes long."""
    with socket.socket(socket.AF_UNIX) as stream, stream.makefile("rb") as reader:
        stream.connect(str(agent.socket))
        stream.sendall(request + b" HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n")
        stream.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return reader.read()


def test_all_workspaces_and_their_long_policies(tmp_path: Path) -> None:
    began = time.monotonic()
    for _ in range(WORKSPACES_OF_IT):
        json.dumps(ENTRIES)
    # At the least; there is more to it than the entries.
    to_write_it = time.monotonic() - began
    agent = Agent(tmp_path)
    try:
        for number in range(WORKSPACES_OF_IT):
            settings = {"name": f"w{number}", "image": "tiny", "egress": {"mode": "strict", "entries": ENTRIES}}
            made = answer(agent, f"POST {WORKSPACES}".encode(), json.dumps(settings).encode())
            assert made.startswith(b"HTTP/1.1 201 ")
        found: list[bytes] = []
        asking = threading.Thread(target=lambda: found.append(answer(agent, f"GET {WORKSPACES}".encode())))
        asking.start()
        waited = []
        while asking.is_alive():
            began = time.monotonic()
            agent.ask("GET", AGENT)
            waited.append(time.monotonic() - began)
        assert found[0].count(b"h59999.example.org") == WORKSPACES_OF_IT
        assert max(waited) < 2 * to_write_it, sorted(waited)[-5:]
    finally:
        agent.stop()
