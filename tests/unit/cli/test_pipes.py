"""Reading and writing our own descriptors without blocking, and without touching their flags."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from microagent.cli.pipes import read, while_read, write


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.mark.asyncio
async def test_all_bytes_pass_in_order(pipe: tuple[int, int]) -> None:
    data = os.urandom(300_000)

    async def drain() -> bytes:
        return b"".join([chunk async for chunk in read(pipe[0])])

    draining = asyncio.create_task(drain())
    await write(pipe[1], data)
    os.close(pipe[1])
    assert await draining == data


@pytest.mark.asyncio
async def test_a_writer_whose_reader_does_not_read_can_be_left(pipe: tuple[int, int]) -> None:
    writing = asyncio.create_task(write(pipe[1], bytes(1 << 20)))
    await asyncio.wait([writing], timeout=0.05)
    assert not writing.done()
    assert not fcntl.fcntl(pipe[1], fcntl.F_GETFL) & os.O_NONBLOCK
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


@pytest.mark.asyncio
async def test_a_reader_that_leaves_is_noticed_while_nothing_is_written(pipe: tuple[int, int]) -> None:
    asyncio.get_running_loop().call_later(0.01, os.close, pipe[0])
    with pytest.raises(BrokenPipeError):
        await while_read(pipe[1], asyncio.Event().wait())


@pytest.mark.asyncio
async def test_work_returns_and_raises_through(pipe: tuple[int, int]) -> None:
    async def fail() -> None:
        raise OSError("no")

    assert await while_read(pipe[1], asyncio.sleep(0, "done")) == "done"
    with pytest.raises(OSError, match="no"):
        await while_read(pipe[1], fail())


@pytest.mark.asyncio
async def test_files_are_read_and_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    await write(fd, b"abc")
    os.lseek(fd, 0, os.SEEK_SET)
    assert [chunk async for chunk in read(fd)] == [b"abc"]
    assert await while_read(fd, asyncio.sleep(0, 1)) == 1
    os.close(fd)
