"""The built-in data set `modules`: which modules of installed libraries import each other; `packages` without names, so
with one type of node and one relation. Source and licences: see `packages`."""

from pathlib import Path

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.packages import graph


@register
def open_modules(cache: Path, limit: int | None = None) -> Raw:
    """A row a module: its text, the part of its library (the label), and the modules that it imports."""
    return graph("modules", cache, limit, modules_alone=True)
