"""Every case of decisions/*.yaml: a policy, a question in words, and what guarded and strict mode make of it.

A question reads `PROTO [PORT] [TYPE] [NAME] [at ADDRESS] [leased NAME…]`, the port being the protocol's own by
default. A verdict reads `ACTION REASON`, then whatever else is so:
`by (ENTRY)` the rule, `needs (ENTRY) (ENTRY)` what would permit it, `intercept` or `passthrough`, `unlisted`,
`internal`, `for HOST` where the host is not the one that was asked for, and signals with a `!`.
"""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.verdict import Tls, Verdict
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.names import ascii_name
from microagent.policy.parse import parse_entry

HERE = Path(__file__).parent / "decisions"
PORTS = {Proto.TLS: 443, Proto.HTTP: 80, Proto.DNS: 53}


def question(text: str) -> Question:
    head, _, leased = text.partition(" leased ")
    head, _, address = (head + " ").partition(" at ")
    words = head.split()
    proto = Proto(words.pop(0))
    port = int(words.pop(0)) if words and words[0].isdigit() else PORTS.get(proto, 0)
    qtype = words.pop(0) if proto is Proto.DNS else ""
    name = ascii_name(words.pop(0)) if words else None
    assert not words, text
    return Question(proto, port, name, ip_address(address.strip()) if address else None, tuple(leased.split()), qtype)


def words(verdict: Verdict, asked: Question) -> str:
    parts = [f"{verdict.action} {verdict.reason}"]
    if verdict.rule:
        parts.append(f"by ({verdict.rule})")
    if verdict.would_permit:
        parts.append("needs " + " ".join(f"({entry})" for entry in verdict.would_permit.split(", ")))
    if verdict.tls is not Tls.NONE:
        parts.append(verdict.tls)
    parts += [word for word in ("unlisted", "internal") if getattr(verdict, word)]
    if verdict.host != (asked.name or ""):
        parts.append(f"for {verdict.host}")
    parts += [f"!{signal}" for signal in verdict.signals if signal != "denied"]
    return ", ".join(parts).replace(": ", " ")


def cases() -> Iterator[Any]:
    for file in sorted(HERE.glob("*.yaml")):
        group = yaml.safe_load(file.read_text("utf-8"))
        for case in group["cases"]:
            for mode in group.get("modes", ["guarded", "strict"]):
                yield pytest.param(group, case, Mode(mode), id=f"{file.stem}: {case['what']} ({mode})")


def engine(group: dict[str, Any], case: dict[str, Any], mode: Mode) -> Engine:
    lists = [(verb, text) for verb in Verb for text in group["policy"].get(verb.value, ())]
    entries = tuple(parse_entry(verb, text, "case") for verb, text in lists if text != case.get("without"))
    host = frozenset(map(ip_address, group.get("host", ())))
    return Engine(mode, Policy(entries), host, tuple(map(ip_network, group.get("private", ()))))


@pytest.mark.parametrize(("group", "case", "mode"), list(cases()))
def test_case(group: dict[str, Any], case: dict[str, Any], mode: Mode) -> None:
    asked = question(case["ask"])
    verdict = engine(group, case, mode).decide(asked)
    assert words(verdict, asked) == case.get(mode.value, case.get("both")), case["what"]
    assert verdict.allowed != ("denied" in verdict.signals)
    assert verdict.address == ("" if asked.address is None or asked.proto is Proto.DNS else str(asked.address))


def test_there_are_a_hundred_at_least() -> None:
    assert sum(1 for _ in cases()) >= 100
