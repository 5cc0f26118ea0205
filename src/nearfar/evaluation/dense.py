"""How well the classes of pixels can be read from a feature map: a linear probe of one place, mIoU.

    segmentation_probe    scores every pixel: a 1 x 1 convolution on the map, its scores enlarged to the masks' size
    dense_probe           scores the cells of the map, for arrays that fit in memory

The probe sees each place alone, so it measures what the map itself knows of it, not what a decoder could infer.
mIoU: the mean over the classes that occur of |both| / |either| (Jaccard index), as torchmetrics counts it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.statistics import Interval

IGNORE = 255
Batches = Iterable[tuple[Any, Any]]


@dataclass(frozen=True)
class Segmenter:
    """A fitted probe: scores W x + b of the classes (k,) at each place of a map. weight (k, c), bias (k,)."""

    classes: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, maps: Any, side: int) -> np.ndarray:
        """uint8 (n, side, side): the class of each pixel, from feature maps (n, c, h, w) over square images.

        The scores are enlarged (bilinear), which equals enlarging the map first.
        """
        import torch
        from torch.nn.functional import interpolate

        maps = torch.as_tensor(np.asarray(maps, np.float32))
        scores = torch.einsum("kc,nchw->nkhw", torch.from_numpy(self.weight), maps)
        scores += torch.from_numpy(self.bias)[:, None, None]
        few = max(1, (1 << 25) // (len(self.classes) * side * side))  # 128 MiB of enlarged scores at a time
        found = [
            interpolate(part, (side, side), mode="bilinear", align_corners=False).argmax(1)
            for part in scores.split(few)
        ]
        return self.classes[torch.cat(found).numpy()]


@dataclass(frozen=True)
class Segmentation:
    """What a probe reached. counts: `class_counts` of each test image, (n, 3, k), over `classes` (k,); strength: C,
    chosen on validation images; probe: the fitted one."""

    counts: np.ndarray
    classes: np.ndarray
    strength: float
    probe: Segmenter

    @property
    def miou(self) -> float:
        return float(mean_iou_of(self.counts.sum(0)))

    @property
    def accuracy(self) -> float:
        """Share of the pixels whose class is found."""
        return pixel_accuracy(self.counts.sum(0))


def segmentation_probe(
    train: Batches,
    val: Batches,
    test: Batches,
    classes: Sequence[int],
    *,
    strengths: Sequence[float] = (0.01, 0.1, 1.0, 10.0),
    pixels: int = 10_000,
    each: int = 50,
    seed: int = 0,
) -> Segmentation:
    """Multinomial logistic regression from the map at a pixel (bilinear, standardised) to the pixel's class.

    Args:
        train, val, test: batches of (feature maps (n, c, h, w), masks (n, s, s)); each is gone through once. Masks
            hold classes, and 255 where a pixel belongs to none; maps and masks cover the same square.
        classes: all that may occur.
        strengths: values of C; the best mIoU on `val` decides, `test` is scored once.
        pixels: at most so many to fit on; each: drawn from every training image before that.

    Raises InputError for shapes that do not fit, and where the training pixels hold one class only.
    """
    x, y = _drawn(train, each, pixels, seed)
    if len(np.unique(y)) < 2:
        raise InputError(
            "The masks of the training part hold one class only, so a probe has nothing to learn.",
            "Give masks with two classes or more, or another --task.",
        )
    probes = _path(x, y, strengths)
    tried = [np.zeros((3, len(classes)), np.int64) for _ in probes]
    for maps, masks in val:
        for total, probe in zip(tried, probes, strict=True):
            total += class_counts(probe(maps, np.asarray(masks).shape[-1]), masks, classes).sum(0)
    best = int(np.argmax([mean_iou_of(total) for total in tried]))
    counted = [class_counts(probes[best](maps, np.asarray(masks).shape[-1]), masks, classes) for maps, masks in test]
    return Segmentation(np.concatenate(counted), np.asarray(classes), strengths[best], probes[best])


def _drawn(train: Batches, each: int, pixels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (m, c) and classes (m,) of pixels drawn from all images alike, m <= `pixels`."""
    rng, found, labels = np.random.default_rng(seed), [], []
    for maps, masks in train:
        maps, masks = np.asarray(maps, np.float32), np.asarray(masks)
        if maps.ndim != 4 or masks.ndim != 3 or len(maps) != len(masks):
            raise InputError(
                f"Feature maps must be (n, c, h, w) and masks (n, s, s). Got {maps.shape} and {masks.shape}."
            )
        places = rng.integers(0, masks.shape[1] * masks.shape[2], (len(masks), each))
        y = np.take_along_axis(masks.reshape(len(masks), -1), places, 1)
        x = read_at(maps, places // masks.shape[2], places % masks.shape[2], masks.shape[1:])
        found.append(x[y != IGNORE])
        labels.append(y[y != IGNORE])
    x, y = np.concatenate(found), np.concatenate(labels)
    chosen = np.sort(rng.permutation(len(x))[:pixels])
    return x[chosen], y[chosen]


def read_at(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps (n, c, h, w) at the centres of pixels (n, m) of images of `size` (height, width), bilinear: (n, m, c)."""
    import torch
    from torch.nn.functional import grid_sample

    grid = np.stack([2 * (columns + 0.5) / size[1] - 1, 2 * (rows + 0.5) / size[0] - 1], -1).astype(np.float32)
    found = grid_sample(torch.from_numpy(maps), torch.from_numpy(grid)[:, None], padding_mode="border",
                        align_corners=False)  # fmt: skip
    return found[:, :, 0].permute(0, 2, 1).numpy()


def _path(x: np.ndarray, y: np.ndarray, strengths: Sequence[float]) -> list[Segmenter]:
    """A probe for each C, from the strongest penalty on, each begun where the last one ended; the standardisation is
    folded into its weights."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 1e-8, std, 1)
    z, found = (x - mean) / std, {}
    model = LogisticRegression(max_iter=200, warm_start=True)
    for strength in sorted(strengths):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=strength).fit(z, y)
        weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
        if len(weight) == 1:  # two classes: one score for both
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        found[strength] = Segmenter(
            np.asarray(model.classes_, np.uint8),
            (weight / std).astype(np.float32),
            (bias - weight @ (mean / std)).astype(np.float32),
        )
    return [found[strength] for strength in strengths]


def class_counts(found: Any, truth: Any, classes: Sequence[int]) -> np.ndarray:
    """int64 (n, 3, k): how many pixels of each image are of a class in both masks, in the true one, in the found one.

    found, truth: (n, s, s); where the truth is 255 a pixel is left out.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    place = np.full(256, IGNORE, np.int64)
    place[np.asarray(classes)] = np.arange(len(classes))
    found, truth = (torch.from_numpy(place[np.asarray(values)]) for values in (found, truth))
    out = np.zeros((len(truth), 3, len(classes)), np.int64)
    for one, a, b in zip(out, found, truth, strict=True):
        table = multiclass_confusion_matrix(a, b, len(classes), ignore_index=IGNORE, validate_args=False).numpy()
        one[:] = np.diagonal(table), table.sum(1), table.sum(0)
    return out


def ious(counts: np.ndarray) -> np.ndarray:
    """|both| / |either| of each class, (..., 3, k) -> (..., k); not a number where a class occurs in neither."""
    both, truth, found = np.moveaxis(counts, -2, 0)
    either = truth + found - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def mean_iou_of(counts: np.ndarray) -> np.ndarray:
    """mIoU: the mean of `ious` over the classes that occur, (..., 3, k) -> (...)."""
    found = ious(counts)
    there = ~np.isnan(found)
    return np.where(there, found, 0).sum(-1) / np.maximum(there.sum(-1), 1)


def pixel_accuracy(counts: np.ndarray) -> float:
    """Share of the pixels whose class is found, from counts (3, k)."""
    return float(counts[0].sum() / max(counts[1].sum(), 1))


def bootstrap_miou(
    counts: np.ndarray, clusters: Any = None, *, draws: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the mIoU, resampling images, or whole `clusters` (n,) of them: (n, 3, k)."""
    code = np.arange(len(counts)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    total = np.zeros((int(code.max()) + 1, *counts.shape[1:]))
    np.add.at(total, code, counts)
    reached = float(mean_iou_of(counts.sum(0)))
    if len(total) < 2:
        return Interval(reached, None, None, len(total))
    chosen = np.random.default_rng(seed).multinomial(len(total), np.full(len(total), 1 / len(total)), draws)
    found = mean_iou_of((chosen @ total.reshape(len(total), -1)).reshape(draws, *total.shape[1:]))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(reached, float(low), float(high), len(total))


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
        raise InputError(
            f"Masks must be (n, H, W), at least as large as the map ({height} x {width}). Got {masks.shape}."
        )
    rows, columns = (
        np.minimum(((np.arange(k) + 0.5) * side / k).astype(int), side - 1)
        for k, side in ((height, masks.shape[1]), (width, masks.shape[2]))
    )
    return masks[:, rows[:, None], columns[None]]


def dense_probe(
    train_maps: Any,
    train_masks: Any,
    test_maps: Any,
    test_masks: Any,
    *,
    background: int = 0,
    ignore: int = -1,
    strength: float = 1.0,
    max_cells: int = 20_000,
    seed: int = 0,
) -> DenseScores:
    """Logistic regression from standardised cells to classes, scored on the cells of other images.

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
    return DenseScores(
        mean_iou(found, test_y),
        float((found[there] == test_y[there]).mean()) if there.any() else 0.0,
        float((found == test_y).mean()),
        len(test_y),
    )


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
        raise InputError(
            f"Feature maps must be (n, C, h, w), one for each mask. Got {maps.shape} for "
            f"{len(np.asarray(masks))} masks."
        )
    labels = cell_labels(masks, *maps.shape[2:]).ravel()
    x = maps.transpose(0, 2, 3, 1).reshape(len(labels), -1)
    return x[labels != ignore], labels[labels != ignore]
