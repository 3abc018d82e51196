"""doctor's look at git's trust: the machine's own git, behind a real mediator, with a bundle it reads late too."""

import os
import shutil
from pathlib import Path

import pytest
from tests.kernel.conftest import MakeWorkspace

from microagent.agent import doctoring
from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

HOST = "api.ok.test"
SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.mark.skipif(not shutil.which("git"), reason="this machine has no git")
@pytest.mark.parametrize("when", ["at once", "late"])
def test_git_passes_with_the_workspaces_ca_and_fails_without(
    oracle: Oracle, workspace: MakeWorkspace, when: str
) -> None:
    lab = workspace(allow=[HOST])

    def look(bundle: Path) -> tuple[int, str]:
        named, feed = bundle, ""
        if when == "late":
            named = lab.directory / f"late-{bundle.name}"
            os.mkfifo(named)
            # Longer than the mediator waits for a first word.
            feed = f"{{ sleep 1; cat {bundle} > {named}; }} & "
        script = f"{feed}export GIT_SSL_CAINFO={named}\n{doctoring._LATE['git']}"
        done = lab.guest.run("sh", "-c", script, "sh", HOST, world.API)
        return done.returncode, done.stderr

    assert look(lab.guest.trust) == (0, "")
    assert lab.records("egress_request")[-1]["path"] == "/info/refs"
    code, words = look(SYSTEM)
    assert (code, "certificate" in words.splitlines()[-1]) == (1, True), words
    assert len(lab.records("egress_request")) == 1
    assert oracle.leaks({Destination("tcp", world.API, 443)}, {HOST}) == ()
