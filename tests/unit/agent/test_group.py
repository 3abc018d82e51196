"""The group `microagent`, through a real agent's socket: members may use the agent, and read no more than before."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.strangers import as_user
from tests.unit.agent.test_agent import Agent

from microagent.api.names import GROUP

pytestmark = pytest.mark.kernel

GID, USER = 61_777, 65_534
# The machine's own groups are left alone: the agent sees a file of ours in their place.
_WITH_GROUPS = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/group && exec "$@"')


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        home.chmod(0o711)
        groups = home / "group"
        groups.write_text(Path("/etc/group").read_text() + f"{GROUP}:x:{GID}:\n")
        running = Agent(home, (*_WITH_GROUPS, str(groups)))
        yield running
        running.stop()


def cli(agent: Agent, *arguments: str, group: int = USER, groups: tuple[int, ...] = ()) -> tuple[int, str, str]:
    """Exit code, output and errors of `microagent`, as somebody who is not root."""
    done = subprocess.run(
        [*as_user(USER, group, groups), sys.executable, "-m", "microagent.cli", *arguments],
        env={**os.environ, "MICROAGENT_SOCKET": str(agent.socket), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_members_may_use_the_agent_and_strangers_may_not(agent: Agent) -> None:
    found = agent.socket.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, GID, 0o660)
    for strangers in ((), (GID + 1,)):
        code, output, errors = cli(agent, "ps", groups=strangers)
        assert (code, output) == (1, "")
        assert f"join the group {GROUP} (usermod -aG {GROUP} NAME, as root) and log in anew" in errors
    # The kernel keeps them away from the socket; the agent itself asks once more who they are.
    agent.socket.chmod(0o666)
    assert "you may not use this agent" in cli(agent, "ps")[2]
    agent.socket.chmod(0o660)

    assert cli(agent, "create", "theirs", "--image", "tiny", groups=(GID,))[0] == 0
    assert cli(agent, "policy", "allow", "theirs", "api.example.org", group=GID)[0] == 0
    code, output, _ = cli(agent, "--json", "status", "theirs", groups=(GID + 1, GID))
    assert code == 0
    (entry,) = json.loads(output)["egress"]["entries"]
    assert entry["origin"].startswith("policy, by nobody at ")
    assert cli(agent, "delete", "theirs", groups=(GID,))[:2] == (0, "theirs: deleted\n")


def test_members_read_nothing_that_root_alone_can(agent: Agent) -> None:
    secret = agent.home / "image"
    secret.mkdir(mode=0o700)
    (secret / "shadow").write_text("root's")
    link = agent.home / "link"
    link.symlink_to(secret)
    for place in (secret, link):
        code, _, errors = cli(agent, "create", "stolen", "--image", str(place), groups=(GID,))
        assert code == 1, errors
        assert "may not" in errors or "denied" in errors, errors
    assert cli(agent, "status", "stolen", groups=(GID,))[0] == 1
    # The control: what is theirs.
    os.chown(secret, USER, USER)
    assert cli(agent, "create", "stolen", "--image", str(secret), groups=(GID,))[0] == 0
    assert cli(agent, "delete", "stolen", groups=(GID,))[0] == 0
    # Nor does the group own anything of the agent's but its socket.
    ours = [path for path in (*agent.state.rglob("*"), *agent.socket.parent.rglob("*")) if path != agent.socket]
    assert ours
    assert not [path for path in ours if path.lstat().st_gid == GID]


# All that an agent at the default places would find or leave, and no process of it stays.
_OWN_MACHINE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec")
_UMASK = """
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /var/lib/microagent
mount -t tmpfs -o mode=700 tmpfs /var/lib/microagent
umask 077
"$0" -P -m microagent.cli ps > /dev/null
stat -c %a /run/microagent
"""


def test_members_reach_the_agent_of_a_root_with_umask_077() -> None:
    """As hardened hosts have it, where no systemd starts the agent. `as_user` would get through in any case."""
    environment = {name: value for name, value in os.environ.items() if name != "MICROAGENT_SOCKET"}
    command = [*_OWN_MACHINE, _UMASK, sys.executable]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "711\n"), done.stderr
