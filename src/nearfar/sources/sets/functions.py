"""The built-in data set `functions`: what a function's summary says -> the function's code, from the libraries
installed here.

Source: the standard library and nearfar's own dependencies (numpy, scipy, scikit-learn, torch, networkx, sympy,
    transformers, timm, as far as they are installed), each under its own licence, read on the user's machine and kept
    in the cache folder; nothing is shipped. Which pairs there are depends on the installed versions: the data hash
    says so.
"""

import ast
import hashlib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nearfar.sources import installed
from nearfar.sources.made import stored_rows
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.words import first_of_equal, normal

LEAST_WORDS = 4  # of a summary
LEAST_LINES = 4  # of a body, beyond the line that names the function
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
    found = installed.packages()
    versions = installed.versions(found)
    key = hashlib.sha256(repr((_VERSION, sorted(versions.items()), limit)).encode()).hexdigest()[:32]

    def made() -> list[Pair]:
        return _distinct(installed.found_in(found, "functions", functions_of, limit))

    return Raw(
        name="functions",
        path=None,
        kind="built-in texts",
        table=stored_rows(cache / "functions" / f"{key}.arrow", made, Pair, installed.nothing("documented functions")),
        fingerprint=key,
        roles={"text": "summary", "text_b": "code", "unit": "module", "id": "id"},
        reasons={"text": "the first sentence of the docstring", "text_b": "the source without the docstring"},
        notes=[f"from {', '.join(f'{name} {version}' for name, version in versions.items())}"],
        meta={"versions": versions, "licences": "each function under its library's licence"},
    )


def functions_of(path: Path, module: str, package: str) -> Iterator[Pair]:
    """All usable pairs of one source file; none where it is no valid Python."""
    found, lines = installed.definitions(path)
    for name, node in found:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        summary, code = first_sentence(ast.get_docstring(node) or ""), _code(node, lines)
        if (
            len(summary.split()) >= LEAST_WORDS
            and code.count("\n") >= LEAST_LINES
            and normal(summary) not in normal(code)
        ):
            yield Pair(f"{module}:{name}", module, package, summary, code)


def first_sentence(docstring: str) -> str:
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
    fresh = first_of_equal(pairs, lambda pair: normal(pair.summary))
    if not fresh:
        return []
    return sorted(installed.distinct(fresh, lambda pair: pair.code, "functions"), key=lambda p: p.id)
