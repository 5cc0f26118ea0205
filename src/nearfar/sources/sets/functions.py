"""The built-in data set `functions`: what a function's summary says -> the function's code, from the libraries
installed here.

Source: the standard library and nearfar's own dependencies (numpy, scipy, scikit-learn, torch, networkx, sympy,
    transformers, timm, as far as they are installed), each under its own licence, read on the user's machine and kept
    in the cache folder; nothing is shipped. Which pairs there are depends on the installed versions: the data hash
    says so.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from nearfar.errors import InputError
from nearfar.progress import track
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.storage import entry, new_entry
from nearfar.sources.words import near_copies, normal

LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "networkx", "sympy", "transformers", "timm")
IMPORTED_AS = {"scikit-learn": "sklearn"}
LEAST_WORDS = 4  # of a summary
LEAST_LINES = 4  # of a body, beyond the line that names the function
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
_VERSION = "1"


@dataclass(frozen=True)
class Pair:
    """One documented function; `module` is the unit of splitting."""

    id: str
    module: str
    package: str
    summary: str
    code: str


@register
def open_functions(cache: Path, limit: int | None = None) -> Raw:
    """One row a function: text = the first sentence of its docstring, text_b = its source without the docstring.

    Left out: summaries under four words or found in the code, bodies under four lines, test folders, and whatever
    repeats an earlier summary or nearly repeats (Jaccard of word triples >= 0.8) earlier code. Split by module. With
    `limit` only so many files are read, in an order that mixes the packages.
    """
    found = packages()
    versions = {name: _version(name) for name in found}
    key = hashlib.sha256(repr((_VERSION, sorted(versions.items()), limit)).encode()).hexdigest()[:32]
    path = cache / "functions" / f"{key}.arrow"
    if not entry(path):
        _build(path, found, limit)
    table = Dataset.from_file(str(path))
    return Raw(
        name="functions",
        path=None,
        kind="built-in texts",
        table=table,
        fingerprint=key,
        roles={"text": "summary", "text_b": "code", "unit": "module", "id": "id"},
        reasons={"text": "the first sentence of the docstring", "text_b": "the source without the docstring"},
        notes=[f"from {', '.join(f'{name} {version}' for name, version in versions.items())}"],
        meta={"versions": versions, "licences": "each function under its library's licence"},
    )


def packages() -> dict[str, Path]:
    """Installed ones of LIBRARIES, and "python", with the folder of their source. Nothing is imported."""
    found = {"python": Path(sysconfig.get_paths()["stdlib"])}
    for name in LIBRARIES:
        spec = importlib.util.find_spec(IMPORTED_AS.get(name, name))
        if spec is not None and spec.origin:
            found[name] = Path(spec.origin).parent
    return found


def _version(name: str) -> str:
    return platform.python_version() if name == "python" else importlib.metadata.version(name)


def _build(path: Path, found: dict[str, Path], limit: int | None) -> None:
    pairs = _distinct(list(_pairs(found, limit)))
    if not pairs:
        raise InputError(
            "No documented functions were found in the installed libraries.", "Install them with their sources."
        )
    fields = list(Pair.__dataclass_fields__)
    table = pa.table({name: pa.array([getattr(p, name) for p in pairs], pa.large_string()) for name in fields})
    with (
        new_entry(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table, 4096)


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


def _pairs(found: dict[str, Path], limit: int | None) -> Iterator[Pair]:
    files = source_files(found)
    count = 0
    with track("reading functions", len(files), least=1 if limit is None else len(files) + 1) as advance:
        for package, path, module in files:
            for pair in functions_of(path, module, package):
                yield pair
                count += 1
                if count == limit:
                    return
            advance(1)


def functions_of(path: Path, module: str, package: str) -> Iterator[Pair]:
    """All usable pairs of one source file; none where it is no valid Python."""
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in the strings of others
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, OSError):
        return
    lines = source.splitlines()
    for name, node in _definitions(tree, ""):
        summary, code = _summary(ast.get_docstring(node) or ""), _code(node, lines)
        if (
            len(summary.split()) >= LEAST_WORDS
            and code.count("\n") >= LEAST_LINES
            and normal(summary) not in normal(code)
        ):
            yield Pair(f"{module}:{name}", module, package, summary, code)


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with its dotted name. Only statements are walked: expressions hold no definitions."""
    for child in (c for block in _BLOCKS for c in getattr(node, block, ())):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from _definitions(child, f"{prefix}{child.name}." if named else prefix)


def _summary(docstring: str) -> str:
    """The first sentence of the first paragraph, in one line."""
    paragraph = " ".join(re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0].split())
    match = re.match(r"(.+?[.!?])(?=\s+[A-Z`(]|$)", paragraph)
    return (match.group(1) if match else paragraph)[:400].strip()


def _code(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """The source from `def` on without the docstring; empty where both share a line."""
    first = node.body[0]
    if first.lineno == node.lineno or first.end_lineno is None or node.end_lineno is None:
        return ""
    kept = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
    return textwrap.dedent("\n".join(line.rstrip() for line in kept if line.strip()))


def _distinct(pairs: list[Pair]) -> list[Pair]:
    """The first pair of each summary and of each family of nearly equal codes."""
    seen: set[str] = set()
    fresh = [p for p in pairs if not ((key := normal(p.summary)) in seen or seen.add(key))]
    if not fresh:
        return []
    with track("comparing functions", len(fresh)) as advance:
        first = near_copies([pair.code for pair in fresh], advance=advance)
    kept = [pair for i, pair in enumerate(fresh) if first[i] == i]
    return sorted(kept, key=lambda p: p.id)
