"""Records as lines of a terminal, from 80 columns on, and how lines that say the same are folded. Pure.

Every cell has a width of its own and is cut with an ellipsis, so that a line is one line whatever is in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from microagent.audit.render import brief, host, inert, number, packets, size, style_of, took, verdict, what

Record = Mapping[str, Any]

_MEDIUM = 100
_WIDE = 140
# Cells of WHAT from which on it says everything, hints too.
_ROOMY = 60
_ARROWS = (("↑", "bytes_out"), ("↓", "bytes_in"))


@dataclass(slots=True)
class Line:
    """One or several records that say the same: the last of them, how many, and bytes in all."""

    record: Record
    count: int
    sent: int
    received: int
    packets: int = 0

    def add(self, other: "Line") -> None:
        """One more of them. What came back to a question is no other question."""
        if "rcode" not in other.record or other.record.get("flow") != self.record.get("flow"):
            self.count += other.count
        self.record = other.record
        self.packets += other.packets
        self.sent += other.sent
        self.received += other.received


def line_of(record: Record) -> Line:
    """The line of a single record; one that stands for many counts as many."""
    carried = number(record, "bytes_out"), number(record, "bytes_in")
    return Line(record, number(record, "count") or 1, *carried, number(record, "packets"))


def key_of(record: Record) -> tuple[str, ...]:
    """What two records have in common that are shown as one line: so are a question and what came back."""
    said = what({**record, "answers": None, "rcode": None} if "rcode" in record else record)
    return str(record.get("workspace")), str(record.get("event")), host(record), str(record.get("dst")), said


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns a terminal of so many cells has room for; `workspaces`: whose record it is, too."""

    width: int
    workspaces: bool = False

    @property
    def columns(self) -> dict[str, int]:
        """Names and widths, in order, one space between them; what is left is WHAT's.

        In narrow terminals bytes and time are written at the end of WHAT, since most lines have none.
        """
        wide, medium = self.width >= _WIDE, self.width >= _MEDIUM
        fixed = {"TIME": 15 if wide else 8}
        if self.workspaces:
            fixed["WORKSPACE"] = 16 if medium else 10
        fixed |= {"VERDICT": 7, "N": 5, "HOST": 36 if wide else 24 if medium else 20}
        if wide:
            fixed["DST"] = 21
        after = {"BYTES": 12, "TOOK": 5} if self.width >= (_WIDE if self.workspaces else _MEDIUM) else {}
        taken = sum(fixed.values()) + sum(after.values()) + len(fixed) + len(after)
        return fixed | {"WHAT": max(8, self.width - taken)} | after

    def heading(self) -> Text:
        """The names of the columns."""
        titles = ((name if name != "N" else "", width) for name, width in self.columns.items())
        return Text(" ".join(f"{name:<{width}}" for name, width in titles).rstrip(), style="bold")

    def line(self, line: Line) -> Text:
        """One line, no longer than the terminal is wide."""
        cells, columns = self._cells(line), self.columns
        style = style_of(cells["VERDICT"])
        styles = {"TIME": "dim", "WORKSPACE": "magenta", "VERDICT": style, "N": "bold", "HOST": style}
        text = Text(no_wrap=True, overflow="crop")
        for name, width in columns.items():
            text.append(fit(cells[name], width), styles.get(name, ""))
            text.append(" ")
        text.rstrip()
        return text

    def _cells(self, line: Line) -> dict[str, str]:
        record, wide = line.record, self.width >= _WIDE
        clock = str(record.get("ts", "")).partition("T")[2].removesuffix("Z")
        shown = {
            "TIME": clock if wide else clock[:8],
            "WORKSPACE": record.get("workspace", ""),
            "VERDICT": verdict(record),
            "N": f"x{line.count}" if line.count > 1 else "",
            "HOST": host(record) or ("" if wide else record.get("dst", "")),
            "DST": record.get("dst", ""),
            "WHAT": what(record) if self.columns["WHAT"] >= _ROOMY else brief(record),
            "BYTES": _bytes(line),
            "TOOK": took(record),
        }
        cells = {name: inert(cell) for name, cell in shown.items()}
        columns = self.columns
        if "BYTES" not in columns and (after := f"{cells['BYTES']} {cells['TOOK']}".strip()):
            cells["WHAT"] = f"{fit(cells['WHAT'], max(1, columns['WHAT'] - len(after) - 1))} {after}"
        return cells


def fit(text: str, width: int) -> str:
    """Exactly so many cells: padded, or cut with an ellipsis. The text is inert."""
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _bytes(line: Line) -> str:
    if line.packets:
        return packets(line.packets)
    if not any(key in line.record for _, key in _ARROWS):
        return ""
    return f"↑{size(line.sent)} ↓{size(line.received)}"
