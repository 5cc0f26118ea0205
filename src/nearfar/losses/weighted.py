"""Two views of nodes whose negatives have weights: those of one cluster weigh less, or weights are learned.

weights = cluster_weights(assignments)                                     # MEOW: (R, n) -> (n, n)
loss = weighted_contrast(u, v, weights, temperature=0.4)                   # every matrix is n x n in memory
loss += prototype_contrast(u, centres, assignment, concentration(v, centres, assignment, temperature=0.4))

Source: MEOW, SDM 2023, and AdaMEOW (arXiv 2212.13847), as its card's letters C and D.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.similarity import normalise
from nearfar.similarity.answer.numerics import safe_log

ROWS = 1024  # anchors whose learned weights are computed at once
FLOOR = 0.01  # the smallest concentration, as a share of the temperature


def cluster_weights(assignments: Int[Tensor, "r n"]) -> Float[Tensor, "n n"]:
    """w_ij = R - (in how many of the R clusterings i and j share a cluster): integers in [0, R], symmetric, 0 on the
    diagonal; a constant. Source: card C."""
    weights = torch.full((assignments.shape[1],) * 2, float(len(assignments)), device=assignments.device)
    for one in assignments:
        weights -= (one[:, None] == one).to(weights.dtype)
    return weights


def learned_weights(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    w1: Float[Tensor, "h d"],
    b1: Float[Tensor, " h"],
    w2: Float[Tensor, " h"],
    b2: Float[Tensor, ""],
) -> Float[Tensor, "n m"]:
    """alpha_ij = sigmoid(w2 . tanh(W1 (a_i + b_j) + b1) + b2), in (0, 1); gradients reach everything. Values of h x n x
    m are computed anew in the backward pass, 1,024 rows at a time. Source: card D."""
    left, right = a @ w1.T + b1, b @ w1.T
    parts = [checkpoint(_scores, x, right, w2, use_reentrant=False) for x in left.split(ROWS)]
    scores = torch.cat(parts) if parts else left.new_zeros(0, len(b))
    return torch.sigmoid(scores + b2)


def _scores(left: Tensor, right: Tensor, w2: Tensor) -> Tensor:
    return (left[:, None] + right).tanh() @ w2


def balanced_weights(weights: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Weights over their mean in each row, so that no row gains by lowering all of its own; rows of 0 stay."""
    mean = weights.mean(1, keepdim=True)
    return weights / torch.where(mean > 0, mean, 1)


def weighted_contrast(
    anchors: Float[Tensor, "n d"],
    candidates: Float[Tensor, "n d"],
    weights: Float[Tensor, "n n"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """mean_i [ log sum_j w_ij exp(cos(a_i, c_j) / tau) - cos(a_i, c_i) / tau ].

    The positive is in the sum only with the weight w_ii. With constant weights the value is at least
    -2 / tau + log sum_j w_ij; with learned ones it has no lower bound: all w -> 0 gives minus infinity, which
    `balanced_weights` prevents. Rows without any weight leave the mean; without any row it is 0.

    Args: weights: at least 0; gradients reach them.
    Raises InputError for other shapes, and a temperature that is not positive. Source: card C and D.
    """
    n = len(anchors)
    if anchors.shape != candidates.shape or weights.shape != (n, n):
        raise InputError(
            f"Needs anchors and candidates (n, d) alike and weights (n, n). Got {tuple(anchors.shape)}, "
            f"{tuple(candidates.shape)} and {tuple(weights.shape)}.")  # fmt: skip
    check_temperature(temperature)
    a, c = normalise(anchors), normalise(candidates)
    scores = a @ c.T / temperature + safe_log(weights.to(a.dtype))
    some = (weights > 0).any(1)
    rows = torch.logsumexp(scores[some], 1) - ((a * c).sum(1) / temperature)[some]
    return rows.sum() / max(1, len(rows)) + 0 * (a.sum() + c.sum())


def check_temperature(temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"The temperature must be positive. Got {temperature}.")


def centres_of(z: Float[Tensor, "n d"], assignment: Int[Tensor, " n"], clusters: int) -> Float[Tensor, "k d"]:
    """mu_k, the mean of a cluster's vectors brought to length 1; 0 for a cluster without members. A constant."""
    unit = normalise(z.detach())
    sums = unit.new_zeros(clusters, z.shape[1]).index_add(0, assignment, unit)
    return normalise(sums)


def concentration(
    z: Float[Tensor, "n d"],
    centres: Float[Tensor, "k d"],
    assignment: Int[Tensor, " n"],
    *,
    temperature: float = 1.0,
    measure: Literal["distance", "similarity"] = "distance",
) -> Float[Tensor, " k"]:
    """phi_k = tau raw_k / mean(raw), raw_k = mean over the members of sqrt(D) / log(n_k + 5); a constant.

    Clusters of fewer than two members have the largest raw; all are clipped to the 10th and 90th percentile, and no phi
    is below tau / 100.
    Args: measure: D = 2 - 2 cos(z_i, mu_k), so that tight clusters have a small phi (PCL, ICLR 2021), or the cosine
        itself, not below 0, as in the released code of MEOW, where they have a large one.
    Source: card C.
    """
    one_of("measure", measure, ("distance", "similarity"))
    check_temperature(temperature)
    with torch.no_grad():
        cosine = (normalise(z) * normalise(centres)[assignment]).sum(1)
        root = (2 - 2 * cosine if measure == "distance" else cosine).clamp(min=0).sqrt()
        count = torch.bincount(assignment, minlength=len(centres))
        total = root.new_zeros(len(centres)).index_add(0, assignment, root)
        raw = total / count.clamp(min=1) / (count + 5).to(root.dtype).log()
        raw = torch.where(count > 1, raw, torch.where(count > 1, raw, 0).max())
        low, high = torch.quantile(raw, raw.new_tensor([0.1, 0.9]))
        raw = raw.clamp(low, high)
        mean = raw.mean()
        phi = temperature * raw / mean if mean > 0 else torch.full_like(raw, temperature)
        return phi.clamp(min=FLOOR * temperature)


def prototype_contrast(
    anchors: Float[Tensor, "n d"],
    centres: Float[Tensor, "k d"],
    assignment: Int[Tensor, " n"],
    concentrations: Float[Tensor, " k"],
) -> Float[Tensor, ""]:
    """mean_i [ log( (N / K) sum_k exp(cos(a_i, mu_k) / phi_k) ) - cos(a_i, mu_c(i)) / phi_c(i) ].

    At least log(N / K): the factor is a constant. No gradient reaches centres and concentrations. Source: card C.
    """
    if len(centres) != len(concentrations) or len(anchors) != len(assignment):
        raise InputError(f"Needs a cluster for each of {len(anchors)} anchors and a concentration for each of "
                         f"{len(centres)} centres. Got {len(assignment)} and {len(concentrations)}.")  # fmt: skip
    if not len(anchors):
        return anchors.sum()
    a, mu = normalise(anchors), normalise(centres.detach())
    logits = a @ mu.T.to(a.dtype) / concentrations.detach().to(a.dtype)
    own = logits.gather(1, assignment[:, None])[:, 0]
    return (torch.logsumexp(logits, 1) - own).mean() + math.log(len(a) / len(mu))
