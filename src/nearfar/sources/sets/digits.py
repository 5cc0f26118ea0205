"""The built-in digits: 1,797 handwritten digits as rows of 64 numbers, which scikit-learn packages.

Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0): the
test part, counts of ink (0 to 16) in 8 x 8 squares of each drawing.
"""

from __future__ import annotations

import hashlib
from typing import Any

from datasets import Dataset

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register


@register
def open_digits() -> Raw:
    """One row a drawing: pixel_0_0 ... pixel_7_7, and the digit as its label."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    names = [str(name) for name in found.feature_names]
    columns = {name: found.data[:, i].tolist() for i, name in enumerate(names)}
    table = Dataset.from_dict(columns | {"digit": [str(value) for value in found.target.tolist()]})
    return Raw(
        name="digits",
        path=None,
        kind="built-in rows of numbers",
        table=table,
        fingerprint=hashlib.sha256(found.data.tobytes() + found.target.tobytes()).hexdigest(),
        roles={"vector": names, "label": ["digit"]},
        reasons={"vector": "ink in each square of a drawing", "label": "the digit that was written"},
        meta={"licence": "CC BY 4.0 (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository)"},
    )
