"""The built-in diabetes: 442 patients as rows of 10 numbers, with a measure of how their disease went on.

Age, sex, body mass index, mean blood pressure and six measures of blood serum; published with Efron, Hastie, Johnstone
and Tibshirani, "Least Angle Regression", Annals of Statistics 2004, and packaged by scikit-learn.
"""

from __future__ import annotations

import hashlib
from typing import Any

from datasets import Dataset

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register


@register
def open_diabetes() -> Raw:
    """One row a patient: age, sex, bmi, bp, s1 ... s6 as they were measured, and the target `progression` (25 to 346)
    a year later."""
    from sklearn.datasets import load_diabetes

    found: Any = load_diabetes(scaled=False)
    names = [str(name) for name in found.feature_names]
    columns = {name: found.data[:, i].tolist() for i, name in enumerate(names)}
    return Raw(
        name="diabetes",
        path=None,
        kind="built-in rows of numbers",
        table=Dataset.from_dict(columns | {"progression": found.target.tolist()}),
        fingerprint=hashlib.sha256(found.data.tobytes() + found.target.tobytes()).hexdigest(),
        roles={"vector": names, "target": "progression"},
        reasons={"vector": "what was measured at first", "target": "how the disease went on within a year"},
        meta={"licence": "none stated (Efron et al. 2004); packaged by scikit-learn (BSD-3-Clause)"},
    )
