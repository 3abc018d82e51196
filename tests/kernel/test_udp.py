"""UDP other than DNS: relayed by lease or address, both ways and whole; refused with ICMP, and by the rules then."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Workspace

from microagent.api.limits import Limits
from microagent.api.link import GATEWAY_MAC, GUEST, GUEST_MAC
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle
from microagent.host import nft

pytestmark = pytest.mark.kernel

TIME = Destination("udp", world.TIME, world.TIME_PORT)
API_TLS = Destination("tcp", world.API, 443)
REFUSED = "ConnectionRefusedError"


def ask(lab: Workspace, payload: bytes = b"what time is it", seconds: float = 5.0) -> tuple[str, bytes]:
    answer = lab.guest.udp(world.TIME, world.TIME_PORT, payload, seconds=seconds)
    return answer.error, answer.data


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("size", [1, 48, 1472, 1473, 9000, 40000])
def test_a_leased_address_is_relayed_both_ways_and_whole(oracle: Oracle, workspace: MakeWorkspace, size: int) -> None:
    lab = workspace(allow=["time.ok.test"])
    lab.guest.dig("time.ok.test")
    payload = bytes(n & 255 for n in range(size))
    assert ask(lab, payload) == ("", payload)
    allow = lab.wait_for("egress_udp_allow", host="time.ok.test", dst=f"{world.TIME}:123")
    assert (allow["proto"], allow["rule"], allow["dialed"]) == ("udp", "allow: time.ok.test", f"{world.TIME}:123")
    fragments = Destination("fragment", world.TIME, 0)
    assert [leak for leak in oracle.leaks({TIME, fragments}, {"time.ok.test"}) if "fragment" not in leak] == []


def test_without_a_lease_it_is_refused_and_the_rules_refuse_it_again(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["time.ok.test"])
    untouched = lab.in_netns(nft.fingerprint)
    assert ask(lab) == (REFUSED, b"")
    lab.wait_for("egress_udp_deny", dst=f"{world.TIME}:123", reason="address_not_listed")
    # The note is no change of the rules: an agent that took it for one would put them back, and counters to zero.
    assert lab.in_netns(nft.fingerprint) == untouched
    # The next, once the note is there, is refused by the rules: their counter says so.
    until(lambda: ask(lab) == (REFUSED, b"") and lab.in_netns(nft.counters)["refused_udp"][0] == 1)
    # A lease opens it at once, note or not.
    lab.guest.dig("time.ok.test")
    assert ask(lab) == ("", b"what time is it")
    assert oracle.leaks({TIME}, {"time.ok.test"}) == ()


def test_an_address_entry_needs_no_lease(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[world.TIME])
    assert ask(lab) == ("", b"what time is it")
    assert lab.wait_for("egress_udp_allow", dst=f"{world.TIME}:123")["rule"] == f"allow: {world.TIME}"
    # No name, so nothing else can be allowed: the rules refuse it without the mediator.
    assert lab.guest.udp(world.EVIL, 123, b"secret").error == REFUSED
    assert lab.wait_for("egress_udp_deny", dst=f"{world.EVIL}:123")["reason"] == "address_not_listed"
    until(lambda: lab.in_netns(nft.counters)["refused_udp"][0] == 1)
    assert oracle.leaks({TIME}) == ()


def test_guarded_relays_what_is_public_and_refuses_what_is_inside(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace("guarded")
    assert ask(lab) == ("", b"what time is it")
    allow = lab.wait_for("egress_udp_allow", dst=f"{world.TIME}:123")
    assert (allow["unlisted"], allow["signal"]) == (True, "direct-ip-no-sni")
    for address in (world.PRIVATE, world.METADATA, world.HOST, "10.43.0.1"):
        assert lab.guest.udp(address, 123, b"secret").error == REFUSED
        lab.wait_for("egress_udp_internal_deny", dst=f"{address}:123", internal=True)
    assert oracle.leaks({TIME}) == ()


def test_every_refusal_is_told_at_once_also_of_many(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """As a browser asks many hosts for QUIC at once: none of them may have to wait."""
    lab = workspace("guarded")

    def ask_all() -> list[str]:
        said = []
        for n in range(60):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                sock.connect((f"203.0.113.{n}", 443))
                sock.send(b"initial")
                try:
                    sock.recv(1)
                except OSError as error:
                    said.append(type(error).__name__)
        return said

    assert lab.guest.call(ask_all) == [REFUSED] * 60
    assert oracle.leaks(()) == ()


def test_off_relays_without_a_word(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace("off")
    assert ask(lab) == ("", b"what time is it")
    assert lab.records() == []
    assert oracle.leaks({TIME}) == ()


def test_a_server_that_refuses_is_heard(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["closed.test"])
    lab.guest.dig("closed.test")
    assert lab.guest.udp(world.CLOSED, 123, b"x").error == REFUSED
    lab.wait_for("egress_udp_close", host="closed.test", why="Connection refused", bytes_out=1)
    assert oracle.leaks({Destination("udp", world.CLOSED, 123)}, {"closed.test"}) == ()


def test_flows_end_when_idle_and_say_what_passed(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[world.TIME], limits=Limits(udp_idle_seconds=1))
    assert ask(lab, b"1234567") == ("", b"1234567")
    close = lab.wait_for("egress_udp_close", why="idle")
    assert (close["bytes_out"], close["bytes_in"], close["dst"]) == (7, 7, f"{world.TIME}:123")
    assert oracle.leaks({TIME}) == ()


def test_the_flow_that_was_silent_longest_makes_room(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[world.TIME], limits=Limits(udp_flows=2))
    for _ in range(3):
        assert ask(lab) == ("", b"what time is it")
    assert lab.wait_for("egress_udp_close", why="too many flows")["bytes_in"] == 15
    assert len(lab.records("egress_udp_close")) == 1
    assert oracle.leaks({TIME}) == ()


def test_a_new_policy_ends_flows(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[world.TIME])
    assert ask(lab) == ("", b"what time is it")
    lab.change_policy(allow=["api.ok.test"])
    lab.wait_for("egress_udp_close", why="policy_changed")
    assert ask(lab) == (REFUSED, b"")
    lab.change_policy(allow=[world.TIME])
    # The note of a moment ago went with the old policy.
    assert ask(lab) == ("", b"what time is it")
    assert oracle.leaks({TIME}) == ()


def test_nobody_else_answers(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """A datagram from elsewhere to the flow's port is no answer: the flow's socket is connected."""
    lab = workspace(allow=[world.TIME])

    def talk() -> list[bytes]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            sock.sendto(b"one", (world.TIME, 123))
            first = sock.recvfrom(100)
            assert first[1] == (world.TIME, 123)
            sock.settimeout(0.5)
            for port in _udp_ports(lab):
                lab.internet.host.run(lambda port=port: _send(port))  # type: ignore[misc]
            try:
                return [first[0], sock.recv(100)]
            except TimeoutError:
                return [first[0]]

    assert lab.guest.call(talk) == [b"one"]
    assert oracle.leaks({TIME}) == ()


def test_refusals_are_counted_exactly_however_many(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    frames = 700
    head = Ether(src=GUEST_MAC, dst=GATEWAY_MAC) / IP(src=str(GUEST.ip), dst=world.EVIL)
    for _ in range(frames):
        lab.guest.inject(bytes(head / UDP(sport=4000, dport=443) / Raw(b"secret")))
    for port in range(2000, 2300):
        lab.guest.inject(bytes(head / UDP(sport=4000, dport=port) / Raw(b"secret")))
    wanted = frames + 300

    def told() -> int:
        return sum(record.get("count", 1) for record in lab.records("egress_udp_deny"))

    until(lambda: told() >= wanted)
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    time.sleep(1.5)  # had anything been counted twice, it would come with the next counting
    assert told() == wanted
    assert len(lab.records("egress_udp_deny")) < 600
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def _udp_ports(lab: Workspace) -> list[int]:
    table = lab.internet.host.run(Path("/proc/thread-self/net/udp").read_text)
    lines = table.splitlines()[1:]
    return [int(line.split()[1].split(":")[1], 16) for line in lines]


def _send(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"forged", (world.HOST, port))


_TIME_SERVER = """
local stratum 8
allow all
bindaddress {address}
cmdport 0
pidfile {directory}/server.pid
user root
"""


def test_chrony_sets_its_clock_by_chrony(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, tmp_path: Path
) -> None:
    """NTP as people run it: a name in the configuration, and answers that must come from the address that was asked."""
    lab = workspace(allow=["closed.test"])
    config = tmp_path / "server.conf"
    config.write_text(_TIME_SERVER.format(address=world.CLOSED, directory=tmp_path))
    internet.far.run(lambda: _address_on_lo(world.CLOSED))
    with subprocess.Popen(
        internet.far_argv("chronyd", "-d", "-x", "-f", str(config)), stderr=subprocess.DEVNULL
    ) as far:
        try:
            here = ("user root", "cmdport 0", f"pidfile {tmp_path}/client.pid")
            client = ("chronyd", "-Q", "-t", "30", "-x")
            asked = lab.guest.run(*client, "server closed.test iburst maxsamples 2", *here)
            refused = lab.guest.run("chronyd", "-Q", "-t", "3", "-x", f"server {world.EVIL} iburst", *here)
        finally:
            far.terminate()
    assert (asked.returncode, "System clock wrong by" in asked.stderr + asked.stdout) == (0, True), asked
    assert refused.returncode != 0
    lab.wait_for("egress_udp_allow", host="closed.test", dst=f"{world.CLOSED}:123")
    lab.wait_for("egress_udp_deny", dst=f"{world.EVIL}:123")
    assert oracle.leaks({Destination("udp", world.CLOSED, 123)}, {"closed.test"}) == ()


def _address_on_lo(address: str) -> None:
    with IPRoute() as kernel:
        kernel.addr("add", index=1, address=address, prefixlen=32)


def test_flows_begin_at_a_limited_rate(internet: Internet, workspace: MakeWorkspace) -> None:
    lab = workspace("guarded", limits=Limits(udp_new_flows_per_second=50))

    def send_many() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in range(10_000, 10_400):
                sock.sendto(b"x", (world.EVIL, port))

    lab.guest.call(send_many)
    until(lambda: len(lab.records("egress_udp_allow")) + sum(counted(lab)) == 400)
    # They may have come in two seconds, or in three.
    allowed = len(lab.records("egress_udp_allow"))
    assert 50 <= allowed <= 150
    assert len(counted(lab)) <= 3
    assert len([one for one in internet.evidence().canary if one.dst == world.EVIL]) == allowed
    # The next second is another one.
    until(lambda: ask(lab) == ("", b"what time is it"))


def counted(lab: Workspace) -> list[int]:
    """Those that were too many."""
    found = lab.records("egress_cap_exceeded")
    return [record["count"] for record in found if record["limit"] == "udp_new_flows_per_second"]
