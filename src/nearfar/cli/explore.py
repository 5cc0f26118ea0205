"""`nearfar explore`: an index as a page to look at."""

from __future__ import annotations

import contextlib
import sys
import webbrowser
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nearfar import options, terminal
from nearfar.checks import PositiveInt, Range
from nearfar.cli.common import read, speaker
from nearfar.errors import InputError
from nearfar.progress import Say
from nearfar.training.settings import DataSettings


@dataclass
class ExploreOptions:
    """What is shown, and where.

    Args:
        projection: how vectors come onto a plane: umap, or pca, which is quick and shows less.
        rows: most rows that are shown; of more, so many are drawn.
        k: neighbours by which rows are judged: outliers, labels.
        thumbnail: pixels a side of images; 0 for none.
        port: of the page, on this machine alone.
        browser: auto opens yours where there is one, none leaves that to you, or the name of one (firefox).
    """

    projection: Literal["umap", "pca"] = "umap"
    rows: PositiveInt = 100_000
    k: Annotated[int, Range(1, 15)] = 10
    thumbnail: Annotated[int, Range(0, 512)] = 64
    port: Annotated[int, Range(1024, 65535)] = 5055
    browser: Literal["auto", "none"] | str = "auto"


def show(index: str, data: str | None, given: ExploreOptions, settings: DataSettings, say: Say) -> None:
    """Shows the index until it is stopped. Raises InputError: Embedding Atlas is not installed, a port in use, a
    browser that is not there, no index, a damaged or an empty one."""
    from nearfar.exploring import page

    page.check_installed()
    page.check_port(given.port)
    browser = browser_of(given.browser)
    from nearfar.exploring import explore

    label = None if settings.label in (None, "none") else settings.label.split(",")[0].strip()
    atlas = explore(index, data, projection=given.projection, label=label, rows=given.rows, k=given.k,
                    thumbnail=given.thumbnail, data_settings=settings, say=say)  # fmt: skip
    count = atlas.table.num_rows
    say(f"{count:,} rows" + "".join(f"; {name} {found:,}" for name, found in atlas.found.items()))

    def started(address: str) -> None:
        say(f"{address}  Ctrl-C stops it.")
        say("The map needs a browser with WebGPU (Chrome, Edge, Safari 26, Firefox 141); 'Map without WebGPU' any.")
        if browser is not None and not browser.open(address):
            say("The browser did not open it: open the address yourself.")

    with contextlib.suppress(KeyboardInterrupt):
        atlas.serve(given.port, started)


def browser_of(name: str) -> Any:
    """What opens the page, or None. "auto": a browser with a window, where a person watches. Raises InputError for a
    name that is none."""
    if name == "none" or (name == "auto" and not sys.stdout.isatty()):
        return None
    try:
        found = webbrowser.get(None if name == "auto" else name)
    except webbrowser.Error:
        if name == "auto":
            return None
        raise InputError(f"There is no browser '{terminal.visible(name)}'.",
                         "With --browser none open the address yourself.") from None  # fmt: skip
    in_terminal = isinstance(found, webbrowser.GenericBrowser) and not isinstance(found, webbrowser.BackgroundBrowser)
    return None if name == "auto" and in_terminal else found


def run_explore(words: list[str]) -> None:
    targets = [ExploreOptions, DataSettings]
    places, checked = read(words, targets, (1, 2), "nearfar explore INDEX [DATA]")
    data = places[1] if len(places) == 2 else None
    show(places[0], data, options.build(ExploreOptions, checked), options.build(DataSettings, checked), speaker(False))
