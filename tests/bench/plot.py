"""The one picture of docs/performance.md: set-up time against the number of workspaces, as a small SVG."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PICTURE: Final = Path(__file__).parents[2] / "docs" / "images" / "growth.svg"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 240, 48, 36, 16, 12
_WINDOW = 25

_FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
 font-family="sans-serif" font-size="11">
<rect width="{width}" height="{height}" fill="#ffffff"/>
{body}
</svg>
"""


def growth(milliseconds: Sequence[float]) -> None:
    """A dot a workspace, and the running median. What is over twice the median's highest is drawn at the edge."""
    medians = [statistics.median(milliseconds[max(0, i - _WINDOW) : i + 1]) for i in range(len(milliseconds))]
    top = max(2 * max(medians[_WINDOW:] or medians), 1.0)

    def x(number: int) -> str:
        return f"{_LEFT + number / len(milliseconds) * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y(value: float) -> str:
        return f"{_HEIGHT - _BOTTOM - min(value, top) / top * (_HEIGHT - _BOTTOM - _TOP):.1f}"

    body = []
    for fifth in range(6):
        value, number = top * fifth / 5, len(milliseconds) * fifth // 5
        right = _WIDTH - _RIGHT
        body.append(f'<path d="M{_LEFT} {y(value)}H{right}" stroke="#dddddd"/>')
        body.append(f'<text x="{_LEFT - 6}" y="{y(value)}" text-anchor="end" dy="4">{value:.0f}</text>')
        body.append(f'<text x="{x(number)}" y="{_HEIGHT - 20}" text-anchor="middle">{number}</text>')
    dots = "".join(f"M{x(i)} {y(value)}h0" for i, value in enumerate(milliseconds, 1))
    line = " ".join(f"{x(i)},{y(value)}" for i, value in enumerate(medians, 1))
    body.append(f'<path d="{dots}" stroke="#9db8d2" stroke-width="2" stroke-linecap="round"/>')
    body.append(f'<polyline points="{line}" fill="none" stroke="#1f4e79" stroke-width="1.5"/>')
    body.append(f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 5}" text-anchor="middle">workspaces that run already</text>')
    body.append(f'<text x="{_LEFT}" y="11">ms until network and mediator are ready, and the running median</text>')
    PICTURE.write_text(_FRAME.format(width=_WIDTH, height=_HEIGHT, body="\n".join(body)))
