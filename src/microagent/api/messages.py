"""Routes and frames of the agent's API.

Everything is HTTP over the agent's unix socket. Bodies are JSON objects; `…/egress` and `…/logs` stream, one JSON
object a line and raw bytes respectively.

An attached run is one websocket, so that the agent can tell a CLI that was killed from one that waits:

    client                                  agent
    {"spec": {…}}                   ->
                                    <-      {"type": "started", "name": …}
    channel 0 + bytes (stdin)       ->      channel 1 + bytes (stdout), channel 2 + bytes (stderr)
    {"type": "eof"}                 ->      stdin ends
    {"type": "end"}                 ->      the guest is ended (Ctrl-C)
                                    <-      {"type": "exit", "code": …, "denied": {"count": …, "hosts": […]}}
                                       or   {"type": "error", "error": {"code", "message", "hint"}}

A pull (`POST /v1/images/pull`) is answered with one JSON object a line: any number of

    {"event": "progress", "image": …, "phase": …, "done": BYTES, "total": BYTES or null}

and at the end one of `{"event": "ready", "image": …, "digest": …}` and `{"error": {…}}`. It ends when the
client leaves.

When the socket closes before `exit`, the agent ends the guest.
"""

from typing import Any, Final, Literal, TypedDict

WORKSPACES: Final = "/v1/workspaces"
RUN: Final = "/v1/run"
EGRESS: Final = "/v1/egress"
IMAGES: Final = "/v1/images"
PULL: Final = "/v1/images/pull"
AGENT: Final = "/v1/agent"

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

Act = Literal["start", "stop", "kill"]


class Denied(TypedDict):
    """What a run was refused: how many records, and the first few hosts or addresses."""

    count: int
    hosts: list[str]


class ImageStatus(TypedDict):
    """One image as `image ls` shows it; digest, size in bytes and date are null for a built-in one never used."""

    names: list[str]
    digest: str | None
    size: int | None
    made: str | None
    builtin: bool
    used_by: list[str]


class Status(TypedDict):
    """One workspace as `status` shows it; pids, exit code and times are null where there is none."""

    name: str
    state: str
    reason: str
    image: str
    digest: str | None
    command: list[str]
    env: dict[str, str]
    memory_mib: int
    cpus: int
    ephemeral: bool
    egress: dict[str, Any]
    policy_digest: str
    created: str
    started: str | None
    exit_code: int | None
    mediator_pid: int | None
    guest_pid: int | None
    denied: Denied


def workspace_path(name: str, part: str = "") -> str:
    """`/v1/workspaces/NAME[/part]`; the name has been checked, so nothing needs quoting."""
    return f"{WORKSPACES}/{name}/{part}" if part else f"{WORKSPACES}/{name}"


def frame(channel: int, data: bytes) -> bytes:
    """A binary websocket frame: the channel byte, then the bytes as they are."""
    return bytes((channel,)) + data
