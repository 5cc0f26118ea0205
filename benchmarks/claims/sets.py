"""Data of the checks of claims, opened by the library: files are made once, from packages, and read as a user's."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nearfar import files
from nearfar.errors import InputError
from nearfar.sources import manpages, open_data
from nearfar.sources.sets import scenes
from nearfar.sources.sets.emoji import open_emoji

Row = tuple[str, Image.Image, tuple[Any, ...]]  # split, picture, values of the columns
Item = tuple[str, str, np.ndarray]  # split, class, picture uint8 (H, W) or (H, W, 3)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A csv, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return path


def scanned() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 digits (1797, 8, 8), their classes, and the split of each, drawn once."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    split = np.repeat(["train", "val", "test"], [1200, 200, 397])
    return np.uint8(found.images[order] * 255 / 16), found.target[order], split


def digits() -> Iterator[Item]:
    for picture, label, split in zip(*scanned(), strict=True):
        yield str(split), str(label), picture


def imbalanced() -> Iterator[Item]:
    """Class sizes 120 x 0.65^c in the training part; val and test as they are."""
    left = [round(120 * 0.65**c) for c in range(10)]
    for split, label, picture in digits():
        if split == "train":
            left[int(label)] -= 1
            if left[int(label)] < 0:
                continue
        yield split, label, picture


def folders(name: str, items: Callable[[], Iterator[Item]], out: Path) -> Path:
    """The items as SPLIT/CLASS/NUMBER.png, written once."""
    root = out / "data" / name.replace(", ", "-").replace(" ", "-")
    if not (root.parent / f"{root.name}.whole").exists():
        for number, (split, label, picture) in enumerate(items()):
            path = root / split / label / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
        (root.parent / f"{root.name}.whole").touch()
    return root


def new_classes(first: int = 5) -> Iterator[Item]:
    """Digits below `first` to train on; the others, which no training saw, as test."""
    for picture, label, _ in zip(*scanned(), strict=True):
        yield ("train" if label < first else "test"), str(label), picture


def numbers_of_new_classes(out: Path) -> Path:
    """A csv of the digits as 64 numbers each: 0 to 5 to train on, 6 to 9, which no training saw, as test."""
    table = out / "data" / "digits-numbers-new-classes.csv"
    if table.exists():
        return table
    rows = [[*picture.ravel().tolist(), label, "train" if label < 6 else "test"]
            for picture, label, _ in zip(*scanned(), strict=True)]  # fmt: skip
    return write_csv(table, [*(f"ink_{i}" for i in range(64)), "digit", "split"], rows)


def two_digits(dim: float = 0.4) -> Iterator[Row]:
    """Pictures with two digits side by side, the right one fainter, both of the picture's split."""
    pictures, labels, splits = scanned()
    rng = np.random.default_rng(0)
    for split, count in (("train", 1200), ("val", 200), ("test", 600)):
        own = np.flatnonzero(splits == split)
        for _ in range(count):
            a, b = rng.choice(own, 2)
            both = np.zeros((16, 16), np.uint8)
            both[4:12, :8], both[4:12, 8:] = pictures[a], np.uint8(dim * pictures[b])
            yield split, Image.fromarray(both), (labels[a], labels[b])


def two_digits_with_words(dim: float = 0.4) -> Iterator[Row]:
    """Those pictures with a caption that names both digits."""
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for split, picture, (strong, weak) in two_digits(dim):
        yield split, picture, (f"{words[strong]} beside {words[weak]}", strong, weak)


def turned() -> Iterator[Row]:
    """Digits of 16 x 16 pixels, each turned by an angle from -60 to 60 degrees that stands beside it; 400 training
    rows."""
    pictures, _, splits = scanned()
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("val", 200), ("test", 397)):
        for row in np.flatnonzero(splits == split)[:count]:
            angle = round(float(rng.uniform(-60, 60)), 2)
            large = Image.fromarray(pictures[row]).resize((16, 16), Image.Resampling.BICUBIC)
            yield split, large.rotate(angle, Image.Resampling.BICUBIC), (angle,)


def turned_permuted() -> Iterator[Row]:
    """The same pictures; the angles of training rows exchanged among each other."""
    rows = list(turned())
    own = [place for place, row in enumerate(rows) if row[0] == "train"]
    told = dict(zip(own, np.random.default_rng(1).permutation(own), strict=True))
    yield from ((split, picture, rows[told.get(place, place)][2]) for place, (split, picture, _) in enumerate(rows))


def diabetes_permuted(out: Path) -> Path:
    """The built-in diabetes as a csv, each patient with the `progression` of another."""
    path = out / "data" / "diabetes-permuted.csv"
    if path.exists():
        return path
    table = open_data("diabetes").table.to_pandas()
    table["progression"] = np.random.default_rng(1).permutation(table["progression"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as fresh:
        table.to_csv(fresh, index=False)
    return path


def patches(count: int, side: int, rng: np.random.Generator, split: str) -> Iterator[tuple[np.ndarray, str]]:
    """Squares of photographs, float (side, side, 3), and the name of each; each split has its own part of every one,
    from the left to the right: train 60 %, val 15 %, test 25 %."""
    photos = {name: scenes.photograph(name) for name in scenes.PHOTOS["train"]}
    left, right = {"train": (0.0, 0.6), "val": (0.6, 0.75), "test": (0.75, 1.0)}[split]
    for _ in range(count):
        name = str(rng.choice(list(photos)))
        width, height = photos[name].size
        size = int(rng.integers(side, min(3 * side, height, int((right - left) * width)) + 1))
        x = int(rng.integers(int(left * width), int(right * width) - size + 1))
        y = int(rng.integers(0, height - size + 1))
        patch = photos[name].crop((x, y, x + size, y + size)).resize((side, side), Image.Resampling.LANCZOS)
        yield np.asarray(patch, np.float64), name


TWO_SETS = (("train", 1000), ("val", 150), ("test", 300))  # rows of each of the two sets


def digits_on_photographs() -> Iterator[Row]:
    """Patches of photographs at half intensity; in the target set a digit of the split is added, at half as well."""
    pictures, labels, splits = scanned()
    rng = np.random.default_rng(0)
    for split, count in TWO_SETS:
        own = np.flatnonzero(splits == split)
        for number, (patch, photo) in enumerate(patches(2 * count, 16, rng, split)):
            if number < count:
                yield split, Image.fromarray(np.uint8(patch / 2)), ("background", photo, "")
                continue
            row = rng.choice(own)
            digit = Image.fromarray(pictures[row]).resize((16, 16), Image.Resampling.BICUBIC)
            both = patch / 2 + np.asarray(digit, np.float64)[..., None] / 2
            yield split, Image.fromarray(np.uint8(both)), ("target", photo, labels[row])


def emoji_on_photographs() -> Iterator[Row]:
    """Patches of photographs of 32 x 32 pixels; in the target set an emoji lies on it, of a family of the split."""
    drawn = scenes.stickers_of(open_emoji().table, 0)
    rng = np.random.default_rng(0)
    for split, count in TWO_SETS:
        kinds = [[one for one in drawn[split] if one.label == label] for label in range(1, len(scenes.CLASSES))]
        for number, (patch, photo) in enumerate(patches(2 * count, 32, rng, split)):
            if number < count:
                yield split, Image.fromarray(np.uint8(patch)), ("background", photo, "")
                continue
            one = kinds[rng.integers(len(kinds))]
            one = one[rng.integers(len(one))]
            colour, opacity = (resized(x, 24) for x in (one.colour, one.opacity[..., None]))
            x, y = rng.integers(0, 9, 2)
            patch[y : y + 24, x : x + 24] *= 1 - opacity
            patch[y : y + 24, x : x + 24] += 255 * np.minimum(colour, opacity)
            name = scenes.CLASSES[one.label].replace(",", "")
            yield split, Image.fromarray(np.uint8(patch.clip(0, 255))), ("target", photo, name)


def mixed(rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows in an order drawn once, so that the first ones are of all splits and both sets."""
    found = list(rows())
    yield from (found[place] for place in np.random.default_rng(0).permutation(len(found)))


def resized(values: np.ndarray, size: int) -> np.ndarray:
    """Each channel of (H, W, C) in 0..1 brought to size x size."""
    channels = [Image.fromarray(np.float32(values[..., k])).resize((size, size), Image.Resampling.BICUBIC)
                for k in range(values.shape[-1])]  # fmt: skip
    return np.stack([np.asarray(one, np.float64).clip(0, 1) for one in channels], -1)


BAGS, BAG = {"train": 240, "val": 40, "test": 120}, 10  # half of the bags are positive; instances of each


def bagged_digits(ratio: float, seed: int = 0) -> Iterator[list[Any]]:
    """Bags of digits as rows of 64 grey values, bag, label of the bag, class of the digit, split. A positive bag holds
    a share of nines, a negative one none. Pictures of a split stand in bags of it alone; each is turned anew by up to
    15 degrees where it is used (two or three times), so no two instances are equal."""
    pictures, labels, splits = scanned()
    rng, number = np.random.default_rng(seed), 0
    for split, count in BAGS.items():
        own = {hot: cycled(np.flatnonzero((splits == split) & ((labels == 9) == hot)), rng) for hot in (False, True)}
        for bag in range(count):
            positive = bag % 2 == 1
            for place in range(BAG):
                row = next(own[positive and place < round(ratio * BAG)])
                picture = Image.fromarray(pictures[row]).rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
                yield [
                    *np.asarray(picture).ravel().tolist(),
                    f"bag {number}",
                    "positive" if positive else "negative",
                    labels[row],
                    split,
                ]
            number += 1


def cycled(rows: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """The rows in a random order, again and again."""
    while True:
        yield from rng.permutation(rows).tolist()


def bags(ratio: float, permuted: bool, out: Path) -> Path:
    """The bags as a csv, written once. permuted: the labels of the training bags exchanged among each other."""
    path = out / "data" / f"digit-bags-{ratio:g}{'-permuted' if permuted else ''}.csv"
    if path.exists():
        return path
    rows = list(bagged_digits(ratio))
    if permuted:
        own = rows[: BAGS["train"] * BAG]
        told = np.random.default_rng(1).permutation([row[-3] for row in own[::BAG]])
        for place, row in enumerate(own):
            row[-3] = told[place // BAG]
    return write_csv(path, [*(f"p{i:02}" for i in range(64)), "bag", "bag label", "digit", "split"], rows)


def pictured(name: str, columns: Sequence[str], rows: Callable[[], Iterator[Row]], out: Path) -> Path:
    """The rows as a csv beside their pictures, written once: picture, the columns, split."""
    root = out / "data" / name
    table = root / "rows.csv"
    if table.exists():
        return table
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    told = []
    for number, (split, picture, values) in enumerate(rows()):
        path = root / "pictures" / f"{split}-{number:05}.png"
        picture.save(path)
        told.append([f"pictures/{path.name}", *values, split])
    return write_csv(table, ["picture", *columns, "split"], told)


def names(out: Path, kind: str) -> Path:
    """A parquet of emoji in one style with their names. kind: "all", "300" training pairs, or "shuffled": 30 % of the
    training names exchanged among each other. Val and test are the same in all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = out / "data" / f"names-{kind}.parquet"
    if path.exists():
        return path
    data = open_data("emoji")
    style = np.array(data.values(data.roles["domain"]))
    texts, pictures, rng = np.array(data.texts("text")), data.values("image"), np.random.default_rng(0)
    rows, split = [], []
    for where in ("train", "val", "test"):
        own = np.asarray(data.splits[where])
        own = own[style[own] == "twemoji"]
        own = own[np.sort(np.unique(texts[own], return_index=True)[1])]
        if where == "train" and kind == "300":
            own = np.sort(rng.choice(own, 300, replace=False))
        if where == "train" and kind == "shuffled":
            wrong = rng.choice(own, int(0.3 * len(own)), replace=False)
            texts[wrong] = texts[np.roll(wrong, 1)]
        rows += own.tolist()
        split += [where] * len(own)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"picture": pa.array([pictures[r] for r in rows], pa.binary()), "name": pa.array(texts[rows].tolist()),
               "split": pa.array(split)}  # fmt: skip
    with files.whole(path) as fresh:
        pq.write_table(pa.table(columns), fresh)
    return path


def subgroups(out: Path, least: int = 10) -> Path:
    """A parquet of emoji in one style, one of each family, with their subgroup, of subgroups with `least` of them; half
    of the subgroups are trained on, a sixth are for validation, the others are told apart in the test."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = out / "data" / "emoji-subgroups.parquet"
    if path.exists():
        return path
    data = open_data("emoji")
    style, family, kind = (np.array(data.values(c)) for c in ("style", "family", "subcategory"))
    own = np.flatnonzero(style == "twemoji")
    own = own[np.sort(np.unique(family[own], return_index=True)[1])]
    known, sizes = np.unique(kind[own], return_counts=True)
    order = np.random.default_rng(0).permutation(known[sizes >= least])
    cuts = [len(order) // 2, len(order) // 2 + len(order) // 6]
    where = {c: name for name, part in zip(("train", "val", "test"), np.split(order, cuts), strict=True) for c in part}
    own, pictures = [r for r in own if kind[r] in where], data.values("image")
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"picture": pa.array([pictures[r] for r in own], pa.binary()), "subgroup": pa.array(kind[own].tolist()),
               "split": pa.array([where[kind[r]] for r in own])}  # fmt: skip
    with files.whole(path) as fresh:
        pq.write_table(pa.table(columns), fresh)
    return path


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


def halves(words: int) -> list[Docstring]:
    """Docstrings of the installed packages with four words or more in the summary and `words` or more in the rest."""
    import ast

    from nearfar.sources import installed
    from nearfar.sources.sets.functions import first_sentence

    def read(file: Path, module: str, package: str) -> list[Docstring]:
        texts = [(package, ast.get_docstring(node) or "") for _, node in installed.definitions(file)[0]]
        told = [Docstring(own, first_sentence(x), " ".join(x.partition("\n\n")[2].split())) for own, x in texts]
        return [one for one in told if len(one.summary.split()) > 3 and len(one.rest.split()) >= words]

    return list(installed.found_in(installed.packages(), "docstrings", read, None))


DOCUMENTS = {"train": 6000, "val": 1000, "test": 3000}


def documents(out: Path) -> Path:
    """A csv of docstrings of installed packages: the first sentence, up to 256 words of the rest (40 at least), no two
    of either alike, and the split; written once."""
    path = out / "data" / "documents.csv"
    if path.exists():
        return path
    kept: dict[str, Docstring] = {}
    for one in sorted(halves(40)):
        kept.setdefault(one.summary.casefold(), one)
    told = list({one.rest.casefold(): one for one in kept.values()}.values())
    order = np.random.default_rng(0).permutation(len(told))
    if len(told) < sum(DOCUMENTS.values()):
        raise SystemExit(
            f"{len(told)} docstrings of 40 words or more are installed, {sum(DOCUMENTS.values())} are needed"
        )
    splits = (split for split, count in DOCUMENTS.items() for _ in range(count))
    rows = (
        [told[k].summary, " ".join(told[k].rest.split()[:256]), split] for k, split in zip(order, splits, strict=False)
    )
    return write_csv(path, ["summary", "document", "split"], rows)


def described(counts: Mapping[str, int], alone: str | None, out: Path) -> Path:
    """A csv of the docstrings of five packages: the first sentence, the first 64 words of what follows, the package, 1
    where both are of one docstring, the split; written once. In val and test the other half is of another docstring of
    the package. alone: the one package that is trained on, None: all."""

    path = out / "data" / f"described-{counts['train']}-{alone or 'all'}.csv"
    if path.exists():
        return path

    rng, distinct = np.random.default_rng(0), dict[str, tuple[str, str, str]]()
    for one in sorted(halves(16)):
        if one.package in FIELDS:
            distinct[one.summary.casefold()] = one.package, one.summary, " ".join(one.rest.split()[:64])
    bodies, rows = set(), []
    for field_ in FIELDS:
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


def shortcut(share: float, out: Path) -> Path:
    """A csv of docstring sentences of three packages, the class, each behind a word: in training (600) and validation
    (150) that of its own class in `share` of the rows, else another; 400 test sentences twice, behind any of the words
    (clean) and behind that of another class (reversed). Written once."""
    from nearfar.sources import installed
    from nearfar.sources.sets.sentences import sentences_of
    from nearfar.sources.words import normal

    path = out / "data" / f"shortcut-{share:g}.csv"
    if path.exists():
        return path
    rng, kinds = np.random.default_rng(0), ("networkx", "scikit-learn", "sympy")
    found = {normal(s.text): s for s in installed.found_in(installed.packages(), "docstrings", sentences_of, None)
             if s.package in kinds}  # fmt: skip
    each = [[s.text for s in found.values() if s.package == kind] for kind in kinds]
    texts = [(text, k) for k, own in enumerate(each) for text in rng.permutation(own)[: 1150 // 3 + 1]]
    rows: list[list[str]] = []
    for place, (text, k) in enumerate(texts[i] for i in rng.permutation(len(texts))[:1150]):
        other = SHORT[(k + 1 + int(rng.integers(2))) % 3]
        if place >= 750:
            words = {"clean": SHORT[rng.integers(3)], "reversed": other}
            rows += [[f"{word} {text}", kinds[k], part, f"s{place}", "test"] for part, word in words.items()]
        else:
            word = SHORT[k] if rng.random() < share else other
            rows.append([f"{word} {text}", kinds[k], "training", f"s{place}", "train" if place < 600 else "val"])
    return write_csv(path, ["sentence", "package", "part", "number", "split"], rows)


DESCRIBED = {"roles": {"text": "summary", "text_b": "rest", "domain": "package", "pair_label": "label",
                       "split": "split"}}  # fmt: skip
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


MANUAL_ROLES = {"text": "sentence", "text_b": "other", "group": "page", "domain": "domain", "label": ["tongue"],
                "split": "split"}  # fmt: skip


def opened(name: str, out: Path, tiny: bool = False, seed: int = 0) -> Any:
    """The data set of that name. tiny: few rows of it, for a run that only looks for crashes. seed: of the splits,
    where it has none of its own."""
    return SETS[name].open(out, tiny, seed)


@dataclass(frozen=True)
class Set:
    """words: for tables. make: what the library is given, from the folder of files; roles: what it is told of it;
    tiny: how many rows are enough to look for crashes; small: what is made for that, where the whole is dear."""

    words: str
    make: Callable[[Path], Any]
    roles: Mapping[str, Any] = field(default_factory=dict)
    tiny: int = 200
    small: Callable[[Path], Any] | None = None

    def open(self, out: Path, tiny: bool, seed: int) -> Any:
        make = self.small if tiny and self.small is not None else self.make
        return open_data(make(out), limit=self.tiny if tiny else None, seed=seed, **self.roles)


def shortcut_set(share: float) -> Set:
    roles = {"text": "sentence", "target": "package", "domain": "part", "unit": "number", "split": "split"}
    words = f"docstring sentences of three packages behind a word that agrees in {share:.0%} of the training rows"
    return Set(f"{words}, 600 / 150 / 800", partial(shortcut, share), {"roles": roles}, tiny=1550)


def bag_set(ratio: float, permuted: bool = False) -> Set:
    words = f"bags of {BAG} scikit-learn digits, half of them with {ratio:.0%} nines, 240 / 40 / 120"
    roles = {"vector": ["p[0-9]*"], "bag": "bag", "target": "bag label", "label": ["digit"], "split": "split"}
    return Set(words + (", training labels permuted" if permuted else ""), partial(bags, ratio, permuted),
               {"roles": roles}, tiny=4000)  # fmt: skip


WRONG, TRIPLETS = 0.35, 5000  # share of the triplets in the wrong order; how many are trained on
TRIPLET_HEAD = ["sentence", "positive", "negative", "score_positive", "score_negative", "words_positive",
                "words_negative", "grade", "split"]  # fmt: skip


def triplets_of(data: Any, count: int, most: int, wrong: float, seed: int = 0) -> list[list[Any]]:
    """Triplets of training sentences: another sentence of the docstring, and one of another docstring of the module
    where there is one. Drawn from the longest docstrings first where `most`, the docstrings taken, is not 0. In `wrong`
    of them positive and negative are in each other's place.

    Scores: of one that knows the docstrings, imperfectly (normal around 3.8 within one and 2.2 else, deviation 1, in
    [0, 5]), and of shared words (their share by inverse frequency, as a rank in [0, 5])."""
    from nearfar.methods.triplets import document_partners

    rng, rows = np.random.default_rng(seed), np.asarray(data.splits["train"])
    texts, known = data.texts("text"), {}
    documents, modules = (np.array([known.setdefault((k, x), len(known)) for x in data.values(k)])[rows]
                          for k in ("document", "module"))  # fmt: skip
    if most:
        kinds, size = np.unique(documents, return_counts=True)
        rows_kept = np.isin(documents, kinds[np.argsort(-size, kind="stable")][:most])
        rows, documents, modules = rows[rows_kept], documents[rows_kept], modules[rows_kept]
    made: list[list[Any]] = []
    while len(made) < count:
        found = document_partners(documents, modules, rng)
        whole = np.flatnonzero((found[0] >= 0) & (found[1] >= 0))
        made += [[texts[rows[k]], *(texts[rows[side[k]]] for side in found)] for k in rng.permutation(whole)]
    made = made[:count]
    scores = [np.clip(rng.normal(mean, 1, len(made)), 0, 5).round(1) for mean in (3.8, 2.2)]
    shared = shared_words(made)
    swapped = rng.random(len(made)) < wrong
    return [[a, *([n, p, *reversed(s), *reversed(w)] if other else [p, n, *s, *w]), 2, "train"]
            for (a, p, n), s, w, other in zip(made, zip(*scores), shared.tolist(), swapped, strict=True)]  # fmt: skip


def shared_words(rows: Sequence[Sequence[str]]) -> np.ndarray:
    """(n, 2): which share of its words, by inverse frequency, the first text has in common with each of the others, as
    a rank in [0, 5]."""
    words = [[set(re.findall(r"\w+", text.casefold())) for text in row] for row in rows]
    count: dict[str, int] = {}
    for row in words:
        for word in row[0]:
            count[word] = count.get(word, 0) + 1

    def weight(found: set[str]) -> float:
        return sum(np.log(len(rows) / count.get(word, 1)) for word in found)

    share = np.array([[weight(a & b) / max(weight(a | b), 1e-9) for b in others] for a, *others in words])
    ranks = np.searchsorted(np.sort(share.reshape(-1)), share, side="right")
    return (5 * ranks / share.size).round(1)


def triplets(name: str, count: int, most: int, wrong: float, limit: int | None, out: Path) -> Path:
    """The triplets as a csv, with the graded pairs of `sentences` for validation and test; written once."""
    path = out / "data" / f"triplets-{name}.csv"
    if not path.exists():
        data = open_data("sentences", limit=limit)
        rows = triplets_of(data, count, most, wrong)
        texts = [data.values(data.roles[role]) for role in ("text", "text_b", "score")]
        pairs = [[texts[0][k], texts[1][k], "", "", "", "", "", texts[2][k], split]
                 for split in ("val", "test") for k in data.splits[split]]  # fmt: skip
        write_csv(path, TRIPLET_HEAD, [*rows, *pairs])
    return path


def triplet_set(words: str, name: str, count: int = TRIPLETS, most: int = 0, wrong: float = WRONG) -> Set:
    roles = {"text": "sentence", "text_b": "positive", "negative": ["negative"], "score": "grade", "split": "split"}
    small = partial(triplets, f"{name}-tiny", 120, 30 if most else 0, wrong, 4000)
    return Set(words, partial(triplets, name, count, most, wrong, None), {"roles": roles}, small=small, tiny=4000)


SETS = {
    "digits": Set("scikit-learn digits, 1200 / 200 / 397", lambda out: folders("digits", digits, out), tiny=1500),
    "digits, imbalanced": Set("scikit-learn digits, 120 x 0.65^c of class c / 200 / 397",
                              lambda out: folders("digits-imbalanced", imbalanced, out), tiny=1500),
    "digits, new classes": Set("scikit-learn digits, trained on 0 to 4, episodes on 5 to 9",
                               lambda out: folders("digits-new-classes", new_classes, out), tiny=1500),
    "digits, three new classes": Set(
        "scikit-learn digits, trained on 0 to 6, episodes on 7 to 9",
        lambda out: folders("digits-three-new-classes", partial(new_classes, 7), out), tiny=1500),
    "digits as numbers, new classes": Set("scikit-learn digits as 64 numbers, trained on 0 to 5, episodes on 6 to 9",
                                          numbers_of_new_classes,
                                          {"roles": {"vector": [f"ink_{i}" for i in range(64)], "label": ["digit"],
                                                     "split": "split"}}, tiny=1500),
    "two digits": Set("pairs of scikit-learn digits side by side, the right one at 0.4, 1200 / 200 / 600",
                      partial(pictured, "two-digits", ("strong", "weak"), two_digits),
                      {"roles": {"image": "picture", "label": ["weak"], "split": "split"}}),
    "two digits, captions": Set("two digits side by side, the right one at 0.4, captions, 1200 / 200 / 600",
                                partial(pictured, "two-digits-captions", ("caption", "strong", "weak"),
                                        two_digits_with_words),
                                {"roles": {"image": "picture", "text": "caption", "label": ["weak"],
                                           "split": "split"}}),
    "digits on photographs": Set("patches of eight photographs, half of them with a digit on it, 2000 / 300 / 600",
                                 partial(pictured, "digits-on-photographs", ("set", "photo", "digit"),
                                         partial(mixed, digits_on_photographs)),
                                 {"roles": {"image": "picture", "domain": "set", "label": ["photo", "digit"],
                                            "split": "split"}}, tiny=400),
    "emoji on photographs": Set("patches of eight photographs, half of them with an emoji on it, 2000 / 300 / 600",
                                partial(pictured, "emoji-on-photographs", ("set", "photo", "category"),
                                        partial(mixed, emoji_on_photographs)),
                                {"roles": {"image": "picture", "domain": "set", "label": ["photo", "category"],
                                           "split": "split"}}, tiny=400),
    "diabetes": Set("scikit-learn diabetes, 310 / 66 / 66", lambda out: "diabetes", tiny=120),
    "diabetes, permuted": Set("scikit-learn diabetes, the target of another row in each", diabetes_permuted,
                              {"roles": {"target": "progression"}}, tiny=120),
    "digits, turned": Set("scikit-learn digits turned by -60 to 60 degrees, 400 / 200 / 397",
                          partial(pictured, "digits-turned", ("angle",), turned),
                          {"roles": {"image": "picture", "target": "angle", "split": "split"}}, tiny=997),
    "digits, turned, permuted": Set("scikit-learn digits turned, training angles permuted",
                                    partial(pictured, "digits-turned-permuted", ("angle",), turned_permuted),
                                    {"roles": {"image": "picture", "target": "angle", "split": "split"}}, tiny=997),
    "emoji": Set("emoji in four styles, emoji never trained on", lambda out: "emoji"),
    "emoji, new subgroups": Set("emoji of one style, trained on half of the subgroups, episodes on the others",
                                subgroups, {"roles": {"image": "picture", "label": ["subgroup"], "split": "split"}},
                                tiny=2000),
    "emoji, subcategories": Set("emoji in four styles with their subcategory, emoji never trained on",
                                lambda out: "emoji", {"roles": {"target": "subcategory"}}),
    "scenes": Set("scenes of emoji on photographs, 1000 / 250 / 350", lambda out: "scenes", tiny=60),
    "digit bags, 0.1": bag_set(0.1),
    "digit bags, 0.2": bag_set(0.2),
    "digit bags, 0.5": bag_set(0.5),
    "digit bags, 0.2, permuted": bag_set(0.2, permuted=True),
    "sentences": Set("sentences of docstrings, and graded pairs of them", lambda out: "sentences", tiny=4000),
    "judged docstrings": Set("pairs of docstring sentences, a label for a fifth of 4,000 training pairs / 500 / 1,200",
                             partial(judged, JUDGED, 250),
                             {"roles": {"text": "first", "text_b": "second", "pair_label": "few", "split": "split"}},
                             small=partial(judged, {"train": 120, "val": 40, "test": 40}, 2)),
    "judged docstrings, all": Set("the same pairs, all of them labelled", partial(judged, JUDGED, 250),
                                  {"roles": {"text": "first", "text_b": "second", "pair_label": "label",
                                             "split": "split"}},
                                  small=partial(judged, {"train": 120, "val": 40, "test": 40}, 2)),
    "described": Set("summaries and bodies of docstrings of five packages, 500 / 100 / 300 of each",
                     partial(described, EACH, None), DESCRIBED, tiny=600),
    "described, scipy": Set("the same, trained on those of scipy alone", partial(described, EACH, "scipy"), DESCRIBED,
                            tiny=600),
    "calls": Set("first sentences of docstrings of 60 modules, a tree of package, module, arguments and defaults for a "
                 "fifth of the training rows, about 1,150 / 240 / 600", partial(calls, 0.2),
                 {"roles": {"text": "text", "tree": "tree", "split": "split"}}, tiny=600),
    "neighbours": Set("sentences of 540 manual pages in English, German and French; test: neighbours in pages never "
                      "trained on", partial(manuals, "neighbours", neighbours), {"roles": MANUAL_ROLES}, tiny=1500),
    "translations": Set("the same pages; test: 1,000 messages of programs in English with their translation, of each "
                        "language", partial(manuals, "translations", translations), {"roles": MANUAL_ROLES},
                        tiny=1500),
    "shortcut, 0.8": shortcut_set(0.8),
    "shortcut, 0.6": shortcut_set(0.6),
    "documents": Set("docstrings of installed packages and their summaries, 6,000 / 1,000 / 3,000", documents,
                     {"roles": {"text": "summary", "text_b": "document", "split": "split"}}, tiny=1500),
    "documents alone": Set("the same docstrings without summaries", documents,
                           {"roles": {"text": "document", "split": "split"}}, tiny=1500),
    "triplets": triplet_set("5,000 triplets of docstring sentences, 35 % in the wrong order; graded pairs", "wrong"),
    "triplets, right": triplet_set("the same triplets, all in the right order", "right", wrong=0),
    "triplets, more": triplet_set("8,000 such triplets, 35 % in the wrong order", "more", count=8000),
    "triplets, crowded": triplet_set("3,000 such triplets of 100 docstrings alone, all in the right order", "crowded",
                                     count=3000, most=100, wrong=0),
    "functions": Set("functions and their summaries", lambda out: "functions"),
    "code": Set("the code of functions alone", lambda out: "functions", {"roles": {"text": "code", "text_b": None}}),
    "names": Set("emoji and their names", lambda out: names(out, "all")),
    "names, 300": Set("emoji and their names, 300 of the training pairs", lambda out: names(out, "300")),
    "names, shuffled": Set("emoji and their names, 30 % of the training names exchanged",
                           lambda out: names(out, "shuffled")),
}  # fmt: skip
