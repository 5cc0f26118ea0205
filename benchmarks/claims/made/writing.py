"""Tables and folders of images, each whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nearfar import files

Row = tuple[str, Image.Image, tuple[Any, ...]]  # split, image, values of the columns


Item = tuple[str, str, np.ndarray]  # split, class, image uint8 (H, W) or (H, W, 3)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A csv, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return path


def folders(name: str, items: Callable[[], Iterator[Item]], out: Path) -> Path:
    """The items as SPLIT/CLASS/NUMBER.png, written once."""
    root = out / "data" / name.replace(", ", "-").replace(" ", "-")
    if not (root.parent / f"{root.name}.whole").exists():
        for number, (split, label, image) in enumerate(items()):
            path = root / split / label / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        (root.parent / f"{root.name}.whole").touch()
    return root


def pictured(name: str, columns: Sequence[str], rows: Callable[[], Iterator[Row]], out: Path) -> Path:
    """The rows as a csv beside their images, written once: image, the columns, split."""
    root = out / "data" / name
    table = root / "rows.csv"
    if table.exists():
        return table
    (root / "images").mkdir(parents=True, exist_ok=True)
    told = []
    for number, (split, image, values) in enumerate(rows()):
        path = root / "images" / f"{split}-{number:05}.png"
        image.save(path)
        told.append([f"images/{path.name}", *values, split])
    return write_csv(table, ["image", *columns, "split"], told)
