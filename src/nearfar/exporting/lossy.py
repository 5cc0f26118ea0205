"""What 8 bits cost: neighbours by the whole model against those by the quantised file."""

from __future__ import annotations

from typing import Any

import numpy as np

from nearfar import modalities
from nearfar.errors import InputError

ROWS = 2000
K = 10


def items_for(data: Any, role: str, encoder: Any) -> list[Any]:
    """At most 2000 items of the data, spread over their rows. Raises InputError for data without the role, or with too
    few rows."""
    if role not in data.roles:
        raise InputError(f"{data.name} has {', '.join(data.roles)}, but no '{role}' on which --int8 could be measured.",
                         "Name data of the model's kind, or one tower with --role.")  # fmt: skip
    if len(data) < 2 * K:
        raise InputError(f"{data.name} has {len(data)} rows; recall@{K} needs at least {2 * K}.", "Name more data.")
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), ROWS)).astype(np.int64))
    return list(modalities.get(encoder.modality).kept(data, role, rows, encoder))


def recall(exact: np.ndarray, rough: np.ndarray) -> float:
    """Share of the 10 nearest rows of each row, itself left out, by inner products of `exact` that are also among those
    of `rough`."""
    found = [_nearest(vectors.astype(np.float32)) for vectors in (exact, rough)]
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(*found, strict=True)]))


def _nearest(vectors: np.ndarray) -> np.ndarray:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argpartition(-scores, K - 1, axis=1)[:, :K]
