"""What the gates of pairs of classes say of a model that has them (Hydra, arXiv 2410.18200)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nearfar.evaluation.diagnostics import Diagnostic
from nearfar.evaluation.pairwise import spearman
from nearfar.vectors import normalise


def class_affinity(z: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Cosine of the mean directions of any two classes, (C, C); NaN for a class without rows. z (n, d), labels (n,)."""
    unit, means = normalise(z), np.full((classes, z.shape[1]), np.nan)
    for c in np.unique(labels[labels >= 0]):
        means[c] = unit[labels == c].mean(0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return means @ means.T


def gate_diagnostics(
    gates: np.ndarray, overlap: np.ndarray, names: Sequence[str], z: np.ndarray, labels: np.ndarray
) -> list[Diagnostic]:
    """Openness and overlap of the gates (C, D), overlap (C, C), and whether classes whose gates overlap lie near each
    other among the vectors z (n, d) with labels (n,), -1 unknown; the last needs three classes with rows."""
    i, j = np.triu_indices(len(gates), 1)
    pairs = overlap[i, j]
    most, least, alike = int(pairs.argmax()), int(pairs.argmin()), pairs.min() > 0.99
    found = [_openness(float(gates.mean())), Diagnostic(
        "gate overlap", float(pairs.mean()), "watch" if alike else "good",
        f"Gates of two classes have a mean cosine of {pairs.mean():.2f}; most alike {names[i[most]]} and "
        f"{names[j[most]]} ({pairs.max():.2f}), least {names[i[least]]} and {names[j[least]]} ({pairs.min():.2f})"
        + ("; all classes are compared in the same dimensions: train longer." if alike else "."))]  # fmt: skip
    near = class_affinity(z, labels, len(gates))[i, j]
    seen = np.isfinite(near)
    if seen.sum() < 3 or np.ptp(pairs[seen]) == 0 or np.ptp(near[seen]) == 0:
        return found
    value = spearman(pairs[seen], near[seen])
    verdict = "good" if value > 0.3 else "info"
    return [
        *found,
        Diagnostic(
            "gates follow classes",
            value,
            verdict,
            "Rank correlation of how far the gates of two "
            "classes overlap with how near the classes lie (1: in the same order, 0: unrelated).",
        ),
    ]


def _openness(value: float) -> Diagnostic:
    if 0.02 <= value <= 0.98:
        return Diagnostic(
            "gate openness", value, "good", f"A class's gate lets {100 * value:.0f} % through in the mean."
        )
    words = (
        "closed: hardly a dimension is compared"
        if value < 0.02
        else "open: every pair is compared in all dimensions, as without gates"
    )
    return Diagnostic("gate openness", value, "watch", f"The gates are {words}; train longer or use --gamma.")
