"""`policy show`, `suggest` and `replay`: what a workspace's policy is, and what its record says about another one.

The records come through the API; the decisions come from the engine that made them.
"""

from typing import TYPE_CHECKING, Any

import click

from microagent.cli.agent_call import ask, with_agent
from microagent.cli.egress_options import read_policy
from microagent.cli.output import Settings, json_option, say, say_json, table
from microagent.errors import ApiError

if TYPE_CHECKING:
    from microagent.decision.engine import Engine


@click.command(short_help="Show a workspace's policy, and where it was written.")
@click.argument("name")
@json_option
@click.pass_obj
def show(settings: Settings, name: str) -> None:
    """Show the policy of workspace NAME, and where each entry was written."""
    egress = stored_egress(settings, name)
    if settings.json:
        say_json(egress)
        return
    say(f"mode {egress['mode']}")
    rows = [(e["verb"], e["entry"], e["origin"], e.get("until", "")) for e in egress["entries"]]
    table(("VERB", "ENTRY", "ORIGIN", "UNTIL"), rows)


@click.command(short_help="Print the policy that would have allowed what was allowed.")
@click.argument("name")
@json_option
@click.pass_obj
def suggest(settings: Settings, name: str) -> None:
    """Print the smallest policy file that would have allowed, in strict mode, what NAME was allowed."""
    from microagent.decision.suggest import suggest as suggest_file

    engine = engine_of(_recorded_egress(settings, name))
    text = suggest_file(_records(settings, name), engine.host_addresses, engine.extra_private)
    if settings.json:
        say_json({"name": name, "policy": text})
    else:
        say(text.rstrip("\n"))


@click.command(short_help="Say which past decisions another policy would change.")
@click.argument("name")
@click.option("--policy", "file", metavar="FILE", required=True, help="The policy to try.")
@click.option("--mode", metavar="MODE", default="strict", help="The mode to try it in: strict (default) or guarded.")
@json_option
@click.pass_obj
def replay(settings: Settings, name: str, file: str, mode: str) -> None:
    """Say which past decisions of NAME would come out otherwise under the policy in FILE."""
    from dataclasses import asdict

    from microagent.decision.replay import replay as ask_again
    from microagent.policy.model import Mode
    from microagent.policy.parse import entries_to_json

    tried = {"mode": Mode.parse(mode).value, "entries": entries_to_json(read_policy(file))}
    # Of this host, with addresses of its own and what its operator calls private, another policy changes nothing.
    engine = engine_of(_recorded_egress(settings, name) | tried)
    outcome = ask_again(_records(settings, name), engine)
    if settings.json:
        changes = [{**asdict(change), "count": count} for change, count in outcome.changes]
        say_json({"decisions": outcome.decisions, "changed": outcome.changed, "changes": changes})
        return
    say(f"{outcome.changed} of {outcome.decisions} decisions would change")
    if outcome.changes:
        rows = [
            (str(count), c.target, f"{c.then} ({c.reason_then})", f"{c.now} ({c.reason_now})", c.rule or c.would_permit)
            for c, count in outcome.changes
        ]
        table(("COUNT", "TARGET", "THEN", "NOW", "ENTRY"), rows)


def stored_egress(settings: Settings, name: str) -> dict[str, Any]:
    """The workspace's mode, entries, digest, and what its host adds to the address table. ApiError `not_found`."""
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    egress: dict[str, Any] = ask(settings, "GET", workspace_path(checked_name(name), "policy"))
    return egress


def _recorded_egress(settings: Settings, name: str) -> dict[str, Any]:
    """The same, of a workspace that has a record; an empty one would look as if nothing had been asked for."""
    egress = stored_egress(settings, name)
    if egress["mode"] == "off":
        what = f"the egress of {name} is off: there is no record to learn from"
        raise ApiError("conflict", what, "run it once with --egress guarded")
    return egress


def engine_of(stored: dict[str, Any]) -> "Engine":
    """The engine that decides by what `stored_egress` gave."""
    from ipaddress import ip_address, ip_network

    from microagent.decision.engine import Engine
    from microagent.decision.past import endpoint
    from microagent.policy.model import Mode, Policy
    from microagent.policy.parse import entries_from_json

    return Engine(
        Mode.parse(stored["mode"]),
        Policy(entries_from_json(stored["entries"])),
        frozenset(ip_address(text) for text in stored["host_addresses"]),
        tuple(ip_network(text) for text in stored["private"]),
        frozenset(endpoint(text) for text in stored["own_endpoints"]),
    )


def _records(settings: Settings, name: str) -> list[dict[str, Any]]:
    import asyncio

    from microagent.api.client import Client
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    async def collect() -> list[dict[str, Any]]:
        path = workspace_path(checked_name(name), "egress")
        async with Client(settings.socket) as client, client.lines(path, {}) as records:
            return [record async for record in records]

    return with_agent(settings, lambda: asyncio.run(collect()))
