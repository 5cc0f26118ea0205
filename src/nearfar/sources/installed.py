"""The sources of the libraries installed here, for built-in sets that are made of them. Nothing is imported.

packages() -> source_files(found) -> documented(path) -> (name, node, docstring), source lines
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from nearfar.errors import InputError
from nearfar.progress import track
from nearfar.sources.splits import SHARES, assign
from nearfar.sources.words import near_copies

LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "networkx", "sympy", "transformers", "timm")
IMPORTED_AS = {"scikit-learn": "sklearn"}
_LEFT_OUT = {
    "test",
    "tests",
    "testing",
    "_testing",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "__pycache__",
}
_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
T = TypeVar("T")
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def packages() -> dict[str, Path]:
    """Installed ones of LIBRARIES, and "python", with the folder of their source."""
    found = {"python": Path(sysconfig.get_paths()["stdlib"])}
    for name in LIBRARIES:
        spec = importlib.util.find_spec(IMPORTED_AS.get(name, name))
        if spec is not None and spec.origin:
            found[name] = Path(spec.origin).parent
    return found


def versions(found: Iterable[str]) -> dict[str, str]:
    """Package -> its version."""
    return {name: platform.python_version() if name == "python" else importlib.metadata.version(name) for name in found}


def source_files(found: dict[str, Path]) -> list[tuple[str, Path, str]]:
    """(package, file, dotted module) of all sources, in an order that is the same everywhere and mixes the packages."""
    files = []
    for package, root in found.items():
        for path in root.rglob("*.py"):
            inner = path.relative_to(root)
            if _LEFT_OUT.isdisjoint(inner.parts) and not inner.name.startswith("test_"):
                head = [] if package == "python" else [IMPORTED_AS.get(package, package)]
                files.append((package, path, ".".join([*head, *inner.with_suffix("").parts]).removesuffix(".__init__")))
    return sorted(files, key=lambda f: hashlib.blake2b(f[2].encode(), digest_size=8).digest())


def definitions(path: Path) -> tuple[list[tuple[str, Definition]], list[str]]:
    """The module ("") and every class and function of a source file with its dotted name, and the lines of the file;
    nothing where it is no valid Python."""
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in the strings of others
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, OSError):
        return [], []
    return [("", tree), *_inner(tree, "")], source.splitlines()


def _inner(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Only statements are walked: expressions hold no definitions."""
    for child in (c for block in _BLOCKS for c in getattr(node, block, ())):
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named:
            yield prefix + child.name, child
        yield from _inner(child, f"{prefix}{child.name}." if named else prefix)


def assigned(modules: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Rows of each split: whole modules, drawn with the seed."""
    names, codes = np.unique(np.asarray(modules, dtype=object).astype(str), return_inverse=True)
    marks = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest()) for name in names.tolist()]
    return assign(codes.reshape(-1), np.array(marks, np.int64)[codes.reshape(-1)], seed, SHARES)


def nothing(what: str) -> InputError:
    """What is raised where the libraries lie here without their sources."""
    return InputError(f"No {what} were found in the installed libraries.", "Install them with their sources.")


def found_in(
    found: dict[str, Path], what: str, read: Callable[[Path, str, str], Iterable[T]], limit: int | None
) -> list[T]:
    """What `read(path, module, package)` gives of all source files, in their order; `limit`: at most so many."""
    files, rows = source_files(found), list[T]()
    with track(f"reading {what}", len(files), least=1 if limit is None else len(files) + 1) as advance:
        for package, path, module in files:
            rows += read(path, module, package)
            if limit is not None and len(rows) >= limit:
                return rows[:limit]
            advance(1)
    return rows


def distinct(found: Sequence[T], text: Callable[[T], str], what: str) -> list[T]:
    """Those whose text nearly repeats no earlier one (`words.near_copies`), in their order."""
    with track(f"comparing {what}", len(found)) as advance:
        first = near_copies([text(one) for one in found], advance=advance)
    return [one for i, one in enumerate(found) if first[i] == i]
