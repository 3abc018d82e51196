"""A real mediator in a real namespace: killed, it is replaced; its rules flushed, they come back."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pytest
from pyroute2 import IPRoute

from microagent.agent.keeper import Keeper
from microagent.agent.mediators import Mediator
from microagent.agent.rounds import Rounds
from microagent.agent.spawner import Spawner
from microagent.api.control import MediatorSettings
from microagent.api.link import TAP
from microagent.errors import HostError
from microagent.host import netns, nft
from microagent.host.network import Network
from microagent.host.ruleset import Steering
from microagent.pki.ca import create_ca

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio]

IFF_UP = 1  # netdevice(7)

Body: TypeAlias = Callable[[Keeper, "asyncio.Task[None]"], Awaitable[None]]


async def kept(tmp_path: Path, body: Body) -> str:
    """Runs `body` while a keeper keeps; returns the log."""
    certificate, key = create_ca("k", datetime.now(UTC))
    settings = MediatorSettings("k", "strict", (), certificate.decode(), key.decode(), ("192.0.2.1",))
    log = os.open(tmp_path / "egress.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    network = Network.create(tmp_path / "netns" / "k", Steering())
    try:
        async with Spawner.started(()) as spawner, Rounds.going() as rounds:

            async def spawn() -> Mediator:
                return await spawner.spawn(settings, network.mediator_sockets(), log, tmp_path, network)

            keeper = Keeper("k", network, await spawn(), rounds, spawn)
            keeping = asyncio.create_task(keeper.keep())
            await body(keeper, keeping)
            keeping.cancel()
            await asyncio.wait([keeping])
            await keeper.mediator.stop()
    finally:
        network.remove()
        netns.release_directory(tmp_path / "netns")
        os.close(log)
    return (tmp_path / "egress.jsonl").read_text()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def tap_state() -> str:
    with IPRoute() as ip:
        (tap,) = ip.get_links(ifname=TAP)
        return "up" if tap["flags"] & IFF_UP else "down"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (the kernel's state has no event)
        await asyncio.sleep(0.02)


async def test_a_killed_mediator_is_replaced_and_the_gap_recorded(tmp_path: Path) -> None:
    async def body(keeper: Keeper, _: "asyncio.Task[None]") -> None:
        first, replaced = keeper.mediator, []
        keeper.replaced = lambda: replaced.append(keeper.mediator.pid)
        first.kill()
        await until(lambda: keeper.mediator is not first)
        assert replaced == [keeper.mediator.pid]

    assert '"event":"gap"' in await kept(tmp_path, body)


async def test_a_mediator_that_hangs_is_replaced_and_one_that_answers_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microagent.agent.rounds._SECONDS", 0.2)
    monkeypatch.setattr("microagent.agent.mediators._ASKED_AFTER", 1)
    monkeypatch.setattr("microagent.agent.mediators._KILLED_AFTER", 10)
    looks = 0
    look = Mediator.look

    def counted(mediator: Mediator) -> None:
        nonlocal looks
        look(mediator)
        looks += 1

    monkeypatch.setattr(Mediator, "look", counted)

    async def body(keeper: Keeper, _: "asyncio.Task[None]") -> None:
        first = keeper.mediator
        await until(lambda: looks > 12)
        assert keeper.mediator is first
        os.kill(first.pid, signal.SIGSTOP)
        await until(lambda: keeper.mediator is not first)

    assert '"event":"gap"' in await kept(tmp_path, body)


async def test_a_nursery_that_died_is_replaced_too(tmp_path: Path) -> None:
    async def body(keeper: Keeper, _: "asyncio.Task[None]") -> None:
        first = keeper.mediator
        os.kill(parent_of(first.pid), signal.SIGKILL)
        first.kill()
        await until(lambda: keeper.mediator is not first)
        assert parent_of(parent_of(keeper.mediator.pid)) == os.getpid()

    await kept(tmp_path, body)


async def test_flushed_rules_come_back(tmp_path: Path) -> None:
    async def body(keeper: Keeper, _: "asyncio.Task[None]") -> None:
        path = keeper.network.path
        before = netns.run_inside(path, nft.fingerprint)
        netns.run_inside(path, lambda: nft.apply("flush ruleset"))
        await until(lambda: netns.run_inside(path, nft.fingerprint) == before)

    await kept(tmp_path, body)


def take_down(ip: IPRoute, tap: int) -> None:
    ip.link("set", index=tap, state="down")


def rename(ip: IPRoute, tap: int) -> None:
    ip.link("set", index=tap, state="down")
    ip.link("set", index=tap, ifname="other0", state="up")


def rename_and_flush(ip: IPRoute, tap: int) -> None:
    rename(ip, tap)
    nft.apply("flush ruleset")


def delete(ip: IPRoute, tap: int) -> None:
    ip.link("del", index=tap)


def replace(ip: IPRoute, tap: int) -> None:
    delete(ip, tap)
    ip.link("add", ifname=TAP, kind="veth", peer={"ifname": "other0"})
    ip.link("set", index=ip.link_lookup(ifname=TAP)[0], state="up")


def to_tap(keeper: Keeper, change: Callable[[IPRoute, int], None]) -> None:
    def work() -> None:
        with IPRoute() as ip:
            change(ip, ip.link_lookup(ifname=TAP)[0])

    netns.run_inside(keeper.network.path, work)


@pytest.mark.parametrize("change", [take_down, rename, rename_and_flush])
async def test_a_tap_that_somebody_changes_is_put_back_and_it_is_on_record(
    tmp_path: Path, change: Callable[[IPRoute, int], None]
) -> None:
    async def body(keeper: Keeper, keeping: "asyncio.Task[None]") -> None:
        path = keeper.network.path
        keeper.network.raise_tap()
        rules = netns.run_inside(path, nft.fingerprint)
        assert keeper.network.untouched
        to_tap(keeper, change)
        assert not keeper.network.untouched
        await until(lambda: keeping.done() or keeper.network.untouched)
        assert netns.run_inside(path, tap_state) == "up"
        assert netns.run_inside(path, nft.fingerprint) == rules
        await until(lambda: "put back" in (tmp_path / "egress.jsonl").read_text())

    words = "rules and tap" if change is rename_and_flush else "tap"
    assert f'"why":"changed from outside, and put back: {words}"' in await kept(tmp_path, body)


@pytest.mark.parametrize("change", [delete, replace])
async def test_a_tap_that_somebody_deletes_cuts_the_workspace_off(
    tmp_path: Path, change: Callable[[IPRoute, int], None]
) -> None:
    async def body(keeper: Keeper, keeping: "asyncio.Task[None]") -> None:
        keeper.network.raise_tap()
        to_tap(keeper, change)
        await asyncio.wait([keeping])
        with pytest.raises(HostError, match="cannot be mediated: its tap was taken away"):
            keeping.result()

    assert "put back" not in await kept(tmp_path, body)


async def test_one_that_cannot_be_replaced_cuts_the_workspace_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microagent.agent.keeper._DELAYS", (0.0, 0.0))

    async def body(keeper: Keeper, keeping: "asyncio.Task[None]") -> None:
        async def fail() -> Mediator:
            raise HostError("no more processes")

        keeper.network.raise_tap()
        assert netns.run_inside(keeper.network.path, tap_state) == "up"
        keeper.spawn = fail
        keeper.mediator.kill()
        await asyncio.wait([keeping])
        with pytest.raises(HostError, match="cannot be mediated: its mediator failed 2 times in a row"):
            keeping.result()
        assert netns.run_inside(keeper.network.path, tap_state) == "down"

    await kept(tmp_path, body)
