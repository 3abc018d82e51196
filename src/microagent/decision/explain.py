"""`policy explain`: the verdict on a target, in the words its record would carry, and what comes near."""

from typing import Any

from microagent.decision.engine import Engine, Question
from microagent.decision.nearest import nearest
from microagent.decision.target import parse_target
from microagent.decision.verdict import Verdict


def explain(engine: Engine, target: str) -> dict[str, Any]:
    """The object of `policy explain --json` (contract 2), with more for people behind it.

    The first eight keys are the contract's; `meaning` is the reason as a sentence, `origin` where the rule was
    written, `nearest` the entry that misses by least and why, or None. A name is decided as a name: it is not looked
    up, so where it leads is not judged. Raises PolicyError for what is no target.
    """
    return {**explain_question(engine, parse_target(target)), "target": target}


def explain_question(engine: Engine, question: Question) -> dict[str, Any]:
    """The same for a question that is one already, such as a past one; its `target` is ""."""
    verdict = engine.decide(question)
    return {
        "action": verdict.action.value,
        "reason": verdict.reason.value,
        "rule": str(verdict.rule) if verdict.rule else None,
        "host": verdict.host,
        "address": verdict.address,
        "address_class": str(verdict.address_class),
        "tls": verdict.tls.value,
        "would_permit": verdict.would_permit,
        "target": "",
        "proto": question.proto.value,
        "port": question.port,
        "unlisted": verdict.unlisted,
        "meaning": verdict.reason.meaning,
        "origin": verdict.rule.origin if verdict.rule else "",
        "nearest": _nearest(engine, question, verdict),
    }


def _nearest(engine: Engine, question: Question, verdict: Verdict) -> dict[str, str] | None:
    if verdict.rule is not None or (found := nearest(engine.policy, question)) is None:
        return None
    entry, why = found
    return {"entry": str(entry), "origin": entry.origin, "why": why}
