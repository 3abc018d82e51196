"""The events a TCP flow's head is told, and the effects it asks for."""

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeAlias

from microagent.audit.record import Record

# --- events


@dataclass(frozen=True, slots=True)
class Peeked:
    """The guest's bytes so far, still unread in the kernel; `ended`: it will send no more."""

    data: bytes
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Waited:
    """The time given with the last `Peek` is over."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The answer to `Resolve`: addresses in the order to try them; none when the name does not resolve."""

    addresses: tuple[IPv4Address, ...]


@dataclass(frozen=True, slots=True)
class Dialed:
    """The upstream connection stands."""


@dataclass(frozen=True, slots=True)
class DialFailed:
    """It does not; `error` is the operating system's words. `late`: nobody answered in time."""

    error: str
    late: bool = False


@dataclass(frozen=True, slots=True)
class Looped:
    """It would be a connection with itself: a local port that was dialled was also the one it was dialled from."""


@dataclass(frozen=True, slots=True)
class ServerSpoke:
    """The server has said something, or hung up; `data` is how it begins, still unread.

    It was the first to speak, or this is its answer to a `Replay`.
    """

    data: bytes = b""


Event: TypeAlias = Peeked | ServerSpoke | Waited | Resolved | Dialed | DialFailed | Looped


# --- effects


@dataclass(frozen=True, slots=True)
class Peek:
    """Tell me when more than `seen` bytes are there, or when `seconds` are over."""

    seen: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask the host's resolvers for the name's IPv4 addresses."""

    name: str


@dataclass(frozen=True, slots=True)
class Write:
    """Append the record; if that fails, reset the guest and do nothing else."""

    record: Record


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to exactly this address."""

    address: IPv4Address
    port: int


@dataclass(frozen=True, slots=True)
class AwaitFirstWord:
    """Tell me who speaks first: the guest (`Peeked`, its bytes still unread) or the server (`ServerSpoke`)."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Send the first `size` bytes of the guest's on, no more, and tell me how the server answers (`ServerSpoke`)."""

    size: int


@dataclass(frozen=True, slots=True)
class Listen:
    """Tell me when the server has said more than `seen` bytes, or will say no more."""

    seen: int


@dataclass(frozen=True, slots=True)
class Return:
    """Let the guest have the first `size` bytes of the server's, no more."""

    size: int


@dataclass(frozen=True, slots=True)
class Cut:
    """End what has begun, with resets."""

    why: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the upstream connection, on which nothing was said."""


@dataclass(frozen=True, slots=True)
class Splice:
    """Relay opaque bytes both ways, from the first one."""


@dataclass(frozen=True, slots=True)
class Intercept:
    """Shake hands upstream as `name`, then with the guest; then decide each request.

    `alpn`: what the guest offered of the protocols that can be decided.
    """

    name: str
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspect:
    """Plain HTTP to `name`: decide each request."""

    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Send these bytes to the guest and close."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Reset:
    """Close the guest's connection with a reset."""


Effect: TypeAlias = (
    Peek
    | Resolve
    | Write
    | Dial
    | AwaitFirstWord
    | Replay
    | Listen
    | Return
    | Cut
    | HangUp
    | Splice
    | Intercept
    | Inspect
    | Answer
    | Reset
)
