"""Where names are sold: the public suffix list, for what people write and read.

Nothing that matches or decides comes here; the list is read when the first entry is parsed, which costs some 60 ms.
"""

from enum import Enum
from functools import cache
from typing import Protocol


class _Suffixes(Protocol):
    """What we use of publicsuffixlist, which carries no types."""

    def is_public(self, name: str) -> bool: ...
    def publicsuffix(self, name: str) -> str | None: ...
    def privatesuffix(self, name: str) -> str | None: ...


class Suffix(Enum):
    """What a name is to the list, when it is a public suffix at all."""

    NONE = "a name that somebody registered"
    REGISTRY = "a top-level name, or one of the ICANN section"
    MULTI_TENANT = "one of the private section: below it, each name is another stranger's"


def suffix_kind(name: str) -> Suffix:
    """The kind of a canonical name. Any name of one label is a REGISTRY, listed or not."""
    if not _whole().is_public(name):
        return Suffix.NONE
    return Suffix.REGISTRY if _icann().is_public(name) else Suffix.MULTI_TENANT


def registered_domain(name: str) -> str:
    """The part of `name` that one party registered, multi-tenant suffixes considered; "" for a suffix or an address."""
    return "" if _reads_as_address(name) else _whole().privatesuffix(name) or ""


def shared_suffix(name: str) -> str:
    """The multi-tenant suffix that `name` lies under, or ""."""
    if _reads_as_address(name):
        return ""
    suffix = _whole().publicsuffix(name) or ""
    return suffix if suffix != _icann().publicsuffix(name) else ""


def _reads_as_address(name: str) -> bool:
    return ":" in name or "/" in name or name.rpartition(".")[2].isdigit()


@cache
def _icann() -> _Suffixes:
    return _load(only_icann=True)


@cache
def _whole() -> _Suffixes:
    return _load(only_icann=False)


def _load(*, only_icann: bool) -> _Suffixes:
    from publicsuffixlist import PublicSuffixList  # reads the list: see above

    suffixes: _Suffixes = PublicSuffixList(only_icann=only_icann)
    return suffixes
