"""A member of the group may send the agent anything: it says what is wrong with it, and makes no mistake over it."""

import asyncio
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.test_agent import Agent

from microagent.api.client import Client
from microagent.api.messages import EGRESS, IMAGES, PULL, RUN, WORKSPACES, workspace_path

pytestmark = pytest.mark.kernel

POLICY, RECORDS = workspace_path("a", "policy"), workspace_path("a", "egress")
STRICT = (
    b'{"name":"b","image":"tiny","egress":{"mode":"strict","entries":[{"verb":"allow","entry":"a.example.org",%s}]}}'
)
NESTED, DIGITS = b"[" * 100_000, b'{"a":' + b"1" * 5000 + b"}"


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as home:
        running = Agent(Path(home))
        running.create("a")
        yield running
        said = running.stop()
        assert "Traceback" not in said, said


def answer(agent: Agent, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(60)
        stream.connect(str(agent.socket))
        stream.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        got = b""
        while piece := stream.recv(65536):
            got += piece
    return got


@pytest.mark.parametrize("body", [NESTED, DIGITS, b"\xff\xfe{}", b"\0", b'"\\ud800"'])
@pytest.mark.parametrize("path", [WORKSPACES, POLICY, PULL])
def test_what_is_not_json_or_not_asked_for_is_invalid(agent: Agent, path: str, body: bytes) -> None:
    for kind in ("application/json", "application/json; charset=utf-99", "application/json; charset=idna"):
        assert b'"code": "invalid"' in answer(agent, "POST", path, body, kind)


@pytest.mark.parametrize("until", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:00:00-23:00", "9" * 5000, "2030-01-01"])
def test_a_grant_ends_at_a_time(agent: Agent, until: str) -> None:
    assert b'"code": "invalid"' in answer(agent, "POST", WORKSPACES, STRICT % f'"until":"{until}"'.encode())
    assert [one["name"] for one in agent.ask("GET", WORKSPACES)["workspaces"]] == ["a"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{RECORDS}?limit={'9' * 5000}"),
        ("GET", f"{RECORDS}?limit=99999999999999999999"),
        ("GET", f"{EGRESS}?limit=-1"),
        ("GET", f"{EGRESS}?host={'*a' * 1000}b"),
        ("GET", f"{RECORDS}?since={'9' * 5000}d"),
        ("GET", f"{RECORDS}?since=0001-01-01T00:00:00%2B23:00"),
        ("GET", f"{RECORDS}?since=9999-99-99T00:00:00Z"),
        ("GET", "/v1/workspaces/%0aX/egress"),
        ("GET", "/v1/workspaces/%ed%a0%80/egress"),
        ("DELETE", f"{IMAGES}?ref=%ff%00"),
        ("DELETE", f"{IMAGES}?ref="),
    ],
)
def test_what_a_query_cannot_mean_is_invalid(agent: Agent, method: str, path: str) -> None:
    assert b'"code": "invalid"' in answer(agent, method, path)


@pytest.mark.parametrize(
    "image", ["/\\u0000", "/\\ud800", "oci:/tmp/x:\\ud800", "docker-archive:/dev/zero", "/\\u202e"]
)
def test_an_image_that_is_none_is_invalid(agent: Agent, image: str) -> None:
    assert b'"code": "invalid"' in answer(agent, "POST", WORKSPACES, f'{{"name":"b","image":"{image}"}}'.encode())


@pytest.mark.parametrize("said", [NESTED.decode(), DIGITS.decode(), "[]", '{"spec": [], "terminal": {"rows": 1e400}}'])
def test_a_websocket_that_begins_with_nonsense_is_told_so(agent: Agent, said: str) -> None:
    async def talk() -> Any:
        async with Client(agent.socket) as client, client.websocket(RUN) as websocket:
            await websocket.send_str(said)
            return await asyncio.wait_for(websocket.receive_json(), 10)

    assert asyncio.run(talk())["error"]["code"] == "invalid"


@pytest.mark.parametrize("item", [b"[],", b"0,", b'{"":0},'])
def test_more_values_than_any_request_has_are_not_read(agent: Agent, item: bytes) -> None:
    """Nobody else is served while the agent reads them, and no rule is put back."""
    assert b"more than 1000000 values" in answer(agent, "POST", WORKSPACES, b"[" + item * 1_000_001 + b"0]")


def test_a_request_of_more_bytes_than_any_is_refused(agent: Agent) -> None:
    assert b'"code": "invalid"' in answer(agent, "POST", WORKSPACES, b" " * (17 << 20))


def test_a_policy_of_a_hundred_thousand_entries_is_taken(agent: Agent) -> None:
    entries = [{"verb": "allow", "entry": f"h{number}.example.org", "origin": "x" * 40} for number in range(100_000)]
    wanted = {"name": "b", "image": "tiny", "egress": {"mode": "strict", "entries": entries}}
    made = answer(agent, "POST", f"{WORKSPACES}?dry_run=1", json.dumps(wanted).encode())
    assert made.startswith(b"HTTP/1.1 200 ")
    assert made.count(b".example.org") == 100_000


def test_the_control_is_served(agent: Agent) -> None:
    assert answer(agent, "GET", f"{RECORDS}?limit=9&since=1h").startswith(b"HTTP/1.1 200 ")
    made = answer(agent, "POST", WORKSPACES, STRICT % b'"until":"2030-01-01T00:00:00+01:00"')
    agent.ask("DELETE", workspace_path("b"))
    assert b'"until": "2029-12-31T23:00:00Z"' in made
