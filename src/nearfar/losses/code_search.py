"""Code, query and their augmented copies among queues of past ones (CoCoSoDa, ICSE 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import Block, Layout, one_way

BETWEEN = (("code", "text"), ("code", "text'"), ("text", "code"), ("text", "code'"))
WITHIN = (("code", "code'"), ("text", "text'"))
SORTS = ("code", "text", "code'", "text'")


def cocosoda_terms(
    vectors: Mapping[str, Tensor], extra_candidates: Mapping[str, Any], *, within: bool = True, **options: Any
) -> dict[str, Layout]:
    """Each term by its name ("code text'"): the anchors of one sort against the keys of another, beside what is added
    for keys of that sort. vectors: "code", "text" and their copies "code'", "text'", (n, d) each; within: the terms of
    code and query against their own copies as well. options: of `one_way`. Raises InputError where one is missing, or
    their shapes differ."""
    _check_vectors(vectors)
    return {f"{a} {b}": one_way(vectors[a], vectors[b], extra_candidates=extra_candidates[b], **options)
            for a, b in BETWEEN + (WITHIN if within else ())}  # fmt: skip


def cocosoda(
    vectors: Mapping[str, Float[Tensor, "n d"]],
    queues: Mapping[str, Float[Tensor, "k d"]],
    *,
    within: bool = True,
    temperature: float | Tensor = 0.07,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean of four InfoNCE between code and query, and of two within each: anchors (code, query) find their key
    among those of the batch and a queue of the key's sort.

    vectors, queues: "code", "text", "code'", "text'" (copies by the teacher); compared by cosine. No gradient reaches
    copies and queues. Range [0, inf); log(n + k) for equal vectors. Raises InputError where one is missing,
    or shapes do not fit. Source: CoCoSoDa, ICSE 2023, sec. 3."""
    _check_vectors(vectors)
    _check_queues(queues, next(iter(vectors.values())).shape[1])
    vectors = {name: x.detach() if name.endswith("'") else x for name, x in vectors.items()}
    past = {name: [Block(x.detach(), gradient=False)] if len(x) else [] for name, x in queues.items()}
    found = cocosoda_terms(vectors, past, within=within, temperature=temperature, negatives=negatives)
    return torch.stack([layout.loss(info_nce_rows) for layout in found.values()]).mean()


def _check_vectors(vectors: Mapping[str, Tensor]) -> None:
    found = {name: tuple(x.shape) for name, x in vectors.items()}
    if set(found) != set(SORTS) or len(set(found.values())) != 1 or len(found["code"]) != 2:
        raise InputError(f"Vectors are {_named(dict.fromkeys(SORTS, '(n, d)'))}, all of one shape. Got "
                         f"{_named(found)}.")  # fmt: skip


def _check_queues(queues: Mapping[str, Tensor], d: int) -> None:
    found = {name: tuple(x.shape) for name, x in queues.items()}
    if set(found) != set(SORTS) or any(shape[1:] != (d,) for shape in found.values()):
        raise InputError(f"Queues are {_named(dict.fromkeys(SORTS, f'(k, {d})'))}. Got {_named(found)}.")


def _named(shapes: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"


__all__ = ["cocosoda", "cocosoda_terms"]
