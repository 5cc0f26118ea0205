"""Digits, emoji, scenes and numbers of the checks."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from made.writing import Item, Row, pictured, write_csv
from nearfar import files
from nearfar.sources import open_data
from nearfar.sources.sets import scenes
from nearfar.sources.sets.digit_attributes import FACTS, facts
from nearfar.sources.sets.digit_operations import DIGITS
from nearfar.sources.sets.emoji import open_emoji
from nearfar.word_classes import Rules


def scanned() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 digits (1797, 8, 8), their classes, and the split of each, drawn once."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    split = np.repeat(["train", "val", "test"], [1200, 200, 397])
    return np.uint8(found.images[order] * 255 / 16), found.target[order], split


def digits() -> Iterator[Item]:
    for image, label, split in zip(*scanned(), strict=True):
        yield str(split), str(label), image


def imbalanced() -> Iterator[Item]:
    """Class sizes 120 x 0.65^c in the training part; val and test as they are."""
    left = [round(120 * 0.65**c) for c in range(10)]
    for split, label, image in digits():
        if split == "train":
            left[int(label)] -= 1
            if left[int(label)] < 0:
                continue
        yield split, label, image


def new_classes(first: int = 5) -> Iterator[Item]:
    """Digits below `first` to train on; the others, which no training saw, as test."""
    for image, label, _ in zip(*scanned(), strict=True):
        yield ("train" if label < first else "test"), str(label), image


def numbers_of_new_classes(out: Path) -> Path:
    """A csv of the digits as 64 numbers each: 0 to 5 to train on, 6 to 9, which no training saw, as test."""
    table = out / "data" / "digits-numbers-new-classes.csv"
    if table.exists():
        return table
    rows = [[*image.ravel().tolist(), label, "train" if label < 6 else "test"]
            for image, label, _ in zip(*scanned(), strict=True)]  # fmt: skip
    return write_csv(table, [*(f"ink_{i}" for i in range(64)), "digit", "split"], rows)


def bands_of_digits(out: Path, seed: int, train: int = 100, val: int = 100, test: int = 400) -> Path:
    """A csv of digits with noise of half of each pixel's standard deviation: rows 1 to 3 of each drawing, 4 and 5, and
    6 to 8 as numbers. Another seed, other rows and noise."""
    table = out / "data" / f"digits-bands-{train}-s{seed}.csv"
    if table.exists():
        return table
    images, labels, _ = scanned()
    rng = np.random.default_rng([seed, 29])
    rows = rng.permutation(len(labels))[: train + val + test]
    pixels = images[rows].reshape(len(rows), -1) / 255 * 16
    pixels = pixels + rng.normal(size=pixels.shape) * 0.5 * (images.reshape(len(images), -1) / 255 * 16).std(0)
    names = [f"{('top', 'middle', 'bottom')[(y > 2) + (y > 4)]}_{y}_{x}" for y in range(8) for x in range(8)]
    splits = np.repeat(["train", "val", "test"], [train, val, test])
    lines = [[*(f"{v:.4f}" for v in row), labels[i], split]
             for row, i, split in zip(pixels, rows, splits, strict=True)]  # fmt: skip
    return write_csv(table, [*names, "digit", "split"], lines)


def emoji_with_words(out: Path, seed: int) -> Path:
    """A csv of emoji with their keywords and category: one of each family, 300 / 150 / 600. Another seed, others."""
    return pictured(f"emoji-with-words-s{seed}", ("keywords", "category"), partial(_emoji_with_words, seed), out)


def _emoji_with_words(seed: int) -> Iterator[Row]:
    raw = open_emoji()
    style, family, kind, text = (np.array(raw.table[name]) for name in ("style", "family", "category", "text"))
    own = np.flatnonzero((style == "openmoji-color") & (kind != "Flags"))
    own = own[np.unique(family[own], return_index=True)[1]]
    drawn = np.random.default_rng([seed, 31]).permutation(own)[:1050]
    for row, split in zip(drawn.tolist(), np.repeat(["train", "val", "test"], [300, 150, 600]), strict=True):
        image = Image.open(io.BytesIO(raw.table[row]["image"])).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        shown = Image.alpha_composite(white, image).convert("RGB").resize((32, 32))
        yield str(split), shown, (text[row].split(": ")[-1], kind[row])


def described_digits(out: Path, seed: int) -> Path:
    """A csv of digits with their class: six classes are trained on, two others stand in val alone and two in test
    alone; of the rows of the six 70/15/15. Another seed, other classes."""
    return pictured(f"described-digits-s{seed}", ("digit",), partial(_described_digits, seed), out)


def _described_digits(seed: int) -> Iterator[Row]:
    images, labels, _ = scanned()
    rng = np.random.default_rng([seed, 37])
    classes = rng.permutation(10)
    homes = dict(zip(classes.tolist(), ["seen"] * 6 + ["val"] * 2 + ["test"] * 2, strict=True))
    for image, label, share in zip(images, labels, rng.random(len(labels)), strict=True):
        home = homes[int(label)]
        if home == "seen":
            home = "train" if share < 0.7 else "val" if share < 0.85 else "test"
        yield home, Image.fromarray(image), (DIGITS[int(label)],)


def digit_facts(out: Path) -> Path:
    """Which facts of its shape hold of each digit, those of the set `digit-attributes`."""
    table = out / "data" / "digit-facts.csv"
    if table.exists():
        return table
    return write_csv(table, ["class", *FACTS], [[name, *values] for name, values in facts().items()])


def two_digits(dim: float = 0.4) -> Iterator[Row]:
    """Images with two digits side by side, the right one fainter, both of the image's split."""
    images, labels, splits = scanned()
    rng = np.random.default_rng(0)
    for split, count in (("train", 1200), ("val", 200), ("test", 600)):
        own = np.flatnonzero(splits == split)
        for _ in range(count):
            a, b = rng.choice(own, 2)
            both = np.zeros((16, 16), np.uint8)
            both[4:12, :8], both[4:12, 8:] = images[a], np.uint8(dim * images[b])
            yield split, Image.fromarray(both), (labels[a], labels[b])


def two_digits_with_words(dim: float = 0.4) -> Iterator[Row]:
    """Those images with a caption that names both digits."""
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for split, image, (strong, weak) in two_digits(dim):
        yield split, image, (f"{words[strong]} beside {words[weak]}", strong, weak)


def turned() -> Iterator[Row]:
    """Digits of 16 x 16 pixels, each turned by an angle from -60 to 60 degrees that stands beside it; 400 training
    rows."""
    images, _, splits = scanned()
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("val", 200), ("test", 397)):
        for row in np.flatnonzero(splits == split)[:count]:
            angle = round(float(rng.uniform(-60, 60)), 2)
            large = Image.fromarray(images[row]).resize((16, 16), Image.Resampling.BICUBIC)
            yield split, large.rotate(angle, Image.Resampling.BICUBIC), (angle,)


def turned_permuted() -> Iterator[Row]:
    """The same images; the angles of training rows exchanged among each other."""
    rows = list(turned())
    own = [place for place, row in enumerate(rows) if row[0] == "train"]
    told = dict(zip(own, np.random.default_rng(1).permutation(own), strict=True))
    yield from ((split, image, rows[told.get(place, place)][2]) for place, (split, image, _) in enumerate(rows))


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
    images, labels, splits = scanned()
    rng = np.random.default_rng(0)
    for split, count in TWO_SETS:
        own = np.flatnonzero(splits == split)
        for number, (patch, photo) in enumerate(patches(2 * count, 16, rng, split)):
            if number < count:
                yield split, Image.fromarray(np.uint8(patch / 2)), ("background", photo, "")
                continue
            row = rng.choice(own)
            digit = Image.fromarray(images[row]).resize((16, 16), Image.Resampling.BICUBIC)
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
    a share of nines, a negative one none. Images of a split stand in bags of it alone; each is turned anew by up to
    15 degrees where it is used (two or three times), so no two instances are equal."""
    images, labels, splits = scanned()
    rng, number = np.random.default_rng(seed), 0
    for split, count in BAGS.items():
        own = {hot: cycled(np.flatnonzero((splits == split) & ((labels == 9) == hot)), rng) for hot in (False, True)}
        for bag in range(count):
            positive = bag % 2 == 1
            for place in range(BAG):
                row = next(own[positive and place < round(ratio * BAG)])
                image = Image.fromarray(images[row]).rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
                yield [
                    *np.asarray(image).ravel().tolist(),
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
    texts, images, rng = np.array(data.texts("text")), data.values("image"), np.random.default_rng(0)
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
    columns = {"image": pa.array([images[r] for r in rows], pa.binary()), "name": pa.array(texts[rows].tolist()),
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
    own, images = [r for r in own if kind[r] in where], data.values("image")
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": pa.array([images[r] for r in own], pa.binary()), "subgroup": pa.array(kind[own].tolist()),
               "split": pa.array([where[kind[r]] for r in own])}  # fmt: skip
    with files.whole(path) as fresh:
        pq.write_table(pa.table(columns), fresh)
    return path


OBJECTS, PARTS = 300, {"train": 2000, "val": 200, "test": 500}


def scenes_of_two() -> Iterator[Row]:
    """Two emoji side by side with the words "A left of B" or "B right of A": 300 objects whose names are one noun each;
    no two scenes hold the same two objects, so that no caption stands beside the exchanged one."""
    data, rng = open_data("emoji"), np.random.default_rng(0)
    columns: Any = data.table.with_format("arrow")[:]
    styles, names, images = (columns.column(name).to_pylist() for name in ("style", "name", "image"))
    found = {name: image for style, name, image in zip(styles, names, images, strict=True)
             if style == "twemoji" and name.isascii() and name.isalpha() and len(name) > 1}  # fmt: skip
    nouns = sorted(name for name in found if Rules()([name, "left", "of"])[0] == "noun")
    chosen = [str(name) for name in rng.permutation(np.array(nouns))[:OBJECTS]]
    small = {name: Image.open(io.BytesIO(found[name])).convert("RGB").resize((16, 16)) for name in chosen}
    pairs = np.array([(a, b) for a in range(OBJECTS) for b in range(a)])
    drawn = iter(pairs[rng.permutation(len(pairs))[: sum(PARTS.values())]].tolist())
    for split, count in PARTS.items():
        for pair in itertools.islice(drawn, count):
            left, right = (chosen[i] for i in rng.permutation(pair))
            canvas = Image.new("RGB", (32, 32), "white")
            canvas.paste(small[left], (0, 8))
            canvas.paste(small[right], (16, 8))
            words = f"{left} left of {right}" if rng.random() < 0.5 else f"{right} right of {left}"
            yield split, canvas, (words,)


def long_tailed_operations() -> Iterator[Row]:
    """The built-in digit-operations with its own splits; of each digit the training images of its attributes follow
    1 / rank, in an order drawn once. Columns: attribute, digit."""
    data = open_data("digit-operations")
    attributes, objects = (np.array(data.cells_of(column)) for column in ("attribute", "object"))
    images, rng = data.values("image"), np.random.default_rng(0)
    train = np.asarray(data.splits["train"])
    kept: list[int] = []
    for digit in np.unique(objects):
        own = train[objects[train] == digit]
        for rank, attribute in enumerate(rng.permutation(np.unique(attributes[own])), 1):
            rows = rng.permutation(own[attributes[own] == attribute])
            kept += rows[: max(2, round(len(rows) / rank))].tolist()
    for split in data.splits:
        for row in sorted(kept) if split == "train" else np.asarray(data.splits[split]).tolist():
            with Image.open(io.BytesIO(images[row])) as image:
                yield split, image.copy(), (attributes[row], objects[row])
