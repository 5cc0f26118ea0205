"""`nearfar methods`: the gallery, or one method."""

from __future__ import annotations

from nearfar.cli import tables
from nearfar.cli.common import Output, emit, read


def run_methods(words: list[str]) -> None:
    from nearfar import methods

    places, checked = read(words, [Output], (0, 1), "nearfar methods [METHOD]")
    if places:
        found = methods.describe(places[0])
        emit(found) if checked.json else tables.method(found)
        return
    emit(methods.list_methods()) if checked.json else tables.gallery(methods.overview())
