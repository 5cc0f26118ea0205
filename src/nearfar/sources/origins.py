"""Whether a stream of `datasets` surely gives what it gave before: what it is made of, as a key.

A stream has one where files are its only source (each by its state on the disk, or by the revision or the mark that
`datasets` keeps of it) and nothing but `take`, `skip`, `shuffle` with a seed and the like stands between. A function
of the user's (map, filter, from_generator) may give anything, so such a stream has none.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Features, Version
from datasets.utils.file_utils import FilesIterable

from nearfar.sources.listing import identity

VERSION = "1"  # raise when the rows that are made of a stream change
_FAITHFUL = {
    "ArrowExamplesIterable", "ExamplesIterable", "RebatchedArrowExamplesIterable", "SelectColumnsIterable",
    "StepExamplesIterable", "CyclingMultiSourcesExamplesIterable", "VerticallyConcatenatedMultiSourcesExamplesIterable",
    "HorizontallyConcatenatedMultiSourcesExamplesIterable", "InterleavedShardsExamplesIterable",
    "BufferShuffledExamplesIterable", "SkipExamplesIterable", "TakeExamplesIterable", "RepeatExamplesIterable",
    "FormattedExamplesIterable",
}  # fmt: skip
_READERS = ("csv", "json", "parquet", "arrow", "text", "imagefolder", "audiofolder", "videofolder", "webdataset", "xml")


class Unsure(Exception):
    """Something of which nobody knows what it gives."""


def origin_of(parts: Mapping[str, Any], limit: int | None) -> str | None:
    """The key of streams by their names, read up to a limit; None where they may give other rows next time."""
    try:
        made = [
            (name, described(one._ex_iterable), _place(one), described(one.features)) for name, one in parts.items()
        ]
    except (Unsure, AttributeError, OSError):
        return None
    return hashlib.sha256(repr([VERSION, datasets.__version__, limit, made]).encode()).hexdigest()[:32]


def _place(stream: Any) -> tuple[Any, ...]:
    """Where in its rows a stream begins. Raises Unsure for one that was begun."""
    if getattr(stream, "_starting_state_dict", None) is not None:
        raise Unsure
    return int(getattr(stream, "_epoch", 0)), described(getattr(stream, "_distributed", None))


def endless(stream: Any) -> bool:
    """Whether a stream repeats its rows for ever, and nothing takes a number of them."""
    found = getattr(stream, "_ex_iterable", None)
    while found is not None:
        kind = type(found).__name__
        if kind == "TakeExamplesIterable":
            return False
        if kind == "RepeatExamplesIterable" and found.num_times is None:
            return True
        found = getattr(found, "ex_iterable", None)
    return False


def described(value: Any) -> Any:
    """Plain values that tell a part of a stream from others. Raises Unsure where there are none."""
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    if isinstance(value, str):
        return _named(value)
    if isinstance(value, Version):
        return str(value)
    if isinstance(value, Features):
        return repr(value.to_dict())
    if isinstance(value, FilesIterable):
        return [described(one) for one in value]
    if isinstance(value, Mapping):
        return [(str(key), described(one)) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [described(one) for one in value]
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    kind = type(value)
    if kind.__module__ == "datasets.iterable_dataset" and kind.__name__ in _FAITHFUL:
        return kind.__name__, [(name, _attribute(name, one)) for name, one in sorted(vars(value).items())
                               if name == "_features" or not name.startswith("_")]  # fmt: skip
    if kind.__module__.startswith("datasets.") and dataclasses.is_dataclass(value):
        return [(one.name, described(getattr(value, one.name))) for one in dataclasses.fields(value)]
    raise Unsure


def _attribute(name: str, value: Any) -> Any:
    """An attribute of a step of a stream; a function must be that of a reader of `datasets`."""
    if name in ("generate_tables_fn", "generate_examples_fn"):
        return _reader(value)
    if name in ("generate_more_kwargs_fn", "token_per_repo_id"):  # no row depends on how files are divided, or by whom
        return None
    return described(value)


def _reader(function: Any) -> Any:
    builder: Any = getattr(function, "__self__", None)
    module = type(builder).__module__
    if not any(module.startswith(f"datasets.packaged_modules.{name}.") for name in _READERS):
        raise Unsure
    return module, described(builder.config), _marks(builder.config.data_files)


def _marks(data_files: Any) -> list[Any]:
    """What `datasets` knows of the files beside their names: revisions, marks (ETag), times. Raises Unsure where it
    knows nothing of one."""
    found = []
    for name, files in (data_files or {}).items():
        marks = list(getattr(files, "origin_metadata", []))
        if not marks or any(not one for one in marks):
            raise Unsure
        found.append((str(name), [tuple(map(str, one)) for one in marks]))
    if not found:
        raise Unsure
    return found


def _named(text: str) -> Any:
    """A text, with the state of the file that it names, if it does."""
    path = Path(text)
    try:
        return (text, identity(path)) if path.is_absolute() and path.is_file() else text
    except (OSError, ValueError):
        return text


__all__: Iterable[str] = ["endless", "origin_of"]
