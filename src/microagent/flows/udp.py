"""One UDP flow: all datagrams of one guest port to one address and port. What is asked, and how it ends (contract 8).

A datagram names nothing, so what DNS told the guest about the address speaks for it, or the address itself. The
decision is made on the first datagram, and again when the policy changes.
"""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from microagent.audit.record import Event, Record
from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.leases import Leases
from microagent.decision.verdict import Reason, Verdict, refusal
from microagent.flows import records


@dataclass(frozen=True, slots=True)
class UdpDecision:
    """What was asked, and the verdict; `ident` names the flow."""

    question: Question
    verdict: Verdict
    ident: str

    @classmethod
    def make(
        cls, engine: Engine, leases: Leases, destination: IPv4Address, port: int, ident: str, now: float
    ) -> "UdpDecision":
        """Decide on the first datagram to `destination`; `now` is the clock of the leases."""
        question = Question(Proto.UDP, port, address=destination, leased=leases.names_for(destination, now))
        return cls(question, engine.decide(question), ident)

    def at_home(self, engine: Engine) -> "UdpDecision":
        """What it is now that the address has turned out to be this host's own."""
        question = replace(self.question, own=True)
        return UdpDecision(question, engine.decide(question), self.ident)

    @property
    def destination(self) -> str:
        """As records show it."""
        return f"{self.question.address}:{self.question.port}"

    def record(self) -> Record:
        """What has to be written before the first datagram leaves, or is refused."""
        dialed = self.destination if self.verdict.allowed else ""
        return records.decision(self.verdict, dst=self.destination, proto="udp", flow=self.ident, dialed=dialed)

    def looped(self) -> Record:
        """What follows when the flow turns out to be one with itself."""
        verdict = refusal(Reason.LOOP, self.verdict.host, self.verdict.address)
        return records.decision(verdict, dst=self.destination, proto="udp", flow=self.ident)

    def closed(self, why: str, *, bytes_out: int, bytes_in: int, seconds: float) -> Record:
        """The end of a flow that was allowed; bytes are those of payloads."""
        fields = {
            "host": self.verdict.host,
            "dst": self.destination,
            "proto": "udp",
            "bytes_out": bytes_out,
            "bytes_in": bytes_in,
            "duration_ms": round(seconds * 1000, 1),
            "why": why,
            "flow": self.ident,
        }
        return Record(Event.UDP_CLOSE, fields)
