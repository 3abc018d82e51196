"""`policy suggest`: the smallest policy file that would have allowed, in strict mode, what was allowed.

How this works. Allowed flows become wishes: for a name, or for an address where there was none. Wishes below one
registered domain become one suffix when there are enough of them, unless one leads inside (a suffix opens no private
address) or is not to be intercepted. Then the engine, in strict mode, is put every flow again, and what it still
denies is answered with the entry that it says would permit it. What no entry can say is left as a comment.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.past import Record, endpoint, past_decisions
from microagent.decision.verdict import Action
from microagent.errors import PolicyError
from microagent.policy.addresses import Address, AddressClass, Network, classify
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_entry
from microagent.policy.suffixes import registered_domain, shared_suffix

# Two hosts are as short as their suffix, and say more.
FOLD: Final = 3
# What YAML takes for a string, whoever reads it. `1.e-5`, `1_0._` and `-.inf` are names that a guest can ask for.
_PLAIN: Final = re.compile(r"\.?[a-z][a-z0-9_.-]*|[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,2})?", re.ASCII)
_TIME: Final = re.compile(r"[0-9T:.Z-]{1,32}", re.ASCII)


@dataclass(slots=True)
class _Wish:
    """What one host, or one bare address, was seen doing."""

    questions: dict[Question, None] = field(default_factory=dict)
    first_seen: str = ""
    flows: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    refused_ours: int = 0
    took_ours: bool = False
    passed_through: bool = False
    inside: bool = False


@dataclass(slots=True)
class _Line:
    """An entry to be written, and the hosts it stands for."""

    verb: Verb
    text: str
    hosts: list[str]


def suggest(
    records: Iterable[Record],
    host_addresses: frozenset[Address] = frozenset(),
    extra_private: tuple[Network, ...] = (),
) -> str:
    """The text of a YAML policy file, with comments. The other two arguments are the engine's."""
    records = list(records)
    wishes, looked_up = _wishes(records)
    for wish in wishes.values():
        places = (classify(q.address, host_addresses, extra_private) for q in wish.questions if q.address)
        wish.inside = any(place.kind is not AddressClass.PUBLIC for place in places)
    lines = list(_lines(wishes))
    unsaid = _complete(lines, wishes, host_addresses, extra_private)
    return _render(lines, wishes, unsaid, sorted(looked_up - wishes.keys()))


def _wishes(records: Sequence[Record]) -> tuple[dict[str, _Wish], set[str]]:
    """By host or address, what flowed; and the names that were resolved."""
    wishes: dict[str, _Wish] = {}
    looked_up: set[str] = set()
    for decided in past_decisions(records):
        question = decided.question
        if decided.action is not Action.ALLOW:
            continue
        if question.proto is Proto.DNS:
            looked_up.add(question.name or "")
            continue
        wish = wishes.setdefault(question.name or next(iter(question.leased), str(question.address)), _Wish())
        wish.questions[question] = None
        wish.first_seen = wish.first_seen or decided.when
        wish.flows += 1
    trials = _trials(records)
    for record in records:
        subject = _subject(record)
        if (known := wishes.get(subject)) is not None and not _is_trial(subject, record, trials):
            _tally(known, record)
    return wishes, looked_up


def _trials(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Host, begin and end of each `doctor NAME`: it begins handshakes with the host, and leaves."""
    of = [record for record in records if record.get("event") == "enforcement_verified"]
    return [(str(one.get("host", "")), str(one.get("first", "")), str(one.get("ts", ""))) for one in of]


def _is_trial(host: str, record: Record, trials: Sequence[tuple[str, str, str]]) -> bool:
    """Whether the record is of a handshake that a trial left, and so says nothing of what the workload trusts."""
    if record.get("event") != "egress_mitm_handshake_error":
        return False
    when = str(record.get("ts", ""))
    return any(host == tried and first <= when <= last for tried, first, last in trials)


def _subject(record: Record) -> str:
    """Whose record it is: the host, or the address where there was no host."""
    if host := record.get("host"):
        return str(host)
    try:
        return str(endpoint(record.get("dst"))[0])
    except ValueError:
        return ""


def _tally(wish: _Wish, record: Record) -> None:
    match record.get("event"):
        case "egress_allow" if record.get("proto") == "tls":
            # As it was the last time: somebody may have changed the entry meanwhile.
            wish.passed_through = record.get("tls") == "passthrough"
        case "egress_close" | "egress_udp_close":
            wish.bytes_out += _number(record.get("bytes_out"))
            wish.bytes_in += _number(record.get("bytes_in"))
            # Where one client takes our certificate, another may have left for a reason of its own, as `doctor` does.
            wish.took_ours |= record.get("tls") == "intercept" and _number(record.get("bytes_out")) > 0
        case "egress_mitm_handshake_error":
            wish.refused_ours += 1


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _lines(wishes: dict[str, _Wish]) -> Iterator[_Line]:
    """The entries, before the engine has had its say."""
    families: dict[str, list[str]] = {}
    for host, wish in wishes.items():
        if wish.passed_through or (wish.refused_ours and not wish.took_ours):
            yield _Line(Verb.PASSTHROUGH, host, [host])
        elif wish.inside or not (domain := registered_domain(host)):
            yield _Line(Verb.ALLOW, host, [host])
        else:
            families.setdefault(domain, []).append(host)
    for hosts in families.values():
        if len(hosts) >= FOLD:
            yield _Line(Verb.ALLOW, "." + _common_tail(hosts), hosts)
        else:
            yield from (_Line(Verb.ALLOW, host, [host]) for host in hosts)


def _common_tail(hosts: list[str]) -> str:
    """The longest run of labels that all `hosts` end in."""
    tail: list[str] = []
    for labels in zip(*(reversed(host.split(".")) for host in hosts), strict=False):
        if len(set(labels)) > 1:
            break
        tail.insert(0, labels[0])
    return ".".join(tail)


def _complete(
    lines: list[_Line],
    wishes: dict[str, _Wish],
    host_addresses: frozenset[Address],
    extra_private: tuple[Network, ...],
) -> list[str]:
    """Add the lines that the engine still asks for; return the hosts that it denies something all the same."""
    lines[:] = [line for line in lines if _is_entry(line)]

    def engine() -> Engine:
        entries = tuple(parse_entry(line.verb, line.text, "") for line in lines)
        return Engine(Mode.STRICT, Policy(entries), host_addresses, extra_private)

    asking = engine()
    for host, wish in wishes.items():
        for question in wish.questions:
            permits = filter(None, asking.decide(question).would_permit.split(", "))
            wanted = [_Line(Verb.ALLOW, permit.removeprefix("allow: "), [host]) for permit in permits]
            # A guest can ask for what no entry may be, such as a public suffix; then none of the others would help.
            if all(map(_is_entry, wanted)):
                lines.extend(line for line in wanted if line not in lines)
    decide = engine().decide
    return [host for host, wish in wishes.items() if not all(decide(asked).allowed for asked in wish.questions)]


def _is_entry(line: _Line) -> bool:
    try:
        parse_entry(line.verb, line.text, "")
    except PolicyError:
        return False
    return True


def _render(lines: list[_Line], wishes: dict[str, _Wish], unsaid: list[str], only_looked_up: list[str]) -> str:
    text = ["# Strict mode with this file allows what was allowed. Read it before you use it."]
    text += [f"# No entry can stand for {host!r}." for host in unsaid]
    text += [f"# Looked up, never connected to: {name}" for name in only_looked_up]
    for verb in Verb:
        mine = sorted((line for line in lines if line.verb is verb), key=lambda line: line.text.lstrip("."))
        if mine:
            text.append(f"{verb.value}:")
        for line in mine:
            text += [f"  # {note}" for note in _notes(line, wishes)]
            text.append(f"  - {line.text}" if _PLAIN.fullmatch(line.text) else f'  - "{line.text}"')
    return "\n".join(text if lines else [*text, "allow: []"]) + "\n"


def _notes(line: _Line, wishes: dict[str, _Wish]) -> Iterator[str]:
    seen = [wishes[host] for host in line.hosts]
    flows, out, into = (sum(getattr(wish, count) for wish in seen) for count in ("flows", "bytes_out", "bytes_in"))
    first = min((wish.first_seen for wish in seen if _TIME.fullmatch(wish.first_seen)), default="unknown")
    yield f"first seen {first}, flows: {flows}, bytes out: {out}, in: {into}"
    if len(line.hosts) > 1:
        yield f"{len(line.hosts)} hosts of one domain: {', '.join(sorted(line.hosts))}"
    elif line.hosts[0] != line.text:
        yield f"where {line.hosts[0]} leads"
    if shared := shared_suffix(line.text.removeprefix(".")):
        yield f"multi-tenant: strangers have names under {shared} too"
    refused = sum(wish.refused_ours for wish in seen)
    if line.verb is Verb.ALLOW and refused:
        yield f"{refused} of these the guest left before it sent anything: a client that pins would need passthrough"
    if line.verb is Verb.PASSTHROUGH:
        if refused:
            yield "the guest refused our certificate: it pins its own, or does not trust the workspace's CA"
        else:
            yield "as it was: an entry kept its TLS from being intercepted"
