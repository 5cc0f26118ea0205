"""Small made-up interactions, for runs that only look for crashes: the real ones are read from a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from made.writing import write_csv


def walks(out: Path, users: int = 80, items: int = 30) -> Path:
    """Users who walk through a circle of items with a few leaps."""
    rng, rows = np.random.default_rng(0), []
    for user in range(users):
        item = int(rng.integers(items))
        for time in range(int(rng.integers(4, 15))):
            rows.append((f"u{user}", f"i{item}", str(time)))
            item = (item + 1 if rng.random() < 0.8 else int(rng.integers(items))) % items
    return write_csv(out / "data" / "walks.csv", ("user", "item", "time"), rows)
