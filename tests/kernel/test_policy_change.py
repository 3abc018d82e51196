"""A new policy on live flows: those it refuses are cut and recorded, all others go on (contract 11)."""

import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Workspace

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

if TYPE_CHECKING:
    from subprocess import Popen

pytestmark = pytest.mark.kernel

API = Destination("tcp", world.API, 443)
SUFFIX = Destination("tcp", world.SUFFIX, 443)
OTHER = Destination("tcp", world.OTHER, 80)
SSH = Destination("tcp", world.SSH, 22)


def download(lab: Workspace, url: str) -> AbstractContextManager["Popen[str]"]:
    """A download that lasts until it is cut."""
    trust = ("--cacert", str(lab.guest.trust))
    return lab.guest.start("curl", "-sS", *trust, "-o", "/dev/null", f"{url}/slow/1000000")


def closed(lab: Workspace, host: str, why: str = "policy_changed") -> None:
    assert lab.wait_for("egress_close", host=host)["why"] == why


def requests(internet: Internet) -> int:
    return len(internet.evidence().requests)


def test_revoked_flows_are_cut_and_others_go_on(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test", ".sfx.test"])
    with download(lab, "https://api.ok.test") as revoked, download(lab, "https://www.sfx.test") as kept:
        lab.wait_for("egress_allow", host="api.ok.test")
        lab.wait_for("egress_allow", host="www.sfx.test")
        while requests(internet) < 2:
            time.sleep(0.05)
        lab.change_policy(allow=[".sfx.test"])
        assert revoked.wait(timeout=5) in (18, 35, 52, 56)
        assert kept.poll() is None
        kept.kill()
    closed(lab, "api.ok.test")
    change = lab.wait_for("policy_change")
    assert (change["removed"], change["removed_count"]) == (["allow: api.ok.test"], 1)
    assert lab.guest.curl("https://www.sfx.test/").stdout == "hello from www.sfx.test\n"
    assert lab.guest.curl("https://api.ok.test/").returncode != 0
    assert oracle.leaks({API, SUFFIX}, {"api.ok.test", "www.sfx.test"}) == ()


def test_an_opaque_flow_goes_with_its_entry(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["ssh.ok.test", "api.ok.test"])
    lab.guest.dig("ssh.ok.test")
    with lab.guest.start("nc", world.SSH, "22") as conversation:
        lab.wait_for("egress_allow", host="ssh.ok.test")
        lab.change_policy(allow=["api.ok.test"])
        conversation.wait(timeout=5)
    closed(lab, "ssh.ok.test")
    # The lease is gone with the entry: the address alone opens nothing.
    assert lab.guest.tcp(world.SSH, 22, b"hello", seconds=1).data == b""
    assert oracle.leaks({SSH}, {"ssh.ok.test"}) == ()


def test_a_splice_that_would_be_read_now_is_cut(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(passthrough=["api.ok.test"])
    url = "https://api.ok.test/slow/1000000"
    with lab.guest.start("curl", "-sSk", "-o", "/dev/null", url) as spliced:
        lab.wait_for("egress_allow", host="api.ok.test", tls="passthrough")
        while requests(internet) < 1:
            time.sleep(0.05)
        lab.change_policy(allow=["api.ok.test"])
        assert spliced.wait(timeout=5) in (18, 35, 52, 56)
    closed(lab, "api.ok.test")
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    lab.wait_for("egress_allow", host="api.ok.test", tls="intercept")
    assert oracle.leaks({API}, {"api.ok.test"}) == ()


def test_a_flow_that_has_not_said_its_name_meets_the_new_policy(
    oracle: Oracle, workspace: MakeWorkspace, tmp_path: Path
) -> None:
    lab = workspace(allow=["other.test"])
    half = tmp_path / "half"
    # The head of a request, its second half after the change.
    half.write_text("printf 'GET / HTTP/1.1\\r\\n'; sleep 2; printf 'Host: other.test\\r\\n\\r\\n'; sleep 2\n")
    command = f"sh {half} | nc {world.OTHER} 80"
    with lab.guest.start("sh", "-c", command) as asking:
        time.sleep(0.7)
        lab.change_policy(allow=["api.ok.test"])
        assert asking.stdout is not None
        assert "egress_denied" in asking.stdout.read()
    lab.wait_for("egress_deny", host="other.test")
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API}, {"api.ok.test"}) == ()


def test_an_added_entry_opens_at_once(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace()
    assert lab.guest.curl("http://other.test/").returncode != 0
    lab.change_policy(allow=["other.test"])
    assert lab.guest.curl("http://other.test/").stdout == "hello from other.test\n"
    lab.change_policy(allow=[world.PRIVATE])
    assert lab.guest.curl("http://other.test/").returncode != 0
    assert oracle.leaks({OTHER}, {"other.test"}) == ()


def test_entries_that_end_by_themselves_do_so_without_an_agent(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=[".sfx.test", "other.test", "api.ok.test"])
    with download(lab, "https://api.ok.test") as ended, download(lab, "https://www.sfx.test") as kept:
        while requests(internet) < 2:
            time.sleep(0.05)
        # The last two, of which one has days to go.
        lab.room.call(lab.mediator.reconfigure(replace(lab.settings(), ends=(100_000.0, 0.5))))
        assert ended.wait(timeout=8) in (18, 35, 52, 56)
        assert kept.poll() is None
        kept.kill()
    closed(lab, "api.ok.test")
    change = lab.wait_for("policy_change")
    assert (change["who"], change["removed"]) == ("the end of a grant", ["allow: api.ok.test"])
    assert lab.guest.curl("http://other.test/").stdout == "hello from other.test\n"
    assert lab.guest.curl("https://api.ok.test/").returncode != 0
    # An agent that gives it anew gives all of it.
    lab.room.call(lab.mediator.reconfigure(replace(lab.settings(), changed_by="uid 0")))
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API, SUFFIX, OTHER}, {"api.ok.test", "www.sfx.test", "other.test"}) == ()
