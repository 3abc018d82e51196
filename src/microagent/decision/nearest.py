"""The entry that comes closest to permitting what is denied, and why it does not: for people, never for deciding."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from microagent.decision.engine import Question
from microagent.policy.addresses import Address
from microagent.policy.model import Entry, Kind, Policy

# Spelling is compared with this many entries at most; beyond it a person would wait.
_COMPARED: Final = 2000
# An entry with fewer leading bits in common with the address is not near it.
_NEAR_BITS: Final = {4: 8, 6: 32}


def nearest(policy: Policy, question: Question) -> tuple[Entry, str] | None:
    """An entry and why it misses; None when nothing is near. No entry may match the name outright."""
    if question.address is not None and (covering := policy.match_address(question.address)):
        return covering, "it covers the address among others; this one needs an entry of its own"
    if question.name is not None:
        return _nearest_name(policy, question.name)
    return None if question.address is None else _nearest_network(policy.entries, question.address)


def _nearest_name(policy: Policy, name: str) -> tuple[Entry, str] | None:
    named = [entry for entry in policy.entries if entry.kind is not Kind.ADDRESS]
    found = [(entry, why) for entry in named if (why := _near_miss(entry, name))]
    if found:
        return max(found, key=lambda pair: len(pair[0].text))
    spelled = {entry.text.removeprefix("."): entry for entry in named[:_COMPARED]}
    if (close := get_close_matches(name, spelled, n=1, cutoff=0.8)) and _is_slip(close[0], name):
        return spelled[close[0]], "it is spelled differently"
    return None


def _is_slip(text: str, name: str) -> bool:
    """Two hosts of one long domain look alike as a whole: what differs has to."""
    one, other = text.split("."), name.split(".")
    while one and other and one[-1] == other[-1]:
        del one[-1], other[-1]
    return bool(get_close_matches(".".join(one), [".".join(other)], cutoff=0.5))


def _near_miss(entry: Entry, name: str) -> str:
    """Why `entry`, which looks like `name`, does not match it; "" when it does not even look like it."""
    base = entry.text.removeprefix(".")
    if name.endswith("." + base):
        return f"it matches that name alone; .{base} would match what is below it"
    if base.endswith("." + name):
        return f"it is about names below {name}, and does not match {name} itself"
    if entry.kind is Kind.SUFFIX and name.endswith(base):
        return f"it matches whole labels: {base}, and names that end in .{base}"
    return ""


def _nearest_network(entries: Iterable[Entry], address: Address) -> tuple[Entry, str] | None:
    best: tuple[int, Entry] | None = None
    for entry in entries:
        network = entry.network
        if network is not None and network.version == address.version:
            differing = int(network.network_address) ^ int(address)
            common = address.max_prefixlen - differing.bit_length()
            if common >= _NEAR_BITS[address.version] and (best is None or common > best[0]):
                best = common, entry
    if best is None:
        return None
    network = best[1].network
    if network is None or network.num_addresses == 1:
        return best[1], "it is another address"
    return best[1], f"it covers {network.network_address} to {network.broadcast_address}"
