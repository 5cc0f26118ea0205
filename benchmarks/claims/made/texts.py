"""Docstrings, functions and manual pages of the checks."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from made.writing import write_csv
from nearfar import files
from nearfar.errors import InputError
from nearfar.sources import manpages, open_data

JUDGED = {"train": 4000, "val": 500, "test": 1200}  # pairs at most; half of them belong together


LABELLED = 0.2  # share of the training pairs whose label a student is given


def judged_docstrings(counts: Mapping[str, int], seed: int = 0) -> list[list[Any]]:
    """Pairs of sentences: the first one of a docstring, and another one of it (1), or one of another docstring of the
    module or, as often, of another package (0). Whole modules are in one split; no docstring begins two pairs. Rows of
    first, second, label, the label of some training pairs alone, split."""
    from nearfar.sources import installed
    from nearfar.sources.sets.sentences import sentences_of
    from nearfar.sources.words import normal

    found: dict[str, dict[str, list[str]]] = {}
    seen: set[str] = set()
    for one in installed.found_in(installed.packages(), "docstrings", sentences_of, 12 * sum(counts.values())):
        if not ((key := normal(one.text)) in seen or seen.add(key)):
            texts = found.setdefault(f"{one.package}:{one.module}", {}).setdefault(one.document, [])
            texts.append(one.text)
    rng = np.random.default_rng(seed)
    modules = [name for name in sorted(found) if len(found[name]) > 1]
    rng.shuffle(modules)
    rows: list[list[Any]] = []
    for split, count in counts.items():
        own, made = [], 0
        while made < count:
            own.append(modules.pop())
            made += len(found[own[-1]])
        rows += [[*row, split] for row in pairs_of({name: found[name] for name in own}, count, rng)]
    shown = rng.random(len(rows)) < LABELLED
    return [[a, b, y, y if split != "train" or known else "", split]
            for (a, b, y, split), known in zip(rows, shown, strict=True)]  # fmt: skip


def pairs_of(modules: Mapping[str, Mapping[str, list[str]]], count: int, rng: np.random.Generator) -> list[list[Any]]:
    """At most `count` pairs of the docstrings of some modules, half of them of one docstring."""
    documents = [(name, key) for name in modules for key in modules[name]]
    documents = [documents[place] for place in rng.permutation(len(documents))]
    together = [(name, key) for name, key in documents if len(modules[name][key]) > 1][: count // 2]
    taken, rows = set(together), []
    for name, key in together:
        first, *others = modules[name][key]
        rows.append([first, others[rng.integers(len(others))], 1])
    for number, (name, key) in enumerate([d for d in documents if d not in taken][: count // 2]):
        near = number % 2 == 0
        others = [d for d in modules[name] if d != key] if near else []
        where = (name, others[rng.integers(len(others))]) if near else documents[rng.integers(len(documents))]
        if where == (name, key) or (not near and where[0].partition(":")[0] == name.partition(":")[0]):
            continue
        texts = modules[where[0]][where[1]]
        rows.append([modules[name][key][0], texts[rng.integers(len(texts))], 0])
    return [rows[place] for place in rng.permutation(len(rows))]


def judged(counts: Mapping[str, int], steps: int, out: Path) -> Path:
    """The pairs as a csv with the scores of a model that reads both texts, trained on all labels; written once."""
    import nearfar

    name = f"judged-docstrings-{counts['train']}"
    path, plain = out / "data" / f"{name}.csv", out / "data" / f"{name}-labels.csv"
    head = ["first", "second", "label", "few", "split"]
    if not plain.exists():
        write_csv(plain, head, judged_docstrings(counts))
    if not path.exists():
        given = {"text": "first", "text_b": "second", "pair_label": "label", "split": "split"}
        run = out / "data" / f"{name}-teacher"
        nearfar.fit("cross-encoder", plain, out=run, resume=run.exists(), **given, **TEACHER | {"steps": steps})
        told = nearfar.predict(run, plain, **given).columns["score"]
        with plain.open(newline="", encoding="utf-8") as file:
            _, *rows = csv.reader(file)
        write_csv(path, [*head, "teacher"], ([*row, f"{t:.4f}"] for row, t in zip(rows, told, strict=True)))
    return path


FIELDS = ("networkx", "scikit-learn", "scipy", "sympy", "torch")


EACH = {"train": 500, "val": 100, "test": 300}  # pairs of a package at most; half of those of val and test are wrong


class Docstring(NamedTuple):
    """package: that holds it; summary: its first sentence; rest: its words after the first empty line."""

    package: str
    summary: str
    rest: str


@cache
def documented(packages: tuple[str, ...] | None = None) -> list[Docstring]:
    """Docstrings of the installed packages (all of them, or some by name) with four words or more in the summary. Read
    once a process: several checks are made of them."""
    import ast

    from nearfar.sources import installed
    from nearfar.sources.sets.functions import first_sentence

    def read(file: Path, module: str, package: str) -> list[Docstring]:
        texts = [(package, ast.get_docstring(node) or "") for _, node in installed.definitions(file)[0]]
        told = [Docstring(own, first_sentence(x), " ".join(x.partition("\n\n")[2].split())) for own, x in texts]
        return [one for one in told if len(one.summary.split()) > 3]

    found = {name: root for name, root in installed.packages().items() if packages is None or name in packages}
    return list(installed.found_in(found, "docstrings", read, None))


def halves(words: int, packages: tuple[str, ...] | None = None) -> list[Docstring]:
    """Those of them with `words` or more in the rest."""
    return [one for one in documented(packages) if len(one.rest.split()) >= words]


DOCUMENTS = {"train": 6000, "val": 1000, "test": 3000}


def documents(counts: Mapping[str, int], packages: tuple[str, ...] | None, out: Path) -> Path:
    """A csv of docstrings of installed packages (None: of all): the first sentence, up to 256 words of the rest (40 at
    least), no two of either alike, and the split; written once."""
    path = out / "data" / "documents.csv"
    if path.exists():
        return path
    kept: dict[str, Docstring] = {}
    for one in sorted(halves(40, packages)):
        kept.setdefault(one.summary.casefold(), one)
    told = list({one.rest.casefold(): one for one in kept.values()}.values())
    order = np.random.default_rng(0).permutation(len(told))
    if len(told) < sum(counts.values()):
        raise SystemExit(f"{len(told)} docstrings of 40 words or more are installed, {sum(counts.values())} are needed")
    splits = (split for split, count in counts.items() for _ in range(count))
    rows = (
        [told[k].summary, " ".join(told[k].rest.split()[:256]), split] for k, split in zip(order, splits, strict=False)
    )
    return write_csv(path, ["summary", "document", "split"], rows)


def described(counts: Mapping[str, int], packages: tuple[str, ...], alone: str | None, out: Path) -> Path:
    """A csv of the docstrings of some packages: the first sentence, the first 64 words of what follows, the package, 1
    where both are of one docstring, the split; written once. In val and test the other half is of another docstring of
    the package. alone: the one package that is trained on, None: all."""

    path = out / "data" / f"described-{counts['train']}-{alone or 'all'}.csv"
    if path.exists():
        return path

    rng, distinct = np.random.default_rng(0), dict[str, tuple[str, str, str]]()
    for one in sorted(halves(16, packages)):
        distinct[one.summary.casefold()] = one.package, one.summary, " ".join(one.rest.split()[:64])
    bodies, rows = set(), []
    for field_ in packages:
        own = [one for one in distinct.values() if one[0] == field_ and one[2] not in bodies]
        own = [own[place] for place in rng.permutation(len(own))]
        bodies |= {one[2] for one in own}
        for split, count in counts.items():
            part, own = own[:count], own[count:]
            wrong = set(range(1, len(part), 2)) if split != "train" else set()
            kept = split != "train" or alone in (None, field_)
            rows += [[text, part[(k + 2) % len(part)][2] if k in wrong else body, field_, int(k not in wrong), split]
                     for k, (_, text, body) in enumerate(part) if kept]  # fmt: skip
    mixed = (rows[place] for place in rng.permutation(len(rows)))
    return write_csv(path, ["summary", "rest", "package", "label", "split"], mixed)


MODULES, FUNCTIONS = 12, {"train": 25, "val": 4, "test": 10}  # modules of a package, functions of a module, at most


def calls(share: float, out: Path) -> Path:
    """First sentences of docstrings of functions of five packages; the tree of each is package - module - argument -
    default value. The twelve modules of a package with most functions, in every split. A share of the training rows
    have their tree. As jsonl (text, tree, split), written once."""
    import ast
    import json
    from collections import defaultdict

    from nearfar.sources import installed
    from nearfar.sources.sets.functions import first_sentence

    path = out / "data" / f"calls-{share:g}.jsonl"
    if path.exists():
        return path

    def read(file: Path, module: str, package: str) -> list[tuple[str, str, str, list[list[str]]]]:
        nodes = [node for _, node in installed.definitions(file)[0] if isinstance(node, ast.FunctionDef)]
        made = [(package, module, first_sentence(ast.get_docstring(node) or ""), arguments_of(node)) for node in nodes]
        return [one for one in made if len(one[2].split()) > 3 and one[3]]

    found: dict[str, dict[str, dict[str, list[list[str]]]]] = defaultdict(lambda: defaultdict(dict))
    seen: set[str] = set()
    packages = {name: root for name, root in installed.packages().items() if name in FIELDS}
    for package, module, text, given in sorted(installed.found_in(packages, "docstrings", read, None)):
        if not (text.casefold() in seen or seen.add(text.casefold())):
            found[package][module][text] = given
    rng, rows = np.random.default_rng(0), []
    for package, modules in found.items():
        for module in sorted(modules, key=lambda name: (-len(modules[name]), name))[:MODULES]:
            names = [list(modules[module])[k] for k in rng.permutation(len(modules[module]))]
            splits = [split for split in ("test", "val", "train") for _ in range(FUNCTIONS[split])]
            for text, split in zip(names, splits, strict=False):
                tree = [[package, module, *one] for one in modules[module][text]]
                kept = split != "train" or rng.random() < share
                rows.append({"text": text, "tree": tree if kept else None, "split": split})
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as fresh:
        fresh.write_text("\n".join(json.dumps(rows[k]) for k in rng.permutation(len(rows)).tolist()) + "\n")
    return path


def arguments_of(node: Any) -> list[list[str]]:
    """Name and, where it is a plain constant, default value of each argument of a function, without self."""
    import ast

    given = [*node.args.posonlyargs, *node.args.args]
    values = [None] * (len(given) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [*zip(given, values, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return [[one.arg, *([repr(value.value)[:30]] if isinstance(value, ast.Constant) else [])]
            for one, value in pairs if one.arg not in ("self", "cls")]  # fmt: skip


SHORT = ("zim", "vok", "tal")  # words of no meaning, one for each class


KINDS = ("networkx", "scikit-learn", "sympy")


@cache
def sentences(packages: tuple[str, ...] | None) -> list[Any]:
    """Those of the docstrings of the installed packages (all of them, or some by name); read once a process."""
    from nearfar.sources import installed
    from nearfar.sources.sets.sentences import sentences_of

    found = {name: root for name, root in installed.packages().items() if packages is None or name in packages}
    return list(installed.found_in(found, "docstrings", sentences_of, None))


def shortcut(share: float, packages: tuple[str, ...] | None, out: Path) -> Path:
    """A csv of docstring sentences of three packages, the class, each behind a word: in training (600) and validation
    (150) that of its own class in `share` of the rows, else another; 400 test sentences twice, behind any of the words
    (clean) and behind that of another class (reversed). Written once. packages: that are read (None: all, where a
    sentence that several hold counts for the last)."""
    from nearfar.sources.words import normal

    path = out / "data" / f"shortcut-{share:g}.csv"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    found = {normal(s.text): s for s in sentences(packages)}
    each = [[s.text for s in found.values() if s.package == kind] for kind in KINDS]
    texts = [(text, k) for k, own in enumerate(each) for text in rng.permutation(own)[: 1150 // 3 + 1]]
    rows: list[list[str]] = []
    for place, (text, k) in enumerate(texts[i] for i in rng.permutation(len(texts))[:1150]):
        other = SHORT[(k + 1 + int(rng.integers(2))) % 3]
        if place >= 750:
            words = {"clean": SHORT[rng.integers(3)], "reversed": other}
            rows += [[f"{word} {text}", KINDS[k], part, f"s{place}", "test"] for part, word in words.items()]
        else:
            word = SHORT[k] if rng.random() < share else other
            rows.append([f"{word} {text}", KINDS[k], "training", f"s{place}", "train" if place < 600 else "val"])
    return write_csv(path, ["sentence", "package", "part", "number", "split"], rows)


TEACHER = {"text_encoder": "minilm", "text_length": 48, "batch_size": 16, "val_every": 0, "progress": False}


MANUALS = {"en": "man[1-8]", "de": "de/man[1-8]", "fr": "fr/man[1-8]"}


PAGES, MESSAGES = 180, {"val": 300, "test": 1000}  # pages of a language; messages of a pair of languages


def pages() -> Iterator[tuple[str, str, str, list[str]]]:
    """Split, language, name and sentences of manual pages of this machine, 180 of each language with three sentences
    or more, in an order drawn once. Whole pages are in one split. Raises InputError where there are not so many."""
    import gzip

    found = []
    for language, place in MANUALS.items():
        paths = sorted(Path("/usr/share/man").glob(f"{place}/*.gz"))
        own = []
        for number in np.random.default_rng(0).permutation(len(paths)).tolist():
            if len(own) == PAGES:
                break
            with gzip.open(paths[number], "rt", encoding="utf-8", errors="replace") as file:
                lines = manpages.plain_text(file.read()).split("\n")
            parts = [part.strip() for line in lines for part in re.split(r"(?<=[.!?])\s+(?=[^\W\d_a-z])", line)]
            whole = [part for part in parts if 5 <= len(part.split()) <= 30 and part[-1] in ".!?"]
            if len(whole) >= 3:
                split = "test" if len(own) % 5 == 0 else "val" if len(own) % 10 == 1 else "train"
                own.append((split, language, f"{language}/{paths[number].name}", whole))
        if len(own) < PAGES:
            raise InputError(
                f"There are {len(own)} manual pages in '{language}', and the check needs {PAGES}.",
                "Install them: apt-get install manpages manpages-de manpages-fr.",
            )
        found += own
    yield from (found[k] for k in np.random.default_rng(1).permutation(len(found)))


def neighbours() -> Iterator[list[str]]:
    """Training pages sentence by sentence; of the others each second sentence with the one behind it."""
    for split, language, page, sentences in pages():
        if split == "train":
            yield from ([text, "", page, language, language, split] for text in sentences)
        else:
            yield from ([a, b, page, language, language, split] for a, b in zip(sentences[::2], sentences[1::2]))


def translations() -> Iterator[list[str]]:
    """The same training pages; English messages of programs with their translations, of `catalogues`."""
    data = open_data("catalogues")
    english, other, language = (data.values(data.roles[role]) for role in ("text", "text_b", "domain"))
    rows: list[list[str]] = []
    for name in ("de", "fr"):
        own = [k for k, found in enumerate(language) if found == name and len(english[k].split()) <= 30]
        order = np.random.default_rng(2).permutation(own)
        for split, count in MESSAGES.items():
            chosen, order = order[:count], order[count:]
            rows += [[english[k], other[k], f"message {k}", f"en-{name}", "", split] for k in chosen]
    found = iter([rows[k] for k in np.random.default_rng(3).permutation(len(rows)).tolist()])
    for row in neighbours():
        if row[-1] == "train":
            yield row
            yield from (one for one in [next(found, None)] if one)
    yield from found


def manuals(name: str, rows: Callable[[], Iterator[list[str]]], out: Path) -> Path:
    """The rows as a csv, written once."""
    path = out / "data" / f"{name}.csv"
    if path.exists():
        return path
    return write_csv(path, ["sentence", "other", "page", "domain", "tongue", "split"], rows())
