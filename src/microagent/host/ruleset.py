"""What a policy means for addresses alone: the text that fills the sets of nft_templates/steer.nft. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, collapse_addresses
from typing import Final

from microagent.api.link import GUEST
from microagent.decision.engine import QUIC_PORTS
from microagent.policy.addresses import NEVER_BY_NAME_V4, PRIVATE_V4
from microagent.policy.model import Mode, Policy

# Multicast and broadcast, which have a counter of their own.
_MANY: Final = (
    IPv4Network("224.0.0.0/4"),
    IPv4Network("255.255.255.255/32"),
    IPv4Network(GUEST.network.broadcast_address),
)


@dataclass(frozen=True, slots=True)
class Steering:
    """The elements of the sets: what the kernel refuses by itself, and the addresses opened all the same."""

    inside: tuple[IPv4Network, ...] = ()
    passable: tuple[IPv4Network, ...] = ()
    hopeless: tuple[IPv4Network, ...] = ()
    refused_ports: tuple[int, ...] = ()

    @classmethod
    def from_policy(
        cls,
        mode: Mode,
        policy: Policy,
        extra_private: Iterable[IPv4Network] = (),
        host: Iterable[IPv4Network] = (),
    ) -> "Steering":
        """Refuse in the kernel only what no name could open: an exact entry may resolve into private addresses."""
        if mode is Mode.OFF:
            return cls()
        inside = [*NEVER_BY_NAME_V4, *host]
        if not policy.has_exact_names:
            inside += [*PRIVATE_V4, *extra_private]
        passable = [n for n in policy.address_networks if isinstance(n, IPv4Network)]
        hopeless = () if mode is Mode.GUARDED or policy.has_names else (IPv4Network("0.0.0.0/0"),)
        return cls(
            tuple(collapse_addresses(inside)), tuple(collapse_addresses(passable)), hopeless, tuple(sorted(QUIC_PORTS))
        )

    def script(self) -> str:
        """nft commands that bring the sets to exactly these elements. Every value is a typed network or a number."""
        sets: dict[str, tuple[object, ...]] = {
            "netdev workspace closed": _without(self.inside, (*self.passable, *_MANY)),
            "netdev workspace refused_ports": self.refused_ports,
            "ip workspace inside": self.inside,
            "ip workspace passable": self.passable,
            "ip workspace hopeless": self.hopeless,
            "ip workspace refused_ports": self.refused_ports,
            # What was refused under another policy may be allowed by this one.
            "ip workspace just_refused": (),
        }
        lines = [f"flush set {name}" for name in sets]
        for name, elements in sets.items():
            if elements:
                lines.append(f"add element {name} {{ {', '.join(map(str, elements))} }}")
        return "\n".join(lines) + "\n"


def _without(networks: Iterable[IPv4Network], others: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """`networks` without the addresses of `others`."""
    left = list(networks)
    for other in others:
        left = [
            part
            for network in left
            if not network.subnet_of(other)
            for part in (network.address_exclude(other) if other.subnet_of(network) else (network,))
        ]
    return tuple(collapse_addresses(left))
