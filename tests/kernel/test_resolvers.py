"""The host's resolvers as hosts have them: dead, on a link, older than EDNS."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.test_dns import a, addresses, ask, says_a
from tests.kernel.upstream import SECOND, STUB, Say, reply, upstream

from microagent.agent.resolv_conf import read_resolv_conf
from microagent.demo import world
from microagent.demo.internet import UPLINK, Internet
from microagent.demo.oracle import Oracle

pytestmark = pytest.mark.kernel


def test_a_silent_resolver_does_not_cost_a_guest_its_answer(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    """A guest's libc waits for one second; a slow resolver is heard all the same when it is asked again."""
    lab = workspace(allow=[".ok.test"], resolvers=[STUB, SECOND])
    with upstream(internet, lambda *_: []) as first, upstream(internet, says_a, SECOND) as second:
        assert addresses(ask(lab, "www.ok.test", seconds=1)) == [world.API]
        assert (len(first.heard), len(second.heard)) == (1, 1)
    with upstream(internet, lambda query, _: [0.9, a(query)]), upstream(internet, lambda *_: [], SECOND):
        assert addresses(ask(lab, "slow.ok.test")) == [world.API]
    assert oracle.leaks(()) == ()


def test_a_resolver_without_edns_is_asked_without_it(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    """As a home router's: some answer with the header alone."""

    def script(query: dns.message.Message, transport: str) -> Iterable[Say]:
        if query.edns < 0:
            return [a(query)]
        if "bare" in query.question[0].name.to_text():
            return [query.id.to_bytes(2, "big") + b"\x80\x01" + bytes(8)]
        return [reply(query, rcode=dns.rcode.FORMERR)]

    lab = workspace(allow=[".ok.test"], resolvers=[STUB])
    with upstream(internet, script) as stub:
        assert addresses(ask(lab, "www.ok.test", seconds=1)) == [world.API]
        assert addresses(ask(lab, "bare.ok.test", seconds=1)) == [world.API]
        assert len(stub.heard) == 4
    assert oracle.leaks(()) == ()


def test_a_resolver_may_be_on_a_link(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, tmp_path: Path
) -> None:
    """As NetworkManager writes the resolver of a router's advertisement; over TCP as well."""
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"nameserver fe80::53%{UPLINK}\n")
    subprocess.run(internet.host.argv("ip", "addr", "add", "fe80::53/64", "dev", UPLINK, "nodad"), check=True)

    def script(query: dns.message.Message, transport: str) -> Iterable[Say]:
        answer = a(query)
        if transport == "udp":
            answer.flags |= dns.flags.TC
        return [answer]

    lab = workspace(allow=["www.ok.test"], resolvers=internet.host.run(lambda: read_resolv_conf(conf)).resolvers)
    with upstream(internet, script, f"fe80::53%{UPLINK}") as stub:
        assert addresses(ask(lab, "www.ok.test")) == [world.API]
        assert [transport for transport, _ in stub.heard] == ["udp", "tcp"]
    assert oracle.leaks(()) == ()
