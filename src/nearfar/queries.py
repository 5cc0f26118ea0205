"""What a query means: words of a command line, an item of the model's kinds or one of the index, and what is added to
it. Many are embedded at once, and each fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import modalities
from nearfar.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nearfar.models import Model

BATCH = 64  # queries that pass the encoder at once


@dataclass(frozen=True)
class Item:
    """What a query means: an item of a kind of data, and whose tower embeds it."""

    value: Any
    role: str
    kind: str


def embedded(model: Model, items: Sequence[Item], variant: str | None) -> list[np.ndarray | InputError]:
    """The vector (d,) of each item, those of one tower together; where a batch fails, each alone."""
    found: list[Any] = [None] * len(items)
    for role in dict.fromkeys(one.role for one in items):
        places = [n for n, one in enumerate(items) if one.role == role]
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            for place, made in zip(part, _batch(model, [items[n].value for n in part], role, variant), strict=True):
                found[place] = made
    return found


def _batch(model: Model, values: list[Any], role: str, variant: str | None) -> list[np.ndarray | InputError]:
    try:
        return list(model.embed(values, role, variant=variant))
    except InputError as error:
        return [error] if len(values) == 1 else [_batch(model, [one], role, variant)[0] for one in values]


def item_of(model: Model, query: Any, role: str | None) -> Item:
    """What a query means: an item, or words on a command line (a text, the path of an image, numbers)."""
    if role is not None:
        model.check_role(role)
    if not isinstance(query, str):
        kind = modalities.of_item(query, model.modalities)
        if kind is None:
            words = modalities.words(model.modalities)
            raise InputError(f"A query is an item of the kind that the model embeds ({words}). Got {query!r:.80}.")
        return Item(query, role or model.role_of(kind.name), kind.name)
    kinds = [kind for kind in modalities.surest() if kind.name in model.modalities]
    for kind in kinds if role is None else [modalities.of(role)]:
        value = kind.query(query, alone=len(kinds) == 1)
        if value is not None:
            return Item(value, role or model.role_of(kind.name), kind.name)
    if role is None or not query.strip():
        raise InputError("The query is empty.", "Write what to search for.")
    takes = modalities.words([modalities.of(role).name])
    raise InputError(f"--role {role} takes {takes}, which '{query:.60}' is not.", "Leave it out, or ask otherwise.")


def signed(query: Any, plus: Any = None, minus: Any = None) -> list[tuple[Any, float]]:
    """A query and what is added to it or taken from it, with their signs."""
    return [(query, 1.0), *((part, sign) for part, sign in ((plus, 1.0), (minus, -1.0)) if part is not None)]


def is_key(query: Any) -> bool:
    return isinstance(query, str) and query.startswith("key:")


def composed(vectors: Sequence[np.ndarray], signs: Sequence[float]) -> np.ndarray:
    """The sum of unit vectors (D,) with their signs, scaled to length 1; one vector stays as it is.

    Raises InputError where they cancel out."""
    if len(vectors) == 1:
        return vectors[0]
    units = [v / max(float(np.linalg.norm(v)), 1e-12) for v in vectors]
    total = np.sum([sign * v for sign, v in zip(signs, units, strict=True)], axis=0)
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise InputError("The parts of the query cancel out.", "Choose another --minus.")
    return (total / length).astype(np.float32)


def stored_vector(index: Any, key: str) -> np.ndarray:
    vector = index.vector(key)
    if vector is None:
        raise InputError(f"The index has no item '{key}'.{did_you_mean(key, index.keys()[:20000])}")
    return vector
