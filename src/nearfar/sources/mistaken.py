"""What is given for data by mistake, and the mend."""

from __future__ import annotations

import types
from collections.abc import Iterator, Set
from typing import Any

from nearfar.errors import InputError

TAKEN = (
    "Data are a path, the name of a built-in set, a Dataset or a stream of `datasets`, a DataFrame, a Table of Arrow, "
    "a dict of columns, a list of texts or records, or an array."
)
_STREAM = "datasets.IterableDataset.from_generator(FUNCTION), whose FUNCTION yields one record a row, can be read anew."


def mistaken(value: Any) -> InputError:
    """The error for an object that holds no rows."""
    if value is None:
        return InputError("No data were given.", TAKEN)
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    if _is_torch(value, "DataLoader"):
        return InputError("A DataLoader gives batches, and nearfar draws its own.",
                          f"Give the rows themselves. {_RECORDS.format('loader.dataset')}")  # fmt: skip
    if _is_torch(value, "Dataset"):
        return InputError(f"A torch Dataset ({kind}) gives items of which nothing says what they are.",
                          _RECORDS.format("dataset"))  # fmt: skip
    if isinstance(value, types.GeneratorType | Iterator):
        return InputError(f"An iterator ({type(value).__name__}) can be read once only.", _STREAM)
    if isinstance(value, types.FunctionType | types.MethodType):
        return InputError(f"The function '{value.__name__}' is no data.", _STREAM)
    if isinstance(value, Set):
        return InputError("A set has no order.", "Give a list: sorted(values).")
    return InputError(f"Rows cannot be read of {kind}: {str(value)[:60]!r}.", TAKEN)


_RECORDS = (
    "Name what an item holds: datasets.Dataset.from_list([{{'image': image, 'label': one}} for image, one in {}])."
)


def _is_torch(value: Any, name: str) -> bool:
    """Whether an object is of a class of torch.utils.data, told without importing torch."""
    return any(one.__name__ == name and one.__module__.startswith("torch.utils.data") for one in type(value).__mro__)
