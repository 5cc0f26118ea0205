"""What is told while work goes on: remarks, and a progress bar on stderr for what takes long, silent where nobody
watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]
"""Where remarks go."""


def silent(_: str) -> None:
    """Says nothing."""


@contextmanager
def track(what: str, total: int | None, least: int = 2000) -> Iterator[Callable[[int], None]]:
    """Gives a function that counts on. The bar is drawn only on a terminal and for at least `least` items; total: None
    where nobody knows it."""
    if (total is not None and total < least) or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from nearfar import terminal

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(terminal.visible(what)), total=total)
        yield lambda count: progress.advance(task, count)
