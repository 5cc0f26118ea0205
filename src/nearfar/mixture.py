"""How often each of several corpora is drawn from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def corpus_shares(sizes: Int[np.ndarray, "corpora"], alpha: float) -> np.ndarray:
    """Probability of drawing from each corpus: (n_c / sum n)^alpha, normalised; 0 is uniform, 1 proportional."""
    share = (np.asarray(sizes, dtype=float) / np.sum(sizes)) ** alpha
    return share / share.sum()
