"""Images from registries, by the command line: Debian's docker-registry and a bad one, on a loopback of ours."""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import bad_registry
from tests.servers.images import build, build_index, file, write_layer
from tests.servers.registry import PASSWORD, USER, Registry, running, serving

from microagent.demo.internet import Internet
from microagent.demo.lab import Lab

pytestmark = pytest.mark.kernel

INSECURE = "--insecure-registry"
_BAD_PORT = 5009


class World:
    """A lab with registries: `open` for all, `closed` for who knows the password, `bad` for nobody."""

    def __init__(self, lab: Lab, directory: Path, open_: Registry, closed: Registry) -> None:
        self.lab, self.directory, self.open, self.closed = lab, directory, open_, closed
        self.bad = f"127.0.0.1:{_BAD_PORT}"
        self.images = lab.state / "images"
        self.digests: dict[str, str] = {}

    def cli(self, *arguments: str, docker: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """`microagent ARGUMENTS`, with nobody's credential but that of `docker`."""
        environment = {**self.lab.environment(), "DOCKER_CONFIG": str(docker or self.directory / "nobody")}
        return subprocess.run(
            self.lab.argv(*arguments), capture_output=True, text=True, timeout=110, check=False, env=environment
        )

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`microagent ARGUMENTS`, running."""
        command, pipe = self.lab.argv(*arguments), subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.lab.environment())

    def fails(self, *arguments: str, docker: Path | None = None) -> tuple[int, str, str]:
        """Exit code, error and hint of a command that fails."""
        done = self.cli("--json", *arguments, docker=docker)
        assert done.returncode != 0
        last = (done.stderr or done.stdout).splitlines()[-1]
        error = json.loads(last)["error"]
        return done.returncode, error["message"], error["hint"]

    def listing(self) -> dict[str, dict[str, Any]]:
        """`image ls`, by name."""
        images = json.loads(self.cli("--json", "image", "ls").stdout)["images"]
        return {name: one for one in images for name in one["names"]}

    def forget(self) -> None:
        """Nothing that another test has pulled is here."""
        for one in json.loads(self.cli("--json", "image", "ls").stdout)["images"]:
            if not one["builtin"]:
                assert self.cli("image", "rm", one["digest"]).returncode == 0

    def leftovers(self) -> list[str]:
        """What is there of images that are not whole."""
        return [path.name for path in self.images.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Internet() as internet, tempfile.TemporaryDirectory(prefix="registry-") as name:
        directory = Path(name)
        guests = directory / "guest/images/tiny"
        guests.mkdir(parents=True)
        (guests / "hello").write_text("built in")
        # What lies in the home of root, whom the agent runs as, is nobody's business.
        root = _docker_config(directory / "root/.docker", "127.0.0.1:5002", USER, PASSWORD)
        one = write_layer(directory / "one.tar", [file("hello", b"one" * 1000)])
        two = write_layer(directory / "two.tar", [file("hello", b"two" * 1000)])
        digests = {
            "one": build(directory / "layout", "one", [one], "--config.cmd", "/hello"),
            "two": build(directory / "layout", "two", [one, two], "--config.cmd", "/hello"),
        }
        bad = [sys.executable, bad_registry.__file__, str(_BAD_PORT)]
        with (
            serving(internet.host, directory / "open", 5001) as open_,
            serving(internet.host, directory / "closed", 5002, auth=True) as closed,
            running(internet.host, _BAD_PORT, bad),
            Lab(internet, directory / "guest", {"HOME": str(root.parent)}) as lab,
        ):
            for tag, target in (("one", "team/hello:v1"), ("one", "team/hello:same"), ("two", "team/hello:v2")):
                open_.push(directory / "layout", tag, target)
            closed.push(directory / "layout", "one", "team/private:v1")
            made = World(lab, directory, open_, closed)
            made.digests = digests
            yield made


def _docker_config(directory: Path, registry: str, user: str, password: str) -> Path:
    directory.mkdir(parents=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}}))
    return directory


def test_a_pull_by_tag_and_by_digest_is_one_image(world: World) -> None:
    world.forget()
    ref = f"{world.open.address}/team/hello"
    done = world.cli("image", "pull", INSECURE, f"{ref}:v1")
    assert (done.returncode, done.stdout) == (0, f"{ref}:v1: ready ({world.digests['one']})\n")
    # Each, however short it was.
    seen = dict.fromkeys(line.removeprefix(f"{ref}:v1: ").split()[0] for line in done.stderr.splitlines())
    assert list(seen) == ["resolving", "pulling", "unpacking", "building"]
    disk = world.images / world.digests["one"][7:] / "rootfs.ext4"
    made = disk.stat().st_ino
    for other in (f"{ref}:same", f"{ref}@{world.digests['one']}", f"{ref}:v2@{world.digests['one']}"):
        answer = json.loads(world.cli("--json", "image", "pull", INSECURE, other).stdout.splitlines()[-1])
        assert answer == {"event": "ready", "image": other, "digest": world.digests["one"]}
    assert disk.stat().st_ino == made
    listed = world.listing()
    assert listed[f"{ref}:v1"]["digest"] == listed[f"{ref}@{world.digests['one']}"]["digest"] == world.digests["one"]
    assert listed[f"{ref}:v1"]["size"] == disk.stat().st_blocks * 512
    assert listed["tiny"] == {
        "names": ["tiny"],
        "builtin": True,
        "used_by": [],
        "digest": None,
        "size": None,
        "made": None,
    }
    assert world.leftovers() == []


def test_create_pulls_what_is_missing_and_status_says_what_it_became(world: World) -> None:
    world.forget()
    ref = f"{world.open.address}/team/hello:v2"
    code, message, hint = world.fails("create", "early", "--image", ref)
    assert (code, message) == (1, f"{world.open.address} does not speak TLS")
    assert INSECURE in hint
    made = world.cli("create", "a", "--image", ref, INSECURE)
    assert (made.returncode, made.stdout.startswith("a: created")) == (0, True)
    assert f"{ref}: pulling" in made.stderr
    again = world.cli("create", "b", "--image", ref)
    assert (again.returncode, again.stderr) == (0, "")
    for name in ("a", "b"):
        status = json.loads(world.cli("--json", "status", name).stdout)
        assert (status["image"], status["digest"]) == (ref, world.digests["two"])
    assert world.listing()[ref]["used_by"] == ["a", "b"]
    assert world.fails("image", "rm", ref)[1:] == (f"the image {ref} is used by a, b", "microagent delete a")
    for name in ("a", "b"):
        assert world.cli("delete", name).returncode == 0
    assert world.cli("image", "rm", ref).stdout == f"{ref}: removed\n"
    assert ref not in world.listing()
    assert not (world.images / world.digests["two"][7:]).exists()


def test_of_an_index_the_image_for_this_machine_is_taken(world: World) -> None:
    layer = write_layer(world.directory / "many.tar", [file("hello", b"for many machines")])
    layout = world.directory / "many"
    ours = build(layout, "ours", [layer], "--architecture", "amd64")
    theirs = build(layout, "theirs", [layer], "--architecture", "arm64")
    index = build_index(layout, "all", {"arm64": "theirs", "amd64": "ours"})
    world.open.push(layout, "all", "team/many:v1")
    name = f"{world.open.address}/team/many"
    for ref in (f"{name}:v1", f"{name}@{index}"):
        answer = json.loads(world.cli("--json", "image", "pull", INSECURE, ref).stdout.splitlines()[-1])
        assert answer["digest"] == ours
    code, message, _ = world.fails("image", "pull", INSECURE, f"{name}@{theirs}")
    assert (code, "linux/arm64" in message) == (3, True), message
    assert world.leftovers() == []


def test_a_tag_that_moves_leaves_workspaces_what_they_have(world: World) -> None:
    ref = f"{world.open.address}/team/moving:v1"
    world.open.push(world.directory / "layout", "one", "team/moving:v1")
    assert world.cli("create", "old", "--image", ref, INSECURE).returncode == 0
    world.open.push(world.directory / "layout", "two", "team/moving:v1")
    # The name is known, so nobody is asked; a pull asks.
    assert world.cli("create", "same", "--image", ref).returncode == 0
    assert world.cli("image", "pull", ref, INSECURE).returncode == 0
    assert world.cli("create", "new", "--image", ref).returncode == 0
    digests = [json.loads(world.cli("--json", "status", name).stdout)["digest"] for name in ("old", "same", "new")]
    assert digests == [world.digests[tag] for tag in ("one", "one", "two")]
    for name in ("old", "same", "new"):
        world.cli("delete", name)


def test_what_is_not_there_is_said(world: World) -> None:
    ref = f"{world.open.address}/team/hello"
    wrong = "sha256:" + "0" * 64
    missing = {
        f"{ref}:v9": f"{world.open.address} has no team/hello with the tag v9",
        f"{ref}@{wrong}": f"{world.open.address} has no team/hello with the digest {wrong}",
        f"{world.open.address}/nobody/nothing": f"{world.open.address} has no nobody/nothing with the tag latest",
    }
    for what, said in missing.items():
        code, message, hint = world.fails("image", "pull", INSECURE, what)
        assert (code, message) == (1, said)
        assert "docker login" in hint
    assert world.leftovers() == []


def test_who_may_pull_is_the_callers_matter_and_not_roots(world: World) -> None:
    ref = f"{world.closed.address}/team/private:v1"
    code, message, hint = world.fails("image", "pull", INSECURE, ref)
    assert code == 1
    assert "does not let you have team/private" in message
    assert f"docker login {world.closed.address}" in hint
    wrong = _docker_config(world.directory / "wrong", world.closed.address, USER, "wrong-horse")
    assert "does not let you have" in world.fails("image", "pull", INSECURE, ref, docker=wrong)[1]
    other = _docker_config(world.directory / "other", world.open.address, USER, PASSWORD)
    assert "does not let you have" in world.fails("image", "pull", INSECURE, ref, docker=other)[1]

    right = _docker_config(world.directory / "right", world.closed.address, USER, PASSWORD)
    done = world.cli("image", "pull", INSECURE, ref, docker=right)
    assert (done.returncode, done.stdout) == (0, f"{ref}: ready ({world.digests['one']})\n")
    # The secret is nowhere afterwards.
    secrets = [PASSWORD.encode(), base64.b64encode(f"{USER}:{PASSWORD}".encode())]
    written = [world.lab.log, *(p for p in world.lab.state.rglob("*") if p.is_file() and p.suffix != ".ext4")]
    assert len(written) > 2
    for path in written:
        assert not any(secret in path.read_bytes() for secret in secrets), path


def test_a_credential_helper_is_asked_as_the_user(world: World) -> None:
    bin_ = world.directory / "bin"
    bin_.mkdir()
    helper = bin_ / "docker-credential-made-up"
    answer = json.dumps({"ServerURL": world.closed.address, "Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\n[ \"$1 $(cat)\" = 'get {world.closed.address}' ] && echo '{answer}'\n")
    helper.chmod(0o755)
    config = world.directory / "helped"
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"credHelpers": {world.closed.address: "made-up"}}))
    environment = {
        **world.lab.environment(),
        "DOCKER_CONFIG": str(config),
        "PATH": f"{bin_}:{os.environ['PATH']}",
    }
    command = world.lab.argv("image", "pull", INSECURE, f"{world.closed.address}/team/private:v1")
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("repository", "code", "said"),
    [
        ("broken", 75, "does not answer"),
        ("huge", 3, "larger than"),
        ("junk", 1, "cannot be used"),
    ],
)
def test_a_registry_that_answers_badly(world: World, repository: str, code: int, said: str) -> None:
    got, message, _ = world.fails("image", "pull", INSECURE, f"{world.bad}/{repository}:v1")
    assert (got, said in message) == (code, True), message
    assert world.leftovers() == []


def test_another_image_than_the_digest_says_is_refused(world: World) -> None:
    digest = "sha256:" + "2" * 64
    code, message, _ = world.fails("image", "pull", INSECURE, f"{world.bad}/liar@{digest}")
    assert code == 1
    assert digest in message
    assert f"{world.bad}/liar@{digest}" not in world.listing()


def test_a_layer_that_is_longer_than_it_says_ends(world: World) -> None:
    """skopeo would find out at the end of the stream, which never comes."""
    code, message, _ = world.fails("image", "pull", INSECURE, f"{world.bad}/endless:v1")
    assert (code, "more is sent than" in message) == (1, True), message
    assert world.leftovers() == []


def test_nobody_listens(world: World) -> None:
    code, message, hint = world.fails("image", "pull", INSECURE, "127.0.0.1:1/x:v1")
    assert (code, message.startswith("the registry 127.0.0.1:1 does not answer")) == (75, True)
    assert "try again later" in hint


def test_without_tls_only_on_loopback(world: World) -> None:
    code, message, hint = world.fails("image", "pull", INSECURE, "registry.example.org/x:v1")
    assert (code, "loopback" in message) == (2, True)
    assert "/etc/containers/certs.d" in hint


def test_a_name_that_is_none_is_a_usage_error(world: World) -> None:
    for verb in (("image", "pull"), ("run",), ("image", "rm")):
        assert world.fails(*verb, "No/Such:Image")[0] == 2


def test_two_pulls_at_once_make_it_once(world: World) -> None:
    world.cli("image", "rm", world.digests["two"])
    refs = [f"{world.open.address}/team/hello:v2", f"{world.open.address}/team/hello@{world.digests['two']}"]
    pulls = [
        subprocess.Popen(
            world.lab.argv("image", "pull", INSECURE, ref),
            stdout=subprocess.PIPE,
            text=True,
            env=world.lab.environment(),
        )
        for ref in refs
    ]
    for ref, one in zip(refs, pulls, strict=True):
        assert one.communicate(timeout=60)[0] == f"{ref}: ready ({world.digests['two']})\n"
    assert [path.name for path in world.images.iterdir()].count(world.digests["two"][7:]) == 1
    assert world.leftovers() == []


def _dripping(world: World, *arguments: str) -> "subprocess.Popen[str]":
    """A command that pulls, in the middle of it."""
    pull = world.start("--json", *arguments)
    told = pull.stdout if "pull" in arguments else pull.stderr
    assert told
    for line in told:
        if json.loads(line).get("phase") == "pulling":
            return pull
    raise AssertionError(f"{arguments} ended")


@pytest.mark.parametrize(
    ("number", "wish"),
    [
        (signal.SIGINT, ("image", "pull", INSECURE)),
        (signal.SIGKILL, ("image", "pull", INSECURE)),
        (signal.SIGKILL, ("create", "cut", INSECURE, "--image")),
        (signal.SIGTERM, ("run", INSECURE, "--name", "cut")),
    ],
)
def test_a_command_that_ends_while_it_pulls_leaves_nothing(
    world: World, number: signal.Signals, wish: tuple[str, ...]
) -> None:
    pull = _dripping(world, *wish, f"{world.bad}/drip:v1")
    assert world.leftovers() != []
    _until(lambda: _skopeos(world) != [])
    pull.send_signal(number)
    pull.communicate(timeout=30)
    assert pull.returncode == (128 + number if number == signal.SIGINT else -number)
    _until(lambda: world.leftovers() == [] and _skopeos(world) == [])
    assert world.cli("status", "cut").returncode == 1


def test_an_agent_that_is_killed_while_it_pulls_leaves_nothing(world: World) -> None:
    pull = _dripping(world, "image", "pull", INSECURE, f"{world.bad}/drip:v1")
    world.lab.end_agent(signal.SIGKILL)
    pull.communicate(timeout=30)
    assert pull.returncode == 1
    _until(lambda: _skopeos(world) == [])
    assert world.leftovers() != []
    world.lab.start_agent()
    assert world.leftovers() == []
    assert world.cli("image", "pull", INSECURE, f"{world.open.address}/team/hello:v1").returncode == 0


def _skopeos(world: World) -> list[int]:
    found = []
    for pid in world.lab.processes():
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "skopeo\n":
                found.append(pid)
        except OSError:
            continue
    return found


def _until(happened: Any) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)
