"""F9: TCP as no kernel speaks it. What is accepted is what an honest client would have had accepted, and is decided by
what the mediator reads; nothing else leaves.

How this works: the guest's own kernel is kept from answering, and the test makes each segment by hand.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.frames import ether, ip
from tests.kernel.workspace import Workspace

from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle
from microagent.host import nft

pytestmark = pytest.mark.kernel

Options: TypeAlias = Sequence[tuple[int | str, int | bytes]]

API_HTTP = Destination("tcp", world.API, 80)
_PATIENCE = 10.0
_PORTS = itertools.count(20_000)
_ISN = 1000
# Segments of no socket of its own, which the guest's kernel would reset.
_SILENCE = """
table ip silence {
    chain out {
        type filter hook output priority filter; policy accept;
        tcp sport 20000-29999 drop
    }
}
"""


def request(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


@dataclass
class Client:
    """One connection's end, as far as it is one; `seq` is what it says next, `ack` what it has heard."""

    lab: Workspace
    address: str
    sport: int = field(default_factory=lambda: next(_PORTS))
    seq: int = _ISN
    ack: int = 0
    sent: int = 0  # bytes that are out, from `seq` on

    def send(self, flags: str, data: bytes = b"", ahead: int = 0, window: int = 60000, options: Options = ()) -> None:
        """A segment at `seq`, or `ahead` of it; `seq` stays."""
        seq = self.seq + ahead
        head = TCP(sport=self.sport, dport=80, seq=seq, ack=self.ack, flags=flags, window=window, options=[*options])
        self.lab.guest.inject(bytes(ether() / ip(dst=self.address) / head / Raw(data)))

    def heard(self) -> Iterator[TCP]:
        """All segments to it so far."""
        for frame in tuple(self.lab.guest.received):
            packet = Ether(frame)
            if TCP in packet and packet[IP].src == self.address and packet[TCP].dport == self.sport:
                yield packet[TCP]

    def wait(self, flags: str) -> TCP:
        """The first segment with exactly these flags."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for segment in self.heard():
                if segment.flags == flags:
                    return segment
            time.sleep(0.01)
        raise AssertionError([segment.flags for segment in self.heard()])

    def open(self, options: Options = ()) -> None:
        """As everybody does."""
        self.send("S", options=options)
        self.take(self.wait("SA"))
        self.send("A")

    def take(self, answer: TCP) -> None:
        """The other's first number, and that it has ours."""
        self.seq, self.ack = answer.ack, answer.seq + 1

    def reply(self) -> bytes:
        """All that is answered until the other ends, acknowledged as it comes."""
        pieces: dict[int, bytes] = {}
        begin = self.ack
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            over = False
            for segment in self.heard():
                # What is padding in a short frame is no data.
                data = bytes(segment.payload)[: segment.underlayer.len - 20 - segment.dataofs * 4]
                if data:
                    pieces[segment.seq - begin] = max(data, pieces.get(segment.seq - begin, b""), key=len)
                over |= "F" in segment.flags or "R" in segment.flags
            whole = b""
            for at in sorted(pieces):
                if at <= len(whole):
                    whole = whole[:at] + pieces[at]
            self.ack = begin + len(whole)
            if over:
                return whole
            self.send("A", ahead=self.sent)
            time.sleep(0.02)
        raise AssertionError(pieces)

    def ask(self, host: str) -> bytes:
        """An honest request and its answer."""
        data = request(host)
        self.send("PA", data)
        self.sent = len(data)
        return self.reply()


@pytest.fixture
def lab(workspace: MakeWorkspace) -> Workspace:
    made = workspace(allow=["api.ok.test"])
    made.guest.call(lambda: nft.apply(_SILENCE))
    return made


def clean(oracle: Oracle) -> None:
    assert oracle.leaks({API_HTTP}, {"api.ok.test"}) == ()


def decided(lab: Workspace, count: int) -> list[str]:
    """The hosts of all requests so far, allowed and not; waits for `count`, as records may be later."""
    deadline = time.monotonic() + _PATIENCE
    while len(found := lab.records("egress_deny", "egress_request")) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return [record["host"] for record in found]


def allowed(answer: bytes) -> bool:
    """Whether it is the server's, and not the mediator's refusal."""
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 403 ")), answer
    found = answer.endswith(b"hello from api.ok.test\n")
    assert found != (b'"egress_denied"' in answer), answer
    return found


def test_made_by_hand_an_honest_connection_is_one(oracle: Oracle, lab: Workspace) -> None:
    """The control of all others here."""
    for address in (world.API, world.EVIL):
        for host in ("api.ok.test", "evil.test"):
            client = Client(lab, address)
            client.open()
            assert allowed(client.ask(host)) == (host == "api.ok.test")
    clean(oracle)


def test_of_segments_that_overlap_one_is_read_decided_and_sent(oracle: Oracle, lab: Workspace) -> None:
    """Both wait behind a hole. The kernel keeps the one it had, or the one that begins earlier; nobody sees another."""
    denied, good = "bad.ok.test", "api.ok.test"
    for hosts, early in (((denied, good), 0), ((good, denied), 1), ((good, denied), 0), ((denied, good), 1)):
        client = Client(lab, world.API)
        client.open()
        data = request(hosts[0])
        at = data.index(hosts[0].encode())
        client.send("PA", data[at:], ahead=at)
        client.send("PA", data[at - early : at] + hosts[1].encode(), ahead=at - early)
        client.send("PA", data[:at])
        client.sent = len(data)
        assert allowed(client.reply()) == (hosts[early] == good)
        if not lab.records("egress_allow"):  # the first two are denied
            assert oracle.leaks(()) == ()
    assert decided(lab, 4) == [denied, denied, good, good]
    clean(oracle)


def test_a_segment_sent_again_with_other_words_changes_nothing(oracle: Oracle, lab: Workspace) -> None:
    for good in (True, False):
        host, other = ("api.ok.test", "evil.test\r\nX") if good else ("evil.test", "api.ok.te")
        client = Client(lab, world.API)
        client.open()
        data = request(host)
        at = data.index(host.encode())
        told = at + len(host)
        client.send("PA", data[:told])
        client.send("PA", data[:at] + other.encode()[: len(host)])
        client.send("PA", data[:at] + other.encode()[: len(host)] + data[told:])
        client.sent = len(data)
        assert allowed(client.reply()) == good
    clean(oracle)


def test_data_in_a_syn_is_not_heard(oracle: Oracle, lab: Workspace) -> None:
    """TCP Fast Open (RFC 7413), asked for a cookie and with one made up."""
    for cookie in (b"", b"12345678"):
        client = Client(lab, world.API)
        client.send("S", request("api.ok.test"), options=[(34, cookie)])
        answer = client.wait("SA")
        assert answer.ack == _ISN + 1
        assert not any(option == 34 for option, _ in answer.options)
        client.take(answer)
        client.send("A")
        assert not allowed(client.ask("evil.test"))
    clean(oracle)


# What the guest says when it has sent a SYN and heard a SYN-ACK, and whether that connects.
_HANDSHAKES = (
    (["S", "SA"], True),  # a simultaneous open (RFC 9293, 3.5): a SYN for an answer, then the SYN-ACK that would follow
    (["A", "S"], True),  # split: as if the guest were the server, its answer in two
    (["SA"], True),
    (["S"], False),
    (["R"], False),
    (["SR"], False),
)


def test_no_other_handshake_opens_more(oracle: Oracle, lab: Workspace) -> None:
    opened = 0
    for (segments, connects), host in itertools.product(_HANDSHAKES, ("evil.test", "api.ok.test")):
        client = Client(lab, world.API)
        client.send("S")
        client.take(client.wait("SA"))
        for flags in segments:
            client.send(flags, ahead=-1 if "S" in flags else 0)
        if connects:
            assert allowed(client.ask(host)) == (host == "api.ok.test")
            opened += 1
        else:
            client.send("P", request(host))
    assert len(decided(lab, opened)) == opened
    clean(oracle)


def test_a_reset_that_only_lies_in_the_window_ends_nothing(oracle: Oracle, lab: Workspace) -> None:
    """RFC 5961, 3.2: it is asked about."""
    client = Client(lab, world.API)
    client.open()
    lab.guest.received.clear()
    client.send("R", ahead=10)
    assert client.wait("A").ack == client.seq
    assert allowed(client.ask("api.ok.test"))
    client = Client(lab, world.API)
    client.open()
    client.send("R")
    client.send("PA", request("api.ok.test"))
    client.wait("R")
    assert decided(lab, 1) == ["api.ok.test"]
    clean(oracle)


def test_answers_go_in_segments_as_small_as_the_guest_likes(oracle: Oracle, lab: Workspace) -> None:
    """CVE-2019-11479 and its kin: the kernel has a least size of its own. A window of nothing holds the answer back."""
    client = Client(lab, world.API)
    client.open(options=[("MSS", 1)])
    assert allowed(client.ask("api.ok.test"))
    client = Client(lab, world.API)
    client.open()
    data = request("api.ok.test")
    client.send("PA", data, window=0)
    lab.wait_for("egress_request", host="api.ok.test")
    time.sleep(0.2)
    assert not any(bytes(segment.payload).startswith(b"HTTP") for segment in client.heard())
    client.sent = len(data)
    assert allowed(client.reply())
    clean(oracle)
