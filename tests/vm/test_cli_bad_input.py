"""What users get wrong, and what machines do to them: an exit code, an error, a hint, and nothing left."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.strangers import as_user

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.lab import Lab
from microagent.demo.oracle import Destination, Oracle

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

NOBODY = 65534


def policy(directory: Path, text: str, name: str = "policy.yaml") -> str:
    """A policy file's path."""
    path = directory / name
    path.write_text(text, "utf-8")
    return str(path)


def refused(answer: "subprocess.CompletedProcess[str]", code: int, what: str, hint: str) -> None:
    """An error and a hint on stderr, nothing on stdout."""
    assert answer.returncode == code, answer
    assert answer.stdout == ""
    error, _, advice = answer.stderr.partition("\nhint: ")
    assert error.startswith("error: ")
    assert what in error
    assert hint in advice


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("allowed:\n  - api.ok.test\n", "policy.yaml:1:1: unknown key 'allowed'", "did you mean 'allow'?"),
        ("allow:\n  - api.ok.test\n  -\n", "policy.yaml:3:4: an empty entry", "write a name"),
        ("allow:\n  - '*.ok.test'\n", "policy.yaml:2:5", "write .ok.test"),
        ("allow: api.ok.test\n", "policy.yaml:1:8", ""),
        ("allow: [a.test]\nallow: [b.test]\n", "policy.yaml:2:1", ""),
    ],
)
def test_a_policy_file_with_a_fault(lab: Lab, tmp_path: Path, text: str, what: str, hint: str) -> None:
    answer = lab.cli("create", "faulty", "--image", "base", "--egress-policy", policy(tmp_path, text))
    refused(answer, 2, what, hint)
    assert lab.cli("status", "faulty").returncode == 1  # nothing was half applied


def test_an_error_as_json(lab: Lab, tmp_path: Path) -> None:
    answer = lab.cli("--json", "run", "--egress-policy", policy(tmp_path, "allowed: []\n"), "base", "true")
    error = json.loads(answer.stderr)["error"]
    assert answer.returncode == 2
    assert set(error) == {"code", "message", "hint"}
    assert "allow" in error["hint"]


@pytest.mark.parametrize("flags", [("--egress-allow", "api.ok.test"), ("--egress-passthrough", "api.ok.test")])
def test_egress_off_with_entries(lab: Lab, flags: tuple[str, ...]) -> None:
    refused(lab.cli("run", "--egress", "off", *flags, "base", "true"), 2, "--egress off", "strict or guarded")


def test_egress_off_with_a_policy_file(lab: Lab, tmp_path: Path) -> None:
    file = policy(tmp_path, "allow: [api.ok.test]\n")
    answer = lab.cli("run", "--egress", "off", "--egress-policy", file, "base", "true")
    refused(answer, 2, "--egress off", "strict or guarded")


def test_a_mode_that_is_none(lab: Lab) -> None:
    refused(lab.cli("run", "--egress", "open", "base", "true"), 2, "'open'", "guarded, strict and off")


@pytest.mark.parametrize("name", ["../x", "/etc", "", "-x", "A", "a" * 64, "a\nb", "a;b"])
def test_a_name_that_is_a_path_or_worse(lab: Lab, name: str) -> None:
    refused(lab.cli("run", f"--name={name}", "base", "true"), 2, "not a workspace name", "a-z")
    assert not list((lab.state / "workspaces").iterdir())


def test_an_image_that_is_not_there(lab: Lab) -> None:
    refused(lab.cli("run", "/nowhere", "true"), 1, "there is no directory /nowhere", "docker-archive:FILE")
    refused(lab.cli("run", "Nowhere:V1", "true"), 2, "upper case", "write nowhere:V1")
    refused(lab.cli("run", "/etc/passwd", "true"), 2, "/etc/passwd is no directory", "docker-archive:FILE")
    refused(lab.cli("run", "", "true"), 2, "'' is not an image reference", "python:3.12")
    assert json.loads(lab.cli("ps", "--json").stdout) == {"workspaces": []}


def test_run_without_root(lab: Lab) -> None:
    answer = subprocess.run(
        [*as_user(NOBODY, NOBODY), *lab.argv("run", "base", "true")],
        capture_output=True,
        text=True,
        check=False,
        env=lab.environment(),
        cwd="/",
    )
    refused(answer, 1, "agent", "root")


def test_no_qemu_installed(guest_dir: Path, images: Path, scratch: Path) -> None:
    scratch.chmod(0o755)  # QEMU would be looked for under another uid
    for place in ("/usr/sbin", "/usr/bin"):
        for program in Path(place).iterdir():
            link = scratch / program.name
            if not program.name.startswith("qemu") and not link.is_symlink():
                link.symlink_to(program)
    with Internet() as internet, Lab(internet, guest_dir, {"PATH": str(scratch)}, images=images) as lab:
        refused(lab.cli("run", "base", "true"), 3, "qemu", "apt-get install qemu-system-x86")
        assert lab.mounts() in ([], [f"{lab.directory}/run/netns"])
        assert not list((lab.directory / "run" / "netns").iterdir())


def test_the_commands_own_exit_code_and_streams(lab: Lab) -> None:
    program = "cat; echo to-stderr >&2; exit 7"
    answer = lab.cli("run", "--egress", "strict", "base", "sh", "-c", program, stdin="to-stdout\n")
    assert (answer.returncode, answer.stdout, answer.stderr) == (7, "to-stdout\n", "to-stderr\n")
    assert lab.cli("run", "base", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM


def test_the_mediator_is_killed_while_the_guest_downloads(lab: Lab) -> None:
    program = """
        echo up; curl -sS -o /dev/null http://api.ok.test/slow/20000000; echo first: $?
        for i in 1 2 3 4 5; do curl -sS -m 5 http://api.ok.test/ && break; sleep 1; done
        curl -sS -m 5 -k https://203.0.113.66/; echo evil: $?
    """
    flags = ("--keep", "--egress", "strict", "--egress-allow", "api.ok.test")
    with lab.start("run", "--name", "killed", *flags, "base", "sh", "-c", program) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "up\n"
        _wait_for_record(lab, "killed", "egress_allow")
        (up,) = [record for record in lab.records("killed") if record["event"] == "mediator_up"]
        os.kill(up["pid"], signal.SIGKILL)
        output = guest.stdout.read()
        assert guest.wait() == 0
    assert "first: 18\n" in output  # curl: the transfer ended before its end
    assert "hello from api.ok.test\n" in output  # the mediator's successor serves
    assert "evil: 35\n" in output or "evil: 56\n" in output
    assert "gap" in {record["event"] for record in lab.records("killed")}
    assert lab.cli("delete", "killed").returncode == 0
    assert Oracle(lab.internet).leaks({Destination("tcp", world.API, 80)}, {"api.ok.test"}) == ()


def test_ctrl_c_in_the_middle_of_run_leaves_nothing(lab: Lab) -> None:
    before = lab.processes()
    with lab.start("run", "--name", "interrupted", "base", "sh", "-c", "echo up; sleep 1000") as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "up\n"
        assert len(lab.processes()) > len(before)
        guest.send_signal(signal.SIGINT)
        assert guest.wait(timeout=30) == 128 + signal.SIGINT
    for _ in range(100):
        if lab.processes() == before:
            break
        time.sleep(0.1)
    assert lab.processes() == before
    assert not [mount for mount in lab.mounts() if not mount.endswith("/run/netns")]
    for place in (lab.directory / "run" / "netns", lab.directory / "run" / "workspaces", lab.state / "workspaces"):
        assert not list(place.iterdir())
    assert lab.cli("status", "interrupted").returncode == 1


def _wait_for_record(lab: Lab, workspace: str, event: str) -> None:
    for _ in range(100):
        if any(record["event"] == event for record in lab.records(workspace)):
            return
        time.sleep(0.1)
    raise AssertionError(f"no {event} in {lab.records(workspace)}")
