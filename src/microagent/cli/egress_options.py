"""`--egress…` and the other settings of a workspace, from flags and files to the API's JSON.

The policy is parsed here, so that errors come with the user's file and line, before anything is asked of the agent;
the agent parses the entries again.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from microagent.cli.output import note
from microagent.errors import ApiError

if TYPE_CHECKING:
    from microagent.policy.model import Entry

F = TypeVar("F", bound=Callable[..., Any])

OFF_WARNING = "warning: egress is off: nothing this workspace sends is mediated or recorded"

_OPTIONS = (
    click.option("--egress", "mode", default="", metavar="MODE", help="guarded (default), strict or off."),
    click.option(
        "--egress-allow", "allow", multiple=True, metavar="ENTRY", help="Allow a name, .suffix or address. Repeatable."
    ),
    click.option(
        "--egress-passthrough",
        "passthrough",
        multiple=True,
        metavar="ENTRY",
        help="Allow, and never intercept TLS. Repeatable.",
    ),
    click.option(
        "--egress-policy", "policy", metavar="FILE", help="A YAML or JSON file of entries, united with the flags."
    ),
)


def egress_options(command: F) -> F:
    """The four egress flags; the command gets mode, allow, passthrough, policy."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def egress_json(mode: str, allow: Iterable[str], passthrough: Iterable[str], policy: str | None) -> dict[str, Any]:
    """The `egress` object of a workspace's settings. PolicyError with every wrong entry."""
    from microagent.errors import PolicyError, Problem
    from microagent.policy.model import Mode, Verb
    from microagent.policy.parse import entries_to_json, parse_entry

    chosen = Mode.parse(mode)
    entries: list[Entry] = []
    problems: list[Problem] = []
    flags = [(Verb.ALLOW, text) for text in allow] + [(Verb.PASSTHROUGH, text) for text in passthrough]
    for verb, text in flags:
        try:
            entries.append(parse_entry(verb, text, f"--egress-{verb.value}"))
        except PolicyError as error:
            problems += error.problems
    if policy is not None:
        try:
            entries += read_policy(policy)
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(tuple(problems))
    if chosen is Mode.OFF:
        if entries or policy is not None:
            hint = "choose --egress strict or guarded, or leave the entries out"
            raise ApiError("invalid", "--egress off mediates nothing, so no policy can apply", hint)
        note(OFF_WARNING)
    for warning in dict.fromkeys(entry.warning for entry in entries if entry.warning):
        note(f"warning: {warning}")
    return {"mode": chosen.value, "entries": entries_to_json(entries)}


def read_policy(file: str) -> "tuple[Entry, ...]":
    """The entries of a policy file; ApiError `invalid` when it cannot be read."""
    from microagent.policy.parse import parse_bytes

    try:
        return parse_bytes(Path(file).read_bytes(), file)
    except OSError as error:
        raise ApiError("invalid", f"cannot read {file}: {error.strerror}") from error
