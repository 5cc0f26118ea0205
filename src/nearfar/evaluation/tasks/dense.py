"""Dense: the class of every pixel, read from the encoder's map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.dense import (
    IGNORE,
    bootstrap_miou,
    class_counts,
    ious,
    mean_iou_of,
    pixel_accuracy,
    segmentation_probe,
)
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.references import by_places
from nearfar.evaluation.statistics import Interval
from nearfar.evaluation.task import Part, Reference, Scores, Task, content_roles, register, spaced
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@dataclass(frozen=True)
class Segmented:
    """A test image with its true and its found mask, uint8 (s, s), and the mIoU of the two."""

    row: int
    truth: np.ndarray
    found: np.ndarray
    miou: float
    role: str = "image"


@dataclass(frozen=True)
class MaskScores(Scores):
    """Scores of masks. pixels: `class_counts` of each test image, (n, 3, k); units: (n,), images of one unit are
    drawn together. A mIoU is no mean over images, so the bootstrap counts all pixels of the drawn images anew."""

    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 1), np.int64))
    units: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    masks: list[Segmented] = field(default_factory=list)

    def bootstrap(self, *, draws: int = 2000, seed: int = 0) -> Interval:
        return bootstrap_miou(self.pixels, self.units, draws=draws, seed=seed)

    def shown(self) -> dict[str, list[Any]]:
        return super().shown() | {"masks": self.masks}


@register
class DenseTask(Task):
    """The class of every pixel, read by a linear probe from the encoder's map: mIoU on test images.

    The probe is fitted on pixels of the training images that have a mask, its penalty chosen on validation images
    (while a run validates, on a fifth of the training images).

    Args:
        layer: of the image encoder, from 1 on, whose map is read; default the last.
    """

    primary = "miou"
    metrics = {"miou": Metric("mIoU"), "pixel accuracy": Metric("pixel accuracy")}
    beside = "pixel accuracy"
    part = Part("class", "classes", "intersection over union")
    chance_words = "the commonest class at every pixel"
    needs = "It needs masks: --mask COLUMN, or folders images/ and masks/."
    most_pixels = 128  # a side
    max_train = 2000

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None, layer: PositiveInt | None = None):
        super().__init__(data)
        self.role, self.roles, self.layer = "image", ("image",), layer
        self.classes = list(data.mask_names)
        self.side = min(self.most_pixels, data.side(self.role))
        for split in ("train", "val"):  # told before anything is trained
            self.masked(split)

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return "mask" in data.roles and "image" in content_roles(data, modalities)

    @classmethod
    def priority(cls, data: Data) -> int:
        return 60

    def masked(self, split: str) -> np.ndarray:
        """Rows of a split that have a mask."""
        rows = self.rows(split)
        rows = rows[self.data.masked[rows]]
        if not len(rows):
            raise InputError(
                f"No image of the {split} split of {self.data.name} has a mask.",
                "Add masks, or choose another --task.",
            )
        return rows

    def parts(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to fit on, to choose the penalty on, and to score: never one in two of them."""
        train, test = self.masked("train"), self.draw(self.masked(split))
        train = np.random.default_rng(0).permutation(train)[: self.max_train]
        if split != "val":
            return np.sort(train), self.draw(self.masked("val")), test
        return np.sort(train[len(train) // 5 :]), np.sort(train[: len(train) // 5]), test

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> MaskScores:
        def batches(rows: np.ndarray) -> Any:
            start = 0
            for maps in embed.maps(self.role, rows, self.layer):
                yield maps, self.data.masks(self.side, rows[start : start + len(maps)])
                start += len(maps)

        train, val, test = self.parts(split)
        found = segmentation_probe(
            batches(train), batches(val), batches(test), self.classes, each=min(100, max(8, -(-12_000 // len(train))))
        )
        shown = np.array(spaced(test.tolist(), examples) if examples else [], np.int64)
        drawn = [mask for maps in embed.maps(self.role, shown, self.layer) for mask in found.probe(maps, self.side)]
        return self.scored(found.counts, split, test, self.segmented(shown, drawn))

    def segmented(self, rows: np.ndarray, drawn: Sequence[np.ndarray]) -> list[Segmented]:
        truth = self.data.masks(self.side, rows)
        each = mean_iou_of(class_counts(drawn, truth, self.classes)) if len(rows) else []
        return [
            Segmented(int(row), one, mask, float(value))
            for row, one, mask, value in zip(rows, truth, drawn, each, strict=True)
        ]

    def scored(self, pixels: np.ndarray, split: str, rows: np.ndarray, shown: Sequence[Segmented] = ()) -> MaskScores:
        """Scores from the `class_counts` of each image."""
        total = pixels.sum(0)
        metrics = {"miou": float(mean_iou_of(total)), "pixel accuracy": pixel_accuracy(total)}
        directions = {
            self.data.mask_names[value]: {"miou": float(one)}
            for value, one in zip(self.classes, ious(total))
            if np.isfinite(one)
        }
        counts = {"images": {"queries": len(rows), "skipped": 0, "gallery": len(self.classes)}}
        each = mean_iou_of(pixels)
        return MaskScores(
            "miou",
            metrics["miou"],
            metrics,
            directions,
            {"miou": each},
            {"miou": self.units(rows)},
            counts,
            split,
            pixels=pixels,
            units=self.units(rows),
            masks=list(shown),
        )

    def majority(self, split: str) -> MaskScores:
        """Every pixel takes the commonest class of the training masks."""
        train, _, test = self.parts(split)
        seen = np.bincount(self.data.masks(self.side, train).reshape(-1), minlength=256)
        seen[IGNORE] = 0
        truth = self.data.masks(self.side, test)
        return self.scored(class_counts(np.full_like(truth, seen.argmax()), truth, self.classes), split, test)

    def references(self, *, size: int = 64) -> list[Reference]:
        """The commonest class; and what each cell of 8 x 8 pixels shows by itself, through the same probe as a map."""
        return [
            Reference("chance", "majority class", "chance", lambda split, examples=0: self.majority(split)),
            *by_places(self, max(size, 64)),
        ]

    def summary(self, split: str = "test") -> dict[str, Any]:
        names = {str(value): name for value, name in self.data.mask_names.items()}
        return super().summary(split) | {"classes": names, "directions": list(names.values())}

    def describe(self) -> str:
        where = "the encoder's last map" if self.layer is None else f"the map after layer {self.layer}"
        return (
            f"The class of every pixel ({len(self.classes)} classes, {self.side} x {self.side} pixels an image), "
            f"read from {where} by a linear probe that sees one place at a time: mIoU, the mean over the classes "
            "of what true and found mask share, as a part of what either covers."
        )
