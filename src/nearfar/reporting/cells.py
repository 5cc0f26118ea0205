"""Cells of the report: small pictures and the beginnings of texts."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image, features

from nearfar.errors import InputError

TEXT_LENGTH = 240


def thumbnail(image: Any, size: int = 48) -> str:
    """A data-URI of a uint8 picture, (3, h, w), (h, w, 3) or (h, w), at most `size` pixels a side."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise InputError(f"A thumbnail needs a uint8 picture. Got {array.dtype} {array.shape} instead.")
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    picture = Image.fromarray(array.squeeze()).convert("RGB")
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    kind = "webp" if features.check("webp") else "png"
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 85, "method": 4} if kind == "webp" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def clip(text: str, length: int = TEXT_LENGTH) -> str:
    """The beginning of a text, its white space evened."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def bars(row: Any, size: int = 48) -> str:
    """A data-URI of standardised numbers as bars up and down from a line, cut at 3 deviations; an empty number has no
    bar, more than `size` numbers are averaged in runs."""
    values = np.asarray(row, np.float64)
    runs = np.array_split(values, min(size, len(values)))
    means = [float(np.mean(run[~np.isnan(run)])) if (~np.isnan(run)).any() else 0.0 for run in runs]
    width = size / max(1, len(means))
    parts = []
    for place, value in enumerate(means):
        height = min(abs(value), 3) / 3 * (size / 2 - 1)
        top = size / 2 - height if value > 0 else size / 2
        colour = "#c2571a" if value > 0 else "#2a6fb0"
        parts.append(f'<rect x="{place * width:.2f}" y="{top:.2f}" width="{max(0.6, 0.85 * width):.2f}" '
                     f'height="{height:.2f}" fill="{colour}"/>')  # fmt: skip
    drawn = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}">'
             f'<path d="M0 {size / 2}H{size}" stroke="#999" stroke-width="0.6"/>{"".join(parts)}</svg>')  # fmt: skip
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}"
