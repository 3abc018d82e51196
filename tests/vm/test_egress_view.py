"""The record as its readers meet it: followed on a terminal to the end, and from a guest's error to what permits it."""

import json
import os
import pty
import re
import subprocess
import time

import pytest
from rich.text import Text

from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

# Asks until it is permitted, and says what it was told.
_ASKS = """
until curl -sS --resolve other.test:80:203.0.113.40 http://other.test/ | tee /tmp/said | grep hello; do
  cat /tmp/said; echo; sleep 0.5
done
"""


def test_the_id_in_a_403_leads_to_the_command_that_permits_it_while_a_terminal_follows(lab: Lab) -> None:
    ours, theirs = pty.openpty()
    run = ("run", "--name", "asks", "--keep", "--egress", "strict", "base", "sh", "-c", _ASKS)
    with lab.start(*run) as guest:
        assert guest.stdout is not None
        ident = json.loads(guest.stdout.readline())["decision"]
        viewer = subprocess.Popen(
            lab.argv("egress", "asks", "-f"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**lab.environment(), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
        )
        os.close(theirs)
        explained = json.loads(lab.cli("--json", "egress", "asks", "--id", ident).stdout)
        assert explained["records"][0]["host"] == "other.test"
        (command,) = explained["commands"]
        assert lab.cli(*command.split()[1:]).returncode == 0
        assert "hello from other.test\n" in guest.stdout.read()
        assert guest.wait() == 0
    began = time.monotonic()
    shown = _all_of(ours)
    assert viewer.wait() == 0
    # It ends with the workspace, not with a reader's patience.
    assert time.monotonic() - began < 30
    text = Text.from_ansi(shown.replace("\r", "")).plain
    assert re.search(r"deny +(x[0-9]+ )? *other\.test +name_not_listed", text)
    assert "workspace asks: no more to follow" in text
    assert lab.cli("delete", "asks").returncode == 0


def _all_of(terminal: int) -> str:
    """What was written to a terminal until nobody has it open any more."""
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # EIO: the last one has closed it
        pass
    finally:
        os.close(terminal)
    return shown.decode()
