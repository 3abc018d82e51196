"""What a person asks about, a name, host:port, URL or address, to a question. Nothing is looked up."""

import re
from ipaddress import ip_address
from typing import Final, NoReturn

from microagent.decision.engine import Proto, Question
from microagent.errors import Malformed, PolicyError, Problem
from microagent.policy.addresses import Address
from microagent.policy.names import ascii_name

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[^/?#@]*@)?([^/?#]*)", re.IGNORECASE | re.ASCII)
_PORT: Final = re.compile(r":([1-9][0-9]{0,4})", re.ASCII)
_SCHEMES: Final = {
    "https": (Proto.TLS, 443),
    "wss": (Proto.TLS, 443),
    "http": (Proto.HTTP, 80),
    "ws": (Proto.HTTP, 80),
    "ssh": (Proto.TCP, 22),
    "git": (Proto.TCP, 9418),
    "ftp": (Proto.TCP, 21),
    "postgres": (Proto.TCP, 5432),
    "postgresql": (Proto.TCP, 5432),
    "mysql": (Proto.TCP, 3306),
    "redis": (Proto.TCP, 6379),
    "tcp": (Proto.TCP, None),
    "udp": (Proto.UDP, None),
}
# Live flows are known by their first bytes; a question about a port has to guess.
_PORTS: Final = {80: Proto.HTTP, 443: Proto.TLS, 8080: Proto.HTTP, 8443: Proto.TLS}
_FORMS: Final = "a target is a name, host:port, a URL or an address: api.example.org, db.example.org:5432, 10.0.0.5"


def parse_target(text: str) -> Question:
    """The question a flow to `text` would put: TLS on port 443 where neither is said. Raises PolicyError."""
    proto: Proto | None = None
    port: int | None = 443
    authority = text
    if found := _URL.match(text):
        authority = found[2]
        proto, port = _SCHEMES.get(found[1].lower(), (None, None))
    host, said = _split(authority)
    if said:
        port = _port(text, said)
    if port is None:
        _refuse(text, "has a scheme that says no port: write one after the host")
    name, address = _host(text, host)
    return Question(proto or _PORTS.get(port, Proto.TCP), port, name=name, address=address)


def _split(authority: str) -> tuple[str, str]:
    """`host:port`, `[v6]:port` or `[v6]` to the host and the rest, colon included; a bare IPv6 address is whole."""
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        return (host, rest) if bracket else (authority, "")
    if authority.count(":") == 1:
        host, colon, rest = authority.partition(":")
        return host, colon + rest
    return authority, ""


def _port(text: str, said: str) -> int:
    found = _PORT.fullmatch(said)
    if found is None or int(found[1]) > 65535:
        _refuse(text, "has no port after the colon")
    return int(found[1])


def _host(text: str, host: str) -> tuple[str | None, Address | None]:
    try:
        return None, ip_address(host)
    except ValueError:
        pass
    try:
        return ascii_name(host), None
    except Malformed as malformed:
        _refuse(text, f"is not a target: {malformed.what}")


def _refuse(text: str, what: str) -> NoReturn:
    shown = text if len(text) <= 80 else text[:77] + "..."
    raise PolicyError((Problem(f"{shown!r} {what}", _FORMS),))
