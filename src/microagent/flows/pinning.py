"""The addresses that a connection may dial for its name: pinned once, tried in their order, decided again when the
policy changes."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import TypeAlias

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.verdict import Reason, Verdict, refusal
from microagent.policy.addresses import AddressClass

# A question that has an address, and the verdict that allowed it.
Candidate: TypeAlias = tuple[Question, Verdict]


class Pinned:
    """One connection's: what may still be tried, and what was dialled last."""

    def __init__(self) -> None:
        self._left: list[Candidate] = []
        self._dialed: Question | None = None
        self._again: tuple[Engine, Verdict] | None = None

    def first_of(self, candidates: list[Candidate]) -> Candidate:
        """Pin these, of which there is one at least; the one to dial now."""
        self._left = list(candidates)
        return self._take()

    def next(self) -> Candidate | None:
        """The one to dial now, since the last did not answer; None when there is no other."""
        return self._take() if self._left else None

    def apply(self, engine: Engine) -> None:
        """The policy has changed: what it does not allow is not tried any more."""
        decided = [(question, engine.decide(question)) for question, _ in self._left]
        self._left = [(question, verdict) for question, verdict in decided if verdict.allowed]

    def decide_again(self, engine: Engine) -> Verdict | None:
        """What `engine`, the policy of now, says about the address that was dialled; None before there was one."""
        if self._dialed is None:
            return None
        if self._again is None or self._again[0] is not engine:
            # A verdict follows from these two alone, and neither ever changes: a new policy is another engine.
            self._again = (engine, engine.decide(self._dialed))
        return self._again[1]

    def at_home(self, engine: Engine) -> Verdict:
        """What the policy says about the address to dial now, which has turned out to be this host's own."""
        assert self._dialed is not None  # noqa: S101  (it was taken)
        self._dialed, self._again = replace(self._dialed, own=True), None
        return engine.decide(self._dialed)

    def _take(self) -> Candidate:
        candidate = self._left.pop(0)
        self._dialed, self._again = candidate[0], None
        return candidate


def pin(
    engine: Engine, proto: Proto, port: int, name: str, addresses: tuple[IPv4Address, ...], only: IPv4Address | None
) -> list[Candidate] | Verdict:
    """The addresses that may be dialled for `name`, or the `only` one; or why none may.

    In an answer with public and inside addresses, as in DNS rebinding, the inside ones never are.
    """
    questions = [Question(proto, port, name=name, address=address) for address in addresses]
    verdicts = [engine.decide(one) for one in questions]
    mixed = any(verdict.address_class == AddressClass.PUBLIC for verdict in verdicts)
    candidates = [
        (one, verdict)
        for one, verdict in zip(questions, verdicts, strict=True)
        if verdict.allowed
        and (verdict.address_class == AddressClass.PUBLIC or not mixed)
        and (only is None or one.address == only)
    ]
    if candidates:
        return candidates
    wanted = next(verdict for verdict in verdicts if only is None or verdict.address == str(only))
    if not wanted.allowed:
        return wanted
    return replace(refusal(Reason.MIXED_ANSWER, name, wanted.address), internal=True)
