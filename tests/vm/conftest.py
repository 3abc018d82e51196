"""Real agents for tests that boot guests; one lab serves a module, because its image is made once."""

import fcntl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.records import Witness

from microagent.demo.internet import Internet
from microagent.demo.lab import GUEST_DIR, Lab

BUILD = Path(__file__).parents[2] / "vm_fixtures" / "build"


@pytest.fixture(scope="session")
def guest_dir() -> Path:
    """Kernel, initramfs and base image, current."""
    subprocess.run([BUILD, "--out", GUEST_DIR], check=True)
    return GUEST_DIR


@pytest.fixture(scope="session")
def images(guest_dir: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The base image as an agent has made it, once for all labs of this run, and for all processes that share it."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    made = shared / "images"
    with (shared / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            with Internet() as internet, Lab(internet, guest_dir) as lab:
                done = lab.cli("image", "pull", "base")
                assert done.returncode == 0, done.stderr
                lab.images.rename(made)
    return made


@pytest.fixture(scope="module")
def lab(guest_dir: Path, images: Path) -> Iterator[Lab]:
    """A made-up internet and an agent on it, for all tests of a module."""
    with Internet() as internet, Lab(internet, guest_dir, images=images) as made_up, Witness(made_up.state):
        yield made_up


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory with a path short enough for sockets, which other uids may pass through."""
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)
