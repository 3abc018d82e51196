"""What a policy means for addresses alone: the text that fills the sets of nft_templates/steer.nft. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, collapse_addresses

from microagent.policy.addresses import NEVER_BY_NAME_V4, PRIVATE_V4
from microagent.policy.model import Mode, Policy


@dataclass(frozen=True, slots=True)
class Steering:
    """The elements of the two sets: destinations refused in the kernel, and those opened all the same."""

    inside: tuple[IPv4Network, ...] = ()
    passable: tuple[IPv4Network, ...] = ()

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
        return cls(tuple(collapse_addresses(inside)), tuple(collapse_addresses(passable)))

    def script(self) -> str:
        """nft commands that bring the sets to exactly these elements. Every value is a typed network, no text."""
        lines = ["flush set ip workspace inside", "flush set ip workspace passable"]
        for name, networks in (("inside", self.inside), ("passable", self.passable)):
            if networks:
                lines.append(f"add element ip workspace {name} {{ {', '.join(str(n) for n in networks)} }}")
        return "\n".join(lines) + "\n"
