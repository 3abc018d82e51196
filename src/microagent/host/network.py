"""One workspace's network, whole.

How this works, in the order it is built: a namespace of its own; a tap in it, down; lo, the local route and the
sysctls; the rules, in one transaction; the listening sockets. Only then may a mediator start, and only when it
is ready does `raise_tap` let the first frame in. There is no step that connects the namespace to anything.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from microagent.errors import HostError
from microagent.host import ip_counters, links, netns, nft, sockets
from microagent.host.lookout import Lookout
from microagent.host.ruleset import Steering
from microagent.host.sockets import MediatorSockets


@dataclass
class Network:
    """The kernel objects of one running workspace; `tap` is the descriptor for QEMU (-1 once handed over)."""

    path: Path
    steering: Steering
    tap: int
    _sockets: MediatorSockets | None
    _lookout: Lookout
    _fingerprint: str = ""
    _seen: int = -1  # the generation that was found to be right
    _raised: int = 0  # the number of the tap while it should be up
    _reported: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def create(cls, path: Path, steering: Steering) -> "Network":
        """Build everything, tap down. On any failure nothing is left. Raises HostError or OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        netns.create(path)
        try:
            return netns.run_inside(path, lambda: cls._build(path, steering))
        except BaseException:
            netns.remove(path)
            raise

    @classmethod
    def _build(cls, path: Path, steering: Steering) -> "Network":
        tap = links.make_tap()
        try:
            links.configure()
            nft.apply(_ruleset(steering))
            network = cls(path, steering, tap, sockets.open_all(), Lookout())
            # Asked first: a change that comes in between is found by `raise_tap`.
            network._seen = network._lookout.generation()
            network._fingerprint = nft.fingerprint()
            return network
        except BaseException:
            os.close(tap)
            raise

    @classmethod
    def adopt(cls, path: Path, steering: Steering) -> "Network":
        """The network that an earlier agent built, for a guest that runs. HostError when it is not what it should be.

        Its sysctls are set again; `repair` puts back rules that differ. The sockets are with the mediator; a new one
        gets new ones.
        """
        expected = netns.run_in_scratch(lambda: _fingerprint_of(steering))
        try:
            netns.run_inside(path, links.verify)
        except OSError as error:
            raise HostError(f"its network is gone: {error.strerror or error}") from error
        lookout = netns.run_inside(path, Lookout)
        return cls(path, steering, -1, None, lookout, expected, _raised=lookout.raised_tap())

    def mediator_sockets(self) -> MediatorSockets:
        """The sockets for a mediator, made now where this agent has none."""
        if self._sockets is None:
            self._sockets = netns.run_inside(self.path, sockets.open_all)
        return self._sockets

    def raise_tap(self) -> None:
        """Let the guest's frames in. Call it when the mediator is ready, not before.

        HostError, with the tap down, when what was built is no longer what is there.
        """

        def work() -> None:
            if self._lookout.generation() != self._seen and nft.fingerprint() != self._fingerprint:
                hint = "find out who else changes nftables in namespaces of this machine, and start it again"
                raise HostError("its rules were changed while it was started", hint)
            links.check_closed()
            links.raise_tap()
            self._raised = self._lookout.raised_tap()

        netns.run_inside(self.path, work)

    def lower_tap(self) -> None:
        """Cut the guest off."""
        self._raised = 0
        netns.run_inside(self.path, links.lower_tap)

    def close_tap(self) -> None:
        """Close our copy of the tap's descriptor, once QEMU has its own."""
        if self.tap >= 0:
            os.close(self.tap)
            self.tap = -1

    def steer(self, steering: Steering) -> None:
        """Bring the sets to a new policy, atomically."""

        def work() -> str:
            nft.apply(steering.script())
            return nft.fingerprint()

        self._fingerprint = netns.run_inside(self.path, work)
        self.steering = steering

    @property
    def untouched(self) -> bool:
        """Whether rules and tap are as `repair` left them; costs microseconds. HostError, OSError."""
        return self._tap_untouched and self._lookout.generation() == self._seen

    @property
    def _tap_untouched(self) -> bool:
        return not self._raised or self._lookout.raised_tap() == self._raised

    def repair(self) -> tuple[str, ...]:
        """Put back what anybody changed; returns what that was, of "rules" and "tap".

        HostError when the tap is gone, which no other can stand in for: its guest holds the end of that one.
        """

        def work() -> tuple[str, ...]:
            tap = () if self._tap_untouched else ("tap",)
            if tap:
                links.take_tap_back(self._raised)
            rules = ("rules",) if self._rules_repaired() else ()
            if tap:
                links.check_closed()
                links.raise_tap()
            return rules + tap

        return netns.run_inside(self.path, work)

    def _rules_repaired(self) -> bool:
        # Asked first: what changes after this is found the next time.
        self._seen = self._lookout.generation()
        if nft.fingerprint() == self._fingerprint:
            return False
        nft.apply("flush ruleset\n" + _ruleset(self.steering))
        self._fingerprint = nft.fingerprint()
        # The rules' counters began anew with them; the kernel's own did not.
        self._reported = {name: told for name, told in self._reported.items() if name in ip_counters.COUNTERS}
        return True

    @property
    def reported(self) -> dict[str, tuple[int, int]]:
        """The counters when they were last read for a mediator: what it has been told in all."""
        return self._reported

    def count_from(self, reported: Mapping[str, tuple[int, int]]) -> None:
        """Where `new_drops` begins: the counters that a mediator was told last.

        Where those are higher than now, the rules were put back meanwhile and the kernel's counters began anew.
        """
        now = self.counters()
        self._reported = {name: min(figures, reported.get(name, figures)) for name, figures in now.items()}

    def counters(self) -> dict[str, tuple[int, int]]:
        """What the kernel dropped or refused: counter of steer.nft or of ip_counters -> (packets, bytes)."""
        return netns.run_inside(self.path, lambda: {**nft.counters(), **ip_counters.read()})

    def new_drops(self) -> dict[str, tuple[int, int]]:
        """What of it is new since the last call."""
        now = self.counters()
        news: dict[str, tuple[int, int]] = {}
        for name, (packets, size) in now.items():
            old_packets, old_size = self._reported.get(name, (0, 0))
            if packets > old_packets:
                news[name] = (packets - old_packets, size - old_size)
        # A difference of the kernel's figures is one less for a moment, while it counts one after the other.
        self._reported = now | {name: max(now[name], self._reported.get(name, (0, 0))) for name in ip_counters.COUNTERS}
        return news

    def remove(self) -> None:
        """Take everything down; fine to call twice."""
        self.close_tap()
        if self._sockets:
            self._sockets.close()
            self._sockets = None
        self._lookout.close()
        netns.remove(self.path)


def _fingerprint_of(steering: Steering) -> str:
    """What the rules look like in a namespace that has nothing but a tap."""
    tap = links.make_tap()
    try:
        nft.apply(_ruleset(steering))
        return nft.fingerprint()
    finally:
        os.close(tap)


def _ruleset(steering: Steering) -> str:
    return (nft.TEMPLATES / "steer.nft").read_text() + steering.script()
