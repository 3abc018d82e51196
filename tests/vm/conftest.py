"""Real agents for tests that boot guests; one lab serves a module, because its image is made once."""

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


@pytest.fixture(scope="module")
def lab(guest_dir: Path) -> Iterator[Lab]:
    """A made-up internet and an agent on it, for all tests of a module."""
    with Internet() as internet, Lab(internet, guest_dir) as made_up, Witness(made_up.state):
        # Whichever test comes first would have the progress of its making on stderr.
        assert made_up.cli("image", "pull", "base").returncode == 0
        yield made_up


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory with a path short enough for sockets, which other uids may pass through."""
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)
