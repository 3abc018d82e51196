"""The command as a program: codes, shapes of errors, and what is imported."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SOCKET = "/nonexistent/agent.sock"


def microagent(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "microagent.cli", *arguments],
        env={**os.environ, "MICROAGENT_SOCKET": SOCKET, **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_help_imports_nothing_slow() -> None:
    program = (
        "import sys\nfrom microagent.cli.main import main\ntry:\n main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("Watch a guest try to get out.")[1].split())
    assert not loaded & {"aiohttp", "rich", "cryptography", "yaml", "idna", "pyroute2", "nftables"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("ps", "--bogus"),
        ("status",),
        ("run", "--egress", "strcit", "base"),
        ("run", "--egress", "off", "--egress-allow", "a.example.org", "base"),
        ("run", "--egress-policy", "/nonexistent.yaml", "base"),
        ("run", "--egress-allow", "*", "base"),
        ("run", "--memory", "much", "base"),
        ("run", "--name", "../x", "base"),
        ("create", "../x", "--image", "base"),
        ("create", "x"),
        ("status", "../x"),
        ("policy", "check", "/nonexistent.yaml"),
        ("policy", "explain", "a.example.org"),
        ("egress", "x", "--limit", "-1"),
    ],
)
def test_wrong_usage_is_2_in_the_one_shape(arguments: tuple[str, ...]) -> None:
    done = microagent(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    as_json = microagent("--json", *arguments)
    assert as_json.returncode == 2
    assert json.loads(as_json.stderr)["error"]["code"] == "invalid"


def test_json_is_taken_before_and_after_the_verb() -> None:
    before, after = microagent("--json", "ps"), microagent("ps", "--json")
    assert before.stderr == after.stderr
    assert json.loads(after.stderr)["error"]["code"] == "no_agent"


def test_no_agent_is_1_with_a_hint() -> None:
    done = microagent("ps")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: no agent answers on {SOCKET}",
        "hint: start one as root: microagent agent",
    ]


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"])
def test_another_server_on_the_socket_is_told_from_the_agent(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        pool.submit(serve)
        done = microagent("ps", MICROAGENT_SOCKET=str(tmp_path / "s"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == f"error: what answers on {tmp_path / 's'} is not microagent's agent"


@pytest.mark.kernel
def test_an_agent_that_cannot_have_its_directory_says_so_and_is_3(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = tmp_path / "agent.yaml"
    config.write_text(f"state_dir: {tmp_path}/file\nrun_dir: {tmp_path}/run\nsocket: {tmp_path}/run/s\n")
    done = microagent("agent", "--config", str(config))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1] == f"error: Not a directory ({tmp_path}/file/agent.lock)"


def test_a_wrong_policy_file_has_line_column_and_spelling(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("allowed:\n  - a.example.org\n")
    done = microagent("run", "--egress-policy", str(policy), "base", "true")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"error: {policy}:1:1: unknown key 'allowed'"
    assert "'allow'" in done.stderr


def test_each_of_several_problems_is_followed_by_its_own_hint(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("allow:\n  - '*.a.example.org'\n  - b.example.org:443\n")
    assert microagent("policy", "check", str(policy)).stderr.splitlines() == [
        f"error: {policy}:2:5: '*.a.example.org' has a wildcard in it",
        "hint: write .a.example.org (it also matches a.example.org itself)",
        f"error: {policy}:3:5: 'b.example.org:443' has a port in it",
        "hint: entries have no ports: write b.example.org, it matches every port",
    ]


def test_policy_check(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"allow": ["B.example.org"], "passthrough": [".c.example.org"]}')
    assert "1 allow, 1 passthrough" in microagent("policy", "check", str(policy)).stdout
    found = json.loads(microagent("policy", "check", "--json", str(policy)).stdout)
    assert (found["allow"], found["passthrough"]) == (["b.example.org"], [".c.example.org"])


def test_what_an_error_quotes_cannot_colour_a_terminal() -> None:
    done = microagent("run", "--egress-allow", "\x1b[31mx.example.org", "base")
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("group", ["policy", "audit", "image"])
def test_what_a_verb_does_is_said_whole(group: str) -> None:
    done = microagent(group, "--help", COLUMNS="80")
    assert (done.returncode, "..." in done.stdout.partition("Commands:")[2]) == (0, False)


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [
        ("--memory", "0", "a whole number of MiB from 64 to 1048576"),
        ("--memory", "2G", "a whole number of MiB from 64 to 1048576"),
        ("--cpus", "65", "a whole number from 1 to 64"),
        ("--disk", "1", "a whole number of MiB from 64 to 16777216"),
    ],
)
def test_a_size_that_cannot_be_names_its_flag(flag: str, value: str, wanted: str) -> None:
    for verb in (("run", flag, value, "base"), ("create", "a", "--image", "base", flag, value)):
        done = microagent(*verb)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[0].endswith(f"'{flag}': {value!r} is not {wanted}")


@pytest.mark.parametrize("value", ["ten", "-1"])
def test_a_limit_is_a_whole_number(value: str) -> None:
    done = microagent("egress", "a", "--limit", value)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].endswith(f"'--limit': {value!r} is not a whole number from 0")


def test_options_of_a_command_want_two_hyphens_before_it() -> None:
    done = microagent("create", "a", "--image", "base", "sh", "-c", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: No such option '-c'.",
        "hint: microagent create --help",
        "hint: write -- before a COMMAND that has options",
    ]
    # The positive control: no agent is there to be asked.
    assert microagent("create", "a", "--image", "base", "--", "sh", "-c", "true").returncode == 1


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (("-d",), "`microagent create` and `microagent start`"),
        (("-dit",), "`microagent create` and `microagent start`"),
        (("-v", "/a:/b"), "nothing is shared with the host"),
        (("--volume=/a:/b",), "nothing is shared with the host"),
        (("-p", "80:80"), "nothing can connect to a guest"),
        (("--network", "host"), "--egress"),
    ],
)
def test_what_docker_has_and_we_do_not_leads_to_what_there_is(words: tuple[str, ...], instead: str) -> None:
    for verb in (("run", *words, "base"), ("create", "a", *words, "--image", "base")):
        done = microagent(*verb)
        error, usage, hint = done.stderr.splitlines()
        assert (done.returncode, usage) == (2, f"hint: microagent {verb[0]} --help")
        assert error.startswith("error: No such option '")
        assert instead in hint


def test_an_option_that_nobody_has_leads_to_the_help() -> None:
    assert microagent("run", "--nothing", "base").stderr.splitlines()[1:] == ["hint: microagent run --help"]


def test_a_flag_without_its_value_leads_to_the_help() -> None:
    done = microagent("run", "--memory")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Option '--memory' requires an argument.\nhint: microagent --help\n"


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m microagent.cli --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
