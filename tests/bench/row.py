"""One line of the table that `make bench` prints."""

from typing import NamedTuple


class Row(NamedTuple):
    """`number` is the target's ("P1"); `measured` holds the ratio first, then what it was made of."""

    number: str
    what: str
    measured: str
    target: str


def ratio(ours: float, theirs: float) -> str:
    """`1.23 ×`."""
    return f"{ours / theirs:.2f} ×" if theirs else "no peer"
