"""The made-up internet itself: its servers serve, its canary sings, and the oracle sees each kind of leak."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microagent.demo import world
from microagent.demo.internet import Internet, python_environment
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

API_TLS = Destination("tcp", world.API, 443)
API_HTTP = Destination("tcp", world.API, 80)


def host_run(internet: Internet, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the host namespace."""
    return subprocess.run(internet.host.argv(*command), capture_output=True, text=True, timeout=30, check=False)


def curl(internet: Internet, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    """curl that trusts the internet's CA and knows api.ok.test, bad-certificate.test and wrong-name.test."""
    known = (
        ("api.ok.test", world.API),
        ("bad-certificate.test", world.BAD_CERTIFICATE),
        ("wrong-name.test", world.WRONG_NAME),
    )
    resolve = [word for name, address in known for word in ("--resolve", f"{name}:443:{address}")]
    return host_run(internet, "curl", "-sS", "-m5", "--cacert", str(internet.ca), *resolve, *more, url)


def send_udp(address: str, port: int, data: bytes = b"x") -> None:
    """One datagram from the calling thread's namespace."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, (address, port))


def test_serves_https_that_verifies_with_its_own_ca_only(internet: Internet, oracle: Oracle) -> None:
    assert curl(internet, "https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert curl(internet, "https://bad-certificate.test/").returncode == 60
    assert curl(internet, "https://wrong-name.test/").returncode == 60
    visited = {
        API_TLS,
        Destination("tcp", world.BAD_CERTIFICATE, 443),
        Destination("tcp", world.WRONG_NAME, 443),
    }
    assert oracle.leaks(visited) == ()
    assert [request.host for request in internet.evidence().requests] == ["api.ok.test"]


def test_serves_each_shape_of_traffic(internet: Internet, oracle: Oracle) -> None:
    url = f"http://{world.API}"
    assert curl(internet, f"{url}/bytes/100000", "-o", "/dev/null", "-w", "%{size_download}").stdout == "100000"
    assert curl(internet, f"{url}/chunked").stdout.splitlines()[-1] == "chunk 9"
    assert '"length": 5,' in curl(internet, f"{url}/sink", "-d", "12345").stdout
    assert "data: 19" in curl(internet, f"{url}/sse").stdout
    assert "x-mine: 1" in curl(internet, f"{url}/head", "-H", "x-mine: 1").stdout
    assert oracle.leaks({API_HTTP}) == ()


def test_a_server_that_speaks_first(internet: Internet, oracle: Oracle) -> None:
    def talk() -> bytes:
        with socket.create_connection((world.SSH, 22), timeout=5) as stream:
            banner = stream.recv(100)
            stream.sendall(b"client")
            return banner + stream.recv(100)

    assert internet.host.run(talk) == world.BANNER + b"client"
    assert oracle.leaks({Destination("tcp", world.SSH, 22)}) == ()


@pytest.mark.parametrize("how", ["+notcp", "+tcp"])
def test_the_dns_answers_from_its_zone_and_remembers(internet: Internet, oracle: Oracle, how: str) -> None:
    def dig(*question: str) -> str:
        return host_run(internet, "dig", f"@{world.RESOLVER}", how, *question).stdout

    assert dig("+short", "alias.ok.test").split() == ["api.ok.test.", world.API]
    assert "NXDOMAIN" in dig("nowhere.test")
    assert dig("big.ok.test", "+bufsize=1232").count("\tA\t") == 120
    assert oracle.leaks((), {".ok.test", "nowhere.test"}) == ()
    assert "asked of the DNS: nowhere.test A" in oracle.leaks((), {".ok.test"})
    assert internet.evidence().queries[0].transport == how.removeprefix("+").replace("notcp", "udp")


@pytest.mark.parametrize(
    ("address", "port"),
    [
        (world.EVIL, 443),
        (world.EVIL, 22),
        (world.METADATA, 80),
        (world.PRIVATE, 5432),
        ("8.8.8.8", 853),
        (world.API, 8080),
        (world.EVIL_V6, 443),
    ],
)
def test_whatever_is_nobodys_reaches_the_canary_and_is_a_leak(
    internet: Internet, oracle: Oracle, address: str, port: int
) -> None:
    def connect() -> None:
        with socket.create_connection((address, port), timeout=5) as stream:
            stream.sendall(b"secret")

    internet.host.run(connect)
    internet.host.run(lambda: send_udp(address, port, b"also"))
    leaks = oracle.leaks({API_TLS}, {".ok.test"})
    for proto, data in (("tcp", b"secret"), ("udp", b"also")):
        assert f"at the canary: {proto} {address}:{port} {data!r}" in leaks
        assert any(leak.startswith(f"on the uplink: {proto}") and f"> {address}:{port} " in leak for leak in leaks)


@pytest.mark.parametrize("ethertype", [0x88B5, 0x8863, 0x88CC])
def test_frames_that_are_not_ip_are_leaks(internet: Internet, oracle: Oracle, ethertype: int) -> None:
    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("uplink0", 0))
            sender.send(b"\xff" * 6 + b"\x02" * 6 + ethertype.to_bytes(2, "big") + b"x" * 50)

    internet.host.run(send)
    assert any(f"ether-{ethertype:#06x}" in leak for leak in oracle.leaks({API_TLS}))


def test_a_ping_is_a_leak(internet: Internet, oracle: Oracle) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sender:
            sender.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (world.API, 0))

    internet.host.run(send)
    assert any(f"icmp {world.HOST}:0 > {world.API}:8" in leak for leak in oracle.leaks({API_TLS}))


def test_a_guests_own_packet_is_a_leak_even_to_where_the_host_may_go(internet: Internet, oracle: Oracle) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT: as an address that is not the host's
            sender.bind(("10.43.0.2", 5000))
            sender.sendto(b"x", (world.RESOLVER, 53))

    internet.host.run(send)
    leaks = oracle.leaks((), {".ok.test"})
    assert [leak for leak in leaks if leak.startswith("a packet that the host did not make: udp 10.43.0.2")]


def test_an_oracle_without_eyes_says_that_it_is_blind(internet: Internet) -> None:
    internet.capture.close()
    blind = Oracle(internet, patience=0.5)
    assert any("blind" in leak for leak in blind.leaks({API_TLS}, {".ok.test"}))


def test_the_host_has_no_way_to_the_machines_own_network(internet: Internet) -> None:
    links = host_run(internet, "ip", "-o", "link").stdout.splitlines()
    assert [link.split()[1].rstrip(":").split("@")[0] for link in links if "ifb" not in link] == [
        "lo",
        "uplink0",
    ]


def test_nothing_is_left_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "from microagent.demo.internet import Internet\n"
        "internet = Internet()\n"
        "print(internet.ca.parent, internet._servers.pid, os.stat(internet.host.path).st_ino, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=python_environment()
    ) as parent:
        assert parent.stdout is not None
        directory, servers, _ = parent.stdout.readline().split()
        assert Path(directory).is_dir()
        os.kill(parent.pid, signal.SIGKILL)
    for _ in range(100):
        if not Path(directory).exists() and not _alive(int(servers)):
            break
        time.sleep(0.1)
    assert not Path(directory).exists()
    assert not _alive(int(servers))


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return False
