"""`nearfar cache`: what is kept of data."""

from __future__ import annotations

from dataclasses import dataclass

from nearfar.cli import tables
from nearfar.cli.common import Output, emit, read
from nearfar.errors import InputError


@dataclass
class CacheOptions:
    """Which entries of the cache are meant.

    Args:
        kind: tables, scans, pixels, features, scenes, objects or a built-in set (functions, imports,
            sentences, docstrings, descriptions, catalogues); default all.
        unused: only what was not used for so long: 90m, 12h, 30d.
    """

    kind: str | None = None
    unused: str = "0s"


def run_cache(words: list[str]) -> None:
    targets = [CacheOptions, Output]
    places, checked = read(words, targets, (0, 1), "nearfar cache [clear]")
    from nearfar.sources import storage

    if places not in ([], ["clear"]):
        raise InputError(
            f"`nearfar cache` has no '{places[0]}'.", "It shows what is kept; `nearfar cache clear` removes."
        )
    if checked.kind is not None and checked.kind not in storage.KINDS:
        raise InputError(f"There is no kind '{checked.kind}'.", f"Kinds: {', '.join(storage.KINDS)}.")
    folder, age = storage.cache_dir(), storage.seconds(checked.unused)
    if places:
        count, freed = storage.clear(folder, checked.kind, age)
        emit({"path": folder, "removed": count, "bytes": freed}) if checked.json else tables.cleared(
            folder, count, freed
        )
        return
    found = storage.summary(folder, checked.kind, age)
    emit(found) if checked.json else tables.cache(found)
