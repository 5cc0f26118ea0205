"""Captions of the same words in another order as negatives (NegCLIP, ICLR 2023)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import Layout, both_ways


def negclip_layout(image: Tensor, text: Tensor, hard_text: Tensor | None = None, **options: Any) -> Layout:
    """Images (n, d) against their texts (n, d) and all hard texts (m, d), and the texts back against the images
    alone: no image belongs to a hard text. options: of `nearfar.similarity.both_ways`; with several processes each
    one's hard texts follow its own texts. Raises InputError where shapes do not fit."""
    if image.shape != text.shape:
        raise InputError(f"Each image needs a text. Got {tuple(image.shape)} and {tuple(text.shape)}.")
    if hard_text is None:
        return both_ways(image, text, **options)
    if hard_text.dim() != 2 or hard_text.shape[1] != text.shape[1]:
        raise InputError(f"Hard texts are (m, {text.shape[1]}). Got {tuple(hard_text.shape)}.")
    return both_ways(image, torch.cat([text, hard_text]), **options)


def negclip(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    hard_text: Float[Tensor, "m d"] | None = None,
    *,
    temperature: float | Tensor = 0.07,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean of image -> text InfoNCE over all n + m texts, and of text -> image InfoNCE over the n images for the
    n true texts alone. Compared by cosine.

    image, text: row i of each belongs together; of hard images the rows follow those of the batch in both (n = 2B).
    hard_text: candidates of the first direction, in any order; None: the symmetric loss of CLIP. Every process gives as
    many. Range [0, inf); (log(n + m) + log n) / 2 at collapse. Raises InputError where shapes do not fit.
    Source: NegCLIP, ICLR 2023, sec. 4.
    """
    return negclip_layout(image, text, hard_text, temperature=temperature, negatives=negatives).loss(info_nce_rows)


__all__ = ["negclip", "negclip_layout"]
