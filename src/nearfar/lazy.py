"""Packages whose names are imported when they are first asked for: `nearfar methods` needs no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from nearfar.reading import Module


def exports(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package: what it imports under `if TYPE_CHECKING:` is imported at its first use."""
    where = Module.of(package).imports

    def __getattr__(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, original = where[name]
        return getattr(importlib.import_module(module), original)

    return __getattr__
