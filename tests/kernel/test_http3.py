"""A client that speaks HTTP/3 where it is offered: through a workspace it gets its page by TCP, at once."""

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.programs import python_server

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle
from microagent.host import nft

pytestmark = pytest.mark.kernel

NAME = "h2.ok.test"
TLS = Destination("tcp", world.PROGRAMS, 443)
# How niquests is asked: argv are a CA file, whether the client knows already that there is HTTP/3, and URLs.
_CLIENT = """
import json, sys, time
import niquests
ca, knows, *urls = sys.argv[1:]
with niquests.Session(disable_ipv6=True) as session:
    if knows == "yes":
        session.quic_cache_layer.add_domain("h2.ok.test", 443)
    for url in urls:
        began = time.monotonic()
        answer = session.get(url, verify=ca, timeout=10)
        print(json.dumps({"text": answer.text, "http": answer.http_version, "seconds": time.monotonic() - began}))
"""


def answers(said: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_an_http3_client_falls_back_at_once(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[NAME])
    client = (sys.executable, "-c", _CLIENT)
    url = f"https://{NAME}/"
    with python_server(internet, "h3_advertises.py"):
        for knows in ("no", "yes"):
            before = len(lab.records("egress_udp_deny"))
            for answer in answers(lab.guest.run(*client, str(lab.guest.trust), knows, url, url)):
                assert answer["text"] == "over TCP.\n"
                assert answer["seconds"] < 1  # the bound that is promised: with QUIC left unanswered it takes longer
            lab.wait_for("egress_udp_deny", dst=f"{world.PROGRAMS}:443", reason="quic")
            assert len(lab.records("egress_udp_deny")) > before, "it did not try"
        assert oracle.leaks({TLS}, {NAME}) == ()
        # The control: without a workspace in between the same client takes what it is offered.
        internet.far.run(lambda: nft.apply(f"add element inet world served {{ {world.PROGRAMS} . udp . 443 }}"))
        resolv_conf = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        inside = ("unshare", "--mount", "sh", "-c", resolv_conf, str(internet.resolv_conf))
        argv = internet.host.argv(*inside, *client, str(internet.ca), "no", url, url)
        said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert [answer["text"] for answer in answers(said)] == ["over TCP.\n", "over QUIC.\n"]
