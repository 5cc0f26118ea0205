"""Next items and views of histories: the cross-entropy over all items, InfoNCE of inner products, and MCLRec's terms.

    s_ij = v_i . v_j / T    v = (a; b), 2n rows;    the positive of row i is row (i + n) mod 2n, the rest are negatives

`negatives`: "local" contrasts within this process, "global" across all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from nearfar.errors import InputError
from nearfar.similarity import normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import exchange

Inner = Literal["dot", "cos"]


def next_item(
    states: Float[Tensor, "n d"],
    table: Float[Tensor, "c d"],
    items: Int[Tensor, "n"],
    *,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Mean cross-entropy of softmax(h E^T) over all c items with the item that came next; 0 of no rows.

    items: rows of `table`, 0 to c - 1. Range [0, inf); log c where all scores are equal. Source: the form of SASRec
    (Kang and McAuley, ICDM 2018) that RecBole and MCLRec train, over all items instead of one that is sampled.
    """
    if states.shape[0] != items.shape[0] or states.shape[1] != table.shape[1]:
        raise InputError(f"Needs states (n, d), a table (c, d) and items (n,). Got {tuple(states.shape)}, "
                         f"{tuple(table.shape)} and {tuple(items.shape)}.")  # fmt: skip
    with full_precision(states.device):
        wide = torch.promote_types(states.dtype, torch.float32)
        logits = states.to(wide) @ table.to(wide).T
        return exchange(negatives).mean(cross_entropy(logits, items, reduction="none"))


def stacked(a: Tensor, b: Tensor, temperature: float, similarity: Inner, negatives: str) -> tuple[Tensor, Tensor]:
    """s (2n, 2n) with -inf on its diagonal, and the column of the positive of each row (2n,); n of all processes."""
    if a.shape != b.shape or a.dim() != 2:
        raise InputError(f"Two sides of pairs have one shape (n, d). Got {tuple(a.shape)} and {tuple(b.shape)}.")
    net = exchange(negatives)
    wide = torch.promote_types(a.dtype, torch.float32)
    v = torch.cat([net.gather(x)[0].to(wide) for x in (a, b)])
    if similarity == "cos":
        v = normalise(v)
    own = torch.eye(len(v), dtype=torch.bool, device=v.device)
    return (v @ v.T / temperature).masked_fill(own, -torch.inf), torch.arange(len(v), device=v.device).roll(len(v) // 2)


def pair_contrast(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    *,
    temperature: float = 1.0,
    similarity: Inner = "dot",
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Mean over the 2n anchors of logsumexp_{j != i} s_ij - s_i,positive: NT-Xent of inner products.

    similarity: "dot" (raw) or "cos", where it equals `nt_xent`. Symmetric in a and b; range [0, inf), 0 for n = 1,
    log(2n - 1) for an infinite temperature. Source: CL4SRec (Xie et al., ICDE 2022), L_cl; MCLRec's L_con.
    """
    with full_precision(a.device):
        s, positive = stacked(a, b, temperature, similarity, negatives)
        return cross_entropy(s, positive) if len(s) else (a.sum() + b.sum()) * 0


def contrast_regulariser(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    *,
    temperature: float = 1.0,
    whole: bool = False,
    similarity: Inner = "dot",
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """R = mean_i [p_i - lo_i]_+ + mean_ij [hi_i - n_ij]_+, lo_i = min(p_i, max N_i), hi_i = max(p_i, max N_i); p_i is
    the score of the positive of anchor i, N_i are those of its 2n - 2 negatives.

    A pair that is told apart easily is drawn back, and every negative up to the largest score of its row. whole: min
    and max are over the whole batch, min_i p_i in place of p_i. Range [0, inf), symmetric; 0 for n = 1, which has no
    negatives. Gradients flow through min and max. Source: MCLRec (SIGIR 2023), its code; with `whole` its paper.
    """
    with full_precision(a.device):
        s, positive = stacked(a, b, temperature, similarity, negatives)
        if len(s) <= 2:
            return (a.sum() + b.sum()) * 0
        rows = torch.arange(len(s), device=s.device)
        p, others = s[rows, positive], torch.ones_like(s, dtype=torch.bool)
        others[rows, rows] = others[rows, positive] = False
        n = s[others].view(len(s), -1)
        one, most = (p.min(), n.max()) if whole else (p, n.amax(1))
        low, high = torch.minimum(one, most), torch.maximum(one, most)
        return (p - low).relu().mean() + (high.view(-1, 1) - n).relu().mean()


def augmented_contrast(
    h: Sequence[Float[Tensor, "n d"]],
    z: Sequence[Float[Tensor, "n d"]],
    *,
    similarity: Inner = "dot",
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """L_cl2 = L_con(z1, z2) + L_con(h1, z2) + L_con(h2, z1), all at temperature 1: what the augmenters made of two
    views against each other, and against the other view itself. In [0, inf). Source: MCLRec."""
    (h1, h2), (z1, z2) = h, z
    pairs = ((z1, z2), (h1, z2), (h2, z1))
    return torch.stack([pair_contrast(a, b, similarity=similarity, negatives=negatives) for a, b in pairs]).sum()


def augmented_regulariser(
    h: Sequence[Float[Tensor, "n d"]],
    z: Sequence[Float[Tensor, "n d"]],
    *,
    temperature: float = 1.0,
    form: Literal["rows", "whole"] = "rows",
    similarity: Inner = "dot",
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The regulariser of (h1, z2), (h2, z1) and (z1, z2), summed, with min and max of each row (the code); form
    "whole": of (z1, z2) alone, with those of the batch (the paper). In [0, inf). Source: MCLRec."""
    (h1, h2), (z1, z2) = h, z
    pairs = ((z1, z2),) if form == "whole" else ((h1, z2), (h2, z1), (z1, z2))
    options = {"temperature": temperature, "similarity": similarity, "negatives": negatives}
    return torch.stack([contrast_regulariser(a, b, whole=form == "whole", **options) for a, b in pairs]).sum()
