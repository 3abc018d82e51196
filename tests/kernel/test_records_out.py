"""Records on their way to rsyslog and to an OpenTelemetry collector: all of them, also when those are away or slow."""

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kernel.agent_room import NAME, agent, workspace, write
from tests.kernel.receivers import Collector, Journald, Rsyslog
from tests.records import violations

from microagent.agent import forwarding as sending
from microagent.agent.fleet import Fleet
from microagent.agent.forwarding import forwarding
from microagent.agent.services import Services
from microagent.audit import chain
from microagent.workspace.store import EGRESS

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def settings(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr(sending, "_EVERY", 0.05)
    monkeypatch.setattr(sending, "_LONGEST_WAIT", 0.2)
    return {"syslog": tmp_path / "log.sock", "otlp": f"http://127.0.0.1:{port}/v1/logs"}


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came")


def fleet_of(services: Services) -> Fleet:
    return Fleet(services, [services.store.load(name) for name in services.store.names()])


def log_of(services: Services) -> list[str]:
    return services.store.path(NAME, EGRESS).read_text().splitlines()


def is_whole(lines: list[str]) -> bool:
    """Whether the lines are a log from its first record, none missing, none twice."""
    link: str | None = chain.START
    for line in lines:
        link = chain.check(link or "", line.encode())
    return link is not None and not violations(line.encode() for line in lines)


async def test_all_arrives_as_it_was_written(settings: dict[str, object], port: int, tmp_path: Path) -> None:
    syslog, collector = Rsyslog(tmp_path), Collector()
    async with agent(tmp_path, **settings) as services, collector.running(port):
        with syslog.running():
            await until(syslog.socket.exists)
            async with workspace(services) as keeper, forwarding(fleet_of(services)):
                await keeper.mediator.record("egress_dial_error", hostile())
                await write(keeper, 700)
                await until(lambda: len(log_of(services)) == 703)
                await until(lambda: len(syslog.lines()) >= 703 and len(collector.records) >= 703)
                lines = log_of(services)
    assert [text for _, _, text in syslog.lines()] == lines
    assert [record.body.string_value for record in collector.records] == lines
    assert {program for _, program, _ in syslog.lines()} == {"microagent"}
    assert [priority for priority, _, _ in syslog.lines()][:4] == [30, 30, 27, 30]
    assert (collector.workspaces, collector.refused) == ({NAME}, [])
    assert is_whole(lines)

    wrong = collector.records[2]
    named = {item.key: item.value for item in wrong.attributes}
    assert (wrong.severity_text, wrong.severity_number, wrong.event_name) == ("ERROR", 17, "egress_dial_error")
    assert named["microagent.seq"].int_value == 3
    assert named["microagent.host"].string_value == "evil\n?\u202e"
    checks = {item.key: item.value for item in collector.records[3].attributes}["microagent.checks"]
    assert [value.string_value for value in checks.array_value.values] == ["record 0"]
    at = json.loads(lines[2])["ts"]
    assert wrong.time_unix_nano % 10**9 == int(at[20:26]) * 1000


def hostile() -> dict[str, str]:
    """Text that is none: half a surrogate pair, which JSON can carry and protobuf cannot."""
    return {"host": "evil\n\ud800\u202e", "dst": "192.0.2.1:443", "error": "x", "flow": "0123456789ab"}


async def test_receivers_that_are_away_or_slow_lose_nothing_and_hold_up_nobody(
    settings: dict[str, object], port: int, tmp_path: Path
) -> None:
    syslog, collector = Rsyslog(tmp_path), Collector()
    async with agent(tmp_path, **settings) as services, workspace(services) as keeper:
        async with forwarding(fleet_of(services)):
            await write(keeper, 300)  # nobody is there
            await until(lambda: len(log_of(services)) == 302)
        # Another agent goes on where the last one was.
        async with forwarding(fleet_of(services)), collector.running(port):
            with syslog.running() as daemon:
                await until(lambda: len(syslog.lines()) == 302 and len(collector.records) == 302)
                daemon.send_signal(signal.SIGSTOP)
                collector.status = 503
                await write(keeper, 3000)
                await until(lambda: len(log_of(services)) == 3302)  # the mediator waits for neither
                assert len(syslog.lines()) == len(collector.records) == 302
                daemon.send_signal(signal.SIGCONT)
                collector.status = 200
                await until(lambda: len(syslog.lines()) == 3302 and len(collector.records) == 3302)
        lines = log_of(services)
        assert is_whole(lines)
        assert [text for _, _, text in syslog.lines()] == lines
        assert [record.body.string_value for record in collector.records] == lines
        # And it knows that there is nothing more to send.
        async with forwarding(fleet_of(services)), collector.running(port):
            await write(keeper, 1)
            await until(lambda: len(collector.records) == 3303)
        assert [record.body.string_value for record in collector.records] == log_of(services)


async def test_a_deleted_workspace_is_sent_to_its_last_word(
    settings: dict[str, object], port: int, tmp_path: Path
) -> None:
    syslog, collector = Rsyslog(tmp_path), Collector()
    outbox = tmp_path / "state" / "outbox"
    async with agent(tmp_path, **settings) as services:
        async with workspace(services) as keeper:
            await write(keeper, 50)
        written = log_of(services)
        assert json.loads(written[-1])["event"] == "mediator_down"
        await fleet_of(services).delete(NAME, force=False)
        assert services.store.names() == []
        # One of the same name is another one.
        async with workspace(services) as keeper:
            await write(keeper, 5)
        assert len(list(outbox.iterdir())) == 1
        with syslog.running():
            async with forwarding(fleet_of(services)), collector.running(port):
                await until(lambda: len(collector.records) >= 61 and len(syslog.lines()) >= 61)
                await until(lambda: not list(outbox.iterdir()))
        again = log_of(services)
        sent = [record.body.string_value for record in collector.records]
        assert sorted(sent) == sorted(written + again) == sorted(text for _, _, text in syslog.lines())
        assert is_whole([line for line in sent if line in written])


async def test_journald_takes_them_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_EVERY", 0.05)
    (tmp_path / "run-systemd").mkdir()
    journald = Journald(tmp_path / "run-systemd")
    async with agent(tmp_path, syslog=journald.socket) as services, workspace(services) as keeper:
        async with forwarding(fleet_of(services)):
            await write(keeper, 20)
            await until(lambda: sent_of(services, "syslog") == services.store.path(NAME, EGRESS).stat().st_size > 5000)
        written = log_of(services)
    assert await asyncio.to_thread(journald.end, len(written)) == written


def sent_of(services: Services, receiver: str) -> int:
    place = services.store.path(NAME, f"sent-{receiver}.json")
    return int(json.loads(place.read_bytes())["offset"]) if place.exists() else 0


async def test_nothing_is_sent_and_nothing_is_kept_by_default(tmp_path: Path) -> None:
    async with agent(tmp_path) as services:
        async with workspace(services) as keeper, forwarding(fleet_of(services)):
            await write(keeper, 1)
        await fleet_of(services).delete(NAME, force=False)
    assert not (tmp_path / "state" / "outbox").exists()
