"""How well the classes of pixels can be read from a feature map: a linear probe on its cells, mIoU.

The probe sees each cell alone, so it measures what the map itself knows of the place, not what a decoder could infer.
mIoU: torchmetrics' Jaccard index, the mean over the classes that occur.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.errors import InputError


@dataclass(frozen=True)
class DenseScores:
    """miou: mean intersection over union of the classes, 0..1; foreground: accuracy on the cells that are not
    background; accuracy: on all cells; cells: how many were scored."""

    miou: float
    foreground: float
    accuracy: float
    cells: int


def cell_labels(masks: Any, height: int, width: int) -> np.ndarray:
    """The class under the centre of each cell: integer masks (n, H, W) -> (n, height, width)."""
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.shape[1] < height or masks.shape[2] < width:
        raise InputError(f"Masks must be (n, H, W), at least as large as the map ({height} x {width}). "
                         f"Got {masks.shape}.")
    rows, columns = (np.minimum(((np.arange(k) + 0.5) * side / k).astype(int), side - 1)
                     for k, side in ((height, masks.shape[1]), (width, masks.shape[2])))
    return masks[:, rows[:, None], columns[None]]


def dense_probe(train_maps: Any, train_masks: Any, test_maps: Any, test_masks: Any, *, background: int = 0,
                ignore: int = -1, strength: float = 1.0, max_cells: int = 20_000, seed: int = 0) -> DenseScores:
    """Logistic regression from standardised cells to classes, scored on the cells of other pictures.

    Args:
        train_maps, test_maps: feature maps (n, C, h, w).
        train_masks, test_masks: integer classes of pixels (n, H, W), H >= h.
        background: the class left out of `foreground`.
        ignore: the value of pixels that belong to no class.
        strength: C of the regression.
        max_cells: cells to fit on, a seeded draw.

    Raises InputError for shapes that do not fit, and where the training masks hold one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = _cells(train_maps, train_masks, ignore)
    test_x, test_y = _cells(test_maps, test_masks, ignore)
    if len(np.unique(y)) < 2:
        raise InputError("The training masks hold one class only, so a probe has nothing to learn.")
    if len(x) > max_cells:
        drawn = np.random.default_rng(seed).choice(len(x), max_cells, replace=False)
        x, y = x[drawn], y[drawn]
    scale = StandardScaler().fit(x)
    found = LogisticRegression(C=strength, max_iter=1000).fit(scale.transform(x), y).predict(scale.transform(test_x))
    there = test_y != background
    return DenseScores(mean_iou(found, test_y), float((found[there] == test_y[there]).mean()) if there.any() else 0.0,
                       float((found == test_y).mean()), len(test_y))


def mean_iou(predicted: Any, truth: Any) -> float:
    """Mean over the classes that occur of |both| / |either|; predicted and truth: integers (n,)."""
    import torch
    from torchmetrics.functional.classification import multiclass_jaccard_index

    predicted, truth = np.asarray(predicted).ravel(), np.asarray(truth).ravel()
    classes, codes = np.unique(np.concatenate([predicted, truth]), return_inverse=True)
    if len(classes) < 2:
        return 1.0
    a, b = torch.from_numpy(codes.reshape(2, -1))
    return float(multiclass_jaccard_index(a, b, num_classes=len(classes), average="macro"))


def _cells(maps: Any, masks: Any, ignore: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (cells, C) and classes (cells,) of all cells that have one."""
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 4 or len(maps) != len(np.asarray(masks)):
        raise InputError(f"Feature maps must be (n, C, h, w), one for each mask. Got {maps.shape} for "
                         f"{len(np.asarray(masks))} masks.")
    labels = cell_labels(masks, *maps.shape[2:]).ravel()
    x = maps.transpose(0, 2, 3, 1).reshape(len(labels), -1)
    return x[labels != ignore], labels[labels != ignore]
