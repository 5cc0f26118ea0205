"""Which gallery items belong to which query: sparse relations of the core, from ids and listed pairs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import Sparse, equal, sparse


def same(query_ids: Any, gallery_ids: Any) -> Sparse:
    """Related are equal ids, (n,) and (m,); a negative id is related to nothing."""
    return equal(_integers(query_ids), _integers(gallery_ids))


def listed(pairs: Any, queries: int, gallery: int) -> Sparse:
    """Related are the listed (query number, gallery number) pairs, (p, 2); repeated ones count once."""
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or (pairs.max(0) >= (queries, gallery)).any()):
        raise InputError(f"A listed pair points outside {queries} queries x {gallery} gallery items.")
    rows, columns = torch.from_numpy(pairs.T.copy())
    return sparse(rows, columns, queries)


def visible_counts(relevant: Sparse, hidden: Sparse | None) -> np.ndarray:
    """int64 (n,): the relevant gallery items that each query may see."""
    if hidden is None:
        return relevant.counts.numpy()
    counts = []
    for start in range(0, len(relevant.counts), 1024):
        rows = slice(start, start + 1024)
        (row, column), (other, away) = relevant.pairs(rows), hidden.pairs(rows)
        size = 1 + max(int(x.max()) if len(x) else 0 for x in (column, away))
        seen = ~torch.isin(row * size + column, other * size + away)
        counts.append(torch.bincount(row[seen], minlength=len(relevant.counts[rows])))
    return torch.cat(counts).numpy() if counts else np.zeros(0, np.int64)


def _integers(ids: Any) -> Tensor:
    return torch.from_numpy(np.array(ids, np.int64))
