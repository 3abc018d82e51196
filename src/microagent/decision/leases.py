"""What the guest was told: NAME is ADDRESS, until T (contract 1). Learnt from DNS answers only.

A flow that names nothing is judged by every name its address is leased under (`engine.Question.leased`), and a flow
that names a host goes to the address the guest picked only if that is leased for the name.
"""

from collections.abc import Callable, Collection
from typing import Final

from microagent.policy.addresses import Address

# Names times addresses. Far more than a workload uses in an hour; a guest that floods loses its own oldest leases.
LIMIT: Final = 4096


class Leases:
    """Bounded, many to many. Times are seconds on one clock of the caller's, which must not go backwards."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        # Hears of the addresses of every new lease.
        self.told: Callable[[Collection[Address]], None] = lambda _: None
        self._expiry: dict[tuple[str, Address], float] = {}  # oldest first: renewing a lease moves it to the end
        self._names: dict[Address, dict[str, None]] = {}  # in the order they were told

    def __len__(self) -> int:
        """How many are held, expired ones that nobody has asked about included."""
        return len(self._expiry)

    def add(self, name: str, addresses: Collection[Address], expires: float, now: float) -> None:
        """Lease `addresses` under the name that was asked, whatever CNAMEs led there. Never shortens a lease."""
        if expires <= now:
            return
        for address in addresses:
            key = (name, address)
            before = self._expiry.pop(key, expires)
            self._expiry[key] = max(before, expires)
            names = self._names.setdefault(address, {})
            names.pop(name, None)
            names[name] = None
        while len(self._expiry) > self._limit:
            self._drop(next(iter(self._expiry)))
        self.told(addresses)

    def names_for(self, address: Address, now: float) -> tuple[str, ...]:
        """The names `address` is leased under, the one told last first."""
        names = tuple(reversed(self._names.get(address, {})))
        return tuple(name for name in names if self.holds(name, address, now))

    def holds(self, name: str, address: Address, now: float) -> bool:
        """Whether the guest was told that `name` is `address`, and the answer is still good."""
        key = (name, address)
        expires = self._expiry.get(key)
        if expires is None:
            return False
        if expires <= now:
            self._drop(key)
            return False
        return True

    def forget(self, unwanted: Callable[[str], bool]) -> None:
        """Drop the leases of every name that `unwanted` says yes to."""
        for key in [key for key in self._expiry if unwanted(key[0])]:
            self._drop(key)

    def _drop(self, key: tuple[str, Address]) -> None:
        del self._expiry[key]
        name, address = key
        names = self._names[address]
        del names[name]
        if not names:
            del self._names[address]
