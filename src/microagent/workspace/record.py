"""What `workspace.json` holds: the user's settings, and what the agent decided about them."""

import json
from dataclasses import dataclass
from typing import Any

from microagent.errors import HostError, PolicyError
from microagent.workspace.spec import WorkspaceSpec
from microagent.workspace.spec import from_json as spec_from_json
from microagent.workspace.states import State


@dataclass(frozen=True, slots=True)
class Record:
    """One stored workspace. Times are RFC 3339, UTC; `reason` says why it stopped or failed, for people.

    `on_terminal`: its command of this life is on somebody's terminal, and ends with it. `search` is the list that
    its guest searches (resolv.conf(5)).
    """

    spec: WorkspaceSpec
    mediator_uid: int
    guest_uid: int
    created: str
    ca_made: str
    state: State = State.CREATED
    reason: str = ""
    digest: str | None = None
    started: str | None = None
    exit_code: int | None = None
    on_terminal: bool = False
    search: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The workspace's name."""
        return self.spec.name

    def to_bytes(self) -> bytes:
        """The file's content."""
        document = {key: getattr(self, key) for key in _DECIDED} | {"v": 1, "spec": self.spec.to_json()}
        return json.dumps(document, indent=1).encode() + b"\n"


_DECIDED: dict[str, type | tuple[type, ...]] = {
    "mediator_uid": int,
    "guest_uid": int,
    "created": str,
    "ca_made": str,
    "state": str,
    "reason": str,
    "digest": (str, type(None)),
    "started": (str, type(None)),
    "exit_code": (int, type(None)),
    "on_terminal": bool,
    "search": list,
}


def from_bytes(data: bytes, source: str) -> Record:
    """The record in a file's content; HostError when the file is damaged, since the agent alone writes it."""
    try:
        document: dict[str, Any] = json.loads(data)
        if document.pop("v") != 1:
            raise ValueError("a version this microagent does not know")
        spec = spec_from_json(document.pop("spec"))
        # Workspaces that were made before there were such things.
        document.setdefault("on_terminal", False)
        document.setdefault("search", [])
        for key, kind in _DECIDED.items():
            if not isinstance(document[key], kind):
                raise TypeError(key)
        document["state"] = State(document["state"])
        document["search"] = tuple(map(str, document["search"]))
        return Record(spec=spec, **document)
    except (ValueError, KeyError, TypeError, AttributeError, PolicyError) as error:
        raise HostError(f"{source} is damaged: {error}", "delete the workspace and create it anew") from error
