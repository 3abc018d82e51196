"""The guest's output reaches the log always, and a client for as long as there is one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from microagent.agent import output
from microagent.agent.output import Output
from microagent.workspace.spec import WorkspaceSpec
from microagent.workspace.store import OUTPUT, Store

CHUNKS = [(1, b"out"), (2, b"err"), (1, b"more")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "state")
    made.create(WorkspaceSpec("a", "base"), (b"", b""), "2026-01-01T00:00:00.000000Z")
    yield made
    made.close()


async def chunks() -> AsyncIterator[tuple[int, bytes]]:
    for chunk in CHUNKS:
        yield chunk


def logged(store: Store) -> bytes:
    return store.path("a", OUTPUT).read_bytes()


@pytest.mark.asyncio
async def test_to_the_log_and_the_client(store: Store) -> None:
    seen: list[tuple[int, bytes]] = []

    async def sink(channel: int, data: bytes) -> None:
        seen.append((channel, data))

    await Output(store, "a", sink).pump(chunks())
    assert seen == CHUNKS
    assert logged(store) == b"outerrmore"


@pytest.mark.asyncio
async def test_a_client_that_left_is_not_asked_again(store: Store) -> None:
    asked = 0

    async def sink(channel: int, data: bytes) -> None:
        nonlocal asked
        asked += 1
        raise ConnectionResetError

    await Output(store, "a", sink).pump(chunks())
    assert asked == 1
    assert logged(store) == b"outerrmore"


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_can_be_detached(store: Store) -> None:
    async def sink(channel: int, data: bytes) -> None:
        await asyncio.Event().wait()

    relay = Output(store, "a", sink)
    pumping = asyncio.create_task(relay.pump(chunks()))
    await asyncio.wait([pumping], timeout=0.05)
    assert not pumping.done()
    relay.detach()
    await pumping
    assert logged(store) == b"outerrmore"


@pytest.mark.asyncio
async def test_a_long_log_is_put_aside_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_LONGEST_LOG", 5)
    await Output(store, "a", None).pump(chunks())
    assert (store.path("a", "output.log.1").read_bytes(), logged(store)) == (b"outerr", b"more")
