"""Draws the pictures of the README: a real run in the made-up internet, followed as `microagent egress -f` follows it.

    python -m microagent.demo.screenshots DIRECTORY

writes `egress-wide.svg`, `egress-80.svg` and `egress-id.svg`. What is drawn comes from the view's own code; only the
terminal is rich's recorder.
"""

import asyncio
import re
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from microagent.api.client import Client
from microagent.api.messages import workspace_path
from microagent.cli.live import View
from microagent.demo.internet import Internet
from microagent.demo.lab import Lab
from microagent.errors import HostError

_WORKSPACE = "research"
_FLAGS = ("--egress", "strict", "--egress-allow", ".ok.test", "--egress-passthrough", "pinned.test")
_SCRIPT = """
curl -s https://api.ok.test/ https://api.ok.test/v1/models
for i in 1 2 3 4 5 6 7; do curl -s https://evil.test/; done
for i in 1 2 3; do curl -s http://evil.test/ --resolve evil.test:80:203.0.113.66; done
curl -sk https://pinned.test/
curl -s -m 2 http://169.254.169.254/latest/meta-data/
curl -s -d hello https://api.ok.test/v1/responses
"""
_WIDTHS = {"wide": 160, "80": 80}


def main(directory: Path) -> None:
    """Runs the guest and writes the pictures. HostError when it does not run."""
    directory.mkdir(parents=True, exist_ok=True)
    with Internet() as internet, Lab(internet) as lab:
        created = lab.cli("create", _WORKSPACE, "--image", "base", *_FLAGS, "--", "sh", "-c", _SCRIPT)
        if created.returncode != 0:
            raise HostError(f"the guest was not made: {created.stderr.strip()}")
        views = asyncio.run(_follow(lab))
        for name, width in _WIDTHS.items():
            title = f"microagent egress {_WORKSPACE} -f"
            _save(directory / f"egress-{name}.svg", title, width, views[name])
        denial = next(record for record in lab.records(_WORKSPACE) if record["event"] == "egress_deny")
        explained = lab.cli("egress", _WORKSPACE, "--id", denial["id"]).stdout
        title = f"microagent egress {_WORKSPACE} --id {denial['id']}"
        _save(directory / "egress-id.svg", title, _WIDTHS["wide"], [explained.rstrip("\n")])


async def _follow(lab: Lab) -> dict[str, list[Any]]:
    """What the view of each width shows when the last record has come."""
    views = {name: View(f"workspace {_WORKSPACE}", workspaces=False) for name in _WIDTHS}
    async with Client(lab.socket) as client:
        await client.call("POST", workspace_path(_WORKSPACE, "start"))
        async with client.lines(workspace_path(_WORKSPACE, "egress"), {"follow": "1"}) as records:
            async for record in records:
                for view in views.values():
                    view.feed(record, time.monotonic())
    now = time.monotonic()
    return {
        name: [view.heading(_WIDTHS[name]), *view.leaving(_WIDTHS[name]), view.region(_WIDTHS[name], now)]
        for name, view in views.items()
    }


def _save(file: Path, title: str, width: int, shown: list[Any]) -> None:
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True, color_system="truecolor")
    for part in shown:
        console.print(part, highlight=False, markup=False)
    # Its own identifiers differ with the text; ours only with the picture.
    drawn = console.export_svg(title=title, theme=DIMMED_MONOKAI, unique_id=file.stem)
    # rich asks a font server; a picture in a README asks nobody.
    file.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
