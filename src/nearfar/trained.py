"""Which rows a model was trained on: hashes of their items, kept in the model's folder.

The hashes are those of `Data.digests`: equal contents have equal hashes in every data set and on every machine, so
that a model knows its training rows again under another name, in another order, or among others.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.stores import Store, is_url, local

if TYPE_CHECKING:
    from nearfar.sources import Data

NAME = "training-rows.safetensors"
Known = dict[str, np.ndarray]  # kind of data -> int64, sorted, each once


def rows_of(data: "Data", roles: Iterable[str], rows: np.ndarray) -> Known:
    """The contents of some rows in the roles that a method reads."""
    found: dict[str, list[np.ndarray]] = {}
    for role in roles:
        found.setdefault(modalities.of(role).name, []).append(data.digests(role, rows))
    return {kind: np.unique(np.concatenate(parts)) for kind, parts in found.items()}


def merged(*parts: Known | None) -> Known:
    """Everything that is in one of them."""
    kinds = dict.fromkeys(kind for part in parts for kind in part or {})
    return {kind: np.unique(np.concatenate([part[kind] for part in parts if part and kind in part])) for kind in kinds}


def write(folder: Path, known: Mapping[str, np.ndarray]) -> None:
    """Writes `NAME` into a folder."""
    from safetensors.numpy import save

    from nearfar.sources.scan import VERSION

    arrays = {kind: np.ascontiguousarray(values, np.int64) for kind, values in known.items()}
    (folder / NAME).write_bytes(save(arrays, {"ids": VERSION}))


def read(folder: str | Path) -> Known | None:
    """What a model folder (or a run or a comparison that holds one, or a file of its weights) says of its training
    rows; None where it says nothing. Raises InputError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    from nearfar.sources.scan import VERSION

    if is_url(folder) and not any(name.rpartition("/")[2] == NAME for name in Store(str(folder)).listed()):
        return None
    place = local(folder, lambda name: name.rpartition("/")[2] == NAME)
    inner = next((p for p in (place, place / "model", place / "best", place.parent) if (p / NAME).is_file()), None)
    if inner is None or (inner == place.parent and not place.is_file()):
        return None
    try:
        with safe_open(inner / NAME, "numpy") as stored:
            if (stored.metadata() or {}).get("ids") != VERSION:
                return None
            return {kind: np.asarray(stored.get_tensor(kind), np.int64) for kind in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{inner / NAME} cannot be read: {error}.", "Copy the model's folder again.") from error


def seen(known: Known | None, data: "Data", rows: np.ndarray, roles: Iterable[str] | None = None) -> np.ndarray:
    """bool (n,): rows whose every content, in the roles (all that the data hold) of a kind that the model was trained
    on, stood in its training rows."""
    asked = [role for role in roles or data.content_roles if modalities.of(role).name in (known or {})]
    if not known or not asked:
        return np.zeros(len(rows), bool)
    return np.all([np.isin(data.digests(role, rows), known[modalities.of(role).name]) for role in asked], axis=0)


def warning(name: Any, count: int, of: int, what: str) -> str:
    """The sentence that tells it."""
    return (
        f"warning: {name} was trained on {count:,} of the {of:,} {what}: what is measured on them says little "
        "about new data"
    )
