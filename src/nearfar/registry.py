"""What is known by its file: a module of a folder bears the name of what it holds, and no list is edited to add one.

Other packages name theirs as entry points. Names are found without importing anything.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from nearfar.errors import InputError, did_you_mean


class Registry:
    """Name -> what its file defines; "few-shot" lies in `few_shot.py`.

    Args:
        what: the word for one of them in messages.
        package: dotted package of the files.
        group: entry points of other packages.
    """

    def __init__(self, what: str, package: str, group: str):
        self.what, self.package, self.group = what, package, group
        self._added: dict[str, Any] = {}
        self._watchers: list[Callable[[], None]] = []
        self._telling = False

    def own(self) -> list[str]:
        """Names of nearfar's own, by their files."""
        return _names(self.package)

    def names(self) -> list[str]:
        """All known names: nearfar's own, those of other packages, those added in this process."""
        others = sorted(entry.name for entry in of_others(self.group))
        return list(dict.fromkeys([*self.own(), *others, *self._added]))

    def add(self, name: str, thing: Any) -> None:
        """Makes something known in this process. Raises InputError where another thing has the name."""
        before = self._added.setdefault(name, thing)
        if before is not thing and _place(before) != _place(thing):
            raise InputError(
                f"There are two {self.what}s '{name}': {_place(before)} and {_place(thing)}.", "Rename one of them."
            )
        self._added[name] = thing
        self._tell()

    def forget(self, name: str) -> None:
        """Takes away what was made known in this process."""
        self._added.pop(name, None)
        self._tell()

    def watch(self, function: Callable[[], None]) -> None:
        """Calls the function now and whenever something is added or taken away."""
        self._watchers.append(function)
        self._tell()

    def _tell(self) -> None:
        if self._telling:  # what watches loads files, and these add what is in them
            return
        self._telling = True
        try:
            for function in self._watchers:
                function()
        finally:
            self._telling = False

    def check(self, name: str) -> None:
        """Raises InputError, with the nearest name, for an unknown one."""
        known = self.names()
        if name not in known:
            raise InputError(f"Unknown {self.what} '{name}'.{did_you_mean(name, known)}", f"Known: {', '.join(known)}.")

    def get(self, name: str) -> Any:
        """What has the name; its file is imported. Raises InputError for an unknown name, and for a file that adds
        nothing of its name."""
        if name not in self._added:
            self.check(name)
            if name in self.own():
                importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
            else:
                entry = next(entry for entry in of_others(self.group) if entry.name == name)
                self.add(name, entry.load())
        if name not in self._added:
            raise InputError(f"The file of the {self.what} '{name}' in {self.package} adds nothing of that name.")
        return self._added[name]


def of_others(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group; the installed packages are read again where a folder of `sys.path` has changed."""
    return _entries(group, tuple((path, _changed(path)) for path in sys.path))


@lru_cache(maxsize=32)
def _entries(group: str, _: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _changed(path: str) -> int:
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


def name_of(thing: Any) -> str:
    """The name that a file gives to what it defines."""
    return str(thing.__module__).rpartition(".")[2].replace("_", "-")


def _place(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


@cache
def _names(package: str) -> list[str]:
    folder = Path(__file__).parent.joinpath(*package.split(".")[1:])
    found = (module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))
    return sorted(name.replace("_", "-") for name in found)


MODALITIES = Registry("kind of data", "nearfar.modalities", "nearfar.modalities")
TASKS = Registry("task", "nearfar.evaluation.tasks", "nearfar.tasks")
DATA_SETS = Registry("built-in data set", "nearfar.sources.sets", "nearfar.data_sets")
