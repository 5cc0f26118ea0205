"""The built-in digit-series: 1,797 handwritten digits read pixel after pixel, as series of 64 steps.

The drawings of the set `digits` (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0; packaged by
scikit-learn), row by row: a series that tells its class by its shape, where no recordings are at hand.
"""

from __future__ import annotations

from datasets import Dataset

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.digits import open_digits


@register
def open_digit_series() -> Raw:
    """One row a drawing: `ink`, its 64 squares in the order of reading, and the digit as its label."""
    found = open_digits()
    names = list(found.roles["vector"])
    columns = [found.table[name] for name in names]
    series = [[float(value) for value in row] for row in zip(*columns, strict=True)]
    return Raw(
        name="digit-series",
        path=None,
        kind="built-in time series",
        table=Dataset.from_dict({"ink": series, "digit": list(found.table["digit"])}),
        fingerprint=f"series:{found.fingerprint}",
        roles={"series": ["ink"], "label": ["digit"]},
        reasons={"series": "ink in each square of a drawing, row by row", "label": "the digit that was written"},
        meta=found.meta,
    )
