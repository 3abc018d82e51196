"""A mediator's life: from the fork to the last record.

In order: take over the descriptors, build everything that needs root or files, give both up (`confine`), resume the
log, listen for the agent, let go of its standard error, and turn until an agent says stop. When the agent goes away the
mediator goes on by what it was told last: it decides, records, and denies what it cannot record. The next agent takes
it over.
"""

import os
import socket
import ssl
import sys
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network

from microagent.api.control import MediatorSettings, Message
from microagent.audit.record import Event, Record
from microagent.decision.budget import NewNames
from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.leases import Leases
from microagent.decision.past import endpoint
from microagent.flows.records import policy_change
from microagent.mediator.agent_line import AgentLine
from microagent.mediator.bounds import Rate
from microagent.mediator.confine import confine, descriptors_for
from microagent.mediator.dns_server import DnsTcp, DnsUdp
from microagent.mediator.journal import Journal
from microagent.mediator.kernel_log import KernelLog
from microagent.mediator.listener import Listener
from microagent.mediator.rate import PerSecond
from microagent.mediator.reactor import Reactor, Timer
from microagent.mediator.resolve import Resolver
from microagent.mediator.services import Faults, Ids, Services
from microagent.mediator.tls import LeafContexts
from microagent.mediator.udp_relay import UdpRelay
from microagent.mediator.upstream import UpstreamTls
from microagent.pki.ca import Issuer
from microagent.policy.model import Mode, Policy
from microagent.policy.stored import entries_from_json

_FAULTS_PER_SECOND = 10
# An agent ends a grant within a second or two, and is to be the one that does: it changes the kernel's sets as well.
_AGENT_SECONDS = 3.0
_END_OF_GRANT = "the end of a grant"


def run(settings: MediatorSettings, descriptors: list[int], upstream_tls: ssl.SSLContext) -> None:
    """Be the mediator of one workspace; returns when it is over.

    `descriptors`: the listening socket for the agent, the log, then the sockets of `host.sockets.MediatorSockets`.
    """
    control_fd, log_fd, *sockets = descriptors
    control = socket.socket(fileno=control_fd)
    issuer = Issuer(settings.ca_cert.encode(), settings.ca_key.encode())
    confine(settings.uid, descriptors_for(settings.limits))
    faults, ids = Faults(), Ids()
    reactor = Reactor(faults)
    services = Services(
        reactor=reactor,
        engine=_engine(settings),
        leases=Leases(),
        new_names=NewNames(settings.limits.dns_new_names_per_minute),
        resolver=Resolver(reactor, settings.resolvers, faults, settings.limits.dns_seconds),
        journal=Journal(log_fd, settings.workspace, ids.new, settings.log_before.encode()),
        leaves=LeafContexts(issuer, settings.limits.leaf_cache, settings.limits.leaf_mints_per_second),
        upstream_tls=UpstreamTls(upstream_tls, settings.upstream_ca),
        limits=settings.limits,
        fault=faults,
        new_id=ids.new,
        search=settings.search,
        mediated=Mode(settings.mode) is not Mode.OFF,
    )
    mediator = Mediator(services, control, settings)
    mediator.start(*(socket.socket(fileno=fd) for fd in sockets))
    faults.say = mediator.tell_fault
    _let_go_of_streams()
    reactor.run()
    mediator.finish()


class Mediator:
    """The line to the agent, and the switchboard behind it."""

    def __init__(self, services: Services, control: socket.socket, settings: MediatorSettings) -> None:
        self._services = services
        self._agent = AgentLine(services.reactor, control, self._obey, services.fault, self._unwanted)
        self._settings = settings
        self._asked_for_counters = self._moved_since = False
        self._faults = Rate(_FAULTS_PER_SECOND)
        self._why = "stopped"
        self._listener: Listener | None = None
        self._udp: UdpRelay | None = None
        self._kernel_log: KernelLog | None = None
        self._grants: list[Timer] = []
        self._questions = PerSecond(services, "dns_queries_per_second", services.limits.dns_queries_per_second)

    def start(
        self,
        tcp: socket.socket,
        dns_tcp: socket.socket,
        dns_udp: socket.socket,
        udp: socket.socket,
        raw: socket.socket,
        kernel_log: socket.socket,
    ) -> None:
        """Record that it begins, listen, and tell the agent."""
        services = self._services
        if services.journal.resumed:
            services.write(Record(Event.GAP, {"why": "the mediator before this one ended without a word"}))
        self._note(Event.MEDIATOR_UP, self._settings, pid=os.getpid())
        named = {"tcp": tcp, "dns/tcp": dns_tcp, "dns/udp": dns_udp, "udp": udp}
        sockets = [f"{name} {':'.join(map(str, sock.getsockname()))}" for name, sock in named.items()]
        services.write(Record(Event.LISTEN, {"sockets": sockets}))
        self._listener = Listener(services, tcp)
        self._udp = UdpRelay(services, udp, raw)
        services.leases.told = self._udp.leased
        self._kernel_log = KernelLog(services, kernel_log, self._ask_for_counters)
        parts = (
            self._listener,
            DnsTcp(services, dns_tcp, self._questions),
            DnsUdp(services, dns_udp, self._questions),
            self._udp,
            self._kernel_log,
        )
        for part in parts:
            part.start()
        self._await_ends()
        self._agent.start()

    def finish(self) -> None:
        """End every flow, and say so."""
        assert self._listener is not None  # noqa: S101  (start came first)
        assert self._udp is not None  # noqa: S101  (start came first)
        self._listener.close(self._why)
        self._udp.close(self._why)
        self._questions.over.settle()
        self._services.denials.settle()
        self._services.write(Record(Event.MEDIATOR_DOWN, {"why": self._why, "minted": self._services.leaves.minted()}))

    def tell_fault(self, words: str) -> None:
        """To the agent, for its log; of a flood the first few, since a line that is full is a line that has ended."""
        if self._faults.take(self._services.reactor.now):
            self._agent.send({"fault": words})

    # --- the agent's messages

    def _obey(self, message: Message) -> None:
        match message:
            case {"settings": settings}:
                self._reconfigure(settings)
            case {"counts": counts, "totals": totals}:
                self._agent.greeting["totals"] = totals
                self._settle(counts)
            case {"log": _}:
                self._services.journal.switch(self._agent.take_descriptor())
                self._agent.send({"switched": True})
            case {"record": record}:
                self._record(record)
            case {"ping": _}:
                self._agent.send({"pong": True})
            case {"stop": why}:
                self._stop(str(why))

    def _reconfigure(self, message: Message) -> None:
        self._decide_by(MediatorSettings.from_message(message))
        self._await_ends()
        self._agent.send({"reconfigured": self._services.engine.policy.digest})

    def _await_ends(self) -> None:
        """The agent takes entries out that end; one that is gone does not."""
        for timer in self._grants:
            timer.cancel()
        later, (entries, ends) = self._services.reactor.later, (self._settings.entries, self._settings.ends)
        granted = entries[len(entries) - len(ends) :]
        self._grants = [
            later(seconds + _AGENT_SECONDS, partial(self._end_grant, entry))
            for entry, seconds in zip(granted, ends, strict=True)
        ]

    def _end_grant(self, entry: dict[str, str]) -> None:
        left = tuple(one for one in self._settings.entries if one != entry)
        self._decide_by(replace(self._settings, entries=left, changed_by=_END_OF_GRANT))

    def _decide_by(self, settings: MediatorSettings) -> None:
        """A new policy, for what is asked from now on and for the flows that are open."""
        before, self._settings = self._services.engine.policy, settings
        self._services.engine = engine = _engine(settings)
        # Nobody to ask: the host is offline, and those of before may count again when it is not.
        self._services.resolver.servers = settings.resolvers or self._services.resolver.servers
        self._services.search = settings.search
        if engine.policy.digest != before.digest:
            # Where nobody changed it, its time was over before the agent's next look.
            self._services.write(policy_change(settings.changed_by or _END_OF_GRANT, before, engine.policy))
        self._services.leases.forget(lambda name: not engine.decide(Question(Proto.DNS, 53, name=name)).allowed)
        assert self._listener is not None  # noqa: S101  (start came first)
        assert self._udp is not None  # noqa: S101  (start came first)
        self._listener.apply_policy()
        self._udp.apply_policy()

    def _settle(self, counts: dict[str, list[int]]) -> None:
        """Exact counts, from the kernel's counters by way of the agent."""
        moved, self._asked_for_counters, self._moved_since = self._moved_since, False, False
        assert self._kernel_log is not None  # noqa: S101  (start came first)
        self._kernel_log.settle({name: (packets, size) for name, (packets, size) in counts.items()})
        if moved:
            self._ask_for_counters()

    def _record(self, message: Message) -> None:
        self._services.write(Record(Event(message["event"]), message["fields"]))

    def _unwanted(self) -> None:
        self._stop("no agent came for it")

    def _stop(self, why: str) -> None:
        self._why = why
        self._services.reactor.stop()

    # --- to the agent

    def _ask_for_counters(self) -> None:
        """Not more than one question at a time; the agent waits a second before it answers.

        What moves before the answer is here may have moved after the agent looked, so it asks once more.
        """
        if self._asked_for_counters:
            self._moved_since = True
        elif self._agent.connected:
            self._asked_for_counters = True
            self._agent.send({"counts": True})

    def _note(self, event: Event, settings: MediatorSettings, **more: object) -> None:
        policy = self._services.engine.policy.digest
        self._services.write(Record(event, {"mode": settings.mode, "policy": policy, **more}))


def _engine(settings: MediatorSettings) -> Engine:
    policy = Policy(entries_from_json(list(settings.entries)))
    addresses = frozenset(ip_address(text) for text in settings.host_addresses)
    private = tuple(ip_network(text) for text in settings.private)
    own = frozenset(endpoint(text) for text in settings.own_endpoints)
    return Engine(Mode(settings.mode), policy, addresses, private, own)


def _let_go_of_streams() -> None:
    """Hostile bytes come in from now on: what the agent logs to, a terminal perhaps, is not for this process."""
    for stream in (1, 2):
        os.dup2(0, stream)


def report(error: BaseException) -> None:
    """Why a mediator could not begin, for the agent's log."""
    sys.stderr.write(f"mediator: {type(error).__name__}: {error}\n")
