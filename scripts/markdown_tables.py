"""Tables of Markdown, for whatever makes pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """A Markdown table; the columns numbered in `right` are aligned to the right."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(" ".join(str(c).split()).replace("|", "\\|") for c in cells) + " |"

    rule = "|" + "|".join("---:" if i in right else "---" for i in range(len(heads))) + "|"
    return "\n".join([line(heads), rule, *[line(row) for row in rows]])
