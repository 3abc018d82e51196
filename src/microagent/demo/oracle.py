"""The leak oracle: did anything leave the host that should not have?

It looks at packets on the uplink and at bytes at the servers, never at exit codes or log lines, and it proves
on every use that it can see: it sends one connection, one datagram and one DNS question that are leaks, and
they must turn up. They are sent last, so that when they have arrived everything sent before them has.
"""

import secrets
import socket
import time
from collections.abc import Collection
from typing import NamedTuple

import dns.message

from microagent.demo import world
from microagent.demo.capture import Flow
from microagent.demo.internet import Evidence, Internet

_CONTROL_PORT = 7  # no test speaks echo with the canary
_ARRIVAL = 10.0  # seconds for the control to arrive; it is there in milliseconds unless something is broken
_OURS = frozenset({world.HOST, world.HOST_V6})
_UNREACHABLE = {"icmp": 3, "icmp6": 1}  # what the kernel says of itself when an answer comes too late


class Destination(NamedTuple):
    """Where packets may go."""

    proto: str
    address: str
    port: int


class Oracle:
    """Judges one made-up internet from its beginning; may be asked more than once."""

    def __init__(self, internet: Internet, patience: float = _ARRIVAL) -> None:
        """`patience`: seconds that its own leak may take to show."""
        self._internet, self._patience = internet, patience
        self._control_flows: set[Flow] = set()
        self._control_names: set[str] = set()

    def leaks(self, allowed: Collection[Destination], names: Collection[str] = ()) -> tuple[str, ...]:
        """One line for each thing that left and may not, or that shows this oracle to be blind; () is clean.

        `names` may be asked of the DNS server; `.x` stands for x and all names below.
        """
        blind, evidence = self._control()
        if evidence.lost:
            blind.append(f"the oracle is blind: {evidence.lost} packets were not captured")
        return (*blind, *self._packets(evidence, allowed, names), *self._bytes(evidence, names))

    def _packets(self, evidence: Evidence, allowed: Collection[Destination], names: Collection[str]) -> list[str]:
        may = set(allowed)
        if names:
            may |= {Destination("udp", world.RESOLVER, 53), Destination("tcp", world.RESOLVER, 53)}
        addresses = {destination.address for destination in may}
        found = []
        for flow, packets in evidence.flows.items():
            if flow in self._control_flows:
                continue
            if flow.src not in _OURS:
                found.append(f"a packet that the host did not make: {flow} ({packets} packets)")
                continue
            permitted = Destination(flow.proto, flow.dst, flow.port) in may
            too_late = _UNREACHABLE.get(flow.proto) == flow.port and flow.dst in addresses
            if not permitted and not too_late:
                found.append(f"on the uplink: {flow} ({packets} packets)")
        return found

    def _bytes(self, evidence: Evidence, names: Collection[str]) -> list[str]:
        found = [
            f"at the canary: {seen.proto} {seen.dst}:{seen.port} {seen.data[:64]!r}"
            for seen in evidence.canary
            if Flow(seen.proto, seen.src, seen.dst, seen.sport, seen.port) not in self._control_flows
        ]
        found += [
            f"asked of the DNS: {query.name} {query.kind}"
            for query in evidence.queries
            if query.name not in self._control_names and not _named(query.name, names)
        ]
        return found

    def _control(self) -> tuple[list[str], Evidence]:
        token = secrets.token_bytes(16)
        name = f"{token.hex()}.control.test"
        flows = self._internet.host.run(lambda: _send_leaks(token, name))
        self._control_flows |= flows
        self._control_names.add(name)
        deadline = time.monotonic() + self._patience
        while True:
            evidence = self._internet.evidence()
            missing = _missing(evidence, flows, token, name)
            if not missing or time.monotonic() > deadline:
                return missing, evidence
            time.sleep(0.02)


def _send_leaks(token: bytes, name: str) -> set[Flow]:
    """Send what must be seen, from the host; returns the flows it makes."""
    flows = set()
    with socket.create_connection((world.EVIL, _CONTROL_PORT), timeout=_ARRIVAL) as stream:
        stream.sendall(token)
        flows.add(Flow("tcp", world.HOST, world.EVIL, stream.getsockname()[1], _CONTROL_PORT))
    question = dns.message.make_query(name, "A").to_wire()
    for address, port, payload in ((world.EVIL, _CONTROL_PORT, token), (world.RESOLVER, 53, question)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(_ARRIVAL)
            datagrams.connect((address, port))
            datagrams.send(payload)
            flows.add(Flow("udp", world.HOST, address, datagrams.getsockname()[1], port))
            if port == 53:
                datagrams.recv(4096)  # so that no late answer makes the kernel send an ICMP error
    return flows


def _missing(evidence: Evidence, flows: set[Flow], token: bytes, name: str) -> list[str]:
    unseen = [f"the uplink's {flow}" for flow in sorted(flows - evidence.flows.keys(), key=str)]
    heard = {seen.proto for seen in evidence.canary if token in seen.data}
    unseen += [f"the canary's {proto}" for proto in ("tcp", "udp") if proto not in heard]
    if all(query.name != name for query in evidence.queries):
        unseen.append("the DNS server's question")
    return [f"the oracle is blind: its own leak did not show as {what}" for what in unseen]


def _named(name: str, names: Collection[str]) -> bool:
    return any(
        name == entry or (entry.startswith(".") and (name == entry[1:] or name.endswith(entry))) for entry in names
    )
