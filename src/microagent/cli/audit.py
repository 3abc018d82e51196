"""`audit verify` and `audit export`: is the record what was written?"""

import sys
from pathlib import Path
from typing import IO, Any

import click

from microagent.cli.agent_call import ask, with_agent
from microagent.cli.output import Settings, json_option, note, say, say_json
from microagent.errors import ApiError, Malformed


@click.group()
@json_option
def audit() -> None:
    """Verify and export the record of a workspace."""


@audit.command(short_help="Check a record against its chain and seals.")
@click.argument("log", metavar="NAME|FILE")
@json_option
@click.pass_obj
def verify(settings: Settings, log: str) -> None:
    """Check every line of the log of workspace NAME, or in an exported FILE, against chain and seals.

    Ends with 1 when anything was changed, removed, moved, inserted or cut off, and says where.
    """
    # No name of a workspace's has either in it.
    report = _of_file(log) if "/" in log or "." in log else _of_workspace(settings, log)
    if settings.json:
        say_json(report)
    else:
        _say(log, report)
    if not report["whole"]:
        raise SystemExit(1)


@audit.command(short_help="Write a record as one tar, to be verified elsewhere.")
@click.argument("name")
@click.option("-o", "--output", metavar="FILE", help="Where to; NAME.tar by default, - for standard output.")
@json_option
@click.pass_obj
def export(settings: Settings, name: str, output: str | None) -> None:
    """Write log, seals, policy and CA certificate of workspace NAME as one tar, for `audit verify FILE` elsewhere."""
    import asyncio

    from microagent.api.client import Client
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    path = workspace_path(checked_name(name), "audit/export")
    if output == "-" and sys.stdout.isatty():
        raise ApiError("invalid", "a tar is nothing for a terminal", "redirect it, or name a file with --output")

    file_name = output or f"{name}.tar"

    async def fetch() -> int:
        async with Client(settings.socket) as client, client.chunks(path, {}) as chunks:
            # The file is made once there is something to write: an error leaves none.
            first = await anext(chunks, b"")
            with _opened(file_name) as file:
                written = file.write(first)
                async for chunk in chunks:
                    written += file.write(chunk)
            return written

    try:
        written = with_agent(settings, lambda: asyncio.run(fetch()))
    except OSError as error:
        raise ApiError("failed", f"cannot write {file_name}: {error.strerror or error}") from error
    if output == "-":
        return
    if settings.json:
        say_json({"name": name, "file": file_name, "bytes": written})
    else:
        note(f"written to {file_name}; `microagent audit verify` reads it anywhere")


def _opened(output: str) -> IO[bytes]:
    # Its end is not standard output's.
    return open(sys.stdout.fileno(), "wb", closefd=False) if output == "-" else Path(output).open("wb")


def _of_workspace(settings: Settings, name: str) -> dict[str, Any]:
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    report: dict[str, Any] = ask(settings, "GET", workspace_path(checked_name(name), "audit"))
    return report


def _of_file(file: str) -> dict[str, Any]:
    from dataclasses import asdict

    from microagent.audit.archive import verify_archive
    from microagent.audit.seal import fingerprint

    if not Path(file).is_file():
        raise ApiError("invalid", f"there is no file {file}", "`microagent audit export NAME` makes one")
    try:
        report, key = verify_archive(Path(file))
    except Malformed as error:
        raise ApiError("invalid", error.what, error.hint) from error
    return {"whole": report.whole, **asdict(report), "key": fingerprint(key)}


def _say(log: str, report: dict[str, Any]) -> None:
    for fault in report["faults"]:
        place = fault["file"] + (f":{fault['line']}" if fault["line"] else "")
        say(": ".join(part for part in (place, fault["ts"], fault["what"]) if part))
    word = "whole" if report["whole"] else "NOT whole"
    records = f"records {report['first']} to {report['last']}" if report["records"] else "no records"
    seals = f"sealed up to {report['sealed']} by {report['seals']} seals"
    if report["sealed"] < report["last"]:
        seals += ", and nothing vouches for those after it"
    say(f"{log}: {word}, {records} in {report['files']} file(s), {seals}")
    say(f"key {report['key']}")
