"""What the user asked for: a workspace's settings, to and from JSON, strictly.

The same object is stored with the workspace, so every later start applies it again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from microagent.api.limits import CPUS, DISK_MIB, MEMORY_MIB
from microagent.api.names import checked_name
from microagent.errors import ApiError, PolicyError, Problem
from microagent.pki.roots import parse_roots
from microagent.policy.model import Mode
from microagent.workspace.egress import Egress
from microagent.workspace.egress import from_json as egress_from_json

# The kernel refuses one argument or variable over 128 KiB; refusing it here names the culprit.
_LONGEST_STRING = 128 * 1024 - 1
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class WorkspaceSpec:
    """Settings of one workspace. `command` empty means the image's own, or an idle guest if it has none.

    `entrypoint`, when there is one, stands in place of the image's, and the image's own command is dropped, as in
    Docker. `setup`: shell commands that root runs in the guest once, before its first command. `upstream_ca`: PEM
    certificates that servers may be verified by, besides the system's roots and the agent's.
    """

    name: str
    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    memory_mib: int = 1024
    cpus: int = 1
    disk_mib: int = 16 * 1024
    egress: Egress = field(default_factory=Egress)
    ephemeral: bool = False
    upstream_ca: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` takes."""
        return {
            "name": self.name,
            "image": self.image,
            "command": list(self.command),
            "entrypoint": list(self.entrypoint),
            "setup": list(self.setup),
            "env": dict(self.env),
            "memory_mib": self.memory_mib,
            "cpus": self.cpus,
            "disk_mib": self.disk_mib,
            "egress": self.egress.to_json(),
            "ephemeral": self.ephemeral,
            "upstream_ca": self.upstream_ca,
        }


def from_json(document: object) -> WorkspaceSpec:
    """The settings in a JSON object. PolicyError names every field that is wrong, not only the first."""
    values, problems = _decode(document, _FIELDS, ("name", "image"), "a workspace's settings are")
    if values.get("upstream_ca") and values.get("egress", Egress()).mode is Mode.OFF:
        problems.append(Problem("upstream_ca: with egress off no server is verified", "leave --upstream-ca out"))
    if problems:
        raise PolicyError(tuple(problems))
    return WorkspaceSpec(**values)


def wrong(field: str, value: object) -> str:
    """What is wrong with the value of a field, for whoever knows where it was written; empty when nothing is."""
    try:
        _FIELDS[field](value)
    except ValueError as error:
        return str(error)
    except (ApiError, PolicyError) as error:
        return error.what
    return ""


def _decode(
    document: object, fields: "dict[str, Callable[[object], Any]]", needed: tuple[str, ...], what: str
) -> tuple[dict[str, Any], list[Problem]]:
    """What is right in a JSON object, and all that is wrong; PolicyError when it is no object."""
    if not isinstance(document, dict):
        raise PolicyError((Problem(f"{what} a JSON object"),))
    problems = [Problem(f"unknown setting {key!r}") for key in document if key not in fields]
    problems += [Problem(f"{key} is missing") for key in needed if key not in document]
    values: dict[str, Any] = {}
    for key, decode in fields.items():
        if key in document:
            try:
                values[key] = decode(document[key])
            except ValueError as wrong:
                problems.append(Problem(f"{key}: {wrong}"))
            except ApiError as wrong:
                problems.append(Problem(wrong.what, wrong.hint))
            except PolicyError as wrong:
                problems.extend(wrong.problems)
    return values, problems


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A command to run in a workspace that runs. `env` comes on top of the workspace's; empty `user` and `workdir` are
    the image's."""

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    workdir: str = ""


def exec_from_json(document: object) -> ExecSpec:
    """The command in a JSON object. PolicyError names every field that is wrong."""
    values, problems = _decode(document, _EXEC_FIELDS, ("command",), "a command to run is")
    if values.get("command") == ():
        problems.append(Problem("command: there is none", "microagent exec NAME -- COMMAND"))
    if problems:
        raise PolicyError(tuple(problems))
    return ExecSpec(**values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    if "\0" in value or len(value.encode("utf-8", "surrogatepass")) > _LONGEST_STRING:
        raise ValueError("no text without NUL of at most 128 KiB")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("not valid Unicode")
    return value


def _image(value: object) -> str:
    text = _text(value)
    if not text or text.startswith("-") or not text.isprintable():
        hint = "a name in a registry, such as python:3.12, a path, such as ./DIR, or `base`"
        raise ApiError("invalid", f"{text!r} is not an image reference", hint)
    return text


def _directory(value: object) -> str:
    text = _text(value)
    if text and not text.startswith("/"):
        raise ApiError("invalid", f"workdir: {text!r} is not an absolute path", "write it from / on")
    return text


def _command(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("not a list of strings")
    return tuple(_within(f"item {number}", argument) for number, argument in enumerate(value, 1))


def _within(place: str, value: object) -> str:
    try:
        return _text(value)
    except ValueError as error:
        raise ValueError(f"{place} is {error}") from None


def _setup(value: object) -> tuple[str, ...]:
    commands = _command(value)
    if not all(command.strip() for command in commands):
        raise ValueError("an empty command")
    return commands


def _env(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise ValueError("not an object of strings")
    for name in value:
        if not isinstance(name, str) or not _VARIABLE.match(name):
            raise ValueError(f"{name!r} is not a variable's name")
    return tuple((name, _within(name, text)) for name, text in value.items())


def _whole(allowed: range) -> Callable[[object], int]:
    def decode(value: object) -> int:
        if type(value) is not int or value not in allowed:
            raise ValueError(f"not a whole number from {allowed[0]} to {allowed[-1]}")
        return value

    return decode


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")
    return value


def _roots(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    return parse_roots(value) if value else ""


def _name(value: object) -> str:
    return checked_name(_text(value))


_FIELDS: dict[str, Callable[[object], Any]] = {
    "name": _name,
    "image": _image,
    "command": _command,
    "entrypoint": _command,
    "setup": _setup,
    "env": _env,
    "memory_mib": _whole(MEMORY_MIB),
    "cpus": _whole(CPUS),
    "disk_mib": _whole(DISK_MIB),
    "egress": egress_from_json,
    "ephemeral": _flag,
    "upstream_ca": _roots,
}

_EXEC_FIELDS: dict[str, Callable[[object], Any]] = {
    "command": _command,
    "env": _env,
    "user": _text,
    "workdir": _directory,
}
