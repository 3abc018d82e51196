"""`microagent exec` and `run -t` in a real guest: codes, streams, terminals, signals, clients that are gone."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.waiting import wait_for

from microagent.demo.internet import Internet
from microagent.demo.lab import Lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

NAME = "box"


@pytest.fixture(scope="module")
def box(lab: Lab) -> Iterator[Lab]:
    """A lab with a workspace that idles."""
    image = ("--image", "base", "-e", "FROM_CREATE=yes")
    assert lab.cli("create", NAME, *image, "--", "sleep", "100000").returncode == 0
    assert lab.cli("start", NAME).returncode == 0
    yield lab
    assert lab.cli("delete", NAME, "--force").returncode == 0


def in_box(box: Lab, *command: str, stdin: str = "", flags: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    return box.cli("exec", *flags, NAME, "--", *command, stdin=stdin)


def running(box: Lab, word: str) -> list[str]:
    """Pids of the processes in the guest that have this word on their command line."""
    pattern = f"[{word[0]}]{word[1:]}"  # which is not on grep's own
    found = in_box(box, "sh", "-c", f"grep -al '{pattern}' /proc/[0-9]*/cmdline 2> /dev/null")
    return re.findall("/proc/([0-9]+)/", found.stdout)


def wait_until_gone(box: Lab, word: str) -> None:
    wait_for(lambda: not running(box, word))


class OnTerminal:
    """`microagent ARGUMENTS` on a terminal of its own."""

    def __init__(self, lab: Lab, *arguments: str, rows: int = 33, columns: int = 77) -> None:
        self.master, slave = pty.openpty()
        self.seen = b""
        self.resize(rows, columns)
        argv = ["setsid", "--ctty", *lab.argv(*arguments)]
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=lab.environment())
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str) -> None:
        deadline = time.monotonic() + 100
        while not re.search(pattern.encode(), self.seen):
            assert time.monotonic() < deadline, self.seen
            assert self._read(), self.seen

    def end(self) -> int:
        while self._read():
            pass
        os.close(self.master)
        return self.process.wait(60)

    def _read(self) -> bool:
        """Whether there was something; the end of a terminal is an error (EIO)."""
        assert select.select([self.master], [], [], 100)[0], self.seen
        with contextlib.suppress(OSError):
            data = os.read(self.master, 65536)
            self.seen += data
            return bool(data)
        return False


def test_the_commands_own_code_streams_and_surroundings(box: Lab) -> None:
    program = 'cat; echo "$FROM_CREATE $MORE" $(pwd) $SSL_CERT_FILE >&2; exit 7'
    answer = in_box(box, "sh", "-c", program, stdin="to stdout\n", flags=("-e", "MORE=too", "-w", "/tmp"))
    assert (answer.returncode, answer.stdout) == (7, "to stdout\n")
    assert answer.stderr == "yes too /tmp /run/microagent/ca-bundle.pem\n"
    assert in_box(box, "sh", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV
    assert in_box(box, "sh", "-c", "echo again > /dev/stderr").stderr == "again\n"
    assert in_box(box, "id", "-un", flags=("-u", "daemon")).stdout == "daemon\n"
    nowhere = in_box(box, "pwd", flags=("-w", "/nowhere/at/all"))
    assert (nowhere.returncode, nowhere.stdout) == (126, "")
    assert nowhere.stderr == "microagent: there is no directory /nowhere/at/all\n"
    assert in_box(box, "test", "-e", "/nowhere").returncode == 1
    missing = in_box(box, "no-such-command")
    assert (missing.returncode, missing.stdout) == (127, "")
    assert "no-such-command: command not found" in missing.stderr
    answer = box.cli("--json", "exec", NAME, "false")
    assert (answer.returncode, json.loads(answer.stderr)) == (1, {"name": NAME, "exit_code": 1})


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_script_without_its_interpreter_says_so(box: Lab, user: str) -> None:
    scripts = (
        "printf '#! /nope -x\\n' > /tmp/a; printf '#!/bin/sh\\r\\n' > /tmp/b; printf '#!/bin/sh\\necho ran' > /tmp/c"
    )
    assert in_box(box, "sh", "-c", f"{scripts}; chmod 755 /tmp/?").returncode == 0
    for script, wanted in (("/tmp/a", "/nope"), ("/tmp/b", "/bin/sh^M")):
        answer = in_box(box, script, flags=("-u", user))
        assert (answer.returncode, answer.stdout) == (127, "")
        assert answer.stderr == f"microagent: {script}: there is no {wanted}, by which it is to be run\n"
    assert in_box(box, "/tmp/c", flags=("-u", user)).stdout == "ran\n"


def test_much_goes_in_and_out_whole(box: Lab) -> None:
    text = os.urandom(3_000_000).hex()
    answer = in_box(box, "sh", "-c", "tee /dev/stderr", stdin=text)
    assert answer.stdout == text
    assert answer.stderr == text


def test_several_at_once_and_one_that_nobody_reads(box: Lab) -> None:
    with box.start("exec", NAME, "yes", "stuck") as stuck:
        assert stuck.stdout
        assert stuck.stdout.read(6) == "stuck\n"
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: in_box(box, "sh", "-c", f"cat; exit {n}", stdin=f"{n}"), range(8)))
        assert running(box, "stuck")
        assert [(a.returncode, a.stdout) for a in answers] == [(n, f"{n}") for n in range(8)]
        assert stuck.poll() is None
    wait_until_gone(box, "stuck")


def test_what_is_left_in_the_background_stays(box: Lab) -> None:
    assert in_box(box, "sh", "-c", "sleep 4711 & echo started").stdout == "started\n"
    assert running(box, "4711")
    assert in_box(box, "sh", "-c", f"kill {running(box, '4711')[0]}").returncode == 0


def test_a_terminal_has_the_size_of_ours_and_its_keys(box: Lab) -> None:
    session = OnTerminal(box, "exec", NAME, "bash", "--norc")
    session.type("stty size; tty\r")
    session.expect("33 77\r\n/dev/pts/[0-9]+\r\n")
    session.resize(40, 100)
    session.type("while [ \"$(stty size)\" != '40 100' ]; do sleep 0.1; done; echo re''sized\r")
    session.expect("resized\r\n")
    session.type("sleep 4712\r")
    wait_for(lambda: bool(running(box, "4712")))
    session.type("\x03")
    session.type("echo co''de $?\r")
    session.expect("code 130\r\n")
    session.type("echo $TERM; exit 9\r")
    session.expect(os.environ.get("TERM", "xterm"))
    assert session.end() == 9
    # No terminal where none is wanted, and one where ours is none.
    assert in_box(box, "tty").stdout == "not a tty\n"
    assert in_box(box, "tty", flags=("-it",)).stdout.startswith("/dev/pts/")


def test_the_terminal_is_given_back_as_it_was(box: Lab) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = box.argv("exec", NAME, "true")
    done = subprocess.run(command, stdin=slave, stdout=slave, stderr=slave, env=box.environment(), timeout=60)
    assert done.returncode == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_ctrl_c_is_the_commands_own_to_answer(box: Lab) -> None:
    program = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    with box.start("exec", NAME, "sh", "-c", program) as command:
        assert command.stdout
        assert command.stdout.readline() == "ready\n"
        command.send_signal(signal.SIGINT)
        assert command.stdout.read() == "caught\n"
        assert command.wait(60) == 5
    with box.start("exec", NAME, "sh", "-c", "echo ready; sleep 4713") as command:
        assert command.stdout
        assert command.stdout.readline() == "ready\n"
        command.send_signal(signal.SIGTERM)
        assert command.wait(60) == 128 + signal.SIGTERM
    wait_until_gone(box, "4713")


def test_a_client_that_is_killed_takes_its_command_along(box: Lab) -> None:
    program = "echo ready; trap '' HUP TERM; setsid sleep 4714 & sleep 4714"
    for stdin in (Path("/dev/null"), Path("/dev/zero")):  # also one that is stuck on input that nobody reads
        with stdin.open("rb") as source:
            argv = box.argv("exec", NAME, "sh", "-c", program)
            command = subprocess.Popen(argv, stdin=source, stdout=subprocess.PIPE, env=box.environment())
        assert command.stdout
        assert command.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        assert running(box, "4714")
        command.kill()
        command.communicate()
        wait_until_gone(box, "4714")


def test_a_reader_that_leaves_ends_the_command(box: Lab) -> None:
    command = f"{' '.join(box.argv('exec', NAME, 'yes', 'left'))} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=box.environment(), timeout=60)
    assert (done.returncode, done.stdout) == (128 + signal.SIGPIPE, "left\n")
    wait_until_gone(box, "left")


def test_output_that_cannot_be_written_ends_the_command_and_is_said(box: Lab) -> None:
    command = f"{' '.join(box.argv('exec', NAME, 'yes', 'unwritten'))} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=box.environment(), timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: cannot write the command's output: No space left on device\n")
    wait_until_gone(box, "unwritten")


@pytest.mark.parametrize(
    ("arguments", "code", "what", "hint"),
    [
        (("exec", "-w", "there", NAME, "true"), 2, "'there' is not an absolute path", "/"),
        (("exec", "nowhere", "true"), 1, "there is no workspace nowhere", "microagent ps"),
        (("exec", "No Where", "true"), 2, "not a workspace name", "a-z"),
        (("exec", NAME), 2, "no command is given", "--help"),
        (("exec", NAME, "-x", "true"), 2, "-x stands where the command should", "before NAME"),
        (("exec", "-e", "=x", NAME, "true"), 2, "names no variable", "-e NAME"),
        (("exec", "-tT", NAME, "true"), 2, "exclude each other", "--help"),
        (("exec", "idle", "true"), 1, "does not run, it is created", "microagent start idle"),
    ],
)
def test_what_users_get_wrong(box: Lab, arguments: tuple[str, ...], code: int, what: str, hint: str) -> None:
    if arguments[1] == "idle" and box.cli("status", "idle").returncode:
        assert box.cli("create", "idle", "--image", "base").returncode == 0
    answer = box.cli(*arguments)
    assert (answer.returncode, answer.stdout) == (code, "")
    error, _, advice = answer.stderr.partition("\nhint: ")
    assert what in error
    assert hint in advice


def test_run_on_a_terminal(box: Lab) -> None:
    session = OnTerminal(box, "run", "-it", "--name", "shell", "--keep", "base")
    session.expect("# ")
    session.type("stty size; echo to-the-log; exit 6\r")
    session.expect("33 77\r\n")
    assert session.end() == 6
    found = json.loads(box.cli("--json", "status", "shell").stdout)
    assert (found["state"], found["exit_code"]) == ("stopped", 6)
    assert found["reason"] == "the command ended with 6"
    assert (
        "to-the-log\r\n"
        in subprocess.run(
            box.argv("logs", "shell"), capture_output=True, env=box.environment(), timeout=60
        ).stdout.decode()
    )
    assert box.cli("delete", "shell").returncode == 0


def test_a_guest_whose_side_of_exec_is_ended_harms_nobody_else(box: Lab) -> None:
    """Root in a guest may do what it likes with the guest's end of the line."""
    # execd is the one process that is called so; comm is its name.
    end = "for p in /proc/[0-9]*; do grep -qs execd $p/comm && kill -9 ${p#/proc/}; done"
    program = f"{end}; echo ended; cat /dev/urandom > /dev/vport0p5 2> /dev/null & sleep 100000"
    assert box.cli("create", "hostile", "--image", "base", "--", "sh", "-c", program).returncode == 0
    assert box.cli("start", "hostile").returncode == 0
    wait_for(lambda: "ended\n" in box.cli("logs", "hostile").stdout)
    with box.start("exec", "hostile", "true") as command:
        time.sleep(1)
        assert in_box(box, "echo", "fine").stdout == "fine\n"
        # Garbage is answered with an error, silence waits for Ctrl-C.
        command.send_signal(signal.SIGINT)
        assert command.wait(60) in (1, 128 + signal.SIGINT)
    assert box.cli("delete", "hostile", "--force").returncode == 0


def test_a_workspace_that_ends_ends_its_commands(box: Lab) -> None:
    assert box.cli("create", "ends", "--image", "base", "--", "sleep", "100000").returncode == 0
    assert box.cli("start", "ends").returncode == 0
    with box.start("exec", "ends", "sh", "-c", "echo ready; sleep 100000") as command:
        assert command.stdout
        assert command.stdout.readline() == "ready\n"
        assert box.cli("stop", "ends").returncode == 0
        assert command.wait(60) == 128 + signal.SIGKILL
    assert box.cli("delete", "ends").returncode == 0


def test_after_the_agent_was_killed(guest_dir: Path, images: Path) -> None:
    with Internet() as internet, Lab(internet, guest_dir, images=images) as lab:
        assert lab.cli("create", NAME, "--image", "base", "--", "sleep", "100000").returncode == 0
        assert lab.cli("start", NAME).returncode == 0
        for number in (signal.SIGKILL, signal.SIGTERM):
            with lab.start("exec", NAME, "sh", "-c", "yes; sleep 4715") as command:
                assert command.stdout
                assert command.stdout.readline() == "y\n"
                lab.end_agent(number)
                lab.start_agent()
                assert in_box(lab, "echo", "fine").stdout == "fine\n"
                wait_until_gone(lab, "4715")
                command.communicate()
                assert command.returncode in (1, 75)
