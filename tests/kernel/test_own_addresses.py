"""E4: every address that the kernel keeps for this host is the host's own, however it came by it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute
from tests.kernel.conftest import MakeWorkspace

from microagent.demo import world
from microagent.demo.internet import UPLINK, Internet
from microagent.demo.oracle import Destination, Oracle
from microagent.host import links

pytestmark = pytest.mark.kernel

API_TLS = Destination("tcp", world.API, 443)
# Nobody's but by the routes and addresses that are made here.
ROUTED, LINKED, PEER = "192.0.2.7", "192.0.2.129", "192.0.2.130"
SECRET = b"the host's own business\n"


def route_a_range() -> None:
    """As balancers of clouds have their addresses put on a machine: no interface has it, and it is local."""
    with IPRoute() as kernel:
        kernel.route("add", dst="192.0.2.0/25", type="local", scope="host", oif=1)


def add_a_link() -> None:
    """As PPP does: an address of our own, and the other end's."""
    with IPRoute() as kernel:
        index = kernel.link_lookup(ifname=UPLINK)[0]
        kernel.addr("add", index=index, local=LINKED, address=PEER, prefixlen=32)


@pytest.fixture
def service(internet: Internet) -> Iterator[list[bytes]]:
    """A service of the host's on all its addresses, TCP and UDP port 8080: who has connected, and what it was told."""
    heard: list[bytes] = []
    with ExitStack() as stack:

        def open_both() -> tuple[socket.socket, socket.socket]:
            stream = stack.enter_context(socket.create_server(("0.0.0.0", 8080)))
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            datagrams.bind(("0.0.0.0", 8080))
            return stream, datagrams

        stream, datagrams = internet.host.run(open_both)

        def serve_streams() -> None:
            while True:
                try:
                    peer, _ = stream.accept()
                except OSError:
                    return
                with peer:
                    heard.append(b"connected")
                    heard.append(peer.recv(100))
                    peer.sendall(SECRET)

        def serve_datagrams() -> None:
            while True:
                try:
                    data, sender = datagrams.recvfrom(100)
                except OSError:
                    return
                heard.append(data)
                datagrams.sendto(SECRET, sender)

        threads = [threading.Thread(target=work, daemon=True) for work in (serve_streams, serve_datagrams)]
        for thread in threads:
            thread.start()
        yield heard
        # Closing it would not wake the thread that waits for it.
        stream.shutdown(socket.SHUT_RDWR)


def contact(address: str) -> bytes:
    """The positive control: what the host itself hears there."""
    with socket.create_connection((address, 8080), 5) as stream:
        stream.sendall(b"hello\n")
        return stream.recv(100)


@pytest.mark.parametrize(
    ("prepare", "address", "known"), [(route_a_range, ROUTED, False), (add_a_link, LINKED, True)], ids=["route", "link"]
)
def test_guarded_reaches_none_of_them(
    internet: Internet,
    oracle: Oracle,
    workspace: MakeWorkspace,
    service: list[bytes],
    prepare: Callable[[], None],
    address: str,
    known: bool,
) -> None:
    internet.host.run(prepare)
    assert internet.host.run(lambda: contact(address)) == SECRET
    service.clear()
    lab = workspace("guarded")
    assert (address in internet.host.run(links.host_addresses)) == known
    assert lab.guest.tcp(address, 8080, b"hello\n").data == b""
    http = lab.guest.tcp(address, 8080, f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()).data
    assert http == b"" if known else http.startswith(b"HTTP/1.1 403 ")
    assert lab.guest.udp(address, 8080, b"hello\n").error == "ConnectionRefusedError"
    for event in ("egress_internal_deny", "egress_udp_internal_deny"):
        assert lab.wait_for(event, dst=f"{address}:8080", internal=True)["reason"] == "inside_never_by_name"
    assert service == []
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_an_entry_of_its_own_opens_it(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, service: list[bytes]
) -> None:
    internet.host.run(route_a_range)
    lab = workspace(allow=[ROUTED])
    assert lab.guest.tcp(ROUTED, 8080, b"hello\n").data == SECRET
    assert lab.guest.udp(ROUTED, 8080, b"hello\n").data == SECRET
    assert service == [b"connected", b"hello\n", b"hello\n"]
    assert oracle.leaks(()) == ()


def test_the_other_end_of_a_link_is_not_the_hosts(internet: Internet) -> None:
    internet.host.run(add_a_link)
    assert {LINKED, PEER} & internet.host.run(links.host_addresses) == {LINKED}
