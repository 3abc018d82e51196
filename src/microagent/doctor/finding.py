"""What a check found."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One requirement: whether this machine meets it, in what way, and the fix when it does not."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True

    @property
    def result(self) -> str:
        """One word."""
        return "ok" if self.ok else "missing" if self.required else "absent"

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)
