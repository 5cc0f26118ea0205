"""What a request may ask about: JSON values as items of a model. No string is ever taken for a path."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar import modalities
from nearfar.errors import InputError

KINDS = {"text": "text", "image": "image", "vector": "vector", "series": "series", "items": "interactions"}


@dataclass(frozen=True)
class Limits:
    """What one request may ask for: items, characters of a text, pixels of an image, numbers of a vector or series,
    hits."""

    items: int = 256
    characters: int = 100_000
    pixels: int = 50_000_000
    numbers: int = 1_000_000
    hits: int = 1000


@dataclass(frozen=True)
class Item:
    """Something to be embedded, and the role whose tower does it; cost: what it adds to a batch (`Limits` of `pieces`):
    characters, pixels or numbers."""

    role: str
    value: Any
    cost: int


def listed(given: Any) -> list[Any]:
    """One value, or several: a list of numbers is one."""
    if not isinstance(given, list) or (given and all(_number(x) for x in given)):
        return [given]
    return given


def item_of(given: Any, model: Any, role: str | None, limits: Limits) -> Item:
    """An item of a model: a text; {"image": base64 or data URI}; a list of numbers; {"text", "vector", "series",
    "items": value}. Raises InputError for what is none, too large, or of a kind that the model does not embed."""
    name, value = _named(given, model)
    kind = KINDS[name]
    if kind not in model.modalities:
        raise InputError(f"This model embeds {modalities.words(model.modalities)}, no {modalities.get(kind).words}.",
                         "Ask for what it embeds.")  # fmt: skip
    if role is not None:
        model.check_role(role)
        if model.roles[role].encoder.modality != kind:
            raise InputError(f"The role '{role}' embeds {modalities.get(model.roles[role].encoder.modality).words}.")
    made, cost = _MADE[name](value, limits)
    return Item(role or model.role_of(kind), made, cost)


def _named(given: Any, model: Any) -> tuple[str, Any]:
    if isinstance(given, str):
        return "text", given
    if isinstance(given, Mapping):
        names = [name for name in given if name in KINDS]
        if len(given) != 1 or not names:
            raise InputError(
                f"An item has one of the keys {', '.join(KINDS)}. Got {', '.join(map(str, given)) or 'none'}."
            )
        return names[0], given[names[0]]
    if isinstance(given, list):
        flat = bool(given) and all(_number(x) for x in given)
        if flat and "vector" not in model.modalities and "series" in model.modalities:
            return "series", given
        return ("vector" if flat else "series"), given
    raise InputError(
        f'An item is a text, a list of numbers, or an object such as {{"image": BASE64}}. Got {given!r:.60}.'
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def text_of(value: Any, limits: Limits) -> tuple[str, int]:
    if not isinstance(value, str):
        raise InputError(f"A text is a string. Got {value!r:.60}.")
    if not value.strip():
        raise InputError("A text is empty.")
    if len(value) > limits.characters:
        raise InputError(f"A text has {len(value):,} characters; up to {limits.characters:,} are taken.")
    return value, len(value)


def image_of(value: Any, limits: Limits) -> tuple[Any, int]:
    """An image (PIL, RGB) of base64, a data URI, or bytes, as `decode` gives a file. Its size is looked at before its
    pixels are read."""
    from nearfar.sources.images import Unreadable, decode, opened

    if isinstance(value, str):
        head, mark, rest = value.partition(",")
        coded = rest if mark and head.startswith("data:") else value
        try:
            value = base64.b64decode(coded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError("An image is not base64.", "Send the file's bytes in base64, or a data URI.") from error
    if not isinstance(value, bytes):
        raise InputError(f"An image is a string of base64. Got {type(value).__name__}.")
    try:
        with opened(value) as image:
            pixels = image.width * image.height
        if pixels > limits.pixels:
            raise InputError(f"An image has {pixels:,} pixels; up to {limits.pixels:,} are taken.")
        return decode(value), pixels
    except Unreadable as error:
        raise InputError(f"An image cannot be read: {error}.") from error


def numbers_of(value: Any, limits: Limits) -> tuple[np.ndarray, int]:
    try:
        made = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("Numbers are a list, of equal lengths where it holds lists, each a float32.") from error
    if not made.size or made.size > limits.numbers or not np.isfinite(made).all():
        raise InputError(f"1 to {limits.numbers:,} finite numbers are taken. Got {made.size:,}"
                         f"{'' if np.isfinite(made).all() else ', not all finite'}.")  # fmt: skip
    return made, made.size


def ids_of(value: Any, limits: Limits) -> tuple[list[str], int]:
    if not isinstance(value, list) or not value or len(value) > limits.numbers:
        raise InputError("The items of a history are a list of ids.")
    return [str(one) for one in value], len(value)


_MADE = {"text": text_of, "image": image_of, "vector": numbers_of, "series": numbers_of, "items": ids_of}


def pieces(costs: Sequence[int], most: int, each: int) -> list[list[int]]:
    """Places of items in batches of like sizes, so that the work is least: a batch costs `each`, and its largest item
    once for every item, since the others are padded to it. That is at most `most`, or the item is alone."""
    order = np.argsort(costs, kind="stable")
    least, begins = np.zeros(len(order) + 1), np.zeros(len(order), int)
    for last, place in enumerate(order):
        largest = max(costs[place], 1)
        first = np.arange(max(0, last + 1 - max(1, most // largest)), last + 1)
        work = least[first] + each + (last + 1 - first) * largest
        begins[last], least[last + 1] = first[work.argmin()], work.min()
    found: list[list[int]] = []
    end = len(order)
    while end:
        begin = begins[end - 1]
        found.append([int(place) for place in order[begin:end]])
        end = begin
    return found[::-1]
