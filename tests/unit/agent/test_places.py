"""Directories and files that somebody else prepared: an agent neither uses nor follows them."""

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.agent.test_agent import Agent

from microagent.agent.peers import listen
from microagent.api.messages import workspace_path
from microagent.errors import ApiError, HostError
from microagent.workspace.files import open_append, open_directory
from microagent.workspace.store import CONSOLE, EGRESS, OUTPUT, OVERLAY

pytestmark = pytest.mark.kernel


@pytest.fixture
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as home:
        running = Agent(Path(home))
        yield running
        running.stop()


@pytest.mark.parametrize("key", ["run_dir", "state_dir", "socket"])
@pytest.mark.parametrize("how", ["writable", "somebody else's", "a link"])
def test_a_place_that_others_can_change_is_refused(agent: Agent, key: str, how: str) -> None:
    assert agent.ask("GET", "/v1/agent")["state_dir"] == str(agent.state)
    agent.stop()
    place = agent.home / "squat"
    if how == "a link":
        (agent.home / "other").mkdir(mode=0o700)
        place.symlink_to(agent.home / "other")
    else:
        place.mkdir(mode=0o700)
        os.chown(place, 65534 if how == "somebody else's" else 0, -1)
        place.chmod(0o1777 if how == "writable" else 0o700)
    config = agent.home / "agent.yaml"
    before = config.read_text()
    lines = [line for line in before.splitlines() if not line.startswith(f"{key}:")]
    config.write_text("\n".join([*lines, f"{key}: {place / 'agent.sock' if key == 'socket' else place}"]))
    done = agent.microagent("agent", "--config", str(config))
    assert done.returncode == 3, done.stderr
    assert str(place) in done.stderr
    assert [path for path in place.iterdir() if path.name != "agent.lock"] == []
    config.write_text(before)
    agent.process = agent.spawn()


def test_a_socket_that_somebody_else_listens_on_is_replaced(tmp_path: Path) -> None:
    """By who owns the directory, that is; nobody else could have made it there."""
    path = tmp_path / "agent.sock"
    tmp_path.chmod(0o711)
    with socket.socket(socket.AF_UNIX) as squatter, socket.socket(socket.AF_UNIX) as client:
        squatter.bind(str(path))
        squatter.listen()
        with listen(path, None) as ours:
            client.connect(str(path))
            with ours.accept()[0] as heard:
                client.send(b"x")
                assert heard.recv(1) == b"x"


@pytest.mark.parametrize("file", [EGRESS, OUTPUT, CONSOLE, OVERLAY])
def test_planted_links_are_not_followed(agent: Agent, file: str) -> None:
    agent.create("a")
    precious = agent.home / "precious"
    precious.write_text('{"secret": "canary"}\n')
    planted = agent.state / "workspaces" / "a" / file
    planted.symlink_to(precious)
    with pytest.raises(ApiError):
        agent.ask("POST", workspace_path("a", "start"))
    assert precious.read_text() == '{"secret": "canary"}\n'
    sources = {OUTPUT: "logs?source=output", CONSOLE: "logs?source=console", EGRESS: "egress"}
    if file in sources:
        with pytest.raises((ApiError, json.JSONDecodeError)) as caught:
            agent.ask("GET", workspace_path("a", sources[file]))
        assert "canary" not in str(caught.value)
    assert agent.ask("DELETE", workspace_path("a"))["deleted"]
    assert precious.read_text() == '{"secret": "canary"}\n'


def test_a_log_that_has_another_name_is_not_written(tmp_path: Path) -> None:
    directory = open_directory(tmp_path)
    try:
        os.close(open_append(directory, "egress.jsonl"))
        (tmp_path / "elsewhere").hardlink_to(tmp_path / "egress.jsonl")
        with pytest.raises(HostError, match="not a file of its own"):
            open_append(directory, "egress.jsonl")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(HostError, match="not a file of its own"):
            open_append(directory, "pipe")
    finally:
        os.close(directory)
