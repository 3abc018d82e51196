"""`doctor`: what this machine can do, and whether a workspace's enforcement holds."""

import click

from microagent.cli.agent_call import ask
from microagent.cli.output import Settings, json_option, note, say_json, table

CANNOT = 3
_HEADINGS = ("CHECK", "RESULT", "DETAIL")


@click.command()
@click.argument("name", required=False)
@click.option("--guest-dir", metavar="DIR", help="Where the guest's files are (default: the agent's).")
@json_option
@click.pass_context
def doctor(context: click.Context, name: str | None, guest_dir: str | None) -> None:
    """Check what this machine can do, by doing it; exits 3 when something required is missing.

    With NAME, try the enforcement of that running workspace, from inside it; exits 1 when something does not hold.
    """
    if name is None:
        context.exit(_machine(context.obj, guest_dir))
    if guest_dir is not None:
        raise click.UsageError("--guest-dir is about this machine; it does not go with a workspace's NAME")
    context.exit(_workspace(context.obj, name))


def _machine(settings: Settings, guest_dir: str | None) -> int:
    from pathlib import Path

    from microagent.doctor.checks import examine

    findings = examine(Path(guest_dir) if guest_dir else None)
    broken = [finding for finding in findings if finding.required and not finding.ok]
    if settings.json:
        say_json({"ok": not broken, "checks": [finding.to_json() for finding in findings]})
    else:
        table(_HEADINGS, [(one.name, one.result, one.detail) for one in findings])
        for finding in findings:
            if finding.fix:
                note(f"{finding.name}: {finding.fix}")
    return CANNOT if broken else 0


def _workspace(settings: Settings, name: str) -> int:
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    answer = ask(settings, "POST", workspace_path(checked_name(name), "doctor"))
    if settings.json:
        say_json(answer)
    else:
        table(_HEADINGS, [(one["name"], "ok" if one["ok"] else "failed", one["detail"]) for one in answer["checks"]])
        for reason in answer["untried"]:
            note(f"not tried: {reason}")
        for one in answer["checks"]:
            if one["fix"]:
                note(f"{one['name']}: {one['fix']}")
    return 0 if answer["ok"] else 1
