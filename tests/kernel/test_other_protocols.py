"""What is neither TLS nor HTTP passes by lease or by address, soon and unread, and is denied cleanly otherwise."""

import smtplib
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.programs import python_server, ready
from tests.kernel.workspace import Workspace

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

NAME = "h2.ok.test"
WAIT = 0.5  # contract: what the mediator may add for a server that speaks first
Talk = Callable[[ssl.SSLContext], str]


def connect(port: int) -> socket.socket:
    return socket.create_connection((world.PROGRAMS, port), timeout=5)


def inside(stream: ssl.SSLSocket) -> str:
    """What an echo in TLS says, once the server's own certificate was accepted."""
    with stream:
        stream.sendall(b"ping")
        return stream.recv(10).decode()


def smtp(trust: ssl.SSLContext) -> str:
    with smtplib.SMTP(world.PROGRAMS, 25, local_hostname="guest", timeout=5) as client:
        client._host = NAME  # type: ignore[attr-defined]  # what STARTTLS verifies
        client.starttls(context=trust)
        return str(client.ehlo()[0])


def mysql(_: ssl.SSLContext) -> str:
    with connect(3306) as stream:
        greeting = stream.recv(100)
        stream.sendall(b"ping")
        return greeting[5:18].decode() + stream.recv(10).decode()


def postgres(trust: ssl.SSLContext) -> str:
    with connect(5432) as stream:
        stream.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
        assert stream.recv(1) == b"S"
        return inside(trust.wrap_socket(stream, server_hostname=NAME))


def tls_without_a_name(trust: ssl.SSLContext) -> str:
    trust.check_hostname = False
    with connect(8443) as stream:
        return inside(trust.wrap_socket(stream))


TALKS: dict[str, tuple[int, Talk, str]] = {
    "SMTP": (25, smtp, "250"),
    "MySQL": (3306, mysql, "8.0.0-made-upping"),
    "PostgreSQL": (5432, postgres, "ping"),
    "TLS without a name": (8443, tls_without_a_name, "ping"),
}


def outcome(lab: Workspace, talk: Talk) -> str:
    """What the guest gets of it: its result, or its exception's name."""
    trust = ssl.create_default_context(cafile=str(lab.internet.ca))  # the server's own certificate, not a minted one

    def run() -> str:
        try:
            return talk(trust)
        except (OSError, smtplib.SMTPException) as error:
            return type(error).__name__

    return lab.guest.call(run)


def test_other_protocols_pass_by_lease_or_address_and_not_otherwise(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=[NAME])
    by_address = workspace(allow=[world.PROGRAMS], name="byaddress")
    guarded = workspace("guarded", name="guarded")
    with python_server(internet, "talkers.py"):
        for port, talk, _ in TALKS.values():  # nobody has told the guest this address
            assert outcome(lab, talk) in ("ConnectionResetError", "SMTPServerDisconnected")
            lab.wait_for("egress_deny", dst=f"{world.PROGRAMS}:{port}")
        assert oracle.leaks(()) == ()
        assert lab.guest.dig("+short", NAME).strip() == world.PROGRAMS
        for case, (port, talk, expected) in TALKS.items():
            dst = f"{world.PROGRAMS}:{port}"
            if talk is tls_without_a_name:
                # Whoever speaks TLS can name its host: a lease does not speak for one that will not.
                assert outcome(lab, talk) == "ConnectionResetError"
            else:
                assert outcome(lab, talk) == expected, case
                lab.wait_for("egress_allow", host=NAME, dialed=dst)
                assert lab.wait_for("egress_close", host=NAME, dst=dst)["opaque"] is True
            assert outcome(by_address, talk) == expected, case
            assert outcome(guarded, talk) == expected, case
            assert guarded.wait_for("egress_allow", dst=dst)["unlisted"] is True
        # The best of three: the contract speaks of the mediator, and other tests share this machine.
        assert min(lab.guest.call(first_word) for _ in range(3)) < WAIT
    assert oracle.leaks({Destination("tcp", world.PROGRAMS, port) for port, _, _ in TALKS.values()}, {NAME}) == ()


def first_word() -> float:
    """Seconds until a server that speaks first is heard."""
    began = time.monotonic()
    with connect(3306) as stream:
        stream.recv(100)
    return time.monotonic() - began


def test_ssh_runs_a_command(internet: Internet, oracle: Oracle, workspace: MakeWorkspace, tmp_path: Path) -> None:
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    options = {
        "HostKey": tmp_path / "host",
        "ListenAddress": f"{world.PROGRAMS}:22",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "PidFile": "none",
        "UsePAM": "no",
    }
    flags = [f"-o{key}={value}" for key, value in options.items()]
    client = ("-F", "none", "-i", str(tmp_path / "user"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no")
    known = ("-o", f"UserKnownHostsFile={tmp_path / 'known'}")
    lab = workspace(allow=[NAME])
    with ready(internet, 22, "/usr/sbin/sshd", "-D", "-f", "/dev/null", *flags):
        denied = lab.guest.run("ssh", *client, *known, f"root@{world.PROGRAMS}", "true")
        assert denied.returncode == 255
        answer = lab.guest.run("ssh", *client, *known, f"root@{NAME}", "cat; echo said", stdin="x" * 300_000)
    assert answer.stdout == "x" * 300_000 + "said\n", answer.stderr
    assert lab.wait_for("egress_close", host=NAME)["bytes_out"] > 300_000
    assert oracle.leaks({Destination("tcp", world.PROGRAMS, 22)}, {NAME}) == ()


def test_redis_answers(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[NAME])
    server = ["redis-server", "--port", "6379", "--bind", world.PROGRAMS, "--save", "", "--protected-mode", "no"]
    with ready(internet, 6379, *server):
        assert lab.guest.run("redis-cli", "-h", NAME, "set", "key", "value").stdout == "OK\n"
        assert lab.guest.run("redis-cli", "-h", NAME, "get", "key").stdout == "value\n"
    assert lab.wait_for("egress_close", host=NAME)["opaque"] is True
    assert oracle.leaks({Destination("tcp", world.PROGRAMS, 6379)}, {NAME}) == ()


PGBOUNCER = """
[databases]
[pgbouncer]
listen_addr = {address}
listen_port = 5432
unix_socket_dir =
auth_type = any
client_tls_sslmode = require
client_tls_key_file = {pem}
client_tls_cert_file = {pem}
"""


def test_psql_verifies_the_servers_own_certificate(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=[NAME])
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", dir="/tmp") as directory:
        room = Path(directory)
        room.chmod(0o755)
        pem = room / "server.pem"
        pem.write_bytes((internet.directory / f"{world.PROGRAMS}.pem").read_bytes())
        config = room / "pgbouncer.ini"
        config.write_text(PGBOUNCER.format(address=world.PROGRAMS, pem=pem))
        tls = f"sslmode=verify-full sslrootcert={internet.ca}"
        ask = ("psql", f"host={NAME} dbname=pgbouncer user=pgbouncer connect_timeout=10 {tls}", "-c", "SHOW VERSION")
        with ready(internet, 5432, "pgbouncer", "-u", "nobody", str(config)):
            answer = lab.guest.run(*ask)
            assert "PgBouncer" in answer.stdout + answer.stderr, answer
            assert lab.wait_for("egress_close", host=NAME)["opaque"] is True
            elsewhere = workspace(allow=["api.ok.test"], name="elsewhere")
            denied = elsewhere.guest.run(
                *(word.replace("connect", f"hostaddr={world.PROGRAMS} connect") for word in ask)
            )
            assert "PgBouncer" not in denied.stdout + denied.stderr
            elsewhere.wait_for("egress_deny", dst=f"{world.PROGRAMS}:5432")
    assert oracle.leaks({Destination("tcp", world.PROGRAMS, 5432)}, {NAME}) == ()


class Unhurried(ssl.SSLContext):
    """Waits until the server has read the request for TLS: asyncio loses a ClientHello that comes with it."""

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """A handshake, after a while."""
        time.sleep(1)
        return super().wrap_socket(*arguments, **options)


def test_a_mysql_client_is_served_in_plain_and_in_tls(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=[NAME])

    def ask(**options: object) -> object:
        plain = socket.create_connection((world.PROGRAMS, 3306), timeout=10)
        client = pymysql.connect(host=NAME, user="root", defer_connect=True, **options)
        client.connect(plain)
        with client, client.cursor() as cursor:
            cursor.execute("SELECT answer FROM questions")
            return cursor.fetchall()

    with python_server(internet, "mysql_origin.py"):
        with pytest.raises((OSError, pymysql.MySQLError)):
            lab.guest.call(lambda: ask(ssl_disabled=True))  # nobody has told the guest this address
        lab.wait_for("egress_deny", dst=f"{world.PROGRAMS}:3306")
        assert lab.guest.dig("+short", NAME).strip() == world.PROGRAMS
        assert lab.guest.call(lambda: ask(ssl_disabled=True)) == ((42,),)
        trust = Unhurried(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(internet.ca)
        assert lab.guest.call(lambda: ask(ssl=trust)) == ((42,),)
    assert lab.wait_for("egress_close", host=NAME)["opaque"] is True
    assert oracle.leaks({Destination("tcp", world.PROGRAMS, 3306)}, {NAME}) == ()
