"""What a metric is called and how its values are written: shares in percent, values and errors as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nearfar.registry import TASKS


@dataclass(frozen=True)
class Unit:
    """scale: factor of what is written; words: of a column, "" where there is nothing to say; sign: after a number;
    difference: the word after a difference; bounds: what no value passes."""

    scale: float
    words: str
    sign: str
    difference: str
    bounds: tuple[float, float]

    def write(self, value: float | None, *, signed: bool = False, digits: int | None = None) -> str:
        """0.494 -> "49.4" for a share; a value gets three significant digits (or `digits` after the point); "-" for
        what is unknown."""
        if value is None or not math.isfinite(value):
            return "-"
        if self.scale != 1:
            return f"{self.scale * value:{'+' if signed else ''}.1f}"
        if value and not 1e-4 <= abs(value) < 1e7:
            return f"{value:{'+' if signed else ''}.2e}"
        places = digits if digits is not None else places_of(value)
        return f"{value:{'+' if signed else ''},.{places}f}"

    def text(self, value: float | None) -> str:
        """With its sign: "49.4%"."""
        return self.write(value) + ("" if value is None else self.sign)


def places_of(value: float) -> int:
    """Digits after the point that show three significant ones."""
    return 0 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))


UNITS = {
    "share": Unit(100, "in percent", "%", " points", (0, 1)),
    "correlation": Unit(100, "x 100", "", " points", (-1, 1)),
    "value": Unit(1, "", "", "", (-math.inf, math.inf)),
    "error": Unit(1, "", "", "", (0, math.inf)),
}
EARLIER = {"%": "share", "x 100": "correlation"}  # words of earlier results.json


@dataclass(frozen=True)
class Metric:
    """label: its name for readers. unit: share (0..1, in percent), correlation (-1..1, times 100), error (0 is right)
    or value. brief: whether the tables of the command line show it; the report shows all."""

    label: str
    unit: str = "share"
    higher_is_better: bool = True
    brief: bool = True

    @property
    def written(self) -> Unit:
        return UNITS[self.unit]

    @property
    def heading(self) -> str:
        """The label, with its unit where that is not percent."""
        words = "" if self.unit == "share" else self.written.words
        return f"{self.label} {words}".strip()

    def key(self, value: float) -> float:
        """Sorts best first."""
        return -value if self.higher_is_better else value

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def metric_of(summary: Mapping[str, Any], name: str | None = None) -> Metric:
    """A metric (default: the primary one) of a task's summary, as it stands in results.json. What is not stored there
    is named as the tasks name it, else a number like the primary one."""
    primary = str(summary.get("primary", ""))
    name = (name or primary).removeprefix("hard/")
    stored = (summary.get("metrics") or {}).get(name)
    if stored is not None:
        return Metric(**stored)
    unit = summary.get("unit", "share")
    unit = EARLIER.get(unit, unit if unit in UNITS else "value")
    label = summary.get("label") if name == primary else None
    known = known_metrics().get(name) if "metrics" not in summary and label is None else None
    return known or Metric(str(label or name), unit, bool(summary.get("higher_is_better", True)))


def known_metrics() -> dict[str, Metric]:
    """The metrics of nearfar's own tasks, by name."""
    return {name: metric for task in TASKS.own() for name, metric in TASKS.get(task).metrics.items()}
