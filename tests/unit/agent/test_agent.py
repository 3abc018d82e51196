"""A real agent process on a socket of its own: everything that needs no running guest."""

import asyncio
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest
from tests.strangers import as_user
from tests.waiting import wait_for

from microagent.agent.peers import caller, may_speak
from microagent.api.client import Client, NoAgent, call
from microagent.api.messages import EGRESS as EGRESS_OF_ALL
from microagent.api.messages import RUN, WORKSPACES, workspace_path
from microagent.audit.record import timestamp
from microagent.errors import ApiError
from microagent.guests.caller import Caller
from microagent.pki.ca import Issuer
from microagent.workspace.store import EGRESS

# The agent refuses to run as anybody else; no test here makes a namespace.
pytestmark = pytest.mark.kernel


class Agent:
    """An agent with directories under `home` and one small image named "tiny", run by `wrapper` if there is one."""

    def __init__(self, home: Path, wrapper: Sequence[str] = ()) -> None:
        self.home = home
        self.wrapper = wrapper
        self.socket = home / "run" / "agent.sock"
        self.state = home / "state"
        image = home / "guest" / "images" / "tiny"
        image.mkdir(parents=True, exist_ok=True)
        (image / "hello").write_text("hello")
        config = home / "agent.yaml"
        directories = {"state_dir": self.state, "run_dir": home / "run", "guest_dir": home / "guest"}
        config.write_text("".join(f"{key}: {path}\n" for key, path in directories.items()) + f"socket: {self.socket}\n")
        self.process = self.spawn()

    def spawn(self) -> "subprocess.Popen[str]":
        agent = [sys.executable, "-m", "microagent.cli", "agent", "--config", str(self.home / "agent.yaml")]
        command = [*self.wrapper, *agent]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if " ready " in line:
                break
        return process

    def stop(self) -> str:
        self.process.terminate()
        return self.process.communicate()[1]

    def ask(self, method: str, path: str, body: object = None, **query: str) -> Any:
        return call(self.socket, method, path, body, query)

    def create(self, name: str, **settings: Any) -> Any:
        return self.ask("POST", WORKSPACES, {"name": name, "image": "tiny", **settings})

    def microagent(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "microagent.cli", *arguments]
        env = {**os.environ, "MICROAGENT_SOCKET": str(self.socket)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@contextmanager
def started(*wrapper: str) -> Iterator[Agent]:
    # pytest's own directories are closed to other users, of whom one test speaks.
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o711)
        running = Agent(Path(home), wrapper)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def one_for_all() -> Iterator[Agent]:
    with started() as running:
        yield running


@pytest.fixture
def agent(one_for_all: Agent) -> Iterator[Agent]:
    """An agent without workspaces. It takes seconds to start, so a test that ends or starves it has one of its own."""
    yield one_for_all
    for one in one_for_all.ask("GET", WORKSPACES)["workspaces"]:
        one_for_all.ask("DELETE", workspace_path(one["name"]), force="1")


@pytest.fixture
def own_agent() -> Iterator[Agent]:
    with started() as running:
        yield running


def test_create_ps_status_delete(agent: Agent) -> None:
    entries = [{"verb": "allow", "entry": "api.example.org", "origin": "--egress-allow"}]
    made = agent.create("a", egress={"mode": "strict", "entries": entries}, command=["true"])
    assert (made["state"], made["egress"]) == ("created", {"mode": "strict", "entries": entries})
    assert agent.ask("GET", workspace_path("a")) == made
    assert [one["name"] for one in agent.ask("GET", WORKSPACES)["workspaces"]] == ["a"]
    assert agent.ask("DELETE", workspace_path("a")) == {"name": "a", "deleted": True}
    assert agent.ask("DELETE", workspace_path("a")) == {"name": "a", "deleted": False}
    assert agent.ask("GET", WORKSPACES) == {"workspaces": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", workspace_path("a"), None, "not_found"),
        ("POST", workspace_path("a", "start"), None, "not_found"),
        ("GET", workspace_path("A"), None, "invalid"),
        ("GET", workspace_path("%2e%2e%2fx"), None, "invalid"),
        ("POST", WORKSPACES, {"name": "../x", "image": "tiny"}, "invalid"),
        ("POST", WORKSPACES, {"name": "a"}, "invalid"),
        ("POST", WORKSPACES, [], "invalid"),
        ("POST", WORKSPACES, {"name": "a", "image": "tiny", "egress": {"mode": "loose"}}, "invalid"),
        ("GET", "/v2/workspaces", None, "not_found"),
        ("PUT", WORKSPACES, None, "invalid"),
    ],
)
def test_refusals_have_their_code(agent: Agent, method: str, path: str, body: object, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        agent.ask(method, path, body)
    assert (caught.value.code, bool(caught.value.what)) == (code, True)


def test_a_taken_name_and_a_wrong_state_are_conflicts(agent: Agent) -> None:
    agent.create("a")
    for path, body in ((WORKSPACES, {"name": "a", "image": "tiny"}), (workspace_path("a", "stop"), None)):
        with pytest.raises(ApiError) as caught:
            agent.ask("POST", path, body)
        assert caught.value.code == "conflict"


def test_a_dry_run_makes_nothing(agent: Agent) -> None:
    assert agent.ask("POST", WORKSPACES, {"name": "a", "image": "tiny"}, dry_run="1")["memory_mib"] == 1024
    assert agent.ask("GET", WORKSPACES) == {"workspaces": []}


def test_a_dry_run_prints_settings_and_policy_one_a_line(agent: Agent, tmp_path: Path) -> None:
    file, policy = tmp_path / "microagent.yaml", tmp_path / "policy.yaml"
    file.write_text("memory: 256\ncpus: 2\ncommand: [echo, a b]\nenv: {TOKEN: secret}\n")
    policy.write_text("allow:\n  - .pkgs.example.org\n")
    flags = ("--egress", "strict", "--egress-passthrough", "pinned.example.org", "--egress-policy", str(policy))
    done = agent.microagent(
        "create", "a", "--image", "tiny", *flags, "--file", str(file), "--memory", "512", "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    heading, *rows = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert heading == ["FIELD", "VALUE"]
    assert rows == [
        ["name", "a"],
        ["image", "tiny"],
        ["command", "echo 'a b'"],
        ["env", "TOKEN"],
        ["memory", "512 MiB"],
        ["cpus", "2"],
        ["disk", "16384 MiB"],
        ["egress", "strict"],
        ["passthrough", "pinned.example.org  (--egress-passthrough)"],
        ["allow", f".pkgs.example.org  ({policy}:2:5)"],
    ]
    assert agent.ask("GET", WORKSPACES) == {"workspaces": []}


def test_a_start_that_cannot_be_leaves_nothing(agent: Agent) -> None:
    """There is no kernel in this agent's guest directory."""
    agent.create("a")
    with pytest.raises(ApiError) as caught:
        agent.ask("POST", workspace_path("a", "start"))
    assert caught.value.code == "host"
    assert "vmlinux" in caught.value.what
    found = agent.ask("GET", workspace_path("a"))
    assert (found["state"], found["guest_pid"], found["mediator_pid"]) == ("failed", None, None)
    run = agent.home / "run"
    assert [*(run / "netns").iterdir(), *(run / "workspaces").iterdir()] == []


@pytest.mark.parametrize("damage", ["ca.pem cut", "ca-key.pem cut", "ca-key.pem gone", "ca-key.pem another's"])
def test_a_damaged_ca_is_made_anew_at_the_start(agent: Agent, damage: str) -> None:
    """As far as a start comes without a kernel: its mediator took the CA."""
    name, _, what = damage.partition(" ")
    for workspace in ("a", "b"):
        agent.create(workspace)
    files = [agent.state / "workspaces" / "a" / file for file in ("ca.pem", "ca-key.pem")]
    before = [file.read_bytes() for file in files]
    damaged = agent.state / "workspaces" / "a" / name
    if what == "cut":
        os.truncate(damaged, 100)
    elif what == "gone":
        damaged.unlink()
    else:
        damaged.write_bytes((agent.state / "workspaces" / "b" / name).read_bytes())
    made = []
    for _ in range(2):
        with pytest.raises(ApiError, match="cannot be opened"):
            agent.ask("POST", workspace_path("a", "start"))
        made.append([file.read_bytes() for file in files])
    Issuer(*made[0])
    assert not set(made[0]) & set(before)
    # Once, and not at each start.
    assert made[1] == made[0]
    assert files[1].stat().st_mode & 0o777 == 0o600


def test_a_ca_that_was_made_while_the_clock_was_ahead_is_made_anew() -> None:
    with started() as agent:
        made = {}
        for workspace, ahead in (("a", 0), ("b", 1)):
            agent.create(workspace)
            home = agent.state / "workspaces" / workspace
            noted = json.loads((home / "workspace.json").read_text())
            noted["ca_made"] = timestamp(datetime.now(UTC) + timedelta(days=ahead))
            (home / "workspace.json").write_text(json.dumps(noted))
            made[workspace] = (home / "ca.pem").read_bytes()
        agent.stop()
        agent.process = agent.spawn()
        for workspace in made:
            with pytest.raises(ApiError, match="cannot be opened"):
                agent.ask("POST", workspace_path(workspace, "start"))
        now = {workspace: (agent.state / "workspaces" / workspace / "ca.pem").read_bytes() for workspace in made}
        assert (now["a"] == made["a"], now["b"] == made["b"]) == (True, False)


def test_an_attached_run_that_cannot_start_is_an_error_and_gone(agent: Agent) -> None:
    done = agent.microagent("run", "--name", "r", "tiny", "true")
    assert done.returncode == 3
    # Behind the progress of making its image, where that took long enough to be seen.
    error, hint = done.stderr.splitlines()[-2:]
    assert error == f"error: {agent.home}/guest/vmlinux cannot be opened: No such file or directory"
    assert hint.startswith("hint: `make setup`")
    assert agent.ask("GET", WORKSPACES) == {"workspaces": []}


@pytest.mark.parametrize("terminal", [(), ("-t",)])
def test_a_run_without_any_command_is_an_error(agent: Agent, terminal: tuple[str, ...]) -> None:
    """A guest that idles would print nothing, and never end."""
    done = agent.microagent("run", *terminal, "tiny")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "error: the image tiny has no command of its own",
        "hint: microagent run IMAGE COMMAND",
    ]
    assert agent.ask("GET", WORKSPACES) == {"workspaces": []}
    # Where something else may be run in it later, there need not be one.
    agent.create("a")


def test_a_websocket_that_asks_nothing_is_told_so(agent: Agent) -> None:
    async def talk() -> Any:
        async with Client(agent.socket) as client, client.websocket(RUN) as websocket:
            await websocket.send_str("[]")
            return await websocket.receive_json()

    told = asyncio.run(talk())
    assert (told["type"], told["error"]["code"]) == ("error", "invalid")


def test_egress_filters_on_the_agents_side(agent: Agent) -> None:
    agent.create("a")
    assert agent.microagent("egress", "a").stdout == ""
    records = [{"id": str(n), "event": e} for n, e in enumerate(("egress_allow", "egress_deny", "egress_deny"))]
    log = agent.state / "workspaces" / "a" / EGRESS
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    shown = agent.microagent("--json", "egress", "a", "--denied", "--limit", "1", "--follow")
    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == ["2"]
    assert len(agent.microagent("egress", "a").stdout.splitlines()) == 4
    assert agent.microagent("egress", "a", "--since", "soon").returncode == 2
    assert agent.microagent("egress", "b").returncode == 1


@pytest.mark.parametrize("arguments", ["egress a", "--json egress a", "ps", "policy show a", "logs a --console"])
def test_output_that_cannot_be_written_is_no_traceback(agent: Agent, arguments: str) -> None:
    agent.create("a")
    # More than fits into a pipe, so that a reader that leaves is always noticed.
    log_of(agent, "a").write_text("".join(record(number % 60, "x" * 200) for number in range(500)))
    (agent.state / "workspaces" / "a" / "console.log").write_text("said\n" * 50000)
    full = {"error": {"code": "failed", "message": "No space left on device", "hint": ""}}
    said = f"{json.dumps(full)}\n" if "--json" in arguments else "error: No space left on device\n"
    # What is short may be gone before anybody leaves.
    left = [0, 141] if arguments in ("ps", "policy show a") else [141]
    for redirection, codes, stderr in (
        ("> /dev/full", [1], said),
        ("| head -n 1", left, ""),
        (">&-", [0], ""),
        (f"> {agent.home}/shown 2>&-", [0], ""),
    ):
        command = f"{sys.executable} -m microagent.cli {arguments} {redirection}; echo code ${{PIPESTATUS[0]}} >&2"
        env = {**os.environ, "MICROAGENT_SOCKET": str(agent.socket)}
        done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=True)
        assert done.stderr in [f"{stderr}code {code}\n" for code in codes], redirection


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_in_the_middle_of_a_write_is_noticed(agent: Agent, unbuffered: str) -> None:
    agent.create("a")
    # One write, that does not fit.
    (agent.state / "workspaces" / "a" / "console.log").write_text("said\n" * 1000)
    command = [sys.executable, "-m", "microagent.cli", "logs", "a", "--console"]
    env = {**os.environ, "MICROAGENT_SOCKET": str(agent.socket), "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, bufsize=0, pipesize=4096) as shown:
        assert shown.stdout is not None
        wait_for(lambda: waiting(shown.stdout) == 4096)
        assert shown.stdout.read(5) == b"said\n"
        shown.stdout.close()
    assert shown.returncode == 128 + signal.SIGPIPE


def waiting(pipe: IO[bytes] | None) -> int:
    """How many bytes are in a pipe."""
    assert pipe is not None
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def test_a_terminal_that_is_not_utf_8_is_served(agent: Agent) -> None:
    agent.create("a")
    log_of(agent, "a").write_text(record(1, "h.test", proto="tls", reason="name_not_listed"))
    command = [sys.executable, "-m", "microagent.cli", "egress", "a"]
    env = {**os.environ, "MICROAGENT_SOCKET": str(agent.socket)}
    for encoding, dot in (("utf-8", "·"), ("latin-1", "·"), ("ascii", "?")):
        done = subprocess.run(
            command, env={**env, "PYTHONIOENCODING": encoding}, capture_output=True, encoding=encoding, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert f"tls {dot} name_not_listed" in done.stdout


def test_a_workspace_without_a_record_teaches_nothing(agent: Agent, tmp_path: Path) -> None:
    agent.create("a", egress={"mode": "off", "entries": []})
    agent.create("b", egress={"mode": "guarded", "entries": []})
    policy = tmp_path / "p.yaml"
    policy.write_text("allow: []\n")
    for verb in (("suggest",), ("replay", "--policy", str(policy))):
        done = agent.microagent("policy", *verb, "a")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: the egress of a is off: there is no record to learn from\nhint: ")
        assert agent.microagent("policy", *verb, "b").returncode == 0


def test_an_id_that_is_none_explains_nothing(agent: Agent) -> None:
    agent.create("a")
    log_of(agent, "a").write_text(record(1, "h.test"))
    done = agent.microagent("egress", "a", "--id", "")
    assert (done.returncode, done.stdout) == (2, "")


def test_an_export_says_where_it_is_and_what_is_none_is_said(agent: Agent, tmp_path: Path) -> None:
    agent.create("a")
    log_of(agent, "a").write_text(record(1, "h.test"))
    file = tmp_path / "a.tar"
    answer = json.loads(agent.microagent("--json", "audit", "export", "a", "-o", str(file)).stdout)
    assert answer == {"name": "a", "file": str(file), "bytes": file.stat().st_size}
    for place, why in (("/dev/full", "No space left on device"), (f"{tmp_path}/none/a", "No such file or directory")):
        done = agent.microagent("audit", "export", "a", "-o", place)
        assert (done.returncode, done.stderr) == (1, f"error: cannot write {place}: {why}\n")
    for unbuffered in ("", "1"):
        env = {**os.environ, "MICROAGENT_SOCKET": str(agent.socket), "PYTHONUNBUFFERED": unbuffered}
        command = [sys.executable, "-m", "microagent.cli", "audit", "export", "a", "-o", "-"]
        piped = subprocess.run(command, env=env, capture_output=True, check=False)
        assert (piped.returncode, piped.stderr, len(piped.stdout)) == (0, b"", file.stat().st_size)
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "error: cannot write -: No space left on device\n")
    (tmp_path / "cut.tar").write_bytes(file.read_bytes()[:700])
    (tmp_path / "b.tar").write_text("something else")
    for name in ("cut.tar", "b.tar"):
        done = agent.microagent("audit", "verify", str(tmp_path / name))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[0] == f"error: {tmp_path / name} is no archive of a log, or a part of one"
    # No path, and no name of a workspace's either.
    done = agent.microagent("audit", "verify", "a.yaml")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: there is no file a.yaml")


def record(number: int, host: str, **fields: Any) -> str:
    common = {"v": 1, "ts": f"2026-01-02T03:04:{number:02}.000000Z", "id": f"id{number}", "flow": f"id{number}"}
    return json.dumps({**common, "event": "egress_deny", "host": host, **fields}) + "\n"


def log_of(agent: Agent, name: str) -> Path:
    return agent.state / "workspaces" / name / EGRESS


def test_all_workspaces_are_one_record_by_time(agent: Agent) -> None:
    for name, numbers in (("one", (1, 4)), ("two", (2, 3))):
        agent.create(name)
        log_of(agent, name).write_text("".join(record(number, f"h{number}.test") for number in numbers))
    log_of(agent, "one").rename(log_of(agent, "one").with_name(f"{EGRESS}.1"))
    log_of(agent, "one").write_text(record(5, "h5.test"))
    shown = [json.loads(line) for line in agent.microagent("egress", "--all", "--json").stdout.splitlines()]
    assert [one["id"] for one in shown] == ["id1", "id2", "id3", "id4", "id5"]
    assert [one["workspace"] for one in shown] == ["one", "two", "two", "one", "one"]
    last = agent.microagent("egress", "--all", "--limit", "2").stdout.splitlines()
    assert [line.split()[1] for line in last] == ["WORKSPACE", "one", "one"]
    assert agent.microagent("egress").returncode == agent.microagent("egress", "one", "--all").returncode == 2


def test_following_all_workspaces_shows_those_made_later(agent: Agent) -> None:
    agent.create("one")

    async def follow() -> list[tuple[str, str]]:
        seen = []
        async with Client(agent.socket) as client, client.lines(EGRESS_OF_ALL, {"follow": "1"}) as records:
            async for one in records:
                seen.append((one["workspace"], one["host"]))
                if len(seen) == 1:
                    await client.call("POST", WORKSPACES, {"name": "later", "image": "tiny"})
                    log_of(agent, "later").write_text(record(2, "b.test"))
                else:
                    return seen
        return seen

    log_of(agent, "one").write_text(record(1, "a.test"))
    assert asyncio.run(asyncio.wait_for(follow(), 10)) == [("one", "a.test"), ("later", "b.test")]


def test_a_user_follows_all_workspaces_so_many_times_and_no_more(own_agent: Agent) -> None:
    """Each has a file of every workspace open: a thousand would take all descriptors that the agent may have."""
    own_agent.create("one")
    log_of(own_agent, "one").write_text(record(1, "a.test"))

    def follow(stack: ExitStack) -> bytes:
        stream = stack.enter_context(socket.socket(socket.AF_UNIX))
        stream.connect(str(own_agent.socket))
        stream.sendall(f"GET {EGRESS_OF_ALL}?follow=1 HTTP/1.1\r\nHost: agent\r\n\r\n".encode())
        return stream.recv(12)

    with ExitStack() as stack:
        assert [follow(stack) for _ in range(20)] == [b"HTTP/1.1 200"] * 16 + [b"HTTP/1.1 503"] * 4
        assert own_agent.microagent("egress", "--all").returncode == 75
        assert own_agent.microagent("egress", "one").returncode == 0
    wait_for(lambda: own_agent.microagent("egress", "--all").returncode == 0)


def test_an_id_leads_to_the_reason_and_to_the_command_that_permits(agent: Agent) -> None:
    agent.create("box", egress={"mode": "strict", "entries": []})
    denied = record(1, "api.example.org", proto="tls", dst="203.0.113.7:443", reason="name_not_listed")
    malformed = record(2, "", proto="tls", dst="203.0.113.7:443", reason="hello_malformed", error="no end")
    inside = record(3, "api.example.org", id="request", flow="id1", reason="request_malformed", proto="http")
    log_of(agent, "box").write_text(denied + malformed + inside)

    shown = agent.microagent("egress", "box", "--id", "id1").stdout
    assert "name_not_listed: no entry names this host, and strict mode needs one" in shown
    answer = json.loads(agent.microagent("egress", "box", "--id", "id1", "--json").stdout)
    assert [one["id"] for one in answer["records"]] == ["id1", "request"]
    assert answer["commands"] == ["microagent policy allow box api.example.org"]
    of_a_request = json.loads(agent.microagent("egress", "box", "--id", "request", "--json").stdout)
    assert (of_a_request["reason"], of_a_request["commands"]) == ("request_malformed", [])
    assert [one["id"] for one in of_a_request["records"]] == ["id1", "request"]
    assert "no policy entry" in agent.microagent("egress", "box", "--id", "id2").stdout

    assert agent.microagent(*answer["commands"][0].split()[1:]).returncode == 0
    again = json.loads(agent.microagent("egress", "box", "--id", "id1", "--json").stdout)
    assert (again["now"]["action"], again["commands"]) == ("allow", [])
    unknown = agent.microagent("egress", "box", "--id", "nope")
    assert (unknown.returncode, "has the id 'nope'" in unknown.stderr) == (1, True)
    assert agent.microagent("egress", "box", "--id", "id1", "--denied").returncode == 2


def test_status_shows_the_last_refusals(agent: Agent) -> None:
    agent.create("box")
    assert "last denied" not in agent.microagent("status", "box").stdout
    log_of(agent, "box").write_text("".join(record(n, f"h{n}.test", reason="name_not_listed") for n in range(1, 8)))
    shown = [line.split() for line in agent.microagent("status", "box").stdout.splitlines() if "last denied" in line]
    assert [words[3:] for words in shown] == [[f"h{n}.test", "name_not_listed"] for n in range(3, 8)]
    assert [one["host"] for one in agent.ask("GET", workspace_path("box"))["last_denials"]] == [
        f"h{n}.test" for n in range(3, 8)
    ]
    lines = agent.microagent("status", "box").stdout.splitlines()
    facts = {line[:13].strip(): line[13:] for line in lines}
    assert (facts["flows"], facts["dns"]) == ("0 allowed, 7 denied", "0 allowed, 0 denied")
    assert (facts["requests"], facts["bytes"], facts["dropped"]) == ("0", "0 out, 0 in", "0 packets")
    assert not {"last_denials", "traffic", "denied"} & agent.ask("GET", WORKSPACES)["workspaces"][0].keys()


def test_the_cli_shows_what_there_is(agent: Agent) -> None:
    assert agent.microagent("create", "a", "--image", "tiny", "--", "echo", "a b").returncode == 0
    assert agent.microagent("ps").stdout.splitlines()[1].split() == [
        "a",
        "created",
        "guarded",
        "tiny",
        "echo",
        "'a",
        "b'",
        "-",
    ]
    assert ["name", "a"] in [line.split() for line in agent.microagent("status", "a").stdout.splitlines()]
    assert json.loads(agent.microagent("status", "a", "--json").stdout)["command"] == ["echo", "a b"]
    missing = agent.microagent("delete", "b")
    assert (missing.returncode, missing.stdout) == (0, "b: there is no such workspace, nothing to delete\n")


def test_what_is_stored_outlives_the_agent(own_agent: Agent) -> None:
    made = own_agent.create("a")
    own_agent.stop()
    assert not own_agent.socket.exists()
    with pytest.raises(NoAgent):
        own_agent.ask("GET", WORKSPACES)
    own_agent.process = own_agent.spawn()
    assert own_agent.ask("GET", workspace_path("a")) == made


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("starting", ("stopped", "its agent was killed")),
        ("stopping", ("stopped", "its agent was killed")),
        ("running", ("failed", "process {pid} is not its guest")),
    ],
)
def test_a_killed_agent_is_cleaned_up_after(own_agent: Agent, state: str, expected: tuple[str, str]) -> None:
    """What cannot be taken over is ended: here the process that was noted is no QEMU."""
    own_agent.create("keep")
    own_agent.create("gone", ephemeral=True)
    own_agent.process.send_signal(signal.SIGKILL)
    own_agent.process.communicate()
    with subprocess.Popen(["sleep", "60"]) as guest:
        fields = Path(f"/proc/{guest.pid}/stat").read_text().rsplit(")", 1)[1].split()
        noted = {"guest": [guest.pid, int(fields[19])]}
        (own_agent.home / "run" / "workspaces" / "keep.json").write_text(json.dumps(noted))
        record = own_agent.state / "workspaces" / "keep" / "workspace.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"state": state}))
        own_agent.process = own_agent.spawn()
        assert guest.wait() == -signal.SIGKILL
    (left,) = own_agent.ask("GET", WORKSPACES)["workspaces"]
    found = (left["name"], left["state"], left["reason"])
    assert found == ("keep", expected[0], expected[1].format(pid=guest.pid))
    assert [*(own_agent.home / "run" / "workspaces").iterdir(), *(own_agent.home / "run" / "sockets").iterdir()] == []


def test_a_workspace_that_ran_before_a_reboot_is_stopped(own_agent: Agent) -> None:
    own_agent.create("a")
    own_agent.stop()
    record = own_agent.state / "workspaces" / "a" / "workspace.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"state": "running"}))
    own_agent.process = own_agent.spawn()
    found = own_agent.ask("GET", workspace_path("a"))
    assert (found["state"], found["reason"]) == ("stopped", "its guest ended while no agent ran")


def test_programs_of_roots_are_found_with_a_users_path() -> None:
    """As `su` leaves it; the image's disk is made by mke2fs, which is in /usr/sbin."""
    with started("env", "PATH=/usr/bin:/bin") as agent:
        assert agent.create("a")["name"] == "a"


def test_a_second_agent_refuses(agent: Agent) -> None:
    second = agent.microagent("agent", "--config", str(agent.home / "agent.yaml"))
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: another agent (pid {agent.process.pid}) runs on ")
    assert agent.ask("GET", WORKSPACES) == {"workspaces": []}


def configured(place: Path, **settings: object) -> Path:
    """A configuration for an agent with all its files in `place`."""
    paths = {"state_dir": place / "state", "run_dir": place / "run", "socket": place / "run" / "agent.sock"}
    file = place / "agent.yaml"
    file.write_text(json.dumps({key: str(path) for key, path in paths.items()} | settings))
    return file


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"hello", "not PEM certificates"), (b"\xff", "not PEM certificates"), (None, "No such file or directory")],
)
def test_roots_that_are_none_are_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    """The mediators' parent, which loads them, could only say that it is gone."""
    roots = tmp_path / "roots.pem"
    if content is not None:
        roots.write_bytes(content)
    config = configured(tmp_path, upstream_ca=[str(roots)])
    command = [sys.executable, "-m", "microagent.cli", "agent", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2, done.stderr
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: upstream_ca: ")
    assert str(roots) in error
    assert what in error
    assert done.stderr.endswith("hint: list files of PEM certificates\n")


def test_the_log_has_the_time_that_records_have(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "microagent.cli", "agent", "--config", str(configured(tmp_path))]
    elsewhere = {**os.environ, "TZ": "XST-9"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=elsewhere) as agent:
        assert agent.stderr is not None
        ready = next(line for line in agent.stderr if " ready " in line)
        agent.terminate()
        agent.communicate()
    said = datetime.fromisoformat(ready.split()[0])
    assert said.tzinfo == UTC
    assert abs(datetime.now(UTC) - said) < timedelta(minutes=5)


def test_an_agent_under_json_logs_objects(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "microagent.cli", "--json", "agent", "--config", str(configured(tmp_path))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        lines = []
        for line in agent.stderr:
            lines.append(json.loads(line))
            if lines[-1]["message"].startswith("ready "):
                agent.terminate()
    assert agent.returncode == 0
    assert all(line.keys() == {"ts", "level", "logger", "message"} for line in lines)
    assert (lines[-1]["level"], lines[-1]["logger"]) == ("info", "microagent.agent.main")
    assert lines[-1]["message"] == "going down, workspaces are left running"


def test_the_socket_is_for_root_and_its_group(own_agent: Agent) -> None:
    assert own_agent.socket.stat().st_mode & 0o777 == 0o660
    own_agent.socket.chmod(0o666)
    done = subprocess.run(
        [*as_user(65534, 65534), sys.executable, "-m", "microagent.cli", "--socket", str(own_agent.socket), "ps"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: you may not use this agent")


def test_peers_are_who_the_kernel_says() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert may_speak(left, None) == (os.geteuid() == 0)


def test_the_group_may_speak_and_is_known_by_all_its_groups() -> None:
    """More groups than the socket module's own getsockopt has room for."""
    many = tuple(range(100_000, 100_600))
    with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        path = Path(directory, "s")
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        program = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); s.recv(1)"
        with subprocess.Popen([*as_user(65534, 65534, many), sys.executable, "-c", program]):
            peer, _ = listener.accept()
            with peer:
                assert [may_speak(peer, group) for group in (100_599, 65534, 99_999, None)] == [
                    True,
                    True,
                    False,
                    False,
                ]
                assert caller(peer) == Caller(65534, 65534, many)


def test_a_machine_that_gives_no_more_says_what_is_short(own_agent: Agent) -> None:
    """Descriptors, then room on the disk; with both back, the agent goes on as if nothing had been."""
    own_agent.create("a")
    soft, hard = resource.prlimit(own_agent.process.pid, resource.RLIMIT_NOFILE)
    opened = len(list(Path(f"/proc/{own_agent.process.pid}/fd").iterdir()))
    # One for our connection, and none for the network.
    resource.prlimit(own_agent.process.pid, resource.RLIMIT_NOFILE, (opened + 2, hard))
    with pytest.raises(ApiError) as caught:
        own_agent.ask("POST", workspace_path("a", "start"))
    assert "Too many open files" in caught.value.what
    assert "LimitNOFILE" in caught.value.hint
    resource.prlimit(own_agent.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert own_agent.ask("GET", workspace_path("a"))["state"] == "failed"
    own_agent.create("b")
    assert own_agent.ask("DELETE", workspace_path("b"))["deleted"]


def test_a_full_disk_says_so(own_agent: Agent) -> None:
    own_agent.stop()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", own_agent.state], check=True)
    try:
        own_agent.process = own_agent.spawn()
        with pytest.raises(ApiError) as caught:
            deque((own_agent.create(f"w{number}") for number in range(100)), maxlen=0)
        assert "No space left" in caught.value.what
        assert "free some space" in caught.value.hint
        names = [one["name"] for one in own_agent.ask("GET", WORKSPACES)["workspaces"]]
        assert own_agent.ask("DELETE", workspace_path(names[0]))["deleted"]
        own_agent.create("again")
    finally:
        own_agent.stop()
        subprocess.run(["umount", own_agent.state], check=True)
        own_agent.process = own_agent.spawn()
