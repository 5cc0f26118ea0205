"""The built-in data set `docstrings`: the first sentence of a docstring and how the docstring goes on, by library.

Source: as of `functions` (`nearfar.sources.installed`), each docstring under the licence of its library; nothing is
    shipped.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np

from nearfar.sources import installed
from nearfar.sources.made import stored_rows
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.functions import LEAST_WORDS, first_sentence
from nearfar.sources.words import first_of_equal, normal

LEAST_BODY, MOST_BODY = 8, 64  # words
_VERSION = "1"


@dataclass(frozen=True)
class Documented:
    """A docstring in two: its first sentence and the first 64 words of the rest. label: 1, or 0 where the rest is that
    of another docstring of the library."""

    id: str
    summary: str
    body: str
    label: str
    module: str
    package: str
    split: str


@register
def open_docstrings(cache: Path, seed: int = 0, limit: int | None = None) -> Raw:
    """One row a docstring: text = its first sentence, text_b = the first 64 words of the rest, domain = the library.

    Validation and test parts hold every docstring twice: as it is (1) and with the rest of another docstring of the
    same library (0). Left out: first sentences under four words or found in the rest, rests under eight words, test
    folders, and whatever repeats an earlier sentence or nearly repeats (Jaccard of word triples >= 0.8) an earlier
    rest. Split by module. With `limit` only the first so many docstrings are read, in an order that mixes the packages.
    """
    found = installed.packages()
    versions = installed.versions(found)
    key = hashlib.sha256(repr((_VERSION, sorted(versions.items()), limit, seed)).encode()).hexdigest()[:32]

    def made() -> list[Documented]:
        return rows_of(_distinct(installed.found_in(found, "docstrings", docstrings_of, limit)), seed)

    return Raw(
        name="docstrings",
        path=None,
        kind="built-in texts",
        table=stored_rows(cache / "docstrings" / f"{key}.arrow", made, Documented, installed.nothing("docstrings")),
        fingerprint=key,
        roles={
            "text": "summary",
            "text_b": "body",
            "pair_label": "label",
            "unit": "module",
            "domain": "package",
            "split": "split",
            "id": "id",
        },
        reasons={
            "text": "the first sentence of a docstring",
            "text_b": f"the first {MOST_BODY} words of the rest",
            "pair_label": "0: the rest of another docstring of the library, in validation and test rows",
            "unit": "the module",
            "domain": "the library",
            "split": "by module",
        },
        notes=[f"from {', '.join(f'{name} {version}' for name, version in versions.items())}"],
        meta={"versions": versions, "licences": "each docstring under its library's licence"},
    )


def docstrings_of(path: Path, module: str, package: str) -> Iterator[Documented]:
    """All usable docstrings of one source file; of a name that is defined twice, the first."""
    for name, node in first_of_equal(installed.definitions(path)[0], itemgetter(0)):
        whole = " ".join((ast.get_docstring(node) or "").split())
        summary = first_sentence(ast.get_docstring(node) or "")
        body = whole[len(summary) :].split()[:MOST_BODY]
        if len(summary.split()) >= LEAST_WORDS and len(body) >= LEAST_BODY:
            rest = " ".join(body)
            if normal(summary) not in normal(rest):
                yield Documented(f"{module}:{name}", summary, rest, "1", module, package, "")


def _distinct(found: list[Documented]) -> list[Documented]:
    """The first docstring of each summary and of each family of nearly equal rests."""
    fresh = first_of_equal(first_of_equal(found, lambda one: normal(one.summary)), lambda one: normal(one.body))
    return installed.distinct(fresh, lambda one: one.body, "docstrings")


def rows_of(found: Sequence[Documented], seed: int) -> list[Documented]:
    """The docstrings in splits, those of validation and test with as many pairs that do not belong together."""
    rows = []
    for name, places in installed.assigned([one.module for one in found], seed).items():
        part = [replace(found[place], split=name) for place in places.tolist()]
        rows += part
        if name != "train":
            rows += mismatched(part, np.random.default_rng([seed, len(rows)]))
    return rows


def mismatched(part: Sequence[Documented], rng: np.random.Generator) -> list[Documented]:
    """Each docstring with the rest of another one of its library, each rest once; none for a library with one alone."""
    libraries: dict[str, list[Documented]] = defaultdict(list)
    for one in part:
        libraries[one.package].append(one)
    rows = []
    for name in sorted(libraries):
        own = [libraries[name][i] for i in rng.permutation(len(libraries[name]))]
        if len(own) > 1:
            pairs = zip(own, [*own[1:], own[0]], strict=True)
            rows += [replace(a, id=f"{a.id} ~ {b.id}", body=b.body, label="0") for a, b in pairs]
    return rows
