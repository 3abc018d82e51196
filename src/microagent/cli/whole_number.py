"""A flag's whole number."""

from typing import Any

import click


class WholeNumber(click.IntRange):
    """Says what it wants as files of settings do, and with `of` of what."""

    def __init__(self, least: int, most: int | None = None, of: str = "") -> None:
        super().__init__(least, most)
        unit, end = f" of {of}" if of else "", "" if most is None else f" to {most}"
        self._wanted = f"a whole number{unit} from {least}{end}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As any IntRange, which would speak of "a valid integer range"."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not {self._wanted}", param, ctx)
