"""One entry, as a person wrote it, to its one spelling; or what is wrong with it and what to write instead."""

import re
import unicodedata
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, NoReturn

from microagent.errors import Malformed, PolicyError, Problem
from microagent.policy.addresses import Address, Network, carries_ipv4, decode
from microagent.policy.model import Entry, Kind, Verb
from microagent.policy.names import ascii_name
from microagent.policy.suffixes import Suffix, suffix_kind

# What nearly every entry looks like. It has none of the faults that are looked for one by one below.
_PLAIN: Final = re.compile(r"\.?(?:[a-z0-9_-]+\.)+[a-z][a-z0-9_-]*")

# A name is at most 253 bytes; what is longer than this was never meant to be one.
_LONGEST: Final = 300
# Broader than any network an operator is assigned: such an entry opens a good part of the internet.
_BROAD: Final = {4: 8, 6: 16}
_LOOK_ALIKE: Final = frozenset({"ARMENIAN", "CYRILLIC", "GREEK", "LATIN"})


def parse_entry(verb: Verb, text: str, origin: str) -> Entry:
    """The entry for `text`. Raises PolicyError with one problem, a hint, and `origin` as its source."""
    try:
        if not _PLAIN.fullmatch(text):
            _refuse_forms(text)
            if _is_address(text):
                return _address_entry(verb, text, origin)
            _refuse_urls(text)
        return _name_entry(verb, text, origin)
    except _Refused as refused:
        raise PolicyError((Problem(refused.what, refused.hint, origin),)) from None


class _Refused(Exception):  # noqa: N818  (never leaves this module)
    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


def _refuse(text: str, what: str, hint: str) -> NoReturn:
    shown = text if len(text) <= 80 else text[:77] + "..."
    raise _Refused(f"{shown!r} {what}", hint)


_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/@]*@)?(\[[^\]]*\]|[^/:?#]*)")
_UNSEEN: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


def _refuse_forms(text: str) -> None:
    """Refuse what is neither a name nor an address, by the first thing that gives it away."""
    if not text.strip():
        raise _Refused("an empty entry", "write a name, a .suffix, an address or a CIDR block, or leave it out")
    if len(text) > _LONGEST:
        _refuse(text, f"has {len(text)} characters", "a name has at most 253")
    if _UNSEEN.search(text):
        bare = _UNSEEN.sub("", text)
        inside = _UNSEEN.search(text.strip())
        hint = "one entry a line, one entry a flag, without spaces" if inside else f"write {bare}"
        _refuse(text, "has a space or a control character in it", hint)
    if "," in text or ";" in text:
        _refuse(text, "is more than one entry", "one entry a line, one entry a flag")
    if found := _SCHEME.match(text):
        _refuse(text, "has a scheme in it", f"write the host alone: {found[1].strip('[]') or 'api.example.org'}")
    if "@" in text:
        _refuse(text, "has a user in it", f"write the host alone: {text.rpartition('@')[2]}")
    if "*" in text:
        _refuse_wildcard(text)
    if "[" in text or "]" in text:
        _refuse(text, "has brackets in it", "write an IPv6 address without brackets and without a port")
    if "%" in text:
        _refuse(text, "has a zone or an escape in it", "write the bare address or name")


_BLOCK_HINT: Final = "write a block of addresses with its prefix length, as in 10.20.0.0/16"


def _refuse_wildcard(text: str) -> NoReturn:
    rest = text.removeprefix("*.")
    if rest and rest != text and "*" not in rest:
        _refuse(text, "has a wildcard in it", f"write .{rest} (it also matches {rest} itself)")
    if text in ("*", "*.", ".*", "*.*"):
        hint = "nothing matches every name; --egress guarded allows what is public without an entry"
        _refuse(text, "would match everything", hint)
    if not any(map(str.isalpha, text)):
        _refuse(text, "has a wildcard in it", _BLOCK_HINT)
    hint = "only whole labels at the front can be left open, as in .example.org"
    _refuse(text, "has a wildcard inside a label", hint)


def _refuse_urls(text: str) -> None:
    """Refuse ports and paths, once it is certain that the text is no address or CIDR block."""
    host = re.split("[:/?#]", text)[0] or "api.example.org"
    if "/" in text or "?" in text or "#" in text:
        _refuse(text, "has a path in it", f"write the host alone: {host}")
    if ":" in text:
        _refuse(text, "has a port in it", f"entries have no ports: write {host}, it matches every port")


# The last label of an IPv4 address is a number, in this or that base; no name ends in one (wire.hostname).
_ENDS_IN_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?", re.DOTALL)


def _is_address(text: str) -> bool:
    head = text.partition("/")[0]
    return head.count(":") > 1 or bool(_ENDS_IN_NUMBER.fullmatch(head))


def _address_entry(verb: Verb, text: str, origin: str) -> Entry:
    network = _network(text)
    first = network.network_address
    if carries_ipv4(network):
        carried = " and ".join(str(a) for a in decode(first))
        single = network.num_addresses == 1
        hint = f"write {carried}" if single else "write the IPv4 block that it carries"
        _refuse(text, "carries an IPv4 address, and is matched by that", hint)
    warning = ""
    if network.prefixlen < _BROAD[network.version]:
        warning = f"{network} opens a good part of the internet, and every private address in it"
    canonical = str(first) if network.prefixlen == network.max_prefixlen else str(network)
    return Entry(verb, Kind.ADDRESS, canonical, origin, network, warning)


def _network(text: str) -> Network:
    """The network of an address or CIDR block in its canonical spelling, and in no other."""
    head, slash, length = text.partition("/")
    try:
        address = ip_address(head)
    except ValueError:
        six = ":" in head
        if six:
            hint = "write it as `2001:db8::7`, in hexadecimal"
        elif "-" in head:
            hint = _BLOCK_HINT
        else:
            hint = "write four decimal numbers without leading zeros, as in 10.0.0.5"
        _refuse(text, f"is not an IPv{'6' if six else '4'} address", hint)
    if str(address) != head and not _is_mapped_spelling(address, head):
        _refuse(text, "is not spelled the canonical way", f"write {address}{slash}{length}")
    if not slash:
        return ip_network(address)
    if not re.fullmatch(r"0|[1-9][0-9]{0,2}", length, re.ASCII) or int(length) > address.max_prefixlen:
        hint = f"write a prefix length of 0 to {address.max_prefixlen}, as in {_example(address)}"
        _refuse(text, "has no prefix length after the slash", hint)
    block = ip_network(text, strict=False)
    if block.network_address != address:
        _refuse(text, "has bits set beyond its prefix", f"write {block}, or {address} for the one address")
    return block


def _example(address: Address) -> str:
    return "10.20.0.0/16" if address.version == 4 else "2001:db8::/32"


def _is_mapped_spelling(address: Address, head: str) -> bool:
    """Whether `head` is a dotted form such as ::ffff:10.0.0.5, which is refused for what it carries, not its looks."""
    return isinstance(address, IPv6Address) and "." in head


def _name_entry(verb: Verb, text: str, origin: str) -> Entry:
    suffix = text.startswith(".")
    base = text[1:] if suffix else text
    try:
        name = ascii_name(base)
    except Malformed as malformed:
        _refuse(text, f"is not a host name: {malformed.what}", _name_hint(base))
    found = suffix_kind(name)
    if found is Suffix.REGISTRY:
        what = "a public suffix" if "." in name else "a top-level name"
        hint = f"write a name below it, such as {'.' if suffix else ''}example.{name}"
        _refuse(text, f"is {what}, and would match strangers' names" if suffix else f"is {what}", hint)
    warning = "" if base.isascii() else _mixed_scripts(base, name)
    if not suffix:
        return Entry(verb, Kind.EXACT, name, origin, None, warning)
    if found is Suffix.MULTI_TENANT:
        warning = f".{name} also matches names that strangers register there; list the ones you mean"
    return Entry(verb, Kind.SUFFIX, f".{name}", origin, None, warning)


def _mixed_scripts(base: str, name: str) -> str:
    """A warning when a label mixes scripts that look alike: a spelling that was meant to deceive, maybe."""
    for label in base.split("."):
        letters = (unicodedata.name(char, "?") for char in label if char.isalpha())
        scripts = sorted({letter.split()[0] for letter in letters} & _LOOK_ALIKE)
        if len(scripts) > 1:
            return f"{label} mixes {' and '.join(scripts)} letters: the entry is {name}"
    return ""


def _name_hint(base: str) -> str:
    if not base.strip("."):
        return "write a name, as in api.example.org, or a suffix, as in .example.org"
    if ".." in base or base.startswith("."):
        single = re.sub(r"\.+", ".", base)
        return f"write one dot between labels: {single}"
    if not base.isascii():
        return "write each label in its own letters, or in its xn-- form"
    return "a name has letters, digits, hyphens and underscores, in labels of 1 to 63, 253 in all"
