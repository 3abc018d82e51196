"""`policy allow`, `passthrough`, `revoke` and `set`: the policy of a workspace, changed while it runs."""

import re
from typing import Any

import click

from microagent.cli.agent_call import ask
from microagent.cli.egress_options import read_policy
from microagent.cli.output import Settings, json_option, note, say, say_json

_LENGTH = re.compile(r"([1-9][0-9]{0,6})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_for_option = click.option("--for", "length", metavar="TIME", help="Only for 90s, 10m, 2h or 7d.")


@click.command(short_help="Let a workspace reach HOST.")
@click.argument("name")
@click.argument("entry", metavar="HOST")
@_for_option
@json_option
@click.pass_obj
def allow(settings: Settings, name: str, entry: str, length: str | None) -> None:
    """Let workspace NAME reach HOST: a name, .suffix, address or CIDR block."""
    _add(settings, name, "allow", entry, length)


@click.command(short_help="Let a workspace reach HOST, and never intercept its TLS.")
@click.argument("name")
@click.argument("entry", metavar="HOST")
@_for_option
@json_option
@click.pass_obj
def passthrough(settings: Settings, name: str, entry: str, length: str | None) -> None:
    """Let workspace NAME reach HOST, and never intercept its TLS."""
    _add(settings, name, "passthrough", entry, length)


@click.command(short_help="Take HOST out of a workspace's policy.")
@click.argument("name")
@click.argument("entry", metavar="HOST")
@json_option
@click.pass_obj
def revoke(settings: Settings, name: str, entry: str) -> None:
    """Take HOST out of the policy of workspace NAME. Connections that it allowed are cut."""
    _change(settings, name, {"op": "revoke", "entry": entry}, f"{entry} revoked")


@click.command("set", short_help="Give a workspace the policy in FILE instead of its own.")
@click.argument("name")
@click.argument("file")
@json_option
@click.pass_obj
def set_(settings: Settings, name: str, file: str) -> None:
    """Give workspace NAME the policy in FILE, instead of all its entries and grants. Its mode stays."""
    from microagent.policy.parse import entries_to_json

    entries = read_policy(file)
    for warning in dict.fromkeys(entry.warning for entry in entries if entry.warning):
        note(f"warning: {warning}")
    what = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'} set"
    _change(settings, name, {"op": "set", "entries": entries_to_json(entries)}, what)


def _add(settings: Settings, name: str, verb: str, text: str, length: str | None) -> None:
    from microagent.policy.model import Verb
    from microagent.policy.parse import parse_entry

    # Wrong entries are told here, before anything is asked of the agent, which judges them again.
    if warning := parse_entry(Verb(verb), text, "").warning:
        note(f"warning: {warning}")
    body: dict[str, Any] = {"op": verb, "entry": text}
    if length is not None:
        body["seconds"] = _seconds(length)
    what = f"{verb}: {text}" + (f" for {length}" if length else "")
    _change(settings, name, body, what)


def _change(settings: Settings, name: str, body: dict[str, Any], what: str) -> None:
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    answer = ask(settings, "POST", workspace_path(checked_name(name), "policy"), body)
    if settings.json:
        say_json(answer)
    elif not answer["changed"]:
        say(f"{name}: {what}: the policy says so already")
    else:
        when = "in force now" if answer["running"] else "in force from its next start"
        say(f"{name}: {what}, {when}, digest {answer['new']}")


def _seconds(length: str) -> int:
    found = _LENGTH.fullmatch(length)
    if found is None:
        raise click.BadParameter(f"{length!r} is not a time such as 90s, 10m, 2h or 7d", param_hint="--for")
    return int(found[1]) * _SECONDS[found[2]]
