"""`policy replay`: which past decisions another policy would change. Records in, counts out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.past import Record, past_decisions
from microagent.decision.verdict import Action, Reason


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that comes out otherwise: then, and now."""

    target: str
    proto: str
    then: Action
    reason_then: Reason
    now: Action
    reason_now: Reason
    rule: str
    would_permit: str


@dataclass(frozen=True, slots=True)
class Replay:
    """How many decisions were put to the engine, and what changes how often, the most frequent first."""

    decisions: int
    changes: tuple[tuple[Change, int], ...]

    @property
    def changed(self) -> int:
        """How many of the decisions come out otherwise."""
        return sum(count for _, count in self.changes)


def replay(records: Iterable[Record], engine: Engine) -> Replay:
    """Put every past decision of `records` to `engine`."""
    decisions = 0
    changes: Counter[Change] = Counter()
    for decided in past_decisions(records):
        decisions += 1
        verdict = engine.decide(decided.question)
        if verdict.action is decided.action:
            continue
        change = Change(
            shown(decided.question),
            decided.question.proto.value,
            decided.action,
            decided.reason,
            verdict.action,
            verdict.reason,
            str(verdict.rule) if verdict.rule else "",
            verdict.would_permit,
        )
        changes[change] += 1
    return Replay(decisions, tuple(sorted(changes.items(), key=lambda pair: (-pair[1], pair[0].target))))


def shown(question: Question) -> str:
    """`api.example.org:443`, `203.0.113.5:22`, or for DNS the name and its type."""
    if question.proto is Proto.DNS:
        return f"{question.name} {question.qtype}"
    host = question.name or next(iter(question.leased), str(question.address))
    return f"[{host}]:{question.port}" if ":" in host else f"{host}:{question.port}"
