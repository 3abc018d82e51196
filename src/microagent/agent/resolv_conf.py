"""The host's resolv.conf: whom the mediators ask, and the search list that guests get.

A guest has the host's search list, as a container of Docker's has. Its mediator must know the list, too: a domain
that a guest's resolver puts behind a listed name is not a name that somebody asked for.
"""

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from microagent.api.link import GATEWAY
from microagent.errors import HostError, Malformed
from microagent.policy.names import ascii_name

# resolv.conf(5): what glibc before 2.26 reads of a search list. musl has 256 bytes for all of it.
_MOST_DOMAINS = 6
_MOST_LETTERS = 256
_MOST_NDOTS = 15  # glibc's own cap


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """`resolvers` are addresses, a link-local one with its interface's number (`fe80::1%2`); `search` are canonical
    names, in order; `ndots` is 1 where the host does not say.
    """

    resolvers: tuple[str, ...]
    search: tuple[str, ...] = ()
    ndots: int = 1

    def for_guest(self) -> str:
        """A guest's resolv.conf.

        Any nameserver would do, since every query is answered. timeout and attempts make libcs fail fast on REFUSED
        (contract 6).
        """
        search = f"search {' '.join(self.search)}\n" if self.search else ""
        ndots = f" ndots:{self.ndots}" if self.ndots != 1 else ""
        return f"nameserver {GATEWAY.ip}\n{search}options timeout:1 attempts:1{ndots}\n"


def read_resolv_conf(path: Path) -> ResolvConf:
    """What is in the file (resolv.conf(5)); HostError when it names no resolver, since guests could resolve nothing.

    A nameserver that is no address is passed over, as glibc does: there is nobody to ask for it. The last `search` or
    `domain` line counts. What is no host name in it is passed over, `.` for one, which systemd-resolved writes for an
    empty list.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    resolvers: list[str] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for keyword, values in map(_words, text.split("\n")):
        match keyword:
            case "nameserver" if values and (resolver := _resolver(values[0])):
                resolvers.append(resolver)
            case "search" | "domain":
                search = _domains(values)
            case "options":
                ndots = _ndots(values, ndots)
    if not resolvers:
        raise HostError(f"{path} names no resolver", "add a `nameserver ADDRESS` line")
    return ResolvConf(tuple(resolvers), search, ndots)


def _words(line: str) -> tuple[str, list[str]]:
    """The keyword of a line, and what follows it up to a comment."""
    words = line.split()
    comment = next((i for i, word in enumerate(words) if word[0] in "#;"), len(words))
    keyword, *values = words[:comment] or [""]
    return keyword, values


def _resolver(text: str) -> str | None:
    """The address; None for what is none, and for one on an interface that is not there (yet)."""
    bare, _, interface = text.partition("%")
    try:
        address = ip_address(bare)
        if not interface or address.version == 4:
            return str(address) if bare == text else None
        # A confined mediator cannot ask for the number of a name.
        number = int(interface) if interface.isascii() and interface.isdigit() else socket.if_nametoindex(interface)
    except (ValueError, OSError):
        return None
    return f"{address}%{number}"


def _domains(words: list[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for word in words:
        try:
            name = ascii_name(word)
        except Malformed:
            continue
        if len(found) < _MOST_DOMAINS and sum(map(len, found)) + len(found) + len(name) < _MOST_LETTERS:
            found[name] = None
    return tuple(found)


def _ndots(options: list[str], before: int) -> int:
    for option in options:
        name, _, value = option.partition(":")
        if name == "ndots" and value.isascii() and value.isdigit():
            before = min(int(value[:4]), _MOST_NDOTS)
    return before
