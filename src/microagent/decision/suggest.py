"""`policy suggest`: the smallest policy file that would have allowed, in strict mode, what was allowed.

How this works. Allowed flows become wishes: a name, or an address where there was none. Three wishes or more below
one registered domain become a suffix, unless one of them leads inside (a suffix does not open private addresses) or
strangers share the domain. Then the engine, in strict mode, is asked each flow again, and what it still denies is
answered with the entry that it says would permit it. What an entry cannot say is left as a comment.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.past import Decided, Record, past_decisions
from microagent.errors import PolicyError
from microagent.policy.addresses import Address, AddressClass, Network, classify
from microagent.policy.model import Entry, Kind, Mode, Policy, Verb
from microagent.policy.parse import parse_entry
from microagent.policy.suffixes import registered_domain, shared_with_strangers

# Two hosts are as short as a suffix and say more.
FOLD = 3


@dataclass(slots=True)
class _Wish:
    """What one host, or one bare address, was seen doing."""

    questions: dict[Question, None] = field(default_factory=dict)
    first_seen: str = ""
    flows: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    handshake_failed: bool = False
    inside: bool = False


def suggest(
    records: Iterable[Record],
    host_addresses: frozenset[Address] = frozenset(),
    extra_private: tuple[Network, ...] = (),
) -> str:
    """The text of a YAML policy file, with comments. `host_addresses` and `extra_private` as the engine takes them."""
    wishes = _wishes(list(records), host_addresses, extra_private)
    entries, unsaid = _entries(wishes)
    policy = Policy(tuple(entries))
    engine = Engine(Mode.STRICT, policy, host_addresses, extra_private)
    for question in (q for wish in wishes.values() for q in wish.questions):
        verdict = engine.decide(question)
        if not verdict.allowed:
            entries += _permits(verdict.would_permit)
    return _render(tuple(dict.fromkeys(entries)), wishes, unsaid)
