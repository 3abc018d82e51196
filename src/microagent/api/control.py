"""Messages between the agent, the nursery and the mediators: JSON objects over a unix stream socket.

A message is four bytes of length, big endian, and that many bytes of JSON. Descriptors ride on the length.
"""

import json
import os
import socket
import struct
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from microagent.api.limits import DEFAULT_LIMITS, Limits

Message: TypeAlias = dict[str, Any]

# A policy of 100 000 entries is about 10 MB of JSON; more than this is a mistake, or an attack on the agent.
MAX_MESSAGE = 64 << 20
MAX_DESCRIPTORS = 16
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class MediatorSettings:
    """All that a mediator is told: it reads no file of the host's."""

    workspace: str
    mode: str
    entries: tuple[dict[str, str], ...]
    ca_cert: str
    ca_key: str
    resolvers: tuple[str, ...]
    # In how many seconds the last of the entries end, where they do so by themselves, one for each.
    ends: tuple[float, ...] = ()
    # What guests put behind names (resolv.conf(5)): host names, canonical.
    search: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    # Where the agent itself listens, as "address:port".
    own_endpoints: tuple[str, ...] = ()
    uid: int = 65534
    changed_by: str = ""
    # The last line of the log, where rotation has just begun a new file.
    log_before: str = ""
    upstream_ca: str = ""
    limits: Limits = DEFAULT_LIMITS

    def to_message(self) -> Message:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Message) -> "MediatorSettings":
        """From JSON; TypeError when a field is missing or unknown, ValueError when a limit is out of range."""
        lists = {k: tuple(v) for k, v in message.items() if isinstance(v, list)}
        limits = Limits.from_message(message.get("limits", {}))
        return cls(**{**message, **lists, "limits": limits})


def encode(message: Message) -> bytes:
    """One message as bytes."""
    payload = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(payload)) + payload


def send(sock: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message, blocking; the descriptors are duplicated into the receiver."""
    data = encode(message)
    sent = socket.send_fds(sock, [data[: _LENGTH.size]], list(descriptors))
    sock.sendall(data[sent:])


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive one message, blocking; None at the end of the stream. ConnectionError when it ends in the middle."""
    head, descriptors, _, _ = socket.recv_fds(sock, _LENGTH.size, MAX_DESCRIPTORS)
    if not head:
        return None
    head += _receive_exactly(sock, _LENGTH.size - len(head))
    message: Message = json.loads(_receive_exactly(sock, _checked_length(head)))
    return message, descriptors


def letter(message: Message) -> int:
    """A descriptor that holds a message, for whom it is given to: who only passes it on never reads it."""
    fd = os.memfd_create("letter")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(json.dumps(message).encode())
    return fd


def open_letter(fd: int) -> Message:
    """The message in it; the descriptor is closed."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        message: Message = json.load(file)
    return message


class Assembler:
    """Messages out of chunks as they come, for ends that never block."""

    def __init__(self, most: int = MAX_MESSAGE) -> None:
        """A message has `most` bytes at most."""
        self._most = most
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes; ConnectionError for what is none."""
        self._buffer += data
        messages: list[Message] = []
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _checked_length(bytes(self._buffer[: _LENGTH.size]), self._most)
            if len(self._buffer) < end:
                break
            messages.append(_parsed(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages


def _parsed(data: bytes) -> Message:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConnectionError("a message that is not JSON") from error
    if not isinstance(message, dict):
        raise ConnectionError("a message that is no object")
    return message


def _checked_length(head: bytes, most: int = MAX_MESSAGE) -> int:
    (length,) = _LENGTH.unpack(head)
    if length > most:
        raise ConnectionError(f"a message of {length} bytes")
    return int(length)


def _receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(min(count - len(data), 1 << 20))
        if not chunk:
            raise ConnectionError("the stream ended inside a message")
        data += chunk
    return bytes(data)
