"""What a guest's kernel prints is bounded, inert, and no reason to lose the guest."""

import os
import stat
from pathlib import Path

import pytest

from microagent.guests.console import MAX_FILE, Console


def test_a_flood_fills_no_disk_and_its_end_is_remembered(tmp_path: Path) -> None:
    console = Console(tmp_path)
    for _ in range(3):
        console.add(b"x" * (MAX_FILE // 2 + 1))
    console.add(b"\n\x1b[2Jlast words\r\n\n")
    assert (tmp_path / "console.log").stat().st_size == MAX_FILE
    assert console.last_lines(1) == ".[2Jlast words"
    console.close()
    again = Console(tmp_path, resume=True)
    again.add(b"more")
    assert (tmp_path / "console.log").stat().st_size == MAX_FILE
    again.close()


@pytest.mark.kernel
def test_a_full_disk_costs_the_log_alone(tmp_path: Path) -> None:
    os.mknod(tmp_path / "console.log", stat.S_IFCHR | 0o600, os.makedev(1, 7))  # /dev/full
    console = Console(tmp_path)
    console.add(b"it goes on")
    assert console.last_lines() == "it goes on"
    console.close()
