"""Hits on a terminal, and as lines for other programs."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nearfar import terminal
from nearfar.searching import TRAINED, Found, Hits

MOST = 240  # characters of a text that are shown on a terminal


def answer(found: Found) -> None:
    """A query with its hits, and an empty line behind them."""
    terminal.say(found.query, sys.stdout)
    if found.error is None:
        show(found.hits)
    else:
        sys.stdout.flush()
        terminal.say(f"nearfar: {found.query}: {found.error}")
    sys.stdout.write("\n")


def warn(hits: Hits) -> None:
    known = sum(hit.get(TRAINED) is True for hit in hits)
    if known:
        terminal.say(f"warning: the model was trained on {known} of these {len(hits)} items")


def show(hits: Hits) -> None:
    """One hit a line; on a terminal, what is too long goes on below, parted between words."""
    out = terminal.console()
    if not hits:
        terminal.say("nothing found", sys.stdout)
    elif out.is_terminal:
        out.print(grid(hits))
    else:
        for number, hit in enumerate(hits, 1):
            rest = "".join(f"  {name} {value}" for name, value in fields(hit))
            mark = "  trained on" * (hit.get(TRAINED) is True)
            terminal.say(f"{number:>3}  {score(hit)}  {hit['key']}{mark}{rest}", sys.stdout)


def grid(hits: Hits) -> Any:
    """Hits for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for number, hit in enumerate(hits, 1):
        body = Text(terminal.visible(hit["key"]))
        if hit.get(TRAINED) is True:
            body.append("  trained on", "yellow")
        for name, value in fields(hit):
            body.append(f"  {terminal.visible(name)}", "dim")
            body.append(f" {terminal.visible(shortened(value))}")
        table.add_row(f"{number:>3}", Text(score(hit), "bold"), body)
    return table


def score(hit: Mapping[str, Any]) -> str:
    """Sums of reciprocal ranks are small."""
    return f"{hit['score']:.{4 if 'vector_rank' in hit else 3}f}"


def fields(hit: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """The columns of a hit that hold something, each on one line."""
    shown = [(name, " ".join(str(value).split())) for name, value in hit.items()
             if name not in ("key", "score", TRAINED) and value is not None]  # fmt: skip
    return [(name, value) for name, value in shown if value]


def shortened(text: str, most: int = MOST) -> str:
    """A text of at most `most` characters, cut between words; within one that alone is longer."""
    if len(text) <= most:
        return text
    cut = textwrap.shorten(text, most, placeholder=" …")
    return cut if len(cut) > most // 2 else text[: most - 1] + "…"
