"""The built-in data set `sentences`: sentences of docstrings for training, and graded pairs of them for measuring.

Source: as of `functions` (`nearfar.sources.installed`), each sentence under the licence of its library; nothing is
    shipped. Pairs are graded by where their sentences stand: 2 in one docstring, 1 in two docstrings of one module, 0
    in two packages. Nobody judged them: a pair graded 0 may well say the same.
"""

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nearfar.sources import installed
from nearfar.sources.made import stored_rows
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.words import first_of_equal, normal

WORDS = (5, 30)  # of a sentence
PAIRS = {"val": (333, 333, 334), "test": (1000, 1000, 1000)}  # at most, by grade 0, 1, 2
_NO_PROSE = re.compile(r">>>|\.\.\.|\.\. |[\s:|*+=~#@%$\\-]|\d+[.)]|[\w.,*` ]+ ?:(\s|$)")
_UNDERLINE = re.compile(r"[-=~^\"']{3,}")
_ENDS = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!cf\.)(?<!vs\.)(?<! al\.)\s+(?=[A-Z`\"])")
_WORD = re.compile(r"[(\"`]*[A-Za-z]")
_VERSION = "2"


@dataclass(frozen=True)
class Sentence:
    """A sentence of a docstring, which is `document`."""

    text: str
    document: str
    module: str
    package: str


@dataclass(frozen=True)
class Row:
    """A row of the set; the second side and the score are empty in training rows."""

    id: str
    text: str
    text_b: str | None
    score: str | None
    document: str
    module: str
    package: str
    split: str


@register
def open_sentences(cache: Path, seed: int = 0, limit: int | None = None) -> Raw:
    """One row a sentence (training) or a graded pair of sentences (validation, test).

    Left out: sentences under five or over thirty words, lists, tables, examples of code, test folders, and whatever
    nearly repeats (Jaccard of word triples >= 0.8) an earlier sentence. Whole modules are in one split, and every
    docstring is in one pair at most. With `limit` only the first so many sentences are read, in an order that mixes the
    packages.
    """
    found = installed.packages()
    versions = installed.versions(found)
    key = hashlib.sha256(repr((_VERSION, sorted(versions.items()), limit, seed)).encode()).hexdigest()[:32]

    def made() -> list[Row]:
        return rows_of(_distinct(installed.found_in(found, "sentences", sentences_of, limit)), seed)

    table = stored_rows(cache / "sentences" / f"{key}.arrow", made, Row, installed.nothing("sentences"))
    paired = table.data.column("score").null_count < len(table)
    return Raw(
        name="sentences",
        path=None,
        kind="built-in texts",
        table=table,
        fingerprint=key,
        roles={
            "text": "text",
            **({"text_b": "text_b", "score": "score"} if paired else {}),
            "unit": "document",
            "domain": "package",
            "split": "split",
            "id": "id",
        },
        reasons={
            "text": "a sentence of a docstring",
            "text_b": "in validation and test rows: another sentence",
            "score": "2: one docstring, 1: one module, 0: two packages",
            "unit": "the docstring; as --group its sentences are positives of each other",
            "domain": "the library of the (first) sentence",
            "split": "by module",
        },
        notes=[f"from {', '.join(f'{name} {version}' for name, version in versions.items())}"],
        meta={"versions": versions, "licences": "each sentence under its library's licence"},
    )


def sentences_of(path: Path, module: str, package: str) -> Iterator[Sentence]:
    """The sentences of all docstrings of one source file."""
    for name, node in installed.definitions(path)[0]:
        for text in sentences_in(ast.get_docstring(node) or ""):
            yield Sentence(text, f"{module}:{name}", module, package)


def sentences_in(docstring: str) -> list[str]:
    """The whole sentences of the running text of a docstring, 5 to 30 words each."""
    found = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = paragraph.rstrip().split("\n")
        if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1].strip()):
            lines = lines[2:]
        if lines and not any(_NO_PROSE.match(line) for line in lines):
            found += [text for text in _ENDS.split(" ".join(" ".join(lines).split())) if _whole(text)]
    return found


def _whole(text: str) -> bool:
    words = text.split()
    return (
        WORDS[0] <= len(words) <= WORDS[1]
        and text[0].isupper()
        and text[-1] in ".!?"
        and text.count("`") % 2 == 0
        and sum(_WORD.match(word) is not None for word in words) >= 0.8 * len(words)
    )


def _distinct(sentences: list[Sentence]) -> list[Sentence]:
    """The first of equal sentences and of each family of nearly equal ones."""
    fresh = first_of_equal(sentences, lambda one: normal(one.text))
    return installed.distinct(fresh, lambda one: one.text, "sentences")


def rows_of(sentences: Sequence[Sentence], seed: int) -> list[Row]:
    """Sentences of the training modules, and pairs of those of the others, where there are pairs in both parts."""
    split = installed.assigned([one.module for one in sentences], seed)
    rows = []
    count: dict[str, int] = defaultdict(int)
    for place in split["train"].tolist():
        one = sentences[place]
        count[one.document] += 1
        key = f"{one.document}#{count[one.document]}"
        rows.append(Row(key, one.text, None, None, one.document, one.module, one.package, "train"))
    parts = {name: _pairs([sentences[i] for i in split[name].tolist()], name, seed) for name in PAIRS}
    return rows + [row for part in parts.values() for row in part] if all(parts.values()) else rows


def _pairs(sentences: Sequence[Sentence], split: str, seed: int) -> list[Row]:
    graded = graded_pairs(sentences, PAIRS[split], np.random.default_rng([seed, len(sentences)]))
    return [
        Row(f"{a.document} ~ {b.document}", a.text, b.text, str(grade), a.document, a.module, a.package, split)
        for grade, pairs in enumerate(graded)
        for a, b in pairs
    ]


def graded_pairs(
    sentences: Sequence[Sentence], most: Sequence[int], rng: np.random.Generator
) -> list[list[tuple[Sentence, Sentence]]]:
    """Pairs of grade 0, 1 and 2, at most so many of each and in these proportions; no docstring is in two of them."""
    documents: dict[str, list[Sentence]] = defaultdict(list)
    for one in sentences:
        documents[one.document].append(one)
    ready = [documents[name] for name in sorted(documents)]
    ready = [ready[i] for i in rng.permutation(len(ready))]
    share = min(1.0, len(ready) / (2 * most[0] + 2 * most[1] + most[2]))
    within = [one for one in ready if len(one) > 1][: round(share * most[2])]
    used = {one[0].document for one in within}
    twos = [tuple(one[i] for i in sorted(rng.choice(len(one), 2, replace=False))) for one in within]
    single = [one[rng.integers(len(one))] for one in ready if one[0].document not in used]
    ones = _neighbours(single)[: round(share * most[1])]
    used = {one.document for pair in ones for one in pair}
    rest = [one for one in single if one.document not in used]
    half = len(rest) // 2
    zeros = [(a, b) for a, b in zip(rest[:half], rest[half : 2 * half]) if a.package != b.package]
    found = [zeros, ones, [(a, b) for a, b in twos]]
    share = min(len(pairs) / wanted for pairs, wanted in zip(found, most, strict=True))
    return [pairs[: min(len(pairs), round(share * wanted), wanted)] for pairs, wanted in zip(found, most, strict=True)]


def _neighbours(sentences: Sequence[Sentence]) -> list[tuple[Sentence, Sentence]]:
    """Pairs of sentences of one module, each sentence in one pair: one pair of every module, then the next of each."""
    modules: dict[str, list[Sentence]] = defaultdict(list)
    for one in sentences:
        modules[one.module].append(one)
    pairs = [list(zip(found[::2], found[1::2])) for found in modules.values()]
    return [found[turn] for turn in range(max(map(len, pairs), default=0)) for found in pairs if turn < len(found)]
