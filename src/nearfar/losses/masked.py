"""The masked-LM term of text encoders: which tokens are hidden, and how well they are told (BERT, NAACL 2019).

each ordinary token is chosen with probability `share`; of the chosen ones 80 % become [MASK], 10 % a random token,
10 % stay as they are;  loss = mean over the chosen tokens of -log softmax(scores)[token]
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from nearfar.similarity import accumulated

MASKED, RANDOM = 0.8, 0.1
IGNORED = -100  # what torch's cross-entropy leaves out


def mask_tokens(
    ids: Int[Tensor, "n l"],
    ordinary: Bool[Tensor, "n l"],
    *,
    mask_id: int,
    size: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "n l"], Int[Tensor, "n l"]]:
    """Ids with some hidden, and the targets: the true id where a token was chosen, -100 elsewhere.

    ordinary: places that may be chosen (no padding, no special tokens). mask_id: of [MASK]; size: random tokens come
    from [0, size). Source: BERT, Devlin et al., NAACL 2019, sec. 3.1."""
    where = "cpu" if generator is None else generator.device
    u = torch.rand((2, *ids.shape), generator=generator, device=where).to(ids.device)
    other = torch.randint(size, ids.shape, generator=generator, device=where).to(ids.device)
    chosen = (u[0] < share) & ordinary
    changed = torch.where(u[1] < MASKED, torch.full_like(ids, mask_id), torch.where(u[1] < MASKED + RANDOM, other, ids))
    return torch.where(chosen, changed, ids), torch.where(chosen, ids, IGNORED)


def mask_spans(
    ids: Int[Tensor, "n l"],
    ordinary: Bool[Tensor, "n l"],
    spans: Bool[Tensor, "n l"],
    units: Int[Tensor, "n l"],
    *,
    mask_id: int,
    size: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "n l"], Int[Tensor, "n l"]]:
    """Ids in which every token of a span (of a slot's value) is [MASK], and the targets; a unit (an utterance) without
    a span is hidden as `mask_tokens` does.

    units: the number of the unit that a place is in, below 0 for none (hidden as in a unit
    without a span). Of the rest as in `mask_tokens`. Source:
    SPACE-2 (COLING 2022), masked LM of labelled dialogues."""
    inside, count = units >= 0, units.clamp(min=0)
    spans = spans & ordinary & inside
    held = torch.zeros(len(ids), int(count.max()) + 1 if count.numel() else 1, device=ids.device)
    held = held.scatter_add(1, count, spans.float()).gather(1, count) > 0
    held = held & inside
    other, targets = mask_tokens(ids, ordinary & ~held, mask_id=mask_id, size=size, share=share, generator=generator)
    return other.masked_fill(spans, mask_id), torch.where(spans, ids, targets)


def masked_lm(logits: Float[Tensor, "m v"], targets: Int[Tensor, "m"]) -> Float[Tensor, ""]:
    """The mean of -log softmax(logits)[target] over the rows whose target is not -100; 0 where there is none.

    Range [0, inf); log v for equal logits. Half precision is computed in float32. Source: BERT, NAACL 2019."""
    return masked_lm_rows(logits, targets).sum() / (targets >= 0).sum().clamp(min=1)


def masked_lm_rows(logits: Float[Tensor, "m v"], targets: Int[Tensor, "m"]) -> Float[Tensor, "m"]:
    """-log softmax(logits)[target] of each row, 0 where the target is -100: `masked_lm` before its mean."""
    return cross_entropy(accumulated(logits), targets, ignore_index=IGNORED, reduction="none")


__all__ = ["mask_spans", "mask_tokens", "masked_lm", "masked_lm_rows"]
