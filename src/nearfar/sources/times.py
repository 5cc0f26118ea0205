"""Times in tables: numbers as they are, dates in seconds since 1970."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.sources.raw import filled

_COMPACT = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")  # 19580329
_NUMBERED = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d\d)(?!\d)")  # 29/03/1958, 3.29.58
MEND = "Write dates as 2024-12-31 or 2024-12-31 23:59."


def stamps(values: Sequence[Any]) -> np.ndarray:
    """float64 (n,) of the cells of one column: finite numbers as they are, dates in seconds since 1970 (UTC where no
    zone is said), NaN for what is neither and for empty cells.

    Dates such as 05/01/2024 are read in one order in the whole column: that of the cells which allow but one, the day
    first where they are written with points; a cell that does not fit is NaN. Eight digits are a date where all cells
    are, or beside other dates. Raises ValueError, with the cell, where no cell tells day from month.
    """
    import pandas as pd

    texts = np.array([filled(value).strip() for value in values], dtype=object)
    plain = [v if isinstance(v, int | float) else text for v, text in zip(values, texts, strict=True)]
    numbers: Any = pd.to_numeric(pd.Series(plain, dtype=object), errors="coerce")
    found = numbers.to_numpy(np.float64, copy=True)
    found[~np.isfinite(found)] = np.nan
    there, compact = texts != "", np.array([bool(_COMPACT.fullmatch(text)) for text in texts], bool)
    words = there & np.isnan(found)
    if words.any():
        found[words] = _dates(texts[words])
    if compact.any() and (compact[there].all() or not np.isnan(found[words]).all()):
        found[compact] = _dates(texts[compact])
    return found


def _dates(texts: np.ndarray) -> np.ndarray:
    """float64 (n,): seconds, NaN for what is no date."""
    numbered = [_NUMBERED.match(text) for text in texts]
    days, here = _day_first([one for one in numbered if one]), np.array([one is not None for one in numbered], bool)
    found = np.full(len(texts), np.nan)
    found[~here], found[here] = _seconds(texts[~here], False), _seconds(texts[here], days)
    found[[one is not None and int(one[3 if days else 1]) > 12 for one in numbered]] = np.nan
    return found


def _seconds(texts: np.ndarray, days: bool) -> np.ndarray:
    """days: whether the day stands before the month."""
    import pandas as pd

    read: Any = pd.to_datetime(pd.Series(texts, dtype=object), errors="coerce", format="mixed", utc=True, dayfirst=days)
    return np.where(read.isna().to_numpy(), np.nan, read.to_numpy("datetime64[us]").astype(np.int64) / 1e6)


def _day_first(numbered: Sequence[re.Match[str]]) -> bool:
    """Whether the day stands before the month in dates of numbers."""
    days, months = (sum(int(one[place]) > 12 for one in numbered) for place in (1, 3))
    short = next((one for one in numbered if one[2] == "-" and len(one[4]) == 2), None)
    if short is not None:
        raise ValueError(f"'{short[0]}' may begin with the year, the month or the day")
    if days or months:
        return days >= months
    if numbered and numbered[0][2] != ".":
        raise ValueError(f"'{numbered[0][0]}' may begin with the day or the month, and no other row tells which")
    return bool(numbered)


__all__ = ["MEND", "stamps"]
