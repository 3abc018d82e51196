"""The agent's API as an OpenAPI 3.1 document, made from the message types. Pure.

One line an operation in `OPERATIONS`; the server's routes are compared with it by a test, and its answers with the
schemas. `make pages` writes docs/openapi.json by `python -m microagent.api.openapi`.
"""

import json
import sys
import types
from dataclasses import dataclass, field
from inspect import getdoc
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints, is_typeddict

from microagent import __version__
from microagent.api import messages
from microagent.api.errors import STATUS
from microagent.api.names import NAME_PATTERN

Schema: TypeAlias = dict[str, Any]

_JSON, _LINES, _BYTES, _TAR = (
    "application/json",
    "application/x-ndjson",
    "application/octet-stream",
    "application/x-tar",
)
_ONE: Final = messages.workspace_path("{name}")
_FILTER: Final = {
    "follow": "1 to go on with what comes",
    "denied": "1 for refusals only",
    "event": "one event",
    "host": "a host; a leading dot takes in what is below it",
    "since": "no older than this: 90s, 10m, 2h, 7d",
    "limit": "the newest so many",
    "id": "the record with this id",
    "flow": "the records of this flow",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What is done, what is taken, what comes back. `answer` None stands for bytes or lines of `media`."""

    summary: str
    answer: Any = None
    media: str = _JSON
    status: int = 200
    body: Any = None
    query: dict[str, str] = field(default_factory=dict)


OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", messages.DESCRIPTION): Operation("This description", dict[str, Any]),
    ("GET", messages.AGENT): Operation("Who answers", messages.About),
    ("GET", messages.WORKSPACES): Operation("All workspaces", messages.Index),
    ("POST", messages.WORKSPACES): Operation(
        "Makes a workspace",
        messages.Status,
        status=201,
        body=messages.Spec,
        query={
            "dry_run": "1 to be told, with 200, the settings that would result, and to make nothing",
            "make": "0 to refuse an image that has first to be pulled or made",
        },
    ),
    ("GET", _ONE): Operation("One workspace", messages.Status),
    ("DELETE", _ONE): Operation(
        "Removes a workspace; one that is not there is no error",
        messages.Deleted,
        query={"force": "1 to end one that runs"},
    ),
    ("POST", f"{_ONE}/start"): Operation(
        "Starts it; the answer comes when the guest runs; its set-up may go on", messages.Status
    ),
    ("GET", f"{_ONE}/setup"): Operation(
        "Waits for the end of its set-up; an error with its last words when that failed", messages.Status
    ),
    ("POST", f"{_ONE}/stop"): Operation("Asks the guest to end; the answer comes when it has", messages.Stopped),
    ("POST", f"{_ONE}/kill"): Operation("Ends it at once", messages.Status),
    ("GET", f"{_ONE}/policy"): Operation("The policy of now, and what this host adds to it", messages.ShownPolicy),
    ("POST", f"{_ONE}/policy"): Operation(
        "Changes the policy, at once where it runs", messages.ChangedPolicy, body=messages.PolicyChange
    ),
    ("GET", f"{_ONE}/audit"): Operation("Checks the log against chain and seals", messages.Verified),
    ("GET", f"{_ONE}/audit/export"): Operation("Log, seals, policy and CA certificate, as a tar", media=_TAR),
    ("GET", f"{_ONE}/egress"): Operation("Its records, one JSON object a line", media=_LINES, query=_FILTER),
    ("GET", f"{_ONE}/logs"): Operation(
        "What its command or its console said",
        media=_BYTES,
        query={"source": "output (the default) or console", "follow": _FILTER["follow"]},
    ),
    ("GET", f"{_ONE}/exec"): Operation("A command in it, over a websocket (see the frames below)", status=101),
    ("POST", f"{_ONE}/doctor"): Operation(
        "Tries its enforcement from inside, and has the result recorded", messages.Examined
    ),
    ("GET", messages.IMAGES): Operation("All images, and who uses them", messages.Images),
    ("DELETE", messages.IMAGES): Operation(
        "Takes a name away, and with its last name the image", messages.ImageRemoved, query={"ref": "the name"}
    ),
    ("POST", messages.PULL): Operation(
        "Pulls an image: progress, one JSON object a line, then the image or an error",
        media=_LINES,
        body=messages.ImageWish,
    ),
    ("GET", messages.EGRESS): Operation("The records of all workspaces, by time", media=_LINES, query=_FILTER),
    ("GET", messages.RUN): Operation("An attached run, over a websocket (see the frames below)", status=101),
}


def document() -> Schema:
    """The whole description."""
    shapes = _Shapes()
    paths: dict[str, Schema] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _operation(shapes, path, operation)
    error = {"description": "What is wrong, and what to do", **_content(_JSON, shapes.of(messages.Failure))}
    return {
        "openapi": "3.1.0",
        "info": {"title": "microagent's agent", "version": __version__, "description": getdoc(messages) or ""},
        "servers": [{"url": "http://agent", "description": "over the unix socket /run/microagent/agent.sock"}],
        "paths": paths,
        "components": {"schemas": shapes.named, "responses": {"error": error}},
    }


def text() -> str:
    """The same as the file in docs/."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def _operation(shapes: "_Shapes", path: str, operation: Operation) -> Schema:
    taken: list[Schema] = [
        {"name": name, "in": "query", "description": what, "schema": {"type": "string"}}
        for name, what in operation.query.items()
    ]
    if "{name}" in path:
        schema = {"type": "string", "pattern": f"^{NAME_PATTERN}$"}
        taken = [{"name": "name", "in": "path", "required": True, "schema": schema}, *taken]
    answer: Schema = {"description": operation.summary}
    if operation.status != 101:
        answer |= _content(operation.media, shapes.of(operation.answer) if operation.answer else {})
    found: Schema = {"summary": operation.summary, "parameters": taken}
    if operation.body:
        found["requestBody"] = {"required": True, **_content(_JSON, shapes.of(operation.body))}
    failures = {str(status): {"$ref": "#/components/responses/error"} for status in sorted(set(STATUS.values()))}
    return found | {"responses": {str(operation.status): answer, **failures}}


def _content(media: str, schema: Schema) -> Schema:
    return {"content": {media: {"schema": schema}}}


class _Shapes:
    """Types to schemas; message types by their name."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of a type that messages are made of. TypeError for one of another sort."""
        origin, inner = get_origin(kind), get_args(kind)
        if is_typeddict(kind):
            return self._named(kind)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(one) for one in inner]}
        if origin is Literal:
            return {"enum": list(inner)}
        if origin is list:
            return {"type": "array", "items": self.of(inner[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(inner[1])}
        if kind is Any:
            return {}
        if kind not in _SIMPLE:
            raise TypeError(f"no schema for {kind}")
        return {"type": _SIMPLE[kind]}

    def _named(self, kind: Any) -> Schema:
        if kind.__name__ not in self.named:
            self.named[kind.__name__] = {
                "type": "object",
                "description": getdoc(kind) or "",
                "properties": {name: self.of(one) for name, one in get_type_hints(kind).items()},
                "required": sorted(kind.__required_keys__),
                "additionalProperties": False,
            }
        return {"$ref": f"#/components/schemas/{kind.__name__}"}


_SIMPLE: Final = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}

if __name__ == "__main__":
    sys.stdout.write(text())
