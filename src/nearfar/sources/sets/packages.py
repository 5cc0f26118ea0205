"""The built-in data set `packages`: modules of installed libraries, which import each other and use the same names.

Source: the standard library and libraries that nearfar depends on (numpy, scipy, scikit-learn, networkx, sympy, as far
    as they are installed), each under its own licence, read on the user's machine and kept in the cache folder; nothing
    is shipped. Which modules there are depends on the installed versions: the data hash says so.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nearfar.sources import installed
from nearfar.sources.made import stored_rows
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register

FROM = ("python", "numpy", "scipy", "scikit-learn", "networkx", "sympy")
LEAST = 12  # modules of a part of a library that is a class
SHARED = (2, 200)  # modules that use a name: so many at least and at most
MODULE, NAME = "module", "name"
_VERSION = "3"


@dataclass(frozen=True)
class Row:
    """A module, or a name that several of them import. `imports` and `uses`: ids, separated by blanks."""

    id: str
    type: str
    text: str
    part: str
    imports: str
    uses: str


@dataclass(frozen=True)
class Module:
    """What a source file says of itself."""

    name: str
    text: str
    imports: tuple[str, ...]
    names: tuple[str, ...]


@register
def open_packages(cache: Path, limit: int | None = None) -> Raw:
    """A row a node: modules with their text (docstring, and the names and docstring summaries of what they define) and
    the part of their library (sklearn.linear_model: the label, of parts of 12 modules or more), and names that two to
    200 modules import from elsewhere. Edges: a module imports a module; a module uses a name."""
    return graph("packages", cache, limit)


def graph(name: str, cache: Path, limit: int | None, modules_alone: bool = False) -> Raw:
    """The data set of that name. modules_alone: without names, so with one type of node and one relation."""
    found = {k: v for k, v in installed.packages().items() if k in FROM}
    versions = installed.versions(found)
    key = hashlib.sha256(repr((_VERSION, sorted(versions.items()), limit, modules_alone)).encode()).hexdigest()[:32]

    def made() -> list[Row]:
        modules = installed.found_in(found, "modules", lambda path, module, package: read(path, module), limit)
        return rows_of(modules, modules_alone)

    table = stored_rows(cache / name / f"{key}.arrow", made, Row, installed.nothing("modules"))
    edges = ["imports"] if modules_alone else ["imports", "uses"]
    return Raw(
        name=name,
        path=None,
        kind="built-in graph",
        table=table,
        fingerprint=key,
        roles={"node": "id", "edges": list(edges), "features": ["text"], "label": ["part"], "id": "id"}
        | ({} if modules_alone else {"node_type": "type"}),
        reasons={"label": "the part of the library", "features": "docstrings, and names of what is defined"},
        notes=[f"from {', '.join(f'{name} {version}' for name, version in versions.items())}"],
        meta={"versions": versions, "licences": "each module under its library's licence"},
    )


def read(path: Path, module: str) -> Iterator[Module]:
    """A source file; nothing where it is no valid Python or defines nothing."""
    found, _ = installed.definitions(path)
    if not found:
        return
    tree = found[0][1]
    own = [(name, node) for name, node in found[1:] if "." not in name and not name.startswith("_")]
    heads = [ast.get_docstring(node) or "" for _, node in own]
    parts = [
        ast.get_docstring(tree) or "",
        *(name for name, _ in own),
        *(head.strip().split("\n")[0] for head in heads),
    ]
    text = " ".join(" ".join(parts).split())
    if text:
        imports, names = imported(tree, module, path.name == "__init__.py")
        yield Module(module, text, tuple(imports), tuple(names))


def imported(tree: ast.AST, module: str, folder: bool) -> tuple[list[str], list[str]]:
    """Dotted names of modules that a module may import ("a.b" of "from a import b" too), and the names that it imports
    from them, each once and sorted. folder: whether it is a package itself, from which relative names count."""
    modules, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            up = node.level - folder
            base = parts[: len(parts) - up] if node.level and up >= 0 else []
            where = ".".join([*base, *([node.module] if node.module else [])])
            modules |= {where} | {f"{where}.{alias.name}" for alias in node.names}
            names |= {f"{where}:{alias.name}" for alias in node.names if alias.name != "*"}
    return sorted(modules - {"", module}), sorted(names)


def part_of(name: str) -> str:
    """The first two words of a dotted name."""
    return ".".join(name.split(".")[:2])


def rows_of(modules: list[Module], modules_alone: bool) -> list[Row]:
    """Modules in the order of their names, then names."""
    known = {one.name for one in modules}
    modules = sorted({one.name: one for one in modules}.values(), key=lambda one: one.name)
    sizes = Counter(part_of(one.name) for one in modules if "." in one.name)
    uses = {one.name: [n for n in one.names if n.replace(":", ".") not in known] for one in modules}
    often = Counter(name for own in uses.values() for name in own)
    shared = set() if modules_alone else {n for n, count in often.items() if SHARED[0] <= count <= SHARED[1]}
    rows = []
    for one in modules:
        part = part_of(one.name)
        rows.append(Row(
            id=one.name, type=MODULE, text=one.text, part=part if sizes[part] >= LEAST else "",
            imports=" ".join(name for name in one.imports if name in known and name != one.name),
            uses=" ".join(name for name in uses[one.name] if name in shared),
        ))  # fmt: skip
    return rows + [Row(name, NAME, name.partition(":")[2].replace("_", " "), "", "", "") for name in sorted(shared)]
