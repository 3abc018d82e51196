"""What every flow of a mediator shares."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from microagent.api.limits import Limits
from microagent.audit.record import Record
from microagent.decision.budget import NewNames
from microagent.decision.engine import Engine
from microagent.decision.leases import Leases
from microagent.flows.tcp import Sniffing
from microagent.mediator.denials import DENIALS, Denials
from microagent.mediator.journal import Journal
from microagent.mediator.reactor import Reactor
from microagent.mediator.resolve import Resolver
from microagent.mediator.splice import PipePool
from microagent.mediator.tls import LeafContexts
from microagent.mediator.upstream import UpstreamTls
from microagent.wire.http1 import HeadLimits

# Crockford's alphabet: nothing in it can be mistaken for something else when read aloud.
_ALPHABET = b"0123456789abcdefghjkmnpqrstvwxyz"
# Each byte to one of them; 256 is a multiple of 32, so all are as likely.
_CHARACTERS = _ALPHABET * 8


_ID_LENGTH = 12


class Ids:
    """Ids of decisions: twelve characters, sixty bits. The kernel is asked for the chance of many at a time."""

    def __init__(self) -> None:
        self._ready: list[str] = []

    def new(self) -> str:
        """One that nobody has had."""
        if not self._ready:
            text = os.urandom(64 * _ID_LENGTH).translate(_CHARACTERS).decode("ascii")
            self._ready = [text[at : at + _ID_LENGTH] for at in range(0, len(text), _ID_LENGTH)]
        return self._ready.pop()


class Faults:
    """Surprises, for the operator's log: the place and the kind, and no byte of a guest's."""

    def __init__(self) -> None:
        # Standard error, while it is there; then the line to the agent.
        self.say: Callable[[str], None] = _complain

    def __call__(self, where: str, error: Exception) -> None:
        """One of them."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].name}:{frames[-1].lineno}" if frames else "?"
        # Whoever heard it may have gone with the agent.
        with contextlib.suppress(OSError):
            self.say(f"{type(error).__name__} in {where}, at {place}")


def _complain(words: str) -> None:
    sys.stderr.write(f"mediator: {words}\n")
    sys.stderr.flush()


@dataclass
class Services:
    """The mediator's one of each. `engine` and `search` are replaced when the agent says so; the rest stays."""

    reactor: Reactor
    engine: Engine
    leases: Leases
    new_names: NewNames
    resolver: Resolver
    journal: Journal
    leaves: LeafContexts
    upstream_tls: UpstreamTls
    limits: Limits
    # Told of surprises.
    fault: Faults
    # An id for a flow or a decision.
    new_id: Callable[[], str]
    search: tuple[str, ...] = ()
    pipes: PipePool = field(default_factory=PipePool)
    mediated: bool = True
    denials: Denials = field(init=False)

    def __post_init__(self) -> None:
        self.denials = Denials(self.reactor, self._append)

    @cached_property
    def head_limits(self) -> HeadLimits:
        """How large the head of an HTTP message may be."""
        return HeadLimits(self.limits.http_head_bytes, self.limits.http_fields)

    @cached_property
    def sniffing(self) -> Sniffing:
        """How long and how far to look for a name."""
        most = self.limits
        return Sniffing(most.sniff_seconds, most.sniff_bytes, most.server_first_ms / 1000, self.head_limits)

    def write(self, record: Record) -> bool:
        """Append a record; False when it could not be: then what it announces must not happen.

        Of denials, when there are many, only the first of a second; the rest is counted.
        """
        if not self.mediated or (record.event in DENIALS and not self.denials.take(record)):
            return True
        return self._append(record)

    def _append(self, record: Record) -> bool:
        try:
            self.journal.write(record)
        except OSError as error:
            self.fault("journal", error)
            return False
        return True
