"""What is tried in a running workspace, and what the facts mean. Pure.

How this works. The guest's word is only half of each check, for a guest may say what it likes: where the host can see
the same thing by itself (its counters, its log, a decision's id that only the mediator knows), it must have seen it.
That something is closed counts only where the guest was refused, not where it heard nothing, and beside it the same
probe must have been answered by its gateway and its mediator: a guest that can send nothing proves nothing.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from microagent.api.link import GATEWAY
from microagent.audit.render import inert
from microagent.doctor import probe
from microagent.doctor.finding import Finding
from microagent.doctor.probe import Said
from microagent.policy.model import Kind, Mode, Policy, Verb
from microagent.wire.dns import QType, Rcode, build_upstream_query

METADATA: Final = "169.254.169.254"
# A well-known resolver that is not ours; nothing is ever sent to it.
FOREIGN_RESOLVER: Final = "8.8.8.8"
# RFC 5737 and RFC 3849: documentation, so nobody's.
DIRECT: Final = "203.0.113.1"
# RFC 1918, and hardly ever somebody's.
PRIVATE: Final = "10.255.255.254"
_PORT: Final = 80
# What is asked for by TCP and must be closed, where the policy does not open it; and which of it is on record.
_ADDRESSES: Final = {"metadata": METADATA, "private address": PRIVATE, "direct address": DIRECT}
_DENIED: Final = {name: f"{_ADDRESSES[name]}:{_PORT}" for name in ("private address", "direct address")}
_QUIC_PORT: Final = 443
_TLS_PORT: Final = 443
# Where an allowed host is looked for, by how it shows that it is there: policies name no ports.
HOST_PORTS: Final = {_TLS_PORT: ("TLS", b"\x16"), 80: ("HTTP", b"HTTP/"), 22: ("SSH", b"SSH-")}
_ETHER_TYPE_IPV6: Final = 0x86DD
# An ICMPv6 echo request from fe80::2 to all nodes on the guest's wire (RFC 4291 section 2.7.1, RFC 4443 section 4.1),
# as a frame of its own: a guest without an IPv6 address would send nothing else.
_IPV6_ECHO: Final = bytes.fromhex(
    "333300000001"
    "02000a2b0002"
    "86dd"
    "60000000"
    "0008"
    "3a"
    "ff"
    "fe800000000000000000000000000002"
    "ff020000000000000000000000000001"
    "8000"
    "8235"
    "00000001"
)
_CLOCK_SECONDS: Final = 5
_ECHO_REPLY: Final = 0
# Where a DNS message has its response code (RFC 1035 section 4.1.1), and the id of ours.
_RCODE: Final = 3
_IDENT: Final = 0x6D61
_IP_HEADER: Final = 20
_LONGEST: Final = 200

_RESTART = "stop and start the workspace: a start writes it anew"
_HOLE = "stop the workspace, and report this: nothing in a guest can open it"


@dataclass(frozen=True, slots=True)
class Plan:
    """What this workspace is asked. `name` is one that nobody has and no policy lists, new in each run.

    `host` is an allowed host that is asked for, "" where no exact entry names one.
    """

    mode: Mode
    policy: Policy
    name: str
    host: str = field(init=False)

    def __post_init__(self) -> None:
        """Once, and not for each record that is looked at: a policy may have 100 000 entries."""
        names = [entry.text for entry in self.policy.entries if entry.kind is Kind.EXACT]
        # The first one that is intercepted, if there is such.
        object.__setattr__(self, "host", next(filter(self._intercepts, names), names[0] if names else ""))

    @property
    def trusting_host(self) -> str:
        """An allowed host that is intercepted, for what no refusal is there to try trust with."""
        return self.host if self._intercepts(self.host) else ""

    @property
    def questions(self) -> dict[str, str]:
        """Line for the probe, by what it is for. The controls come first."""
        # Names off the list are refused in strict mode; ANY is refused in all.
        kind = QType.A if self.mode is Mode.STRICT else QType.ANY
        refused = build_upstream_query(_IDENT, self.name, kind)
        found = {
            "gateway": probe.ping(str(GATEWAY.ip)),
            "resolver": probe.udp(str(GATEWAY.ip), 53, refused),
            "clock": probe.clock(),
            "foreign resolver": probe.udp(FOREIGN_RESOLVER, 53, refused),
            "quic": probe.udp(DIRECT, _QUIC_PORT, b"\0"),
            "ipv6": probe.frame("eth0", _ETHER_TYPE_IPV6, _IPV6_ECHO),
        }
        for name, address in _ADDRESSES.items():
            if not self._opened(address) and (address != DIRECT or self.mode is Mode.STRICT):
                found[name] = probe.tcp(address, _PORT)
        return found

    def untrusting(self, reached: Mapping[int, Said] | None) -> str:
        """Why trust cannot be tried with an allowed host, of which `reached` is as in Facts; "" where it can be."""
        if not self.trusting_host:
            return "no exact allow entry names a host to try it with"
        said = (reached or {}).get(_TLS_PORT)
        return "" if said and speaks(_TLS_PORT, said) else f"{self.host} answers no TLS at port {_TLS_PORT}"

    def untried(self, reached: Mapping[int, Said] | None) -> list[str]:
        """What cannot be tried here, and why; `reached` is as in Facts."""
        found = []
        if not self.host:
            found.append("allowed host: no exact entry names one")
        for name, address in _ADDRESSES.items():
            if self._opened(address):
                found.append(f"{name}: the policy opens {address}")
            elif address == DIRECT and self.mode is not Mode.STRICT:
                found.append(f"{name}: guarded mode allows public ones")
        if why := self.untrusting(reached):
            # In strict mode the others are tried with a name that is refused.
            found.append(f"trust of {'git' if self.mode is Mode.STRICT else 'each runtime'}: {why}")
        return found

    def concerns(self, record: Mapping[str, Any]) -> bool:
        """Whether a record may be about something that is tried here."""
        names = (self.name, self.host) if self.host else (self.name,)
        return record.get("qname") in names or record.get("host") in names or record.get("dst") in _DENIED.values()

    def _intercepts(self, name: str) -> bool:
        entry = self.policy.match_name(name)
        return entry is not None and entry.verb is Verb.ALLOW

    def _opened(self, address: str) -> bool:
        return self.policy.match_address(ip_address(address)) is not None


@dataclass(frozen=True, slots=True)
class Facts:
    """What came of it. `said` is the guest's word, by the names of `Plan.questions`; the rest is the host's.

    `moved` are the kernel's counters that rose meanwhile, `records` what the mediator wrote, `before` and `after` the
    host's clock around the guest's; `repaired`: what of the network was not as it should be; `alive`: the mediator is
    there. `bundles` is how many lines of the CA, of `ca_lines`, each variable's file holds (None: no such file);
    `nameservers` are those of the guest's resolv.conf; `runtimes` is "" for one that trusts, else its last words.
    `reached` is what an allowed host answered at each port that was tried, None where none was asked.
    """

    said: Mapping[str, Said]
    moved: Mapping[str, int]
    records: Sequence[Mapping[str, Any]]
    before: float
    after: float
    repaired: Sequence[str] = ()
    alive: bool = True
    ca_lines: int = 1
    bundles: Mapping[str, int | None] = field(default_factory=dict)
    nameservers: Sequence[str] = ()
    runtimes: Mapping[str, str] = field(default_factory=dict)
    reached: Mapping[int, Said] | None = None


def findings(plan: Plan, facts: Facts) -> list[Finding]:
    """One finding a check, what the guest needs first, what is closed to it last; texts of the guest's are inert."""
    found = [_mediator(facts), _rules(facts), _gateway(facts), _resolver(plan, facts), _clock(facts), _bundles(facts)]
    found += [_runtime(name, words) for name, words in facts.runtimes.items()]
    if facts.reached is not None:
        found.append(_host(plan, facts, facts.reached))
    found += [_foreign(plan, facts), _quic(facts), _ipv6(facts)]
    if "metadata" in facts.said:
        found.append(_metadata(facts))
    found += [_denied(name, where, facts) for name, where in _DENIED.items() if name in facts.said]
    return [dataclasses.replace(one, detail=inert(one.detail)[:_LONGEST]) for one in found]


def host_query(host: str) -> bytes:
    """The question for an allowed host's address."""
    return build_upstream_query(_IDENT, host, QType.A)


def speaks(port: int, said: Said) -> bool:
    """Whether that is how a server at one of HOST_PORTS begins."""
    return said.word == "answer" and said.data.startswith(HOST_PORTS[port][1])


def address_of(host: str, records: Iterable[Mapping[str, Any]]) -> str:
    """The first address that the mediator told the guest for it; "" where it told none."""
    for record in records:
        answers = record.get("answers")
        if (record.get("event"), record.get("qname")) == ("egress_dns_allow", host) and answers:
            return str(answers[0])
    return ""


def _decided(plan: Plan, facts: Facts, said: Said, server: str) -> tuple[bool, str]:
    """Whether the answer is the mediator's refusal: it carries the id of the record about it, which nobody can guess.

    More of it is not read: it is a guest's, and this is root.
    """
    refused = said.word == "answer" and said.data[_RCODE : _RCODE + 1] and said.data[_RCODE] & 15 == Rcode.REFUSED
    for record in facts.records if refused else ():
        decision = str(record.get("id", ""))
        ours = (record.get("event"), record.get("server"), record.get("qname")) == (
            "egress_dns_deny",
            server,
            plan.name,
        )
        if ours and decision.encode() in said.data:
            return True, f"answered by the mediator (decision {decision})"
    return False, f"{said}, which is no decision of the mediator's"


def _mediator(facts: Facts) -> Finding:
    fix = "" if facts.alive else "wait until it is replaced, and try again; the agent's log says why it ended"
    return Finding("mediator", facts.alive, "alive" if facts.alive else "it ended", fix)


def _rules(facts: Facts) -> Finding:
    if not facts.repaired:
        return Finding("rules", True, "as they were made")
    fix = "find out who else changes rules or interfaces in namespaces of this machine"
    return Finding("rules", False, f"changed from outside, and put back: {' and '.join(facts.repaired)}", fix)


def _gateway(facts: Facts) -> Finding:
    said = facts.said["gateway"]
    ok = said.word == "answer" and said.data[_IP_HEADER : _IP_HEADER + 1] == bytes((_ECHO_REPLY,))
    fix = "" if ok else "see that eth0 is up in the guest and has its address (10.43.0.2/30); " + _RESTART
    return Finding("gateway", ok, f"{GATEWAY.ip}: {'answers' if ok else said}", fix)


def _resolver(plan: Plan, facts: Facts) -> Finding:
    ok, detail = _decided(plan, facts, facts.said["resolver"], str(GATEWAY.ip))
    others = [server for server in facts.nameservers if server != str(GATEWAY.ip)]
    if not ok:
        return Finding(
            "resolver", False, f"{GATEWAY.ip}: {detail}", "see the agent's log for this workspace's mediator"
        )
    if others or not facts.nameservers:
        detail = f"resolv.conf names {', '.join(others) or 'nobody'}, not {GATEWAY.ip}"
        return Finding("resolver", False, detail, f"/etc/resolv.conf: {_RESTART}")
    return Finding("resolver", True, f"{GATEWAY.ip}: {detail}")


def _clock(facts: Facts) -> Finding:
    said = facts.said["clock"]
    ok = said.word == "clock" and facts.before - _CLOCK_SECONDS <= said.number <= facts.after + _CLOCK_SECONDS
    if ok:
        return Finding("clock", True, f"within {_CLOCK_SECONDS} s of the host's")
    off = f"{said.number - facts.after:+.0f} s from the host's" if said.word == "clock" else str(said)
    return Finding("clock", False, off, "set the guest's clock (date -s), or stop and start the workspace")


def _bundles(facts: Facts) -> Finding:
    wrong = [
        f"{name} names no file" if held is None else f"the file of {name} lacks it"
        for name, held in facts.bundles.items()
        if held is None or held < facts.ca_lines
    ]
    if wrong or not facts.bundles:
        fix = f"do not set these variables with -e; {_RESTART}"
        return Finding("ca", False, "; ".join(wrong) or "the guest names no bundle", fix)
    return Finding("ca", True, f"in the files that {len(facts.bundles)} variables name")


def _runtime(name: str, words: str) -> Finding:
    if not words:
        return Finding(f"ca of {name}", True, "takes the mediator's certificate")
    return Finding(f"ca of {name}", False, words, f"see what CA file {name} is configured with in this image")


def _host(plan: Plan, facts: Facts, reached: Mapping[int, Said]) -> Finding:
    name, fix = "allowed host", f"microagent egress NAME --host {plan.host} says how far it came"
    port = next((port for port, said in reached.items() if speaks(port, said)), None)
    if port is None:
        tried = "; ".join(f"port {port}, {HOST_PORTS[port][0]}: {said}" for port, said in reached.items())
        return Finding(name, False, f"{plan.host}: {tried or 'not resolved'}", fix)
    if not any((one.get("event"), one.get("host")) == ("egress_allow", plan.host) for one in facts.records):
        return Finding(name, False, f"{plan.host}: the guest says so, the mediator has no record of it", _HOLE)
    return Finding(name, True, f"{plan.host}, port {port}, answers {HOST_PORTS[port][0]}")


def _foreign(plan: Plan, facts: Facts) -> Finding:
    ok, detail = _decided(plan, facts, facts.said["foreign resolver"], FOREIGN_RESOLVER)
    return Finding("foreign resolver", ok, f"{FOREIGN_RESOLVER}: {detail}", "" if ok else _HOLE)


def _quic(facts: Facts) -> Finding:
    return _closed("quic", f"UDP {DIRECT}:{_QUIC_PORT}", facts, "refused", "refused_udp")


def _ipv6(facts: Facts) -> Finding:
    return _closed("ipv6", "an echo to all nodes (ff02::1)", facts, "silent", "drop_ipv6")


def _metadata(facts: Facts) -> Finding:
    return _closed("metadata", f"TCP {METADATA}:80", facts, "refused", "refused_inside_tcp")


def _closed(name: str, where: str, facts: Facts, wanted: str, counter: str) -> Finding:
    """Closed by the kernel: the guest was told so, or heard nothing, and the kernel counted it."""
    said, counted = facts.said[name], facts.moved.get(counter, 0) > 0
    if said.word == wanted and counted:
        return Finding(name, True, f"{where}: {'dropped' if wanted == 'silent' else wanted}, and counted by the kernel")
    if said.word == wanted:
        fix = "try again; a guest without its own network stack, or with rules of its own, sends nothing"
        return Finding(name, False, f"{where}: {said}, but the kernel saw nothing of it", fix)
    return Finding(name, False, f"{where}: {said}", _HOLE)


def _denied(name: str, where: str, facts: Facts) -> Finding:
    """Closed by a decision, be it the mediator's or one that the kernel has from it: it is on record."""
    said, events = facts.said[name], ("egress_deny", "egress_internal_deny")
    recorded = any(one.get("event") in events and one.get("dst") == where for one in facts.records)
    if said.word in ("reset", "refused") and recorded:
        return Finding(name, True, f"TCP {where}: {said}, and recorded")
    if said.word in ("reset", "refused"):
        fix = "try again; a guest with rules of its own sends nothing"
        return Finding(name, False, f"TCP {where}: {said}, but the mediator has no record of it", fix)
    return Finding(name, False, f"TCP {where}: {said}", _HOLE)
