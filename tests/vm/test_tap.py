"""The tap of a guest that runs, changed by somebody else on the host: put back, or the end, and said either way."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pyroute2 import IPRoute
from tests.waiting import wait_for

from microagent.api.link import TAP
from microagent.demo.lab import Lab
from microagent.host import netns

pytestmark = pytest.mark.vm

NAME = "tapped"


def status(lab: Lab) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.cli("--json", "status", NAME).stdout)
    return found


def test_a_tap_that_is_taken_down_comes_back_and_one_that_is_deleted_is_the_end(lab: Lab) -> None:
    def change(work: Callable[[IPRoute, int], None]) -> None:
        def inside() -> None:
            with IPRoute() as ip:
                work(ip, ip.link_lookup(ifname=TAP)[0])

        netns.run_inside(lab.socket.parent / "netns" / NAME, inside)

    def answered() -> int:
        return len([record for record in lab.records(NAME) if record["event"] == "egress_request"])

    asking = "while :; do curl -s -m 5 https://api.ok.test/; sleep 0.2; done"
    flags = ("--egress", "strict", "--egress-allow", "api.ok.test")
    assert lab.cli("create", NAME, "--image", "base", *flags, "--", "sh", "-c", asking).returncode == 0
    assert lab.cli("start", NAME).returncode == 0
    wait_for(lambda: answered() > 0)

    change(lambda ip, tap: ip.link("set", index=tap, state="down"))
    wait_for(lambda: any(record["event"] == "gap" for record in lab.records(NAME)))
    assert lab.records(NAME)[-1]["event"] != "mediator_down"
    before = answered()
    wait_for(lambda: answered() > before)
    assert f"tap repaired workspace={NAME}" in lab.log.read_text()

    change(lambda ip, tap: ip.link("del", index=tap))
    wait_for(lambda: status(lab)["state"] == "failed")
    assert status(lab)["reason"] == f"workspace {NAME} cannot be mediated: its tap was taken away"
    assert lab.cli("delete", NAME).returncode == 0
