"""The settings of a new workspace: flags, and microagent.yaml below them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from microagent.api.limits import CPUS, DISK_MIB, MEMORY_MIB
from microagent.cli.whole_number import WholeNumber
from microagent.errors import ApiError, PolicyError, Problem

F = TypeVar("F", bound=Callable[..., Any])

# What a microagent.yaml may say, and what the API calls it.
_KEYS = {
    "name": "name",
    "image": "image",
    "command": "command",
    "entrypoint": "entrypoint",
    "setup": "setup",
    "env": "env",
    "memory": "memory_mib",
    "cpus": "cpus",
    "disk": "disk_mib",
}


def _within(allowed: range, of: str = "") -> WholeNumber:
    return WholeNumber(allowed[0], allowed[-1], of)


_OPTIONS = (
    click.option("-e", "--env", multiple=True, metavar="K=V", help="Set a variable; K alone passes yours on."),
    click.option(
        "--memory", "memory_mib", type=_within(MEMORY_MIB, "MiB"), metavar="MiB", help="Memory (default 1024)."
    ),
    click.option("--cpus", type=_within(CPUS), metavar="N", help="Processors (default 1)."),
    click.option(
        "--disk",
        "disk_mib",
        type=_within(DISK_MIB, "MiB"),
        metavar="MiB",
        help="What it may write (default 16384).",
    ),
    click.option(
        "--upstream-ca",
        multiple=True,
        metavar="FILE",
        help="PEM certificates to verify servers by, besides the system's. Repeatable.",
    ),
)


def resource_options(command: F) -> F:
    """-e, --memory, --cpus, --disk and --upstream-ca; the command gets env, memory_mib, cpus, disk_mib, upstream_ca."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_json(
    name: str,
    image: str | None,
    command: Iterable[str],
    env: Iterable[str],
    memory_mib: int | None,
    cpus: int | None,
    disk_mib: int | None,
    egress: dict[str, Any],
    upstream_ca: Iterable[str],
    file: str | None = None,
) -> dict[str, Any]:
    """The API's settings object: what flags leave out comes from the file, then from the agent's defaults."""
    written = read_workspace_file(file) if file else {}
    if written.pop("name", name) != name:
        raise ApiError("invalid", f"{file} is for a workspace of another name than {name}", "leave `name:` out of it")
    flags: dict[str, Any] = {"image": image, "command": list(command) or None}
    flags |= {"memory_mib": memory_mib, "cpus": cpus, "disk_mib": disk_mib}
    settings = written | {key: value for key, value in flags.items() if value is not None}
    settings["env"] = {**written.get("env", {}), **variables(env)}
    if "image" not in settings:
        raise ApiError("invalid", "no image is given", "--image IMAGE, or `image:` in --file")
    settings["image"] = _image(settings["image"])
    roots = "".join(map(_read_roots, upstream_ca))
    if roots:
        settings["upstream_ca"] = roots
    return {"name": name, "egress": egress, **settings}


def read_workspace_file(file: str) -> dict[str, Any]:
    """The settings in a microagent.yaml, as the API has them. PolicyError with all that is wrong, and where.

    What speaks of egress is wrong above all.
    """
    from microagent.api.documents import decode
    from microagent.workspace.spec import wrong

    try:
        text = Path(file).read_text()
    except OSError as error:
        raise ApiError("invalid", f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PolicyError((Problem("not UTF-8 text", "save the file as UTF-8", file),)) from error

    def judge(key: str, value: Any) -> tuple[str, str] | None:
        what = wrong(_KEYS[key], value)
        return (f"{key}: {what}", _FORMS.get(key, "")) if what else None

    document = decode(text, file, _KEYS, _elsewhere, judge)
    return {_KEYS[key]: value for key, value in document.values.items()}


_FORMS = {
    "env": 'write it as a mapping: NAME: "value"',
    "command": 'write it as a list of strings, a number in quotes: ["sleep", "10"]',
    "entrypoint": 'write it as a list of strings: ["python3", "-u"]',
    "setup": 'write it as a list of shell commands, one a line; one with ": " in it in quotes',
    "memory": "in MiB: memory: 2048",
    "disk": "in MiB: disk: 4096",
}


def _elsewhere(key: str) -> tuple[str, str] | None:
    """What to say about a key that belongs to the flags."""
    if not key.lower().startswith("egress"):
        return None
    hint = "use the flags --egress, --egress-allow, --egress-passthrough and --egress-policy"
    return f"{key!r}: egress is configured by flags and policy file, not here", hint


def _read_roots(file: str) -> str:
    """The certificates in a file that --upstream-ca names."""
    from microagent.pki.roots import parse_roots

    try:
        return parse_roots(Path(file).read_text("utf-8"))
    except OSError as error:
        raise ApiError("invalid", f"--upstream-ca: cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        what = f"--upstream-ca: {file}: not PEM certificates"
        raise ApiError("invalid", what, "openssl x509 -inform DER -in FILE makes PEM of DER") from None
    except ValueError as error:
        raise ApiError("invalid", f"--upstream-ca: {file}: {error}", "give a file of PEM certificates") from None


def command_words(words: tuple[str, ...], after: str) -> list[str]:
    """The command that stands at the end of a line, with or without -- before it."""
    if words[:1] == ("--",):
        return list(words[1:])
    if words and words[0].startswith("-"):
        hint = (
            f"microagent options stand before {after.split()[-1]}; write -- before a command that begins with a hyphen"
        )
        raise ApiError("invalid", f"{words[0]} stands where the command should", hint)
    return list(words)


def variables(env: Iterable[str]) -> dict[str, str]:
    """What -e says: K=V, or K for our own value of K, if it has one."""
    found = {}
    for text in env:
        name, given, value = text.partition("=")
        if not name:
            raise ApiError("invalid", f"-e {text!r} names no variable", "-e NAME=VALUE, or -e NAME")
        if given:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _image(reference: str) -> str:
    """A path is the caller's, so it is made absolute before the agent sees it; other references stay as they are."""
    from microagent.api.reference import absolute

    return absolute(reference, str(Path.cwd()))
