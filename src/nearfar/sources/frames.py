"""Frames of pandas as columns: an index that was chosen, or that filtering and sorting have left, names the rows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nearfar.errors import InputError
from nearfar.sources.roles import plain_name
from nearfar.sources.tables import check_names
from nearfar.sources.values import Columns

INDEX = "index"
_IDS = ("id", "key", "uuid", "_id", "sample_id")


def frame_columns(frame: pd.DataFrame) -> Columns:
    """The columns of a frame.

    The index 0, 1, 2... says nothing. Any other is a column, and the id of the rows where its values are unique: one
    with a name always, one without (what `df[df.x > 3]` leaves) unless a column is called id. Several levels are
    columns.
    """
    if isinstance(frame.columns, pd.MultiIndex):
        raise InputError("The columns of the DataFrame have several levels.",
                         "Join them: df.columns = ['_'.join(map(str, c)) for c in df.columns].")  # fmt: skip
    names = [str(one) for one in frame.columns]
    check_names(names, "The DataFrame")
    found = Columns({name: frame.iloc[:, place].reset_index(drop=True) for place, name in enumerate(names)})
    index: Any = frame.index
    if isinstance(index, pd.MultiIndex):
        for place in range(index.nlevels):
            _add(found, str(index.names[place] or f"level_{place}"), index.get_level_values(place))
    elif index.name is not None or not index.equals(pd.RangeIndex(len(frame))):
        _add_index(found, index, names)
    return found


def _add_index(found: Columns, index: Any, names: list[str]) -> None:
    named = index.name is not None
    if not named and any(plain_name(name) in _IDS for name in names):
        return
    if not index.is_unique and not named:
        found.notes.append("the index of the DataFrame repeats values: it does not serve as the id of a row")
        return
    name = _add(found, str(index.name) if named else INDEX, index)
    if index.is_unique:
        found.roles["id"], found.reasons["id"] = name, "the index of the DataFrame"


def _add(found: Columns, name: str, values: Any) -> str:
    if name in found.values:
        raise InputError(f"The index of the DataFrame is called '{name}', as one of its columns is.",
                         "Rename one: df.rename_axis('NAME').")  # fmt: skip
    found.values[name] = pd.Series(values.to_numpy() if values.dtype == object else values.array)
    return name
