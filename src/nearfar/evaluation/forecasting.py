"""Forecasting from vectors: where one may stand in a long series, what comes after, and a ridge regression of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nearfar.errors import InputError

PENALTIES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Piece:
    """Steps that follow each other: values (T, C), the split of each step (T,) as a place in `SPLITS`, -1 for none, and
    the row of the data that holds it (T,)."""

    values: np.ndarray
    split: np.ndarray
    row: np.ndarray


def pieces(
    items: Sequence[np.ndarray], steps: np.ndarray, source: np.ndarray, start: np.ndarray, split: np.ndarray
) -> list[Piece]:
    """Rows of the data as runs without a gap.

    items: values of each row (T_i, C); steps: how many it stands for, missing ones at its end included; source, start:
    the series that it was cut from and where; split: its split, all (N,).
    """
    found: list[list[int]] = []
    for row in np.lexsort((start, source)).tolist():
        before = found[-1][-1] if found else None
        if before is None or source[before] != source[row] or start[before] + steps[before] != start[row]:
            found.append([])
        found[-1].append(row)
    out = []
    for rows in found:
        whole = [np.full((steps[row], items[row].shape[1]), np.nan) for row in rows]
        for part, row in zip(whole, rows, strict=True):
            part[: len(items[row])] = items[row]
        out.append(Piece(np.concatenate(whole), np.repeat(split[rows], steps[rows]), np.repeat(rows, steps[rows])))
    return out


def anchors(
    split: np.ndarray, part: int, context: int, horizon: int, values: np.ndarray | None = None
) -> np.ndarray:  # fmt: skip
    """Steps t of a piece with `context` steps up to t, and t + 1 ... t + horizon all in the part (a place in `SPLITS`).
    Of the training part the context lies in it too; elsewhere it may reach back into an earlier part, never past t.

    values: of the piece, (T, C), NaN where one is missing: the context then holds one at least, and what follows all.
    """
    t = np.arange(context - 1, len(split) - horizon)

    def before(marks: np.ndarray) -> np.ndarray:
        count = np.concatenate([[0], np.cumsum(marks)])
        return count[t + 1] - count[t + 1 - context]

    def behind(marks: np.ndarray) -> np.ndarray:
        count = np.concatenate([[0], np.cumsum(marks)])
        return count[t + 1 + horizon] - count[t + 1]

    kept = behind(split == part) == horizon
    if part == 0:
        kept &= before(split == part) == context
    if values is not None:
        there = np.isfinite(values).sum(1)
        kept &= (behind(there == values.shape[1]) == horizon) & (before(there > 0) > 0)
    return t[kept]


def seasonal(values: np.ndarray, most: int) -> int:
    """The period, 2 to `most`, at which a series (T, C) of training steps is most like itself: the highest mean
    autocorrelation over the channels among its local peaks, of lags below half of its steps; 1 where there is none
    above 0.2."""
    centred = np.nan_to_num(values - np.nanmean(values, 0))
    found = np.zeros(1 + max(0, min(most + 1, len(values) // 2)))
    for lag in range(1, len(found)):
        a, b = centred[lag:], centred[:-lag]
        scale = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
        found[lag] = float(np.mean((a * b).sum(0) / np.where(scale > 0, scale, np.inf)))
    peaks = [k for k in range(2, len(found) - 1) if found[k] >= found[k - 1] and found[k] > found[k + 1]]
    best = max(peaks, key=lambda k: found[k], default=0)
    return best if found[best] > 0.2 else 1


def ridge_forecast(
    train_z: np.ndarray, train_y: np.ndarray, val_z: np.ndarray, val_y: np.ndarray, test_z: np.ndarray,
    *, penalties: Sequence[float] = PENALTIES,
) -> np.ndarray:  # fmt: skip
    """Ridge regression of (n, k) numbers on standardised vectors (n, d): what it says of the test vectors, (m, k).

    The penalty (of the squared weights beside the sum of squared errors) with the least root mean squared plus mean
    absolute error on the validation part is taken. Source: the protocol of TS2Vec (AAAI 2022). Raises InputError for a
    part without rows.
    """
    for name, part in (("training", train_y), ("validation", val_y)):
        if not len(part):
            raise InputError(f"No place of the {name} part has enough steps before and behind it.",
                             "Use fewer --horizons or a shorter --context.")  # fmt: skip
    mean, std = train_z.mean(0), train_z.std(0)
    std = np.where(std > 1e-9 * np.maximum(1, np.abs(mean)), std, np.inf)
    left, singular, right = np.linalg.svd(((train_z - mean) / std).astype(np.float64), full_matrices=False)
    centre = train_y.mean(0)
    aim = left.T @ (train_y - centre)

    def said(z: np.ndarray, penalty: float) -> np.ndarray:
        weight = right.T @ ((singular / (singular**2 + penalty))[:, None] * aim)
        return (z - mean) / std @ weight + centre

    def error(penalty: float) -> float:
        wrong = said(val_z, penalty) - val_y
        return float(np.sqrt(np.square(wrong).mean()) + np.abs(wrong).mean())

    return said(test_z, min(penalties, key=error))
