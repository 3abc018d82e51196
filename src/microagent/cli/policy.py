"""`policy check` and `policy explain`: the engine that decides in mediators, asked from the command line.

The other verbs of the group are in `changing` and `learning`.
"""

from typing import Any

import click

from microagent.cli import changing, learning
from microagent.cli.egress_options import read_policy
from microagent.cli.learning import engine_of, stored_egress
from microagent.cli.output import Settings, json_option, note, say, say_json, table


@click.group()
@json_option
def policy() -> None:
    """Check, explain, change and learn policies."""


@policy.command(short_help="Read a policy file; say what is in it, or what is wrong.")
@click.argument("file")
@json_option
@click.pass_obj
def check(settings: Settings, file: str) -> None:
    """Read a policy file as `create` and `run` would; say what is in it, or all that is wrong."""
    from microagent.policy.model import Policy, Verb

    entries = read_policy(file)
    found = Policy(entries)
    by_verb = {verb.value: [entry.text for entry in entries if entry.verb is verb] for verb in Verb}
    if settings.json:
        say_json({"file": file, **by_verb, "digest": found.digest, "warnings": list(found.warnings)})
        return
    for warning in found.warnings:
        note(f"warning: {warning}")
    counts = ", ".join(f"{len(texts)} {verb}" for verb, texts in by_verb.items())
    say(f"{file}: fine, {counts}, digest {found.digest}")


@policy.command(short_help="Say what would happen to a host, an address or a URL, and why.")
@click.option("--policy", "file", metavar="FILE", help="Ask this policy instead of a workspace's.")
@click.option("--mode", metavar="MODE", help="With --policy: guarded (default) or strict.")
@click.argument("words", nargs=-1, metavar="[NAME] TARGET")
@json_option
@click.pass_obj
def explain(settings: Settings, file: str | None, mode: str | None, words: tuple[str, ...]) -> None:
    """Say what would happen to TARGET (a name, an address, host:port, a URL), and why.

    Asks the policy of workspace NAME, or the one in --policy FILE.
    """
    from microagent.decision.engine import Engine
    from microagent.decision.explain import explain as ask_engine
    from microagent.policy.model import Mode, Policy

    if len(words) != (1 if file is not None else 2):
        raise click.UsageError("give a workspace's NAME and a TARGET, or --policy FILE and a TARGET")
    if file is not None:
        engine = Engine(Mode.parse(mode or ""), Policy(read_policy(file)))
    elif mode is not None:
        raise click.UsageError("--mode goes with --policy; a workspace has its own")
    else:
        engine = engine_of(stored_egress(settings, words[0]))
    answer: dict[str, Any] = ask_engine(engine, words[-1])
    if settings.json:
        say_json(answer)
    else:
        table(("FIELD", "VALUE"), [(key, _shown(value)) for key, value in answer.items() if value not in (None, "")])


def _shown(value: object) -> str:
    if isinstance(value, dict):  # the nearest entry
        return f"{value['entry']} ({value['origin']}): {value['why']}"
    return str(value)


for _command in (
    changing.allow,
    changing.passthrough,
    changing.revoke,
    changing.set_,
    learning.show,
    learning.suggest,
    learning.replay,
):
    policy.add_command(_command)
