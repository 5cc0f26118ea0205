"""The built-in data set `imports`: which module a source file imports next, in the libraries installed here.

Source: the standard library and nearfar's own dependencies, each under its own licence, read on the user's machine
and kept in the cache folder; nothing is shipped, and nothing is imported. Which there are depends on the versions.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nearfar.sources import installed
from nearfar.sources.made import stored_rows
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register

_VERSION = "1"


@dataclass(frozen=True)
class Import:
    """One imported module, by the file that does it and the line."""

    file: str
    module: str
    line: str


@register
def open_imports(cache: Path, limit: int | None = None) -> Raw:
    """One row an import: file (the user), module (the item, as it is named in full) and line (the time).

    Test folders are left out. With `limit` only so many rows are read, in an order that mixes the packages.
    """
    found = installed.packages()
    versions = installed.versions(found)
    key = hashlib.sha256(repr((_VERSION, sorted(versions.items()), limit)).encode()).hexdigest()[:32]

    def made() -> list[Import]:
        return installed.found_in(found, "imports", imports_of, limit)

    return Raw(
        name="imports",
        path=None,
        kind="built-in interactions",
        table=stored_rows(cache / "imports" / f"{key}.arrow", made, Import, installed.nothing("imports")),
        fingerprint=key,
        roles={"user": "file", "item": "module", "time": "line"},
        reasons={"user": "the file that imports", "item": "what it imports", "time": "where it stands in the file"},
        notes=[f"from {', '.join(f'{name} {version}' for name, version in versions.items())}"],
        meta={"versions": versions, "licences": "each file under its library's licence"},
    )


def imports_of(path: Path, module: str, package: str) -> Iterator[Import]:
    """The imports of one source file in the order of its lines; none where it is no valid Python."""
    found, _ = installed.definitions(path)
    tree = found[0][1] if found else None
    nodes = [] if tree is None else [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    package_of = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in sorted(nodes, key=lambda n: (n.lineno, n.col_offset)):
        for name in named(node, package_of):
            yield Import(module, name, str(node.lineno))


def named(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """The modules that a statement names, in full; package: that of the file, from which `.` counts."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parts = package.split(".") if package else []
    above = parts[: len(parts) - (node.level - 1)] if node.level else []
    name = ".".join([*above, *([node.module] if node.module else [])])
    return [name] if name else []
