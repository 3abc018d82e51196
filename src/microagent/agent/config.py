"""The agent's configuration file, decoded strictly: an unknown key or a wrong type is an error with its place."""

from collections.abc import Callable
from collections.abc import Mapping as Ranges
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from microagent.api.documents import Mapping, decode, unknown
from microagent.api.limits import DEFAULT_LIMITS, RANGES, Limits
from microagent.errors import ApiError, PolicyError, Problem
from microagent.guests.workshop import DEFAULT_BOUNDS, Bounds
from microagent.guests.workshop import RANGES as IMAGE_RANGES
from microagent.policy.addresses import Network
from microagent.policy.model import Verb
from microagent.policy.parse import parse_entry

DEFAULT_FILE = Path("/etc/microagent/agent.yaml")


@dataclass(frozen=True, slots=True)
class Config:
    """Where things are, and what a workspace may take.

    All paths are absolute; `images` bounds the making of an image; `upstream_ca` are PEM files trusted besides the
    system's roots; `private` are networks of the operator's that count as private (contract 4), besides those of the
    table; `metrics` is a loopback address and port or the path of a unix socket, "" for none. Records are also sent to
    the `syslog` socket and the `otlp` URL.
    """

    state_dir: Path = Path("/var/lib/microagent")
    run_dir: Path = Path("/run/microagent")
    socket: Path = Path("/run/microagent/agent.sock")
    resolv_conf: Path = Path("/etc/resolv.conf")
    upstream_ca: tuple[Path, ...] = ()
    guest_dir: Path = Path("/var/cache/microagent/guest")
    private: tuple[Network, ...] = ()
    limits: Limits = DEFAULT_LIMITS
    images: Bounds = DEFAULT_BOUNDS
    metrics: str = ""
    syslog: Path | None = None
    otlp: str = ""


def load(file: Path | None) -> Config:
    """The configuration in `file`; without one in /etc/microagent/agent.yaml if there is one, else the defaults."""
    if file is None and not DEFAULT_FILE.exists():
        return Config()
    file = file or DEFAULT_FILE
    try:
        text = file.read_text()
    except OSError as error:
        raise ApiError("invalid", f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ApiError("invalid", f"cannot read {file}: not UTF-8 text", "save the file as UTF-8") from error
    document = decode(text, str(file), {field.name for field in fields(Config)})
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for key in document.values:
        try:
            values[key] = _READERS.get(key, _path)(document, key)
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(tuple(problems))
    return Config(**values)


def _path(document: Mapping, key: str) -> Path:
    value = document.values[key]
    if not isinstance(value, str) or not value.startswith("/"):
        raise PolicyError((document.problem(key, f"{key} is not an absolute path"),))
    return Path(value)


def _paths(document: Mapping, key: str) -> tuple[Path, ...]:
    value = document.values[key]
    if not isinstance(value, list) or not all(isinstance(item, str) and item.startswith("/") for item in value):
        raise PolicyError((document.problem(key, f"{key} is not a list of absolute paths"),))
    return tuple(Path(item) for item in value)


def _networks(document: Mapping, key: str) -> tuple[Network, ...]:
    value = document.values[key]
    if not isinstance(value, list):
        hint = f"write {key}: [192.0.2.0/24]"
        raise PolicyError((document.problem(key, f"{key} is not a list of addresses and CIDR blocks", hint),))
    found: list[Network] = []
    for item in value:
        try:
            entry = parse_entry(Verb.ALLOW, str(item), "")
        except PolicyError as error:
            problems = (document.problem(key, f"{key}: {wrong.what}", wrong.hint) for wrong in error.problems)
            raise PolicyError(tuple(problems)) from None
        if entry.network is None:
            raise PolicyError((document.problem(key, f"{key}: {item} is a name, not an address or a CIDR block"),))
        found.append(entry.network)
    return tuple(found)


def _metrics(document: Mapping, key: str) -> str:
    value = document.values[key]
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        if value.startswith("/") or (
            host in ("127.0.0.1", "[::1]") and port.isascii() and port.isdigit() and 0 < int(port) < 65536
        ):
            return value
    hint = "write metrics: 127.0.0.1:9464, or metrics: /run/microagent/metrics.sock"
    what = "metrics is neither a loopback address with a port nor the path of a socket"
    raise PolicyError((document.problem(key, what, hint),))


def _otlp(document: Mapping, key: str) -> str:
    value = document.values[key]
    try:
        url = urlsplit(value) if isinstance(value, str) else urlsplit("")
        good = url.scheme in ("http", "https") and url.hostname and not url.username and url.port != 0
    except ValueError:
        good = False
    if not good or any(char.isspace() for char in value):
        what = "otlp is not the URL of a collector's logs"
        raise PolicyError((document.problem(key, what, "write otlp: http://127.0.0.1:4318/v1/logs"),))
    return str(value)


def _numbers(document: Mapping, key: str, ranges: Ranges[str, tuple[int, int]]) -> dict[str, int]:
    value = document.values[key]
    if not isinstance(value, dict):
        raise PolicyError((document.problem(key, f"{key} is not a mapping"),))
    problems = []
    for name, number in value.items():
        if name not in ranges:
            what, hint = unknown(name, ranges)
            problems.append(document.problem(key, f"in {key}: {what}", hint))
        elif type(number) is not int or not ranges[name][0] <= number <= ranges[name][1]:
            least, most = ranges[name]
            problems.append(document.problem(key, f"{key}.{name} is not a whole number from {least} to {most}"))
    if problems:
        raise PolicyError(tuple(problems))
    return value


def _limits(document: Mapping, key: str) -> Limits:
    return Limits(**_numbers(document, key, RANGES))


def _images(document: Mapping, key: str) -> Bounds:
    return Bounds(**_numbers(document, key, IMAGE_RANGES))


# Every other key is a path.
_READERS: dict[str, Callable[[Mapping, str], Any]] = {
    "upstream_ca": _paths,
    "private": _networks,
    "limits": _limits,
    "images": _images,
    "metrics": _metrics,
    "otlp": _otlp,
}
