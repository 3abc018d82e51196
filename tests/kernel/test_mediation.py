"""A guest without a virtual machine, the real network and the real mediator: what gets out, and what does not.

Every test ends with the oracle: packets on the uplink and bytes at the servers, with the oracle's own leak as the
positive control; and where something is refused, something else is reached in the same run.
"""

import json
from collections.abc import Collection

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Workspace

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle
from microagent.demo.world import BANNER

pytestmark = pytest.mark.kernel

API_TLS = Destination("tcp", world.API, 443)
API_HTTP = Destination("tcp", world.API, 80)
PINNED_TLS = Destination("tcp", world.PINNED, 443)
OTHER_TLS = Destination("tcp", world.OTHER, 443)
SSH = Destination("tcp", world.SSH, 22)


def clean(oracle: Oracle, allowed: Collection[Destination], names: Collection[str]) -> None:
    """Nothing left but what may."""
    assert oracle.leaks(allowed, names) == ()


def reached(internet: Internet, host: str) -> list[tuple[str, str]]:
    """(scheme, address) of every request that arrived with this Host."""
    return [(r.scheme, r.address) for r in internet.evidence().requests if r.host == host]


def reaches_api(lab: Workspace) -> None:
    """The positive control of a refusal: the allowed host answers in the same run."""
    answer = lab.guest.curl("https://api.ok.test/")
    assert answer.stdout == "hello from api.ok.test\n", answer.stderr


def test_an_allowed_https_host_is_intercepted(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    answer = lab.guest.curl("-v", "https://api.ok.test/")
    assert answer.stdout == "hello from api.ok.test\n", answer.stderr
    assert "Made-up Internet" not in answer.stderr  # the certificate is the workspace's, and curl trusts no other
    allow = lab.wait_for("egress_allow", host="api.ok.test")
    assert (allow["tls"], allow["dialed"]) == ("intercept", f"{world.API}:443")
    request = lab.wait_for("egress_request", host="api.ok.test")
    assert (request["method"], request["path"], request["status"]) == ("GET", "/", 200)
    assert reached(internet, "api.ok.test") == [("https", world.API)]
    clean(oracle, {API_TLS}, {"api.ok.test"})


def test_an_allowed_http_host_by_its_name(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    assert lab.guest.curl("http://api.ok.test/?secret=1").stdout == "hello from api.ok.test\n"
    assert lab.wait_for("egress_request", host="api.ok.test")["path"] == "/"
    assert "secret" not in lab.log.read_text()
    clean(oracle, {API_HTTP}, {"api.ok.test"})


def test_every_shape_of_traffic_passes_whole(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    lab.directory.joinpath("upload").write_bytes(bytes(range(256)) * 4096)
    for scheme in ("http", "https"):
        url = f"{scheme}://api.ok.test"
        sizes = lab.guest.curl(f"{url}/bytes/3000000", "-o", "/dev/null", "-w", "%{http_code} %{size_download}")
        assert sizes.stdout == "200 3000000", sizes.stderr
        assert lab.guest.curl(f"{url}/chunked").stdout.splitlines()[-1] == "chunk 9"
        assert "data: 19" in lab.guest.curl(f"{url}/sse").stdout
        upload = lab.guest.curl(f"{url}/sink", "--data-binary", f"@{lab.directory}/upload")
        assert json.loads(upload.stdout)["length"] == 1 << 20
        # Two requests on one connection, each with a record of its own.
        twice = lab.guest.curl(f"{url}/head", f"{url}/", "-w", "%{num_connects}\n")
        assert twice.stdout.splitlines()[-1] == "0", twice.stdout
    assert len(lab.records("egress_request")) == 12
    clean(oracle, {API_TLS, API_HTTP}, {"api.ok.test"})


def test_passthrough_shows_the_servers_own_certificate(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=["api.ok.test"], passthrough=["pinned.test"])
    own = lab.guest.run("curl", "-sSv", "-m10", "--cacert", str(internet.ca), "https://pinned.test/")
    assert own.stdout == "hello from pinned.test\n", own.stderr
    assert "issuer: O=Made-up Internet" in own.stderr
    assert lab.guest.curl("https://pinned.test/").returncode == 60  # curl with the workspace's CA must not accept it
    assert lab.wait_for("egress_allow", host="pinned.test")["tls"] == "passthrough"
    assert not lab.records("egress_request")
    clean(oracle, {PINNED_TLS}, {"pinned.test"})


def test_a_server_that_speaks_first_is_found_by_its_lease(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["ssh.ok.test"])
    before = lab.guest.tcp(world.SSH, 22, seconds=3)
    assert before.data == b""  # nobody told the guest that this address is ssh.ok.test
    assert lab.guest.dig("+short", "ssh.ok.test").strip() == world.SSH
    after = lab.guest.tcp(world.SSH, 22, seconds=3)
    assert after.data == BANNER
    lab.wait_for("egress_allow", host="ssh.ok.test", dialed=f"{world.SSH}:22")
    clean(oracle, {SSH}, {"ssh.ok.test"})


@pytest.mark.parametrize("how", ["+notcp", "+tcp"])
@pytest.mark.parametrize("server", ["10.43.0.1", "8.8.8.8", "203.0.113.53"])
def test_a_denied_name_is_refused_and_asked_of_nobody(
    oracle: Oracle, workspace: MakeWorkspace, how: str, server: str
) -> None:
    lab = workspace(allow=["api.ok.test", ".sfx.test"])
    for name in ("evil.test", "secret.evil.test", "xsfx.test", "api.ok.test.evil.test"):
        answer = lab.guest.dig(how, f"@{server}", name)
        assert "status: REFUSED" in answer, answer
        assert "EDE: 15" in answer, answer
        lab.wait_for("egress_dns_deny", qname=name)
    assert "status: REFUSED" not in lab.guest.dig(how, f"@{server}", "www.sfx.test")
    clean(oracle, (), {".sfx.test"})


def test_a_search_domain_behind_a_listed_name_does_not_exist(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"], search=["corp.test"])
    searched = lab.guest.dig("api.ok.test.corp.test")
    assert "status: NXDOMAIN" in searched
    assert "EDE: 15" in searched
    lab.wait_for("egress_dns_deny", qname="api.ok.test.corp.test")
    for name in ("evil.test.corp.test", "api.ok.test.evil.test", "api.ok.test.evil.test.corp.test"):
        assert "status: REFUSED" in lab.guest.dig(name), name
    lab.search = ("lab.test",)
    lab.change_policy(allow=["api.ok.test"])
    assert "status: REFUSED" in lab.guest.dig("api.ok.test.corp.test")
    assert "status: NXDOMAIN" in lab.guest.dig("api.ok.test.lab.test")
    reaches_api(lab)
    clean(oracle, {API_TLS}, {"api.ok.test"})


def test_a_denied_host_gets_a_403_with_the_reason(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    answer = lab.guest.curl("-i", "--resolve", f"evil.test:80:{world.EVIL}", "http://evil.test/")
    head, _, body = answer.stdout.replace("\r", "").partition("\n\n")
    assert head.startswith("HTTP/1.1 403")
    said = json.loads(body)
    assert (said["error"], said["host"]) == ("egress_denied", "evil.test")
    record = lab.wait_for("egress_deny", host="evil.test")
    assert said["decision"] == record["id"]
    assert f"x-microagent-decision: {record['id']}" in head.lower()
    reaches_api(lab)
    clean(oracle, {API_TLS}, {"api.ok.test"})


def test_a_denied_tls_name_gets_the_reason_inside_its_tls(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    answer = lab.guest.curl("-i", "--resolve", f"evil.test:443:{world.EVIL}", "https://evil.test/")
    assert answer.stdout.startswith("HTTP/1.1 403"), answer
    record = lab.wait_for("egress_deny", host="evil.test")
    assert record["id"] in answer.stdout
    reaches_api(lab)
    clean(oracle, {API_TLS}, {"api.ok.test"})


def test_a_refused_upload_gets_its_reason_and_no_reset(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    large = lab.directory / "large"
    with large.open("wb") as file:
        file.truncate(20_000_000)
    for scheme in ("http", "https"):
        for _ in range(5):
            upload = ("-X", "POST", "-T", str(large), "-H", "Expect:", "-H", "Host: evil.test")
            answer = lab.guest.curl(*upload, "-w", " %{http_code}", f"{scheme}://api.ok.test/sink")
            assert answer.stdout.endswith(" 403"), answer
            assert '"error": "egress_denied"' in answer.stdout
    reaches_api(lab)
    clean(oracle, {API_TLS, API_HTTP}, {"api.ok.test"})


@pytest.mark.parametrize("port", [443, 80, 22, 5432])
@pytest.mark.parametrize(
    "first", [b"", b"SSH-2.0-probe\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f"], ids=["silent", "ssh", "postgres"]
)
def test_a_denied_address_is_reset_and_never_dialled(
    oracle: Oracle, workspace: MakeWorkspace, port: int, first: bytes
) -> None:
    lab = workspace(allow=["api.ok.test"])
    answer = lab.guest.tcp(world.EVIL, port, first)
    assert (answer.error, answer.data) == ("ConnectionResetError", b"")
    lab.wait_for("egress_deny", dst=f"{world.EVIL}:{port}")
    reaches_api(lab)
    clean(oracle, {API_TLS}, {"api.ok.test"})


@pytest.mark.parametrize("mode", ["strict", "guarded"])
@pytest.mark.parametrize("allow", [["api.ok.test"], [".ok.test"]], ids=["exact", "suffix"])
@pytest.mark.parametrize("address", [world.METADATA, world.PRIVATE, world.HOST, "127.0.0.2", "100.100.100.200"])
def test_inside_addresses_are_refused_and_recorded(
    oracle: Oracle, workspace: MakeWorkspace, mode: str, allow: list[str], address: str
) -> None:
    lab = workspace(mode, allow=allow)
    answer = lab.guest.curl("-i", f"http://{address}/") if address != "127.0.0.2" else None
    if answer is None:  # the guest's own kernel keeps 127/8 to itself: put it on the wire by force
        lab.guest.run("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
        lab.guest.run("sysctl", "-w", "net.ipv4.conf.all.route_localnet=1")
        lab.guest.tcp(address, 80, b"GET / HTTP/1.1\r\nHost: 127.0.0.2\r\n\r\n", seconds=2)
    else:
        assert answer.returncode in (7, 52, 56) or answer.stdout.startswith("HTTP/1.1 403"), answer
        lab.wait_for("egress_internal_deny", dst=f"{address}:80")
    reaches_api(lab)
    clean(oracle, {API_TLS}, {"api.ok.test"})


@pytest.mark.parametrize("name", ["metadata.test", "inside.sfx.test", "mixed.ok.test"])
def test_a_name_that_leads_inside_is_refused_when_dialled(oracle: Oracle, workspace: MakeWorkspace, name: str) -> None:
    lab = workspace(allow=["metadata.test", ".sfx.test", "mixed.ok.test", "api.ok.test"])
    address = world.METADATA if name == "metadata.test" else world.PRIVATE
    lab.guest.curl("--resolve", f"{name}:80:{address}", f"http://{name}/")
    reaches_api(lab)
    clean(oracle, {API_TLS, API_HTTP}, {"api.ok.test", name})


def test_the_entry_that_a_refusal_names_opens_a_private_address(internet: Internet, workspace: MakeWorkspace) -> None:
    def arrived() -> int:
        return sum(seen.dst == world.PRIVATE for seen in internet.evidence().canary)

    lab, before = workspace("guarded"), arrived()
    assert lab.guest.curl("http://inside.test/").returncode != 0
    assert lab.wait_for("egress_internal_deny")["hint"] == "the policy entry `allow: inside.test` would permit it"
    assert arrived() == before
    lab.change_policy(allow=["inside.test"])
    answer = lab.guest.curl("http://inside.test/")
    assert answer.returncode == 0, answer.stderr
    assert arrived() > before


@pytest.mark.parametrize("port", [443, 853])
def test_quic_is_refused_at_once(oracle: Oracle, workspace: MakeWorkspace, port: int) -> None:
    lab = workspace(allow=["api.ok.test"])
    assert lab.guest.dig("+short", "api.ok.test").strip() == world.API
    assert lab.guest.udp(world.API, port, b"x").error == "ConnectionRefusedError"
    record = lab.wait_for("egress_udp_deny", dst=f"{world.API}:{port}")
    assert record["proto"] == "udp"
    reaches_api(lab)
    clean(oracle, {API_TLS}, {"api.ok.test"})


def test_the_guests_destination_is_not_believed(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    answer = lab.guest.curl("--resolve", f"api.ok.test:443:{world.EVIL}", "https://api.ok.test/")
    assert answer.stdout == "hello from api.ok.test\n", answer.stderr
    allow = lab.wait_for("egress_allow", host="api.ok.test")
    assert (allow["dst"], allow["dialed"]) == (f"{world.EVIL}:443", f"{world.API}:443")
    assert allow["signal"] == "name-destination-mismatch"
    clean(oracle, {API_TLS}, {"api.ok.test"})


def test_inside_the_tls_only_the_agreed_host_is_served(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=["api.ok.test", "www.sfx.test"])
    answer = lab.guest.curl("-i", "-H", "Host: www.sfx.test", "https://api.ok.test/")
    assert answer.stdout.split()[1] in ("403", "421"), answer.stdout
    assert reached(internet, "www.sfx.test") == []
    lab.wait_for("egress_deny", reason="host_mismatch")
    reaches_api(lab)
    clean(oracle, {API_TLS}, {"api.ok.test"})


@pytest.mark.parametrize("host", ["bad-certificate.test", "wrong-name.test"])
def test_a_bad_upstream_certificate_is_never_hidden(oracle: Oracle, workspace: MakeWorkspace, host: str) -> None:
    lab = workspace(allow=["api.ok.test", host])
    answer = lab.guest.curl(f"https://{host}/")
    assert answer.returncode != 0 or "hello" not in answer.stdout
    lab.wait_for("egress_mitm_upstream_error", host=host)
    reaches_api(lab)
    where = world.BAD_CERTIFICATE if host == "bad-certificate.test" else world.WRONG_NAME
    clean(oracle, {API_TLS, Destination("tcp", where, 443)}, {"api.ok.test", host})


def test_guarded_allows_and_marks_what_is_public_and_unlisted(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace("guarded")
    assert lab.guest.curl("https://other.test/").stdout == "hello from other.test\n"
    assert lab.wait_for("egress_allow", host="other.test")["unlisted"] is True
    clean(oracle, {OTHER_TLS}, {"other.test"})


def test_an_empty_strict_policy_denies_everything(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace()
    assert "status: REFUSED" in lab.guest.dig("api.ok.test")
    assert lab.guest.tcp(world.API, 443, b"x", seconds=3).error
    assert lab.guest.tcp(world.RESOLVER, 53, b"\x00\x01x", seconds=3).data == b""
    clean(oracle, (), ())


def test_off_is_not_mediated_by_anything(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace("off")
    own = ("--cacert", str(lab.internet.ca))
    answer = lab.guest.run("curl", "-sS", "-m10", *own, "https://other.test/")
    assert answer.stdout == "hello from other.test\n", answer.stderr
    clean(oracle, {OTHER_TLS}, {"other.test"})


@pytest.mark.parametrize("allow", [(), ("api.ok.test",)], ids=["in the kernel", "in the mediator"])
def test_what_the_operator_calls_private_is_inside(
    oracle: Oracle, workspace: MakeWorkspace, allow: tuple[str, ...]
) -> None:
    lab = workspace("guarded", private=["203.0.113.40/29"], allow=allow)
    assert lab.guest.curl("http://other.test/").stdout != "hello from other.test\n"
    lab.wait_for("egress_internal_deny", dst=f"{world.OTHER}:80")
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({Destination("tcp", world.API, 443)}, {"api.ok.test", "other.test"}) == ()
