"""The head of a TCP flow: find the name, decide, pin the address, say how to go on (contract 7).

How this works: the guest's first bytes stay in the kernel and are only peeked at, so whatever comes after the
decision (splice, TLS, HTTP) finds the stream from its first byte. The name comes from the TLS ClientHello, from
the Host of the first request, or, when the client waits for the server or speaks something else, from what DNS
told this guest about the address. The name is decided first; then an address for it; exactly that is dialled.

The guest's own destination is dialled only when it is an address of the decided name. A guest that connects to
198.51.100.9 and says "api.example.org" in its ClientHello gets api.example.org, wherever it is.
"""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from microagent.audit.record import Event as Happening
from microagent.audit.record import Record
from microagent.decision.budget import NewNames
from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.leases import Leases
from microagent.decision.verdict import Reason, Signal, Tls, Verdict, refusal
from microagent.errors import Malformed
from microagent.flows import records
from microagent.flows.pinning import Candidate, Pinned, pin
from microagent.flows.second_hello import Refused, SecondHello
from microagent.flows.vocabulary import (
    Answer,
    AwaitFirstWord,
    Cut,
    Dial,
    Dialed,
    DialFailed,
    Effect,
    Event,
    HangUp,
    Inspect,
    Intercept,
    Looped,
    Peek,
    Peeked,
    Reset,
    Resolve,
    Resolved,
    ServerSpoke,
    Splice,
    Waited,
    Write,
)
from microagent.policy.addresses import AddressClass, classify
from microagent.policy.model import Mode
from microagent.wire.client_hello import parse_client_hello_untrusted
from microagent.wire.http1 import DEFAULT_LIMITS, HeadLimits, find_head_end, parse_request_head_untrusted
from microagent.wire.http1_reply import deny_response
from microagent.wire.http2 import greets_in_http2_untrusted
from microagent.wire.sniff import Sniffed, sniff_untrusted

# Other protocols (SPDY, HTTP/0.9, what is yet to come) are not offered to a server: requests in them cannot be decided.
_READABLE = (b"h2", b"http/1.1")


@dataclass(frozen=True, slots=True)
class Sniffing:
    """How long and how far to look for a name (contract 12).

    `seconds` and `size` (bytes) are for the whole of the first message, however it trickles in. A client of a protocol
    in which the server speaks first stays silent for `server_first` seconds; others send within a round trip, and the
    guest is on this machine.
    """

    seconds: float = 10.0
    size: int = 65536
    server_first: float = 0.3
    head: HeadLimits = DEFAULT_LIMITS


DEFAULT_SNIFFING = Sniffing()


class TcpHead:
    """One flow, from its first byte to the decision how to relay it."""

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        new_names: NewNames,
        destination: IPv4Address,
        port: int,
        *,
        ident: str,
        now: float,
        sniffing: Sniffing = DEFAULT_SNIFFING,
    ) -> None:
        self._engine = engine
        self._leases = leases
        self._new_names = new_names
        self._destination = destination
        self._port = port
        self._sniffing = sniffing
        self._deadline = now + sniffing.seconds
        self._silent = True
        self._awaiting = False
        self._second_hello: SecondHello | None = None
        self._proto = Proto.TCP
        self._signals: tuple[str, ...] = ()
        self._pinned = Pinned()
        # What the guest offered of the protocols that can be read.
        self.alpn: tuple[str, ...] = ()
        self.ident = ident
        # What the guest connected to, as records show it.
        self.destination = f"{destination}:{port}"
        self.verdict: Verdict | None = None

    @property
    def proto(self) -> str:
        """What the flow turned out to be: tls, http or tcp."""
        return str(self._proto)

    @property
    def whose(self) -> tuple[str, str, str]:
        """Host, destination and id, as most records have them."""
        return self.verdict.host if self.verdict else "", self.destination, self.ident

    def closed(self, why: str, bytes_out: int, bytes_in: int, seconds: float, *, opaque: bool) -> Record:
        """The record of its end, `seconds` after its beginning; `opaque`: nobody has read what it carried."""
        ending = records.close(
            self.verdict, dst=self.destination, proto=self.proto, flow=self.ident, why=why, opaque=opaque
        )
        ending.fields.update(bytes_out=bytes_out, bytes_in=bytes_in, duration_ms=round(seconds * 1000, 1))
        return ending

    def apply(self, engine: Engine) -> None:
        """From now on `engine` decides: the policy has changed."""
        self._engine = engine
        self._pinned.apply(engine)

    def decide_again(self) -> Verdict | None:
        """What the policy of now says about the address that was dialled; None before there was one."""
        return self._pinned.decide_again(self._engine)

    def open(self) -> list[Effect]:
        """The guest has connected."""
        return [Peek(seen=0, seconds=self._sniffing.server_first)]

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do now; `now` is monotonic, in seconds."""
        match event:
            case Peeked(data, ended):
                return self._peeked_untrusted(data, ended, now)
            case ServerSpoke(data) if self._second_hello is not None:
                return self._second_hello.server_spoke_untrusted(data, now)
            case ServerSpoke(data):
                self._awaiting = False
                if greets_in_http2_untrusted(data):
                    # gRPC's servers do not wait for the preface. HTTP/2 without TLS is refused, whoever begins it.
                    return [HangUp(), *self._unreadable(Reason.UPGRADE_REFUSED)]
                return [Splice()]
            case Waited():
                if self._second_hello is not None:
                    return self._second_hello_refused(Refused(Reason.NAME_LATE))
                if self._silent:
                    return self._nameless(Proto.TCP, now)
                return self._unreadable(Reason.NAME_LATE)
            case Resolved(addresses):
                return self._resolved(addresses)
            case Dialed():
                return self._dialed()
            case DialFailed(error, late):
                return self._dial_failed(error, late)
            case Looped():
                assert self.verdict is not None  # noqa: S101  (a dial follows a verdict)
                return [HangUp(), *self._refuse(refusal(Reason.LOOP, self.verdict.host, self.verdict.address))]

    # --- the name

    def _peeked_untrusted(self, data: bytes, ended: bool, now: float) -> list[Effect]:
        if self._awaiting:
            return self._late_word_untrusted(data, ended, now)
        if self._second_hello is not None:
            found = self._second_hello.guest_spoke_untrusted(data, ended, now)
            return self._second_hello_refused(found) if isinstance(found, Refused) else found
        self._silent = not data
        return self._sniffed_untrusted(data, ended, now)

    def _sniffed_untrusted(self, data: bytes, ended: bool, now: float) -> list[Effect]:
        kind = sniff_untrusted(data)
        try:
            match kind:
                case Sniffed.TLS:
                    self._proto = Proto.TLS
                    hello = parse_client_hello_untrusted(data)
                    if hello is not None:
                        self._second_hello = SecondHello(hello, self._sniffing.seconds, self._sniffing.size)
                        self._signals += (Signal.ECH_OFFERED,) if hello.ech else ()
                        self.alpn = tuple(p.decode("ascii") for p in hello.alpn if p in _READABLE)
                        return self._named(hello.sni, now) if hello.sni else self._nameless(Proto.TLS, now)
                case Sniffed.HTTP:
                    self._proto = Proto.HTTP
                    end = find_head_end(data)
                    if end > 0:
                        return self._hosted(parse_request_head_untrusted(data[:end], self._sniffing.head).host, now)
                case Sniffed.OPAQUE:
                    return self._nameless(Proto.TCP, now)
                case Sniffed.MORE:
                    pass
        except Malformed as fault:
            return self._unreadable(self._malformed, fault.what)
        if ended and kind in (Sniffed.TLS, Sniffed.HTTP):
            # Half a message must not be relayed unread under a lease's name: some server takes the end for its end.
            return self._unreadable(self._malformed, "the stream ends within its first message")
        if ended:
            # A connection closed before it said anything is decided like one that never would.
            return self._nameless(Proto.TCP, now)
        if len(data) >= self._sniffing.size:
            return self._unreadable(self._malformed, f"no name within {self._sniffing.size} bytes")
        return [Peek(seen=len(data), seconds=max(0.0, self._deadline - now))]

    def _late_word_untrusted(self, data: bytes, ended: bool, now: float) -> list[Effect]:
        """The guest was silent, was taken for a client of a server that speaks first, and speaks first after all.

        What it says is then decided as if it had said it at once: a lease names the address, but many names may share
        it, and a pause must not be a way to the others. The connection that waits is for nobody's name but the lease's.
        """
        self._awaiting = False
        if not data or sniff_untrusted(data) is Sniffed.OPAQUE:
            return [Splice()]
        self._silent = False
        self._deadline = now + self._sniffing.seconds
        return [HangUp(), *self._sniffed_untrusted(data, ended, now)]

    def _named(self, name: str, now: float) -> list[Effect]:
        """The client named its host: decide on the name before anything is looked up."""
        verdict = self._engine.decide(Question(self._proto, self._port, name=name))
        if not verdict.allowed:
            return self._refuse(verdict)
        self.verdict = verdict
        if self._leases.holds(name, self._destination, now):
            # An inside address is looked at together with the rest of its answer, lease or not.
            return self._pin((self._destination,)) if self._is_public() else [Resolve(name)]
        # The guest has not asked for it, so looking it up is egress that has no record yet, and may be a tunnel.
        if not self._new_names.may_ask(verdict.rule, name, now):
            return self._refuse(refusal(Reason.NEW_NAMES_EXCEEDED, name))
        return [Write(records.lookup(verdict, flow=self.ident)), Resolve(name)]

    def _hosted(self, host: str, now: float) -> list[Effect]:
        """Host may be an address: then it must be the one the guest connected to, and is decided as such."""
        if host == str(self._destination):
            return self._nameless(Proto.HTTP, now)
        if ":" in host or host.rpartition(".")[2].isdigit():
            return self._refuse(refusal(Reason.HOST_MISMATCH, host, str(self._destination)))
        return self._named(host, now)

    def _nameless(self, proto: Proto, now: float) -> list[Effect]:
        """No name in the stream: what DNS told the guest about this address, or the address itself."""
        self._proto = proto
        leased = self._leases.names_for(self._destination, now)
        question = Question(proto, self._port, address=self._destination, leased=leased)
        verdict = self._engine.decide(question)
        if not verdict.allowed:
            return self._refuse(verdict)
        # Without a name there is nothing to mint for: what is allowed is relayed as it is.
        tls = verdict.tls if verdict.tls is Tls.PASSTHROUGH else Tls.NONE
        host = verdict.host or (str(self._destination) if proto is Proto.HTTP else "")
        return self._dial_first_of([(question, replace(verdict, tls=tls, host=host))])

    # --- the address

    def _resolved(self, addresses: tuple[IPv4Address, ...]) -> list[Effect]:
        if self._destination in addresses:
            return self._pin(addresses, only=self._destination)
        self._signals += (Signal.NAME_DESTINATION_MISMATCH,)
        if not addresses:
            return self._unresolved()
        return self._pin(addresses)

    def _unresolved(self) -> list[Effect]:
        """Guarded goes to the guest's own public address then; strict does not."""
        question = Question(self._proto, self._port, name=self._name, address=self._destination, resolves=False)
        verdict = self._engine.decide(question)
        public = verdict.address_class == AddressClass.PUBLIC
        if self._engine.mode is Mode.STRICT or not public or not verdict.allowed:
            return self._refuse(refusal(Reason.NAME_UNRESOLVED, self._name, str(self._destination)))
        return self._dial_first_of([(question, verdict)])

    def _pin(self, addresses: tuple[IPv4Address, ...], only: IPv4Address | None = None) -> list[Effect]:
        found = pin(self._engine, self._proto, self._port, self._name, addresses, only)
        return self._refuse(found) if isinstance(found, Verdict) else self._dial_first_of(found)

    def _dial_first_of(self, candidates: list[Candidate]) -> list[Effect]:
        return self._dial(self._pinned.first_of(candidates))

    def _dial(self, candidate: Candidate) -> list[Effect]:
        question, self.verdict = candidate
        assert isinstance(question.address, IPv4Address)  # noqa: S101  (what is dialled has one, and of this kind)
        record = records.decision(
            self._with_signals(self.verdict),
            dst=self.destination,
            proto=self.proto,
            flow=self.ident,
            dialed=f"{self.verdict.address}:{self._port}",
        )
        return [Write(record), Dial(question.address, self._port)]

    def _dial_failed(self, error: str, late: bool) -> list[Effect]:
        assert self.verdict is not None  # noqa: S101  (a dial follows a verdict)
        fields = {"host": self.verdict.host, "dst": self.destination, "error": error, "flow": self.ident}
        failed = Write(Record(Happening.DIAL_ERROR, fields))
        if candidate := self._pinned.next():
            return [failed, *self._dial(candidate)]
        if self._proto is Proto.HTTP or self.verdict.tls is Tls.INTERCEPT:
            status, reason = (504, "dial_timeout") if late else (502, "dial_failed")
            hint = f"the server cannot be reached: {error}"
            return [failed, Answer(deny_response(status, self.verdict.host, reason, self.ident, hint))]
        return [failed, Reset()]

    def _dialed(self) -> list[Effect]:
        assert self.verdict is not None  # noqa: S101  (a dial follows a verdict)
        if self._proto is Proto.HTTP:
            return [Inspect(self.verdict.host)]
        if self._proto is Proto.TLS and self.verdict.tls is Tls.INTERCEPT:
            return [Intercept(self.verdict.host, self.alpn)]
        if self._silent:
            self._awaiting = True
            return [AwaitFirstWord()]
        return [Splice()] if self._second_hello is None else self._second_hello.begin()

    def _second_hello_refused(self, why: Refused) -> list[Effect]:
        """The connection was allowed and ends here; its own verdict stays what the record of its end is about."""
        assert self.verdict is not None  # noqa: S101  (a dial follows a verdict)
        host = self.verdict.host if why.host is None else why.host
        verdict = self._with_signals(refusal(why.reason, host, str(self._destination)))
        return [self._denial(verdict, why.error), Cut("the second ClientHello was refused")]

    def at_home(self) -> list[Effect]:
        """What is about to be dialled is an address of this host's own: what to do instead, nothing where an entry
        opens it."""
        verdict = self._pinned.at_home(self._engine)
        if verdict.allowed:
            return []
        if candidate := self._pinned.next():
            return [self._denial(self._with_signals(verdict)), *self._dial(candidate)]
        return self._refuse(verdict)

    def upstream_failed(self, error: str, *, late: bool, asked: bool) -> list[Effect]:
        """The TLS handshake with the server failed: nothing of the guest's was sent, and the guest is told why.

        `late`: it took too long; `asked`: the server asked for a client certificate before.
        """
        record = records.upstream_error(self._name, self.destination, self.ident, error, asked=asked)
        status, reason = (504, "upstream_timeout") if late else (502, "upstream_untrusted")
        words = f"{record.fields['error']}; {record.fields['hint']}"
        return [Write(record), Answer(deny_response(status, self._name, reason, self.ident, words))]

    # --- verdicts

    def _is_public(self) -> bool:
        return classify(self._destination).kind is AddressClass.PUBLIC

    @property
    def _name(self) -> str:
        assert self.verdict is not None  # noqa: S101  (only asked once a name was decided)
        return self.verdict.host

    def _with_signals(self, verdict: Verdict) -> Verdict:
        if not self._signals:
            return verdict
        return replace(verdict, signals=tuple(dict.fromkeys(verdict.signals + self._signals)))

    @property
    def _malformed(self) -> Reason:
        return Reason.REQUEST_MALFORMED if self._proto is Proto.HTTP else Reason.HELLO_MALFORMED

    def _unreadable(self, reason: Reason, error: str = "") -> list[Effect]:
        return self._refuse(refusal(reason, address=str(self._destination)), error)

    def _refuse(self, verdict: Verdict, error: str = "") -> list[Effect]:
        self.verdict = verdict = self._with_signals(verdict)
        denial = self._denial(verdict, error)
        # Inside TLS the reason can be told too, behind a leaf for the refused name; without a name it cannot.
        if self._proto is not Proto.HTTP and not (self._proto is Proto.TLS and verdict.host):
            return [denial, Reset()]
        status = 400 if verdict.reason is Reason.REQUEST_MALFORMED else 403
        host, reason = verdict.host or verdict.address, str(verdict.reason)
        return [denial, Answer(deny_response(status, host, reason, self.ident, records.hint(verdict)))]

    def _denial(self, verdict: Verdict, error: str = "") -> Write:
        record = records.decision(verdict, dst=self.destination, proto=self.proto, flow=self.ident)
        if error:
            record.fields["error"] = error
        return Write(record)
