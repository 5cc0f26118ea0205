"""Data of the checks of claims, opened by the library: files are made once, from packages, and read as a user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nearfar import files
from nearfar.sources import open_data

Row = tuple[str, Image.Image, tuple[Any, ...]]  # split, picture, values of the columns
Item = tuple[str, str, np.ndarray]  # split, class, picture uint8 (H, W) or (H, W, 3)


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


def pictured(name: str, columns: Sequence[str], rows: Callable[[], Iterator[Row]], out: Path) -> Path:
    """The rows as a csv beside their pictures, written once: picture, the columns, split."""
    root = out / "data" / name
    table = root / "rows.csv"
    if table.exists():
        return table
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    lines = [",".join(["picture", *columns, "split"])]
    for number, (split, picture, values) in enumerate(rows()):
        path = root / "pictures" / f"{split}-{number:05}.png"
        picture.save(path)
        lines.append(",".join([f"pictures/{path.name}", *map(str, values), split]))
    with files.whole(table) as fresh:
        fresh.write_text("\n".join(lines) + "\n")
    return table


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


def opened(name: str, out: Path, tiny: bool = False) -> Any:
    """The data set of that name. tiny: few rows of it, for a run that only looks for crashes."""
    return SETS[name].open(out, tiny)


@dataclass(frozen=True)
class Set:
    """words: for tables. make: what the library is given, from the folder of files; roles: what it is told of it;
    tiny: how many rows are enough to look for crashes."""

    words: str
    make: Callable[[Path], Any]
    roles: Mapping[str, Any] = field(default_factory=dict)
    tiny: int = 200

    def open(self, out: Path, tiny: bool) -> Any:
        return open_data(self.make(out), limit=self.tiny if tiny else None, **self.roles)


SETS = {
    "digits": Set("scikit-learn digits, 1200 / 200 / 397", lambda out: folders("digits", digits, out), tiny=1500),
    "digits, imbalanced": Set("scikit-learn digits, 120 x 0.65^c of class c / 200 / 397",
                              lambda out: folders("digits-imbalanced", imbalanced, out), tiny=1500),
    "digits, new classes": Set("scikit-learn digits, trained on 0 to 4, episodes on 5 to 9",
                               lambda out: folders("digits-new-classes", new_classes, out), tiny=1500),
    "digits, three new classes": Set(
        "scikit-learn digits, trained on 0 to 6, episodes on 7 to 9",
        lambda out: folders("digits-three-new-classes", partial(new_classes, 7), out), tiny=1500),
    "two digits": Set("pairs of scikit-learn digits side by side, the right one at 0.4, 1200 / 200 / 600",
                      partial(pictured, "two-digits", ("strong", "weak"), two_digits),
                      {"roles": {"image": "picture", "label": ["weak"], "split": "split"}}),
    "diabetes": Set("scikit-learn diabetes, 310 / 66 / 66", lambda out: "diabetes", tiny=120),
    "digits, turned": Set("scikit-learn digits turned by -60 to 60 degrees, 400 / 200 / 397",
                          partial(pictured, "digits-turned", ("angle",), turned),
                          {"roles": {"image": "picture", "target": "angle", "split": "split"}}, tiny=997),
    "emoji": Set("emoji in four styles, emoji never trained on", lambda out: "emoji"),
    "emoji, subcategories": Set("emoji in four styles with their subcategory, emoji never trained on",
                                lambda out: "emoji", {"roles": {"target": "subcategory"}}),
    "scenes": Set("scenes of emoji on photographs, 1000 / 250 / 350", lambda out: "scenes", tiny=60),
    "functions": Set("functions and their summaries", lambda out: "functions"),
    "code": Set("the code of functions alone", lambda out: "functions", {"roles": {"text": "code", "text_b": None}}),
    "names": Set("emoji and their names", lambda out: names(out, "all")),
    "names, 300": Set("emoji and their names, 300 of the training pairs", lambda out: names(out, "300")),
    "names, shuffled": Set("emoji and their names, 30 % of the training names exchanged",
                           lambda out: names(out, "shuffled")),
}  # fmt: skip
