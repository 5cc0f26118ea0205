"""Cells of the report: small images and the beginnings of texts."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image, features

from nearfar.errors import InputError

TEXT_LENGTH = 240


def thumbnail(image: Any, size: int = 48) -> str:
    """A data-URI of a uint8 image, (3, h, w), (h, w, 3) or (h, w), at most `size` pixels a side."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise InputError(f"A thumbnail needs a uint8 image. Got {array.dtype} {array.shape} instead.")
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    small = Image.fromarray(array.squeeze()).convert("RGB")
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    kind = "webp" if features.check("webp") else "png"
    buffer = io.BytesIO()
    small.save(buffer, kind, **({"quality": 85, "method": 4} if kind == "webp" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def clip(text: str, length: int = TEXT_LENGTH) -> str:
    """The beginning of a text, its white space evened."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def bars(row: Any, size: int = 48) -> str:
    """A data-URI of standardised numbers as bars up and down from a line, cut at 3 deviations; more numbers than fit
    are averaged in runs. An empty number is 0."""
    side = 2 * size
    runs = np.array_split(np.nan_to_num(np.asarray(row, np.float64)), min(side // 3, len(row)))
    pixels = np.full((side, side, 3), 255, np.uint8)
    pixels[size] = 160
    edges = np.linspace(0, side, len(runs) + 1).round().astype(int)
    for run, left, right in zip(runs, edges, edges[1:], strict=False):
        height = round(min(3.0, abs(run.mean())) / 3 * (size - 2))
        rows = slice(size - height, size) if run.mean() > 0 else slice(size + 1, size + 1 + height)
        pixels[rows, left : max(left + 1, right - 1)] = (194, 87, 26) if run.mean() > 0 else (42, 111, 176)
    return thumbnail(pixels, side)


_COLOURS = ((42, 111, 176), (194, 87, 26), (59, 135, 84), (128, 82, 158), (176, 46, 72), (100, 100, 100))


def lines(values: Any, size: int = 48) -> str:
    """A data-URI of a series (T, C) as lines, a channel each (the first six), between the smallest and the largest
    value; a gap where a value is missing."""
    from PIL import ImageDraw

    side, found = 2 * size, np.asarray(values, np.float64)[:, : len(_COLOURS)]
    small = Image.new("RGB", (2 * side, side), "white")
    there = np.isfinite(found)
    low, high = (found[there].min(), found[there].max()) if there.any() else (0.0, 0.0)
    x = np.linspace(1, 2 * side - 2, max(len(found), 2))[: len(found)]
    y = 1 + (side - 3) * (1 - (found - low) / (high - low)) if high > low else np.where(there, side / 2, np.nan)
    draw = ImageDraw.Draw(small)
    for channel in reversed(range(found.shape[1])):
        for run in np.split(np.arange(len(found)), np.flatnonzero(np.diff(there[:, channel])) + 1):
            if there[run, channel].all() and len(run):
                points = list(zip(x[run].tolist(), y[run, channel].tolist(), strict=True))
                (draw.line if len(points) > 1 else draw.point)(points, fill=_COLOURS[channel])
    return thumbnail(np.asarray(small), 2 * side)
