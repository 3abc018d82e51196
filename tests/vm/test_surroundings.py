"""The host's addresses and resolvers change under a running guest; it is told without a restart."""

import json
import time

import pytest
from pyroute2 import IPRoute

from microagent.demo import world
from microagent.demo.internet import UPLINK
from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

NAME = "surrounded"
NEW = "198.51.100.77"
SCRIPT = f"""
while :; do
  n=$((n + 1))
  curl -s -m 3 -o /dev/null http://never-asked-for-$n.ok.test/
  curl -s -m 3 -o /dev/null http://{NEW}/
  sleep 0.3
done
"""


def until(lab: Lab, event: str) -> None:
    """A record of the event that is newer than now: a name that is not there, or one that nobody can tell about."""

    def count() -> int:
        asked = (r for r in lab.records(NAME) if str(r.get("qname", "")).startswith("never") and r["event"] == event)
        return sum(1 for r in asked if r.get("rcode") == 3 or event == "egress_dns_error")

    before, deadline = count(), time.monotonic() + 30
    while count() == before:
        assert time.monotonic() < deadline, lab.records(NAME)[-5:]
        time.sleep(0.3)


def add_address() -> None:
    with IPRoute() as kernel:
        kernel.addr("add", index=kernel.link_lookup(ifname=UPLINK)[0], address=NEW, prefixlen=24)


def test_new_resolvers_and_new_addresses_of_the_host_count_at_once(lab: Lab) -> None:
    assert lab.cli("create", NAME, "--image", "base", "--", "sh", "-c", SCRIPT).returncode == 0
    assert lab.cli("start", NAME).returncode == 0
    until(lab, "egress_dns_allow")

    resolv_conf = lab.internet.resolv_conf
    resolv_conf.write_text(f"nameserver {world.CLOSED}\n", "utf-8")
    until(lab, "egress_dns_error")
    resolv_conf.write_text("# being written\n", "utf-8")
    time.sleep(2.5)
    resolv_conf.write_text(f"nameserver {world.RESOLVER}\n", "utf-8")
    until(lab, "egress_dns_allow")

    # Public as long as nobody has it; the host's own from now on.
    def denied() -> list[str]:
        return [r["event"] for r in lab.records(NAME) if r.get("dst") == f"{NEW}:80" and r["event"] != "egress_close"]

    assert "egress_internal_deny" not in denied()
    lab.internet.host.run(add_address)
    deadline = time.monotonic() + 20
    while "egress_internal_deny" not in denied():
        assert time.monotonic() < deadline, json.dumps(denied())
        time.sleep(0.3)
    assert "policy_change" not in {record["event"] for record in lab.records(NAME)}
    lab.cli("kill", NAME)
    assert lab.cli("delete", NAME).returncode == 0
