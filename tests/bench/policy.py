"""P10: a policy of 100 000 entries, from the file's bytes to decisions."""

import time
from collections.abc import Callable
from ipaddress import IPv4Address

from tests.bench.row import Row

from microagent.decision.engine import Engine, Proto, Question
from microagent.policy.model import Mode, Policy
from microagent.policy.parse import parse_bytes

ENTRIES = 100_000
DECISIONS = 200_000


def run() -> list[Row]:
    """Loading, and the mean time of a decision, of hits and misses of every kind."""
    text = "allow:\n" + "".join(map(_entry, range(ENTRIES)))
    began = time.perf_counter()
    policy = Policy(parse_bytes(text.encode(), "policy.yaml"))
    loaded = time.perf_counter() - began
    engine = Engine(Mode.STRICT, policy)
    worst = max(_mean(engine, make) for make in _QUESTIONS)
    assert engine.decide(_name(f"a.b.host{ENTRIES - 1}.example.org")).allowed  # the oracle: it is really in there
    assert not engine.decide(_name("hostx.example.org")).allowed
    return [
        Row("P10", f"a policy of {ENTRIES} entries, loaded from YAML", f"{loaded:.2f} s", "≤ 1 s"),
        Row("P10", "one decision on it, the slowest kind", f"{worst * 1e6:.1f} µs", "≤ 5 µs"),
    ]


def _entry(number: int) -> str:
    match number % 4:
        case 0:
            return f"- host{number}.example.net\n"
        case 1:
            return f"- 10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}\n"
        case _:
            return f"- .host{number}.example.org\n"


def _name(name: str) -> Question:
    return Question(Proto.TLS, 443, name=name, address=IPv4Address("203.0.113.10"))


_QUESTIONS: tuple[Callable[[int], Question], ...] = (
    lambda n: _name(f"host{n % ENTRIES}.example.net"),
    lambda n: _name(f"a.b.c.host{n % ENTRIES}.example.org"),
    lambda n: _name(f"miss{n}.example.com"),
    lambda n: Question(Proto.TCP, 22, address=IPv4Address(0x0A000000 + n % ENTRIES)),
    lambda n: Question(Proto.DNS, 53, name=f"x.host{n % ENTRIES}.example.org", qtype="A"),
)


def _mean(engine: Engine, make: Callable[[int], Question]) -> float:
    questions = [make(n) for n in range(DECISIONS)]
    began = time.perf_counter()
    for question in questions:
        engine.decide(question)
    return (time.perf_counter() - began) / DECISIONS
