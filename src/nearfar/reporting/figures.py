"""Small figures for pages: points of a map, and bars with their spread, as SVG text without anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from nearfar.errors import InputError

COLOURS = ("#9ca3af", "#4f46e5", "#f59e0b", "#dc2626", "#0d9488")
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Points:
    """One kind of points: name for the legend, places (n, 2), radius in pixels."""

    name: str
    places: Any
    radius: float = 3.0


def scatter_svg(
    groups: Sequence[Points], title: str, about: str, *, lines: Any = (), width: int = 760, height: int = 460
) -> str:
    """Points of several kinds on one map; later kinds lie above earlier ones. `about` is read to who cannot see it.
    lines: pairs of places (m, 2, 2) that are joined, beneath the points.

    Raises InputError: no group, or more than there are colours.
    """
    if not 1 <= len(groups) <= len(COLOURS):
        raise InputError(f"A map shows 1 to {len(COLOURS)} kinds of points. Got {len(groups)}.")
    every = np.concatenate([np.asarray(g.places, float).reshape(-1, 2) for g in groups])
    low, span = every.min(0), np.maximum(np.ptp(every, axis=0), 1e-9)

    def placed(places: Any) -> np.ndarray:
        return (np.asarray(places, float).reshape(-1, 2) - low) / span * (width - 48, height - 88) + (24, 64)

    ends = placed(lines).reshape(-1, 4)
    parts = [
        f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="#6b7280" stroke-width="1.2"/>'
        for a, b, c, d in ends
    ]
    for g, colour in zip(groups, COLOURS, strict=False):
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{g.radius:g}" fill="{colour}" fill-opacity="0.8"/>'
            for x, y in placed(g.places)
        ]
    return _page(parts + _legend([g.name for g in groups], width), title, about, width, height)


def bars_svg(
    values: Mapping[str, Mapping[str, Sequence[float]]], title: str, about: str, *, unit: str = "", width: int = 760
) -> str:
    """Horizontal bars: row -> series -> values of several seeds; the bar is their mean, each seed a tick.

    Raises InputError: no row, or rows with different series.
    """
    names = list(next(iter(values.values()), {}))
    if not names or any(list(v) != names for v in values.values()) or len(names) > len(COLOURS) - 1:
        raise InputError("Bars need at least one row, and the same series in every row.")
    most = max(max(v) for row in values.values() for v in row.values())
    left = max(190, 30 + round(7.4 * max(map(len, values))))  # the width of the longest label, as of the legend's
    scale, y, parts = (width - left - 90) / max(most, 1e-9), 62.0, []
    for label, row in values.items():
        middle = y + 8 * len(names)
        parts.append(
            f'<text x="{left - 12}" y="{middle + 4:.0f}" text-anchor="end" font-size="13" fill="#1f2937">'
            f"{escape(label)}</text>"
        )
        for name, colour in zip(names, COLOURS[1:], strict=False):
            mean = float(np.mean(row[name]))
            parts.append(f'<rect x="{left}" y="{y:.0f}" width="{mean * scale:.1f}" height="14" fill="{colour}"/>')
            parts += [
                f'<rect x="{left + v * scale - 1:.1f}" y="{y:.0f}" width="2" height="14" fill="#1f2937"/>'
                for v in row[name]
            ]
            parts.append(
                f'<text x="{left + max(row[name]) * scale + 8:.1f}" y="{y + 12:.0f}" font-size="12" '
                f'fill="#6b7280">{mean:.1f}{escape(unit)}</text>'
            )
            y += 16
        y += 12
    legend = _legend(names, width, COLOURS[1:])
    return _page(parts + legend, title, about, width, int(y) + 12)


def _legend(names: Sequence[str], width: int, colours: Sequence[str] = COLOURS) -> list[str]:
    x, parts = 24.0, []
    for name, colour in zip(names, colours, strict=False):
        parts.append(
            f'<circle cx="{x + 5:.0f}" cy="46" r="5" fill="{colour}"/><text x="{x + 16:.0f}" y="50" '
            f'font-size="13" fill="#1f2937">{escape(name)}</text>'
        )
        x += 34 + 7.2 * len(name)
    return parts


def _page(parts: Sequence[str], title: str, about: str, width: int, height: int) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="t d" font-family="{FONT}"><title id="t">{escape(title)}</title>'
        f'<desc id="d">{escape(about)}</desc><rect width="{width}" height="{height}" rx="12" fill="#ffffff"/>'
        f'<text x="24" y="28" font-size="16" font-weight="700" fill="#1f2937">{escape(title)}</text>'
    )
    return head + "".join(parts) + "</svg>\n"
