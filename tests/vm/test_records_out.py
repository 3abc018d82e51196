"""What an agent sends on of a guest that is gone at once: everything, to its last word."""

import json
import time
from pathlib import Path

import pytest
from tests.kernel.receivers import Rsyslog

from microagent.demo.internet import Internet
from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

FETCH = ("python3", "-c", "import urllib.request; urllib.request.urlopen('http://api.ok.test/').read()")


def test_a_short_run_is_in_the_hosts_syslog(guest_dir: Path, images: Path, scratch: Path) -> None:
    syslog = Rsyslog(scratch)
    settings = {"syslog": str(syslog.socket), "otlp": "http://127.0.0.1:9/v1/logs"}
    with Internet() as internet, Lab(internet, guest_dir, settings=settings, images=images) as lab, syslog.running():
        assert lab.cli("run", "--egress-allow", "api.ok.test", "base", *FETCH).returncode == 0
        for _ in range(100):
            records = [json.loads(text) for _, _, text in syslog.lines()]
            if records and records[-1]["event"] == "mediator_down":
                break
            time.sleep(0.1)
        assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
        assert {"mediator_up", "egress_allow", "egress_request", "mediator_down"} <= {r["event"] for r in records}
        # The collector is away, and what waits for it is one directory.
        (waiting,) = (lab.state / "outbox").iterdir()
        assert [path.name for path in waiting.glob("sent-*")] == ["sent-otlp.json"]
