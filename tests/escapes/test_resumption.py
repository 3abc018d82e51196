"""A session belongs to the name and the workspace it was made in; and nothing is heard before a verdict."""

import re
import socket
import ssl
from pathlib import Path

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Workspace

from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

ONE, OTHER = "api.ok.test", "alias.ok.test"  # two names of one server, which has one certificate for both
TLS = Destination("tcp", world.API, 443)


def visit(
    lab: Workspace, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool, str, bytes]:
    """One request: the session for the next time, whether this one was resumed, the certificate's name, the answer."""
    plain = lab.guest.call(lambda: socket.create_connection((world.API, 443), timeout=10))
    with plain, context.wrap_socket(plain, server_hostname=name, session=session) as tls:
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := tls.recv(65536):
            answer += piece
        certificate = tls.getpeercert() or {}
        alternatives = certificate["subjectAltName"]
        assert isinstance(alternatives, tuple)
        return tls.session, bool(tls.session_reused), str(alternatives), answer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_opens_no_other_name_and_no_other_workspace(
    oracle: Oracle, workspace: MakeWorkspace, version: ssl.TLSVersion
) -> None:
    lab, neighbour = workspace(allow=[ONE, OTHER]), workspace(allow=[ONE, OTHER], name="neighbour")
    context = ssl.create_default_context(cafile=str(lab.guest.trust))
    context.load_verify_locations(str(neighbour.guest.trust))
    context.minimum_version = context.maximum_version = version
    session, resumed, _, answer = visit(lab, context, ONE)
    assert session is not None
    assert not resumed
    assert answer.startswith(b"HTTP/1.1 200")
    _, resumed, name, _ = visit(lab, context, ONE, session)  # the control
    assert (resumed, name) == (True, f"(('DNS', '{ONE}'),)")
    _, resumed, name, answer = visit(lab, context, OTHER, session)
    assert (resumed, name) == (False, f"(('DNS', '{OTHER}'),)")
    assert answer.startswith(b"HTTP/1.1 200")
    lab.wait_for("egress_request", host=OTHER)
    _, resumed, name, answer = visit(lab, context, "evil.test", session)
    assert (resumed, name) == (False, "(('DNS', 'evil.test'),)")
    assert answer.startswith(b"HTTP/1.1 403")
    lab.wait_for("egress_deny", host="evil.test")
    _, resumed, name, _ = visit(neighbour, context, ONE, session)
    assert (resumed, name) == (False, f"(('DNS', '{ONE}'),)")
    assert oracle.leaks({TLS}, {ONE, OTHER}) == ()


def test_early_data_is_never_taken(oracle: Oracle, workspace: MakeWorkspace, tmp_path: Path) -> None:
    lab = workspace(allow=[ONE])
    tmp_path.joinpath("early").write_text(f"GET /early HTTP/1.1\r\nHost: {ONE}\r\n\r\n")
    connect = (
        "openssl",
        "s_client",
        "-connect",
        f"{world.API}:443",
        "-servername",
        ONE,
        "-CAfile",
        str(lab.guest.trust),
    )
    request = f"GET / HTTP/1.1\r\nHost: {ONE}\r\nConnection: close\r\n\r\n"
    first = lab.guest.run(*connect, "-ign_eof", "-sess_out", str(tmp_path / "session"), stdin=request)
    assert f"hello from {ONE}" in first.stdout, first.stderr
    offered = re.findall(r"Max Early Data: (\d+)", first.stdout)
    assert offered
    assert set(offered) == {"0"}
    early = ("-sess_in", str(tmp_path / "session"), "-early_data", str(tmp_path / "early"))
    second = lab.guest.run(*connect, "-ign_eof", *early, stdin=request)
    assert "Reused, TLSv1.3" in second.stdout
    assert "Early data was accepted" not in second.stdout
    assert {request.path for request in lab.internet.evidence().requests} == {"/"}
    assert oracle.leaks({TLS}, {ONE}) == ()
