"""A workspace without agent and virtual machine: the real network, the real mediator, and a `LinuxGuest` on
the tap.

How this works: network and nursery are made by a thread that has entered the internet's `host` namespace,
because what the agent does it does there. That thread runs an event loop, and the test hands it coroutines.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.kernel.guest import LinuxGuest
from tests.records import violations

from microagent.agent.mediators import Mediator, Nursery
from microagent.api.control import MediatorSettings
from microagent.api.limits import DEFAULT_LIMITS, Limits
from microagent.audit.chain import head
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.host import links, netns
from microagent.host.network import Network
from microagent.host.ruleset import Steering
from microagent.pki.ca import create_ca
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import entries_to_json, parse_entry

T = TypeVar("T")
Record = dict[str, Any]

UID = 61234  # nobody's
_PATIENCE = 10.0  # seconds that anything which is bound to happen may take on a busy machine


class Room:
    """A thread in a network namespace with an event loop; `call` runs a coroutine there."""

    def __init__(self, internet: Internet) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=internet.host.run, args=(self._run,), name="room", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """The coroutine's result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


class Workspace:
    """One workspace, ready for its guest to be used; a context manager."""

    def __init__(
        self,
        internet: Internet,
        directory: Path,
        mode: str = "strict",
        allow: Sequence[str] = (),
        passthrough: Sequence[str] = (),
        name: str = "lab",
        resolvers: Sequence[str] = (world.RESOLVER,),
        search: Sequence[str] = (),
        private: Sequence[str] = (),
        upstream_ca: str = "",
        limits: Limits = DEFAULT_LIMITS,
        own_endpoints: Sequence[str] = (),
        log_directory: Path | None = None,
    ) -> None:
        self._undo = ExitStack()
        self._closed = False
        self.internet = internet
        self.name, self.mode, self.resolvers = name, mode, tuple(resolvers)
        self.search, self.private = tuple(search), tuple(private)
        self.upstream_ca, self.limits = upstream_ca, limits
        self.own_endpoints = tuple(own_endpoints)
        self.policy = _policy(allow, passthrough)
        self.directory = directory / name
        self.directory.mkdir(mode=0o700)
        self.log = (log_directory or self.directory) / "egress.jsonl"
        with ExitStack() as undo:
            self._build(undo)
            self._undo = undo.pop_all()

    def _build(self, undo: ExitStack) -> None:
        self.room = Room(self.internet)
        undo.callback(self.room.close)
        self._certificate, self._key = create_ca(self.name, datetime.now(UTC))
        self._log_fd = os.open(self.log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, self._log_fd)
        self.nursery = self.room.call(Nursery.start((self.internet.ca.read_text(),)))
        undo.callback(lambda: self.room.call(self.nursery.close()))
        path = self.directory / "netns" / self.name
        undo.callback(netns.release_directory, path.parent)
        self.network = self.internet.host.run(lambda: Network.create(path, self._steering()))
        undo.callback(self.network.remove)
        self.mediator = self.spawn_mediator()
        undo.callback(lambda: self.room.call(self.mediator.stop()))
        self.network.raise_tap()
        self.guest = undo.enter_context(LinuxGuest(self.network.tap, self.directory, self._certificate))

    def spawn_mediator(self) -> Mediator:
        """Start a mediator on the workspace's sockets, as the agent does."""
        self.mediator = self.room.call(
            self.nursery.spawn(
                self.settings(), self.network.mediator_sockets(), self._log_fd, self.directory, self.network
            )
        )
        return self.mediator

    def change_policy(self, allow: Sequence[str] = (), passthrough: Sequence[str] = ()) -> None:
        """Give the running workspace another policy, as the agent does."""
        self.policy = _policy(allow, passthrough)
        self.internet.host.run(lambda: self.network.steer(self._steering()))
        self.room.call(self.mediator.reconfigure(replace(self.settings(), changed_by="uid 0")))

    def settings(self) -> MediatorSettings:
        """What its mediator is told."""
        addresses = self.internet.host.run(links.host_addresses)
        return MediatorSettings(
            workspace=self.name,
            mode=self.mode,
            entries=tuple(entries_to_json(self.policy.entries)),
            ca_cert=self._certificate.decode(),
            ca_key=self._key.decode(),
            resolvers=self.resolvers,
            search=self.search,
            host_addresses=tuple(sorted(addresses)),
            private=self.private,
            own_endpoints=self.own_endpoints,
            uid=UID,
            upstream_ca=self.upstream_ca,
            limits=self.limits,
        )

    def in_netns(self, function: Callable[[], T]) -> T:
        """Run a function inside the workspace's own namespace, behind the guest's back."""
        return netns.run_inside(self.network.path, function)

    def records(self, *events: str) -> list[Record]:
        """The log so far, or those of its records that are of one of `events`; without a line that was torn."""
        lines = self.log.read_bytes().splitlines()
        found: list[Record] = [json.loads(line) for line in lines if head(line)]
        return [record for record in found if not events or record["event"] in events]

    def wait_for(self, event: str, **fields: object) -> Record:
        """The first record of `event` that has these fields; waits for it, and fails with the log without it."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for record in self.records(event):
                if fields.items() <= record.items():
                    return record
            time.sleep(0.05)
        log = "\n".join(map(str, self.records()))
        raise AssertionError(f"no {event} with {fields} in:\n{log}")

    def close(self) -> None:
        """Take everything down, in reverse, and hold what was recorded against the schema; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._undo.close()
        wrong = violations(self.log.read_bytes().split(b"\n"))
        assert wrong == [], "\n".join(wrong[:10])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _steering(self) -> Steering:
        host = [IPv4Network(a) for a in links.host_addresses() if ":" not in a]
        private = [IPv4Network(text) for text in self.private]
        return Steering.from_policy(Mode(self.mode), self.policy, private, host)


def _policy(allow: Sequence[str], passthrough: Sequence[str]) -> Policy:
    entries = [parse_entry(Verb.ALLOW, text, "--egress-allow") for text in allow]
    entries += [parse_entry(Verb.PASSTHROUGH, text, "--egress-passthrough") for text in passthrough]
    return Policy(tuple(entries))
