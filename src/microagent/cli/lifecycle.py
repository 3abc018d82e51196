"""`start`, `stop`, `kill`, `delete`: wishes about one workspace."""

import sys
from typing import Any

import click

from microagent.cli.agent_call import ask
from microagent.cli.output import Settings, json_option, note, say, say_json
from microagent.errors import ApiError


@click.command()
@click.argument("name")
@json_option
@click.pass_obj
def start(settings: Settings, name: str) -> None:
    """Start a workspace, with the settings it was created with; waits for its set-up, where it has one."""
    from microagent.api.messages import workspace_path

    answer = _act(settings, name, "start")
    if not settings.json and answer["egress"]["mode"] == "off":
        note("warning: egress is off: nothing this workspace sends is mediated or recorded")
    if answer["setting_up"] and not settings.json:
        note(f"{name}: its set-up runs; `microagent logs {name} -f` follows it")
    if answer["setup"]:
        answer = ask(settings, "GET", workspace_path(name, "setup"))
    _say(settings, name, answer)


@click.command()
@click.argument("name")
@json_option
@click.pass_obj
def stop(settings: Settings, name: str) -> None:
    """Ask a workspace to shut down; end it when it has not after 10 s."""
    answer = _act(settings, name, "stop")
    _say(settings, name, answer)
    if not settings.json and answer["forced"]:
        note(f"{name} did not shut down within 10 s and was ended")


@click.command()
@click.argument("name")
@json_option
@click.pass_obj
def kill(settings: Settings, name: str) -> None:
    """End a workspace at once."""
    _say(settings, name, _act(settings, name, "kill"))


@click.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="End it first when it runs.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def delete(settings: Settings, name: str, force: bool, yes: bool) -> None:
    """Delete a workspace, its record of egress and everything in it. Asks first, on a terminal."""
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    path = workspace_path(checked_name(name))
    if not (yes or settings.json) and sys.stdin.isatty() and sys.stderr.isatty() and _is_there(settings, path):
        question = f"Delete workspace {name}, with all that was written in it and its record of egress?"
        if not click.confirm(question, err=True):
            raise ApiError("failed", f"workspace {name} was not deleted")
    answer = ask(settings, "DELETE", path, query={"force": "1"} if force else None)
    if settings.json:
        say_json(answer)
    else:
        say(f"{name}: deleted" if answer["deleted"] else f"{name}: there is no such workspace, nothing to delete")


def _is_there(settings: Settings, path: str) -> bool:
    try:
        ask(settings, "GET", path)
    except ApiError as error:
        return error.code != "not_found"
    return True


def _act(settings: Settings, name: str, wish: str) -> dict[str, Any]:
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name

    answer: dict[str, Any] = ask(settings, "POST", workspace_path(checked_name(name), wish))
    return answer


def _say(settings: Settings, name: str, answer: dict[str, Any]) -> None:
    if settings.json:
        say_json(answer)
    else:
        say(f"{name}: {answer['state']}")
