"""What a policy means for addresses alone: the text that fills the sets of nft_templates/steer.nft. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, collapse_addresses

from microagent.decision.engine import QUIC_PORTS
from microagent.policy.addresses import NEVER_BY_NAME_V4, PRIVATE_V4
from microagent.policy.model import Mode, Policy


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
            "inside": self.inside,
            "passable": self.passable,
            "hopeless": self.hopeless,
            "refused_ports": self.refused_ports,
            # What was refused under another policy may be allowed by this one.
            "just_refused": (),
        }
        lines = [f"flush set ip workspace {name}" for name in sets]
        for name, elements in sets.items():
            if elements:
                lines.append(f"add element ip workspace {name} {{ {', '.join(map(str, elements))} }}")
        return "\n".join(lines) + "\n"
