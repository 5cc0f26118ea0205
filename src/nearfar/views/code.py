"""Soft data augmentation of tokens (CoCoSoDa, ICSE 2023): some are masked, or replaced by the kind that they are.

All take ids (n, L), the places that may change, and a rate r: a place is chosen with probability r, and of the chosen
ones 80 % change. What is no ordinary token (special ones, padding, tokens without a kind) never does.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.losses.masked import MASKED, mask_tokens
from nearfar.views.text import uniform

Soft = Literal["dynamic-masking", "dynamic-replacement", "replacement-of-kind", "masking-of-kind"]
SOFT: tuple[Soft, ...] = ("dynamic-masking", "dynamic-replacement", "replacement-of-kind", "masking-of-kind")


def changed(
    ids: Int[Tensor, "n l"],
    by: Int[Tensor, "n l"],
    places: Bool[Tensor, "n l"],
    rate: float,
    generator: torch.Generator,
) -> Int[Tensor, "n l"]:
    """Ids of which each of the places is chosen with probability `rate`, and a chosen one becomes that of `by` with
    probability 0.8."""
    u = uniform((2, *ids.shape), generator, ids.device)
    return torch.where(places & (u[0] < rate) & (u[1] < MASKED), by, ids)


def dynamic_replacement(
    ids: Int[Tensor, "n l"],
    kinds: Int[Tensor, "n l"],
    kind_ids: Int[Tensor, "k"],
    rate: float,
    generator: torch.Generator,
) -> Int[Tensor, "n l"]:
    """Chosen tokens become the token of their kind. kinds: of each token, -1 for none; kind_ids: the token of each.
    Source: CoCoSoDa, DR."""
    return changed(ids, kind_ids[kinds.clamp(min=0)], kinds >= 0, rate, generator)


def drawn_kind(kinds: Int[Tensor, "n l"], generator: torch.Generator) -> Int[Tensor, ""]:
    """One of the kinds that the batch holds, each alike; -1 where it holds none."""
    known = kinds[kinds >= 0].unique()
    if not len(known):
        return kinds.new_tensor(-1)
    place = uniform((1,), generator, kinds.device) * len(known)
    return known[place.long().clamp(max=len(known) - 1)][0]


def replacement_of_kind(
    ids: Int[Tensor, "n l"],
    kinds: Int[Tensor, "n l"],
    kind_ids: Int[Tensor, "k"],
    rate: float,
    generator: torch.Generator,
) -> Int[Tensor, "n l"]:
    """Chosen tokens of one kind, drawn for the batch, become the token of it. Source: CoCoSoDa, DRST."""
    kind = drawn_kind(kinds, generator)
    return changed(ids, kind_ids[kind.clamp(min=0)].expand_as(ids), (kinds == kind) & (kinds >= 0), rate, generator)


def masking_of_kind(
    ids: Int[Tensor, "n l"], kinds: Int[Tensor, "n l"], mask_id: int, rate: float, generator: torch.Generator
) -> Int[Tensor, "n l"]:
    """Chosen tokens of one kind, drawn for the batch, become the mask token. Source: CoCoSoDa, DMST."""
    kind = drawn_kind(kinds, generator)
    return changed(ids, torch.full_like(ids, mask_id), (kinds == kind) & (kinds >= 0), rate, generator)


def softly(
    name: Soft,
    ids: Int[Tensor, "n l"],
    kinds: Int[Tensor, "n l"] | None,
    ordinary: Bool[Tensor, "n l"],
    *,
    kind_ids: Int[Tensor, "k"],
    mask_id: int,
    size: int,
    rate: float,
    generator: torch.Generator,
) -> Int[Tensor, "n l"]:
    """One of the four by name; dynamic masking is that of BERT (80 % mask, 10 % a random token of [0, size), 10 % as
    it is), of the `ordinary` tokens. Raises InputError for another name, and where kinds are asked for and not
    known."""
    one_of("name", name, SOFT)
    if name == "dynamic-masking":
        return mask_tokens(ids, ordinary, mask_id=mask_id, size=size, share=rate, generator=generator)[0]
    if kinds is None:
        raise InputError(f"'{name}' needs the kinds of the tokens, which texts do not have.", "Use dynamic-masking.")
    kinds = torch.where(ordinary, kinds, -1)
    if name == "masking-of-kind":
        return masking_of_kind(ids, kinds, mask_id, rate, generator)
    one = dynamic_replacement if name == "dynamic-replacement" else replacement_of_kind
    return one(ids, kinds, kind_ids, rate, generator)
