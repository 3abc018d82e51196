"""Interception and the servers behind it: which certificates pass, what is resumed, who asks for certificates.

One workspace and one server serve all tests of this room. The server writes down every handshake that was done and how
many bytes came after it: a refused certificate is one without a line there.
"""

import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.kernel.certificates import bad, certify, good
from tests.kernel.programs import python_server
from tests.kernel.workspace import Workspace
from tests.waiting import wait_for

from microagent.api.limits import Limits
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

ROOT = certify("the operator's root", None, ca=True)
BAD, GOOD = bad(ROOT), good(ROOT)
ASKING = ["asks.good.test", "needs.good.test", "asks-tls12.good.test", "needs-tls12.good.test"]
OTHERS = [
    *ASKING,
    "mute.good.test",
    "tls12.good.test",
    "tls11.good.test",
    "pinned.good.test",
    "resumed.good.test",
    "slow.good.test",
]
SERVED = {**BAD, **GOOD, **{name: certify(name, ROOT, names=[name]).server_pem() for name in OTHERS}}
TLS = Destination("tcp", world.PROGRAMS, 443)
_PORTS = {"http": 80, "https": 443}
NOBODY = {Destination("tcp", address, port) for address in (world.SILENT, world.CLOSED) for port in (80, 443)}


@dataclass(frozen=True)
class Rig:
    """What the tests of this room share."""

    lab: Workspace
    log: Path
    oracle: Oracle

    def handshakes(self, name: str, at_least: int = 0) -> list[list[str]]:
        """(version, resumed, bytes) of every handshake that a server of this name has finished."""
        deadline = time.monotonic() + 10
        while True:
            lines = self.log.read_text().splitlines() if self.log.exists() else []
            found = [line.split()[1:] for line in lines if line.split()[0] == name]
            if len(found) >= at_least or time.monotonic() > deadline:
                return found
            time.sleep(0.02)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    room = tmp_path_factory.mktemp("certificates")
    served = room / "served"
    served.mkdir()
    for name, pem in SERVED.items():
        (served / f"{name}.pem").write_text(pem)
    (room / "root.pem").write_text(ROOT.pem)
    zone = {**world.ZONE, **{name: {"A": [world.PROGRAMS]} for name in SERVED}}
    arguments = (str(room / "log"), str(served), str(room / "root.pem"))
    limits = Limits(tls_handshake_seconds=2)
    with (
        Internet(zone) as internet,
        python_server(internet, "tls_origin.py", *arguments),
        Workspace(internet, room, allow=list(SERVED), upstream_ca=ROOT.pem, limits=limits) as lab,
    ):
        yield Rig(lab, room / "log", Oracle(internet))


@pytest.fixture(autouse=True)
def _nothing_else_leaves(rig: Rig) -> Iterator[None]:
    yield
    assert rig.oracle.leaks({TLS, *NOBODY}, {*SERVED, "silent.test", "closed.test"}) == ()


@pytest.mark.parametrize("name", [*BAD, *GOOD, "tls11.good.test"])
def test_a_certificate_passes_or_no_byte_leaves(rig: Rig, name: str) -> None:
    answer = rig.lab.guest.curl("-i", f"https://{name}/?secret")
    if name in GOOD:
        assert answer.stdout.endswith("hello\n"), answer
        # Other tests come to the same server, and some say nothing to it.
        wait_for(lambda: any(count != "0" for _, _, count in rig.handshakes(name)))
        return
    assert answer.stdout.startswith("HTTP/1.1 502"), answer
    assert {count for _, _, count in rig.handshakes(name)} <= {"0"}
    head, _, body = answer.stdout.replace("\r", "").partition("\n\n")
    record = rig.lab.wait_for("egress_mitm_upstream_error", host=name)
    said = json.loads(body)
    assert (said["error"], said["reason"]) == ("upstream_failed", "upstream_untrusted")
    assert said["decision"] == record["flow"]
    assert f"x-microagent-decision: {record['flow']}" in head.lower()
    assert f"passthrough: {name}" in said["hint"]
    assert record["error"] in said["hint"]
    # The positive control: the same server under a name of its own is reached.
    assert rig.lab.guest.curl("https://plain.good.test/").stdout == "hello\n"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_session_is_resumed_and_never_for_another_name(rig: Rig, version: str) -> None:
    name = "tls12.good.test" if version == "1.2" else "resumed.good.test"
    for _ in range(2):
        assert rig.lab.guest.curl(f"https://{name}/").stdout == "hello\n"
    first, second = rig.handshakes(name, 2)[:2]
    assert first[:2] == [f"TLSv{version}", "0"]
    assert second[:2] == [f"TLSv{version}", "1"]
    before = len(rig.handshakes("rsa.good.test"))
    assert rig.lab.guest.curl("https://rsa.good.test/").stdout == "hello\n"
    if before == 0:
        assert rig.handshakes("rsa.good.test", 1)[0][1] == "0"


@pytest.mark.parametrize("name", ASKING)
def test_a_server_that_asks_for_a_certificate_is_told_apart(rig: Rig, name: str) -> None:
    answer = rig.lab.guest.curl("-i", f"https://{name}/")
    record = rig.lab.wait_for("egress_mitm_upstream_error", host=name)
    assert record["error"].startswith("the server asks for a client certificate")
    assert f"passthrough: {name}" in record["hint"]
    if name.startswith("asks"):
        assert answer.stdout.endswith("hello\n")
    else:
        assert answer.stdout.startswith("HTTP/1.1 502"), answer
        assert "the server asks for a client certificate: " in answer.stdout
        assert rig.handshakes(name) == []


def test_a_server_that_never_answers_is_a_504(rig: Rig) -> None:
    answer = rig.lab.guest.curl("-i", "https://mute.good.test/")
    assert answer.stdout.startswith("HTTP/1.1 504"), answer
    assert '"reason": "upstream_timeout"' in answer.stdout


def test_a_server_that_cannot_be_reached_is_a_502_or_a_504(rig: Rig, tmp_path: Path) -> None:
    names = ["silent.test", "closed.test"]
    with Workspace(rig.lab.internet, tmp_path, name="far", allow=names, limits=Limits(dial_seconds=1)) as lab:
        for scheme in ("http", "https"):
            answer = lab.guest.curl("-i", f"{scheme}://silent.test/")
            assert answer.stdout.startswith("HTTP/1.1 504"), answer
            assert '"reason": "dial_timeout"' in answer.stdout
            lab.wait_for("egress_dial_error", host="silent.test", error="timed out")
            answer = lab.guest.curl("-i", f"{scheme}://closed.test/")
            assert answer.stdout.startswith("HTTP/1.1 502"), answer
            assert '"reason": "dial_failed"' in answer.stdout
            record = lab.wait_for("egress_dial_error", host="closed.test", dst=f"{world.CLOSED}:{_PORTS[scheme]}")
            assert f"x-microagent-decision: {record['flow']}" in answer.stdout.lower()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("how", ["alert", "pin", "close", "reset"])
def test_a_client_that_pins_is_on_record_with_the_entry_it_needs(rig: Rig, version: str, how: str) -> None:
    name = "pinned.good.test"
    before = len(rig.lab.records("egress_mitm_handshake_error"))
    if how == "pin":
        pin = ("--pinnedpubkey", "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
        answer = rig.lab.guest.curl(*pin, "--tls-max", version, f"https://{name}/")
        assert answer.returncode == 90, answer
    else:
        rig.lab.guest.call(lambda: _refuse(name, version, how))
    deadline = time.monotonic() + 10
    while len(rig.lab.records("egress_mitm_handshake_error")) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    (record,) = rig.lab.records("egress_mitm_handshake_error")[before:]
    assert (record["host"], record["hint"].endswith(f"`passthrough: {name}`")) == (name, True)
    assert {count for _, _, count in rig.handshakes(name)} <= {"0"}


def _refuse(name: str, version: str, how: str) -> None:
    """Shake hands as a client that trusts nobody here, and leave as `how` says once the certificate is there."""
    context = ssl.create_default_context(cadata=certify("its own", None, ca=True).pem)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[f"TLSv{version.replace('.', '_')}"]
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with socket.create_connection((world.PROGRAMS, 443), timeout=10) as stream:
        while True:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                stream.sendall(outgoing.read())
                incoming.write(stream.recv(65536))
            except ssl.SSLCertVerificationError:
                break
        if how == "alert":
            stream.sendall(outgoing.read())
        if how == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_certificates_are_made_at_a_limited_rate(rig: Rig, tmp_path: Path) -> None:
    limits = Limits(leaf_mints_per_second=2)
    with Workspace(rig.lab.internet, tmp_path, name="busy", limits=limits) as lab:
        names = [f"n{number}.evil.test" for number in range(12)]
        urls = [f"https://{name}/" for name in names]
        where = [part for name in names for part in ("--resolve", f"{name}:443:{world.EVIL}")]
        answers = lab.guest.curl("-Z", "-w", "%{http_code}\n", "-o", "/dev/null", *where, *urls).stdout.split()
        refused = lab.records("egress_cap_exceeded")
        assert 0 < answers.count("403") < len(names)
        assert len(refused) == answers.count("000")
        assert {(r["limit"], r["max"], r["reason"]) for r in refused} == {
            ("leaf_mints_per_second", 2, "mints_exceeded")
        }
        assert {record["host"] for record in lab.records("egress_deny")} == set(names)
        time.sleep(1)
        assert lab.guest.curl("-w", "%{http_code}", "-o", "/dev/null", *where, urls[-1]).stdout == "403"


def test_a_guest_cannot_begin_anew_in_the_middle(rig: Rig) -> None:
    name = "plain.good.test"
    connect = ("openssl", "s_client", "-tls1_2", "-connect", f"{world.PROGRAMS}:443", "-servername", name)
    answer = rig.lab.guest.run(*connect, "-CAfile", str(rig.lab.guest.trust), stdin="R\n")
    assert "Verify return code: 0 (ok)" in answer.stdout
    assert "RENEGOTIATING" in answer.stderr
    assert "no renegotiation" in answer.stderr


def test_a_server_that_answers_no_request_is_a_504_where_the_operator_has_a_limit(rig: Rig, tmp_path: Path) -> None:
    name = "slow.good.test"
    limits = Limits(tcp_idle_seconds=1)
    with Workspace(rig.lab.internet, tmp_path, allow=[name], upstream_ca=ROOT.pem, limits=limits) as lab:
        answer = lab.guest.curl("-i", "--http1.1", f"https://{name}/")
        head, _, body = answer.stdout.replace("\r", "").partition("\n\n")
        assert head.startswith("HTTP/1.1 504"), answer
        record = lab.wait_for("egress_mitm_upstream_error", host=name)
        assert (json.loads(body)["reason"], json.loads(body)["decision"]) == ("response_timeout", record["id"])
        assert lab.wait_for("egress_request", host=name)["status"] == 504
        assert lab.wait_for("egress_cap_exceeded", host=name)["limit"] == "tcp_idle_seconds"
