"""An image from a registry, pulled and run from end to end, as its maker wanted it to be run."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.images import build, directory, file, link, write_layer
from tests.servers.registry import Registry, serving

from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

_ENTRY = """#!/bin/sh
echo "$0 $*"
echo "$(id -u):$(id -g) in $(pwd), $GREETING"
ls -l /bin/busybox | cut -c1-10
cat /shared/note
"""


@pytest.fixture(scope="module")
def registry(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    place = tmp_path_factory.mktemp("registry")
    with serving(lab.internet.host, place / "registry", 5001) as made:
        busybox = Path(shutil.which("busybox") or "").read_bytes()
        lower = [
            *(directory(name) for name in ("bin", "etc", "shared", "srv")),
            file("bin/busybox", busybox, mode=0o4755),
            *(link(f"bin/{name}", "busybox") for name in ("sh", "id", "ls", "cut", "cat", "pwd")),
            file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nworker:x:1234:77::/srv:/bin/sh\n"),
            file("shared/note", b"of the lower layer\n"),
        ]
        upper = [file("entry", _ENTRY.encode(), mode=0o755), file("shared/note", b"of the upper layer\n")]
        layers = [write_layer(place / f"{n}.tar", entries) for n, entries in enumerate((lower, upper))]
        config = ["--config.entrypoint", "/entry", "--config.cmd", "by", "--config.cmd", "default"]
        config += ["--config.env", "GREETING=hello", "--config.user", "worker", "--config.workingdir", "/srv/work"]
        build(place / "layout", "v1", layers, *config)
        made.push(place / "layout", "v1", "team/tool:v1")
        yield made


def forget(lab: Lab) -> None:
    """Nothing that another test has pulled is here."""
    for one in json.loads(lab.cli("--json", "image", "ls").stdout)["images"]:
        if not one["builtin"]:
            assert lab.cli("image", "rm", one["digest"]).returncode == 0


def test_a_pulled_image_runs_as_it_wants_to_be_run(lab: Lab, registry: Registry) -> None:
    forget(lab)
    ref = f"{registry.address}/team/tool:v1"
    first = lab.cli("run", "--insecure-registry", ref)
    assert first.stdout.splitlines() == [
        "/entry by default",
        "1234:77 in /srv/work, hello",
        "-rwsr-xr-x",
        "of the upper layer",
    ]
    assert first.returncode == 0
    assert f"{ref}: pulling" in first.stderr
    # It is here now: the second run needs no registry, and what the user says replaces Cmd and Env.
    second = lab.cli("run", "-e", "GREETING=good day", ref, "as", "asked")
    assert second.stdout.splitlines()[:2] == ["/entry as asked", "1234:77 in /srv/work, good day"]
    assert (second.returncode, second.stderr) == (0, "")


def test_a_stopped_workspace_starts_on_the_image_that_it_was_made_from(lab: Lab, registry: Registry) -> None:
    """Whatever its name means by then: what it wrote lies over that one."""
    ref = f"{registry.address}/team/tool:v1"
    made = lab.cli("create", "kept", "--image", ref, "--insecure-registry")
    assert made.returncode == 0
    status = json.loads(lab.cli("--json", "status", "kept").stdout)
    assert lab.cli("image", "rm", ref).returncode == 1
    names = lab.state / "images/names.json"
    names.write_text(json.dumps({}))
    assert lab.cli("start", "kept").returncode == 0
    output = lab.cli("logs", "kept", "-f").stdout
    assert output.startswith("/entry by default\n")
    assert json.loads(lab.cli("--json", "status", "kept").stdout)["digest"] == status["digest"]
    assert lab.cli("delete", "kept", "--force").returncode == 0


def test_a_run_of_what_nobody_has_says_so_once(lab: Lab) -> None:
    done = lab.cli("run", "127.0.0.1:1/nosuch", "true")
    assert done.returncode == 75
    # Before them, progress: a line or none, by how soon the registry's port refuses.
    assert [line.split(":")[0] for line in done.stderr.splitlines()][-2:] == ["error", "hint"]
    assert done.stderr.count("error:") == 1


def test_a_docker_archive_runs(lab: Lab, registry: Registry, tmp_path: Path) -> None:
    archive = tmp_path / "tool.tar"
    source = f"docker://{registry.address}/team/tool:v1"
    command = ["skopeo", "copy", "--src-tls-verify=false", source, f"docker-archive:{archive}:tool:v1"]
    subprocess.run(registry.namespace.argv(*command), check=True, capture_output=True)
    assert lab.cli("run", str(archive), "from", "a", "file").stdout.splitlines()[0] == "/entry from a file"
