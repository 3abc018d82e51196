"""Routes and frames of the agent's API.

Everything is HTTP over the agent's unix socket. Bodies are JSON objects; `…/egress` and `…/logs` stream, one JSON
object a line and raw bytes respectively.

An attached command is one websocket, so that the agent can tell a CLI that was killed from one that waits:

    client                                  agent
    the first message, see below    ->
                                    <-      {"type": "started", "name": …}
    channel 0 + bytes (stdin)       ->      channel 1 + bytes (stdout), channel 2 + bytes (stderr)
                                    <-      {"type": "taken", "bytes": N}: so much of stdin; never more than
                                            INPUT_WINDOW bytes may be on their way
    {"type": "eof"}                 ->      stdin ends
    {"type": "resize", "rows": N, "columns": N} ->      the terminal's new size
    {"type": "signal", "number": N} ->      (exec) a signal for the command
    {"type": "end"}                 ->      (run) the guest is ended (Ctrl-C)
                                    <-      {"type": "exit", "code": …, "denied": {"count": …, "hosts": […]}}
                                       or   {"type": "error", "error": {"code", "message", "hint"}}

`denied` comes with a run only. RUN begins with {"spec": {…}, "terminal": T}, a workspace's `exec` with
{"command": […], "env": {…}, "user": …, "workdir": …, "terminal": T}. T is {"rows": N, "columns": N, "type": TERM},
or null for three pipes. When the socket closes before `exit`, the agent ends the guest, or the command.

A pull (`POST /v1/images/pull`) is answered with one JSON object a line: any number of

    {"event": "progress", "image": …, "phase": …, "done": BYTES, "total": BYTES or null}

and at the end one of `{"event": "ready", "image": …, "digest": …}` and `{"error": {…}}`. It ends when the
client leaves.
"""

from typing import Any, Final, Literal, NotRequired, TypedDict

WORKSPACES: Final = "/v1/workspaces"
RUN: Final = "/v1/run"
EGRESS: Final = "/v1/egress"
IMAGES: Final = "/v1/images"
PULL: Final = "/v1/images/pull"
AGENT: Final = "/v1/agent"
DESCRIPTION: Final = "/openapi.json"

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

# Bytes of stdin that a client may have sent and not been told of.
INPUT_WINDOW: Final = 256 << 10
# A policy of 100 000 entries is about 10 MB of JSON.
LARGEST_REQUEST: Final = 16 << 20

Act = Literal["start", "stop", "kill"]


class Problem(TypedDict):
    """`code` is the stable part; `message` says what is wrong, `hint` what to do about it."""

    code: str
    message: str
    hint: str


class Failure(TypedDict):
    """The body of every answer from 400 on."""

    error: Problem


class About(TypedDict):
    """Who answers."""

    version: str
    state_dir: str


class PolicyEntry(TypedDict):
    """One entry; `until` (RFC 3339) is the end of a grant, `origin` says where it was written."""

    verb: Literal["allow", "passthrough"]
    entry: str
    origin: NotRequired[str]
    warning: NotRequired[str]
    until: NotRequired[str]


class EgressSettings(TypedDict):
    """Mode and entries of a workspace."""

    mode: Literal["guarded", "strict", "off", ""]
    entries: NotRequired[list[PolicyEntry]]


class Spec(TypedDict):
    """The settings of a workspace. `command` empty means the image's own; `upstream_ca` holds PEM certificates."""

    name: str
    image: str
    command: NotRequired[list[str]]
    entrypoint: NotRequired[list[str]]
    setup: NotRequired[list[str]]
    env: NotRequired[dict[str, str]]
    memory_mib: NotRequired[int]
    cpus: NotRequired[int]
    disk_mib: NotRequired[int]
    egress: NotRequired[EgressSettings]
    ephemeral: NotRequired[bool]
    upstream_ca: NotRequired[str]


class PolicyChange(TypedDict):
    """allow and passthrough take `entry`, and `seconds` for a grant; revoke takes `entry`; set takes `entries`."""

    op: Literal["allow", "passthrough", "revoke", "set"]
    entry: NotRequired[str]
    seconds: NotRequired[int | None]
    entries: NotRequired[list[PolicyEntry]]


class Denied(TypedDict):
    """What a run was refused: how many records, and the first few hosts or addresses."""

    count: int
    hosts: list[str]


class Denial(TypedDict):
    """One refusal: when, which host or address, and why, in the words of its record."""

    ts: str
    host: str
    reason: str


class Traffic(TypedDict):
    """What a workspace's record adds up to, as far as it goes back.

    Flows are connections and UDP flows (refused: requests and datagrams, too), questions are DNS, requests are HTTP
    and have passed; bytes are of flows that have ended, `out` from the guest.
    """

    flows_allowed: int
    flows_denied: int
    questions_allowed: int
    questions_denied: int
    requests: int
    bytes_out: int
    bytes_in: int
    dropped_packets: int


class ImageStatus(TypedDict):
    """One image as `image ls` shows it; digest, size in bytes and date are null for a built-in one never used."""

    names: list[str]
    digest: str | None
    size: int | None
    made: str | None
    builtin: bool
    used_by: list[str]


class Status(TypedDict):
    """One workspace as `status` shows it; pids, exit code and times are null where there is none.

    `setting_up`: it runs, and what runs is its set-up; the command comes after that.

    `denied`, `traffic` and `last_denials`, the newest last, come when one workspace is asked for.
    """

    name: str
    state: str
    setting_up: bool
    reason: str
    image: str
    digest: str | None
    command: list[str]
    entrypoint: list[str]
    setup: list[str]
    env: dict[str, str]
    memory_mib: int
    cpus: int
    disk_mib: int
    ephemeral: bool
    egress: dict[str, Any]
    policy_digest: str
    created: str
    started: str | None
    uptime_seconds: int | None
    exit_code: int | None
    mediator_uid: int
    guest_uid: int
    mediator_pid: int | None
    guest_pid: int | None
    denied: NotRequired[Denied]
    traffic: NotRequired[Traffic]
    last_denials: NotRequired[list[Denial]]


class Stopped(Status):
    """`forced`: it did not end within its grace period, and was ended."""

    forced: bool


class Images(TypedDict):
    """All images."""

    images: list[ImageStatus]


class ImageRemoved(TypedDict):
    """`removed` is false where the image has other names."""

    image: str
    digest: str
    removed: bool


class ImageWish(TypedDict):
    """`credential` is an entry of a Docker configuration; `insecure` is for loopback; `renew` is to ask again."""

    image: str
    credential: NotRequired[dict[str, str] | None]
    insecure: NotRequired[bool]
    renew: NotRequired[bool]


class Index(TypedDict):
    """All workspaces."""

    workspaces: list[Status]


class Deleted(TypedDict):
    """`deleted` is false where there was none."""

    name: str
    deleted: bool


class ShownPolicy(TypedDict):
    """What `policy explain` decides by: mode, entries, and addresses that this host adds to the table."""

    mode: str
    entries: list[dict[str, Any]]
    digest: str
    host_addresses: list[str]
    private: list[str]
    own_endpoints: list[str]


class ChangedPolicy(TypedDict):
    """`old` and `new` are digests; `running` says whether it holds already."""

    name: str
    changed: bool
    running: bool
    old: str
    new: str
    egress: dict[str, Any]


class Check(TypedDict):
    """One thing that was tried; `detail` is partly the guest's word, made inert, `fix` is "" where it holds."""

    name: str
    ok: bool
    detail: str
    fix: str


class Examined(TypedDict):
    """`ok` when all checks hold; `untried` says what could not be tried in this workspace, and why."""

    name: str
    ok: bool
    checks: list[Check]
    untried: list[str]


class Fault(TypedDict):
    """What is wrong with a log, and where: file, line from 1 (0: the file as a whole), time of the record."""

    file: str
    line: int
    ts: str
    what: str


class Verified(TypedDict):
    """Records from `first` to `last`, vouched for up to `sealed` by `seals` of the key with this fingerprint."""

    whole: bool
    files: int
    records: int
    first: int
    last: int
    sealed: int
    seals: int
    faults: list[Fault]
    key: str


def workspace_path(name: str, part: str = "") -> str:
    """`/v1/workspaces/NAME[/part]`; the name has been checked, so nothing needs quoting."""
    return f"{WORKSPACES}/{name}/{part}" if part else f"{WORKSPACES}/{name}"


def frame(channel: int, data: bytes) -> bytes:
    """A binary websocket frame: the channel byte, then the bytes as they are."""
    return bytes((channel,)) + data
