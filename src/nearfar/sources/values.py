"""Columns of Python values and of arrays as blocks of Arrow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Features
from datasets import Image as ImageFeature
from PIL import Image

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.limits import MOST_COLUMNS
from nearfar.sources.raw import missing

_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")  # what PNG keeps to the bit; TIFF keeps the others
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_MEND = "Give every row values of one type."


@dataclass
class Columns:
    """Columns by name, of equal lengths, that can be cut in pieces; roles that are known, and why."""

    values: dict[str, Any]
    roles: dict[str, str | list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def rows_in(columns: Columns) -> int:
    return min((len(values) for values in columns.values.values()), default=0)


def checked_lengths(given: Mapping[Any, Any]) -> Columns:
    """A dict of columns. Raises InputError where their lengths differ, or one is no column."""
    columns: dict[str, Any] = {}
    for name, values in given.items():
        if not isinstance(name, str):
            raise InputError(f"The dict has the key {name!r}; the name of a column is a text.", "Rename it.")
        values = as_numpy(values)
        if isinstance(values, str | bytes) or not (hasattr(values, "__len__") and hasattr(values, "__getitem__")) or (
            isinstance(values, Mapping) or getattr(values, "ndim", 1) == 0
        ):  # fmt: skip
            raise InputError(f"The dict has {type(values).__name__} for the column '{name}'.",
                             "A column is a list or an array with a value a row.")  # fmt: skip
        columns[name] = values.reset_index(drop=True) if isinstance(values, pd.Series) else values
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{name}' {count:,}" for name, count in list(lengths.items())[:5])
        raise InputError(f"The columns of the dict have unequal lengths: {told}.", "Give each a value for every row.")
    notes = [f"each array of '{name}' is read as one row of numbers" for name, values in columns.items()
             if getattr(values, "ndim", 1) > 2 and not _pictures(values)]  # fmt: skip
    return Columns(columns, notes=notes)


def as_numpy(values: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") and hasattr(values, "cpu") else values


def _pictures(values: np.ndarray) -> bool:
    """Whether an array (N, height, width) or (N, height, width, channels) of bytes is images."""
    return values.dtype == np.uint8 and (values.ndim == 3 or (values.ndim == 4 and values.shape[-1] in (1, 3, 4)))


def array_columns(value: Any) -> Columns:
    """An array alone: rows of numbers, bytes of images, or texts."""
    array = as_numpy(value)
    if array.dtype.names:
        return checked_lengths({name: array[name] for name in array.dtype.names})
    if array.ndim == 2 and array.dtype.kind in "fiub":
        return Columns({"vector": array}, {"vector": ["vector"]}, {"vector": "the rows of the array"})
    if array.ndim == 1 and array.dtype.kind in "UTO":
        return list_columns(array.tolist())
    if array.ndim > 2 and _pictures(array):
        return Columns({"image": array}, {"image": "image"}, {"image": "an array of images"})
    raise InputError(
        f"The array has the type {array.dtype} and the shape {tuple(array.shape)}.",
        "Rows of numbers have two dimensions (x.reshape(len(x), -1)), images are uint8 (N, height, width, 3); columns "
        "go into a dict.",
    )


def list_columns(values: Sequence[Any]) -> Columns:
    """A list of records (dicts), texts, paths, images, or rows of numbers. Raises InputError for a mixture."""
    values = [as_numpy(one) for one in values]
    kinds = {}
    for place, one in enumerate(values):
        if not missing(one) or isinstance(one, str):
            kinds.setdefault(_sort(one, place), place)
    if len(kinds) > 1:
        (first, at), (other, there) = list(kinds.items())[:2]
        raise InputError(f"The list holds {first} (item {at}) and {other} (item {there}).",
                         "Give a list of one kind, or records: [{'text': ..., 'label': ...}, ...].")  # fmt: skip
    kind = next(iter(kinds), "texts")
    if kind == "records":
        return _records([one or {} for one in values])
    if kind == "texts" and modalities.get("image").looks_like(values[:64]):
        kind = "images"
    name = {"texts": "text", "images": "image", "rows of numbers": "vector"}[kind]
    several = kind == "rows of numbers"
    return Columns({name: values}, {name: [name] if several else name}, {name: f"a list of {kind}"})


def _sort(one: Any, place: int) -> str:
    if isinstance(one, str):
        return "texts"
    if isinstance(one, Mapping):
        return "records"
    if isinstance(one, Image.Image | PurePath) or (isinstance(one, np.ndarray) and one.ndim > 1):
        return "images"
    plain = list(one) if isinstance(one, list | tuple | np.ndarray) else []
    if plain and all(isinstance(v, int | float | np.number) or v is None for v in plain):
        return "rows of numbers"
    raise InputError(f"Item {place} of the list is of the type {type(one).__name__}, which is no row.",
                     "Give texts, images, rows of numbers, or records: [{'text': ..., 'label': ...}].")  # fmt: skip


def _records(values: list[Mapping[Any, Any]]) -> Columns:
    names: dict[str, None] = {}
    for place, one in enumerate(values):
        wrong = next((key for key in one if not isinstance(key, str)), None)
        if wrong is not None:
            raise InputError(f"Record {place} has the key {wrong!r}; the name of a column is a text.", "Rename it.")
        names.update(dict.fromkeys(one))
        if len(names) > MOST_COLUMNS:
            break
    return Columns({name: [one.get(name) for one in values] for name in names})


def block_of(pieces: Mapping[str, Any], where: str, start: int) -> pa.Table:
    """Some rows, the first of which has the number `start`, as Arrow with the features of `datasets`."""
    arrays, images = {}, []
    for name, piece in pieces.items():
        arrays[name] = column_of_values(piece, name, where, start)
        if arrays[name].type == _IMAGE:
            images.append(name)
    table = pa.table(arrays)
    features = Features.from_arrow_schema(table.schema)
    return table.cast(Features({**features, **{name: ImageFeature() for name in images}}).arrow_schema)


def column_of_values(piece: Any, name: str, where: str, start: int) -> pa.Array:
    """One column of a block. Raises InputError that names the row whose value is of another type than the others'."""
    piece = as_numpy(piece)
    if isinstance(piece, np.ndarray) and piece.ndim > 1:
        if piece.ndim > 2 and _pictures(piece):
            return _image_cells([Image.fromarray(one.squeeze(-1) if one.ndim == 3 and one.shape[-1] == 1 else one)
                                 for one in piece])  # fmt: skip
        flat = pa.array(np.ascontiguousarray(piece).reshape(-1))
        width = int(np.prod(piece.shape[1:]))
        return pa.ListArray.from_arrays(pa.array(np.arange(len(piece) + 1, dtype=np.int32) * width), flat)
    try:
        if isinstance(piece, pd.Series) and piece.dtype != object:
            made = pa.array(piece, from_pandas=True)
            made = made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
            return made.dictionary_decode() if pa.types.is_dictionary(made.type) else made
        cells = [_cell(one) for one in piece]
        if any(isinstance(one, Image.Image) for one in cells):
            return _image_cells(cells)
        return pa.array(cells, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _unlike(list(piece), name, where, start, error) from error


def _cell(value: Any) -> Any:
    """A value as Arrow takes it: paths as texts, small arrays of bytes as images, other arrays as rows of numbers."""
    value = as_numpy(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return Image.fromarray(value) if _pictures(value[None]) else value.reshape(-1)
    return value


def _image_cells(cells: Sequence[Any]) -> pa.Array:
    """Images as stored bytes that give the same pixels; None stays empty."""
    return pa.array([None if one is None else {"bytes": _encoded(one), "path": None} for one in cells], _IMAGE)


def _encoded(image: Image.Image) -> bytes:
    if not isinstance(image, Image.Image):
        raise TypeError(f"no image: {type(image).__name__}")
    file = io.BytesIO()
    if image.mode in _PNG:
        image.save(file, "PNG", compress_level=1)
    else:
        image.save(file, "TIFF")
    return file.getvalue()


def _unlike(values: list[Any], name: str, where: str, start: int, error: Exception) -> InputError:
    """Which value of a column does not go with the others."""
    there = [(row, one) for row, one in enumerate(values) if not missing(one)]
    kinds: dict[str, int] = {}
    for row, one in there:
        kinds.setdefault(type(one).__name__, row)
    if len(kinds) > 1:
        (first, at), (other, then) = list(kinds.items())[:2]
        return InputError(
            f"{where}: the column '{name}' holds {first} in row {start + at} and {other} in row {start + then}.", _MEND
        )
    said = " ".join(str(error).split())[:160]
    return InputError(f"{where}: the column '{name}' is not read ({said}).", "Leave it out, or give plain values.")
