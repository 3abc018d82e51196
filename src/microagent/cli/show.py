"""`ps` and `status`: what there is."""

import shlex
import textwrap
from typing import Any

import click

from microagent.cli.agent_call import ask
from microagent.cli.output import Settings, json_option, say_json, table

# `status` shows the whole of it.
_WIDEST_COMMAND = 40


@click.command()
@json_option
@click.pass_obj
def ps(settings: Settings) -> None:
    """List the workspaces."""
    from microagent.api.messages import WORKSPACES

    answer = ask(settings, "GET", WORKSPACES)
    if settings.json:
        say_json(answer)
        return
    rows = [
        (
            one["name"],
            one["state"],
            one["egress"]["mode"],
            one["image"],
            textwrap.shorten(_command(one), _WIDEST_COMMAND, placeholder="…"),
            _moment(one["started"]),
        )
        for one in answer["workspaces"]
    ]
    table(("NAME", "STATE", "EGRESS", "IMAGE", "COMMAND", "STARTED"), rows)


@click.command()
@click.argument("name")
@json_option
@click.pass_obj
def status(settings: Settings, name: str) -> None:
    """Show one workspace: state, settings, policy, processes, traffic, refusals."""
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    answer = ask(settings, "GET", workspace_path(checked_name(name)))
    if settings.json:
        say_json(answer)
    else:
        table(("FIELD", "VALUE"), _facts(answer))


def _facts(one: dict[str, Any]) -> list[tuple[str, str]]:
    denied = one["denied"]
    return _with_values(
        ("name", one["name"]),
        ("state", one["state"]),
        ("reason", "its set-up goes on" if one["setting_up"] else one["reason"]),
        ("image", one["image"]),
        ("digest", one["digest"]),
        *settings_facts(one),
        ("policy", one["policy_digest"]),
        ("created", _moment(one["created"])),
        ("started", _moment(one["started"])),
        ("uptime", _duration(one["uptime_seconds"])),
        ("exit code", one["exit_code"]),
        ("mediator", _process(one["mediator_pid"], one["mediator_uid"])),
        ("guest", _process(one["guest_pid"], one["guest_uid"])),
        *_traffic(one["traffic"]),
        ("denied", f"{denied['count']} {', '.join(denied['hosts'])}".rstrip()),
        *(("last denied", f"{last['ts']}  {last['host'] or '-'}  {last['reason']}") for last in one["last_denials"]),
    )


def settings_facts(one: dict[str, Any]) -> list[tuple[str, str]]:
    """What a workspace's command and guest are, and its policy, an entry a row.

    Of its variables, which may be secrets, only the names.
    """
    egress = one["egress"]
    return _with_values(
        ("entrypoint", shlex.join(one["entrypoint"])),
        ("command", _command(one)),
        ("setup", "; ".join(one["setup"])),
        ("env", " ".join(one["env"])),
        ("memory", f"{one['memory_mib']} MiB"),
        ("cpus", one["cpus"]),
        ("disk", f"{one['disk_mib']} MiB"),
        ("egress", egress["mode"]),
        *((entry["verb"], f"{entry['entry']}  ({entry['origin']})") for entry in egress["entries"]),
    )


def _with_values(*facts: tuple[str, object]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _traffic(sums: dict[str, int]) -> list[tuple[str, str]]:
    from microagent.audit.render import size

    return [
        ("flows", f"{sums['flows_allowed']} allowed, {sums['flows_denied']} denied"),
        ("dns", f"{sums['questions_allowed']} allowed, {sums['questions_denied']} denied"),
        ("requests", str(sums["requests"])),
        ("bytes", f"{size(sums['bytes_out'])} out, {size(sums['bytes_in'])} in"),
        ("dropped", f"{sums['dropped_packets']} packet{'' if sums['dropped_packets'] == 1 else 's'}"),
    ]


def _process(pid: int | None, uid: int) -> str:
    return "" if pid is None else f"pid {pid}, uid {uid}"


def _moment(when: str | None) -> str:
    """A time of the agent's (RFC 3339, UTC), to the second."""
    return f"{when[:19]}Z" if when else ""


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((n for n, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2])


def _command(one: dict[str, Any]) -> str:
    return shlex.join(one["command"])
