"""The built-in breast-cancer: 569 tumours as rows of 30 numbers, which scikit-learn packages.

Breast Cancer Wisconsin (Diagnostic) (W. Wolberg, O. Mangasarian, N. Street and W. Street, UCI Machine Learning
Repository, CC BY 4.0): ten features of the nuclei in an image of each: their mean, its error, their worst values.
"""

from __future__ import annotations

import hashlib
from typing import Any

from datasets import Dataset

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register


@register
def open_breast_cancer() -> Raw:
    """One row a tumour: mean radius ... mean fractal dimension, radius error ..., worst radius ..., and the diagnosis
    (malignant or benign) as its label."""
    from sklearn.datasets import load_breast_cancer

    found: Any = load_breast_cancer()
    names = [str(name) for name in found.feature_names]
    columns = {name: found.data[:, i].tolist() for i, name in enumerate(names)}
    kinds = [str(found.target_names[code]) for code in found.target]
    return Raw(
        name="breast-cancer",
        path=None,
        kind="built-in rows of numbers",
        table=Dataset.from_dict(columns | {"diagnosis": kinds}),
        fingerprint=hashlib.sha256(found.data.tobytes() + found.target.tobytes()).hexdigest(),
        roles={"vector": names, "label": ["diagnosis"]},
        reasons={"vector": "measures of the nuclei: mean, error and worst", "label": "what the tumour was"},
        meta={"licence": "CC BY 4.0 (W. Wolberg et al., UCI Machine Learning Repository)"},
    )
