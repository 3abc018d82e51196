"""`doctor`: what this machine can do."""

import click

from microagent.cli.output import Settings, json_option, note, say_json, table

CANNOT = 3


@click.command()
@click.option("--guest-dir", metavar="DIR", help="Where the guest's files are (default: the agent's).")
@json_option
@click.pass_context
def doctor(context: click.Context, guest_dir: str | None) -> None:
    """Check what this machine can do, by doing it; exits 3 when something required is missing."""
    from pathlib import Path

    from microagent.doctor.checks import examine

    settings: Settings = context.obj
    findings = examine(Path(guest_dir) if guest_dir else None)
    broken = [finding for finding in findings if finding.required and not finding.ok]
    if settings.json:
        say_json({"ok": not broken, "checks": [finding.to_json() for finding in findings]})
    else:
        table(("CHECK", "RESULT", "DETAIL"), [(one.name, one.result, one.detail) for one in findings])
        for finding in findings:
            if finding.fix:
                note(f"{finding.name}: {finding.fix}")
    context.exit(CANNOT if broken else 0)
