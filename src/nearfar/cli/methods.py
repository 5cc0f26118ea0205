"""`nearfar methods`: the gallery, or one method."""

from __future__ import annotations

from nearfar import options
from nearfar.cli import tables
from nearfar.cli.common import Output, emit, parse


def run_methods(words: list[str]) -> None:
    from nearfar import methods

    places, given = parse(words, [Output], (0, 1), "nearfar methods [METHOD]")
    as_json = options.checked([Output], given).json
    if places:
        found = methods.describe(places[0])
        emit(found) if as_json else tables.method(found)
        return
    emit(methods.list_methods()) if as_json else tables.gallery(methods.overview())
