"""What the user wrote, ready to be asked: entries, and the policy that indexes them.

How this works. A name is matched by walking its labels through dictionaries, an address by looking its prefix up
once for each prefix length in use, so a question costs the same whether the policy holds ten entries or 100 000.
Only ever adds reachability: no method's answer goes from an entry to None when entries are added.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from microagent.errors import PolicyError, Problem
from microagent.policy.addresses import Address, Network, decode, wholly_never_by_name


class Mode(StrEnum):
    """What happens to public destinations that are on no list (contract 5)."""

    GUARDED = "guarded"
    STRICT = "strict"
    OFF = "off"

    @classmethod
    def parse(cls, text: str) -> "Mode":
        """The mode of `--egress`; the empty value is the default. Raises PolicyError that names the three."""
        try:
            return cls(text or cls.GUARDED)
        except ValueError:
            problem = Problem(f"{text!r} is not an egress mode", "the modes are guarded, strict and off")
            raise PolicyError((problem,)) from None


class Verb(StrEnum):
    """Which list an entry is on."""

    ALLOW = "allow"
    PASSTHROUGH = "passthrough"


class Kind(StrEnum):
    """What an entry matches: one name, a name and all below it, or addresses."""

    EXACT = "exact"
    SUFFIX = "suffix"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a policy. `text` is canonical; `network` is there for addresses, and only then.

    `origin` is where it was written ("--egress-allow", "policy.yaml:3:5"); `warning`, "" for most, is what its
    author should know about it.
    """

    verb: Verb
    kind: Kind
    text: str
    origin: str = ""
    network: Network | None = None
    warning: str = ""

    def __str__(self) -> str:
        """As a refusal names it: `allow: api.example.org`."""
        return f"{self.verb.value}: {self.text}"


# (IP version, bits to shift off, prefix -> entry), longest prefix first.
_Level = tuple[int, int, dict[int, Entry]]


@dataclass(frozen=True, slots=True)
class _List:
    """The entries of one verb, indexed."""

    exact: dict[str, Entry]
    suffix: dict[str, Entry]
    levels: tuple[_Level, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "_List":
        exact: dict[str, Entry] = {}
        suffix: dict[str, Entry] = {}
        networks: list[Entry] = []
        for entry in entries:
            if entry.kind is Kind.EXACT:
                exact.setdefault(entry.text, entry)
            elif entry.kind is Kind.SUFFIX:
                suffix.setdefault(entry.text[1:], entry)
            else:
                networks.append(entry)
        return cls(exact, suffix, _levels(networks))

    def name(self, name: str) -> Entry | None:
        """Exact beats suffix, the longest suffix beats the others."""
        if found := self.exact.get(name):
            return found
        if not self.suffix:
            return None
        rest = name
        while True:
            if found := self.suffix.get(rest):
                return found
            dot = rest.find(".")
            if dot < 0:
                return None
            rest = rest[dot + 1 :]

    def address(self, address: Address) -> Entry | None:
        """The smallest network that holds `address`, as it is spelled."""
        return _search(self.levels, address)


def _levels(entries: Iterable[Entry]) -> tuple[_Level, ...]:
    levels: dict[tuple[int, int], dict[int, Entry]] = {}
    for entry in entries:
        if (network := entry.network) is not None:
            shift = network.max_prefixlen - network.prefixlen
            prefixes = levels.setdefault((network.version, shift), {})
            prefixes.setdefault(int(network.network_address) >> shift, entry)
    return tuple((version, shift, levels[version, shift]) for version, shift in sorted(levels))


def _search(levels: tuple[_Level, ...], address: Address) -> Entry | None:
    bits = int(address)
    for version, shift, prefixes in levels:
        if version == address.version and (found := prefixes.get(bits >> shift)):
            return found
    return None


@dataclass(frozen=True)
class Policy:
    """A set of entries. `Policy()` holds none. Order means nothing; of two equal entries the first is reported."""

    entries: tuple[Entry, ...] = ()
    _passthrough: _List = field(init=False, repr=False, compare=False)
    _allow: _List = field(init=False, repr=False, compare=False)
    _own: tuple[_Level, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def build(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        build("_passthrough", _List.of(e for e in self.entries if e.verb is Verb.PASSTHROUGH))
        build("_allow", _List.of(e for e in self.entries if e.verb is Verb.ALLOW))
        build("_own", _levels(e for e in self.entries if e.network is not None and _is_own(e.network)))

    def match_name(self, name: str) -> Entry | None:
        """The entry for a canonical name; passthrough beats allow, exact beats suffix, long beats short."""
        return self._passthrough.name(name) or self._allow.name(name)

    def exact(self, name: str) -> Entry | None:
        """The exact entry for `name`, whatever suffix also matches: it alone lets the name be private."""
        return self._passthrough.exact.get(name) or self._allow.exact.get(name)

    def match_address(self, address: Address) -> Entry | None:
        """The entry that covers `address`; of a form that carries IPv4 addresses each must be covered."""
        if not (self._passthrough.levels or self._allow.levels):
            return None
        found = [self._passthrough.address(a) or self._allow.address(a) for a in decode(address)]
        return found[0] if all(found) else None

    def has_own_entry(self, address: Address) -> bool:
        """Whether an entry is about `address` itself, rather than about a network it happens to lie in.

        Never-by-name addresses need one (contract 4): 0.0.0.0/0 is not a wish to reach 169.254.169.254, nor
        10.0.0.0/8 one to reach the host.
        """
        return all(_search(self._own, a) for a in decode(address))

    @property
    def has_exact_names(self) -> bool:
        """Whether some name may resolve into private addresses."""
        return bool(self._passthrough.exact or self._allow.exact)

    @property
    def has_names(self) -> bool:
        """Whether some entry is a name or a suffix."""
        return any(entry.kind is not Kind.ADDRESS for entry in self.entries)

    @property
    def address_networks(self) -> tuple[Network, ...]:
        """The networks of the address entries, both verbs."""
        return tuple(entry.network for entry in self.entries if entry.network is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the authors of the entries should know, each once."""
        return tuple(dict.fromkeys(entry.warning for entry in self.entries if entry.warning))

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the canonical entries in sorted order; where they were written does not matter."""
        lines = sorted({f"{entry.verb.value} {entry.text}\n" for entry in self.entries})
        return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def _is_own(network: Network) -> bool:
    """One address, or a block that is never-by-name from end to end, which nobody writes by accident."""
    return network.prefixlen == network.max_prefixlen or wholly_never_by_name(network)


NOTHING: Final = Policy()
