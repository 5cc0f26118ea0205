"""CACR: attraction to far positives, repulsion from near negatives, each weighted given the anchor (TMLR 2023).

Three forms, as in the paper's three settings: `cacr` within the batch, `cacr_queue` against a queue of past keys,
`cacr_targets` against the targets of a momentum encoder. All compare unit vectors by their squared distance
c(u, v) = |u - v|^2 = 2 - 2 u.v; attraction and repulsion never share a denominator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.losses.rows import relative_penalty
from nearfar.similarity import Block, Count, ExcludedPairs, LogSumExp, Similarity, SoftmaxMean, normalise, one_way
from nearfar.similarity.layouts import Extras

REPULSIONS = ("euclidean", "rbf")


def attraction(
    anchor: Tensor, positives: Sequence[Tensor], *, alpha: float = 1.0, tau_pos: float = 1.0, detach: bool = False
) -> Float[Tensor, "n"]:
    """CA_i = alpha sum_p w_p c_p, w = softmax_p(+tau_pos c_p): the farther a positive, the more it is pulled.

    anchor and each of the positives: unit vectors (n, D). In [0, 4 alpha].
    """
    cost = torch.stack([2 - 2 * (anchor * p).sum(1) for p in positives], 1)
    w = attraction_weights(cost.detach() if detach else cost, tau_pos)
    return alpha * (w * cost).sum(1)


def attraction_weights(cost: Float[Tensor, "n p"], tau_pos: float = 1.0) -> Float[Tensor, "n p"]:
    """w = softmax_p(+tau_pos c_p) over an anchor's positives, c squared distances in [0, 4]: rows of sum 1, the farther
    the more; uniform at 0."""
    return torch.softmax(tau_pos * cost, 1)


def repulsion_weights(
    anchor: Float[Tensor, "n d"],
    other: Float[Tensor, "n d"],
    tau_neg: float = 2.0,
) -> Float[Tensor, "n n"]:
    """v_ij = softmax over j != i of -tau_neg |z_i - z'_j|^2 of unit vectors, v_ii = 0: the nearer the more; uniform
    at 0.

    The whole matrix, to look at: the losses sum with it without making it."""
    return relative_penalty(one_way(anchor, other, temperature=1 / (2 * max(tau_neg, 1e-6))).parts[0])


def target_weights(
    queries: Sequence[Float[Tensor, "n d"]],
    key: Float[Tensor, "n d"],
    temperature: float = 1.0,
) -> Float[Tensor, "a n"]:
    """p_ai = softmax over the queries a of |q_i^a - k_i|^2 / T, unit vectors; constant: a farther query counts more."""
    far = torch.stack([2 - 2 * (q.detach() * key.detach()).sum(1) for q in queries])
    return torch.softmax(far / temperature, 0)


def cacr(
    views: Sequence[Float[Tensor, "n d"]],
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    tau_pos: float = 1.0,
    tau_neg: float = 2.0,
    repulsion: str = "euclidean",
    t: float = 2.0,
    tau_plus: float = 0.0,
    detach: bool = False,
    official: bool = False,
    negatives: str = "local",
    excluded: ExcludedPairs | None = None,
) -> Float[Tensor, ""]:
    """Form A, in the batch: the mean attraction of every view plus the mean repulsion of every pair of views a < b.

    Attraction of view a of item i: `attraction` to its other views. Repulsion of (a, b): -beta sum_j v_ij D_ij over the
    other items j, D_ij = |z_i^a - z_j^b|^2, v = softmax_j(-tau_neg D_ij): the nearer a negative, the more it is pushed.
    In [-4 beta, 4 alpha] (euclidean), 0 at collapse, may be negative; no repulsion for n = 1.

    Args:
        views: V tensors (n, D), row i of each is the same item.
        tau_pos, tau_neg: 0 gives uniform weights. Paper: 1 and 0.9 to 2. alpha, beta scale the costs only.
        repulsion: "rbf" replaces it by beta log( mean_i sum_j v_ij e^{-t D_ij} ).
        tau_plus: share of hidden positives that is taken out: (-beta sum_j v D + tau_plus c_ii) / (1 - tau_plus).
        detach: the weights are constants in the gradient (the value is the same).
        official: the released code's sign of the tau_plus term, which pushes the positive away.
        excluded: items that are no negatives of each other.

    Source: CACR, Zheng et al., TMLR 2023. Raises InputError with fewer than two views, or options that do not fit.
    """
    _check(repulsion, tau_plus)
    z = [normalise(v) for v in views]
    if len(z) < 2:
        raise InputError(f"CACR needs at least two views. Got {len(z)}.")
    pairs = {
        (a, b): one_way(z[a], z[b], excluded=excluded, negatives=negatives).parts[0]
        for a in range(len(z))
        for b in range(a + 1, len(z))
    }
    push = [_repulsion(s, beta, tau_neg, repulsion, t, tau_plus, detach, -1 if official else 1) for s in pairs.values()]
    pull = [
        pairs[0, 1].mean(attraction(v, [w for w in z if w is not v], alpha=alpha, tau_pos=tau_pos, detach=detach))
        for v in z
    ]
    return torch.stack(pull).mean() + torch.stack(push).mean()


def _check(repulsion: str, tau_plus: float) -> None:
    if repulsion not in REPULSIONS:
        raise InputError(f"repulsion must be one of {', '.join(REPULSIONS)}. Got '{repulsion}'.")
    if not 0 <= tau_plus < 1:
        raise InputError(f"tau_plus must be in [0, 1). Got {tau_plus}.")
    if tau_plus and repulsion == "rbf":
        raise InputError("tau_plus is defined for the euclidean repulsion only.", "Use tau_plus=0 with rbf.")


def _repulsion(
    s: Similarity, beta: float, tau: float, kind: str, t: float, tau_plus: float, detach: bool, sign: int
) -> Tensor:
    if kind == "rbf":
        r = rows.rbf_repulsion_rows(s, tau=tau, t=t, detach=detach)
        return beta * s.log_mean_exp(r, where=r > -torch.inf)
    push = -beta * rows.repulsion_rows(s, tau=tau, detach=detach)
    if tau_plus:
        some = s.reduce(Count(where=s.negative)) > 0
        push = torch.where(some, (push + sign * tau_plus * (2 - 2 * s.paired())) / (1 - tau_plus), 0)
    return s.mean(push)


def cacr_queue(
    queries: Sequence[Float[Tensor, "n d"]],
    keys: Sequence[Float[Tensor, "n d"]],
    queue: Float[Tensor, "k d"] | Extras,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    tau_pos: float = 1.0,
    tau_neg: float = 2.0,
    in_batch: bool = True,
    official: bool = False,
    negatives: str = "local",
    excluded: ExcludedPairs | None = None,
) -> Float[Tensor, ""]:
    """Form B, against a queue of past keys: query views (with gradient), the teacher's key views (without).

    Attraction of query view a to the keys of the other views, weights constant. Repulsion over one softmax of the queue
    (its weights constant) and, with `in_batch`, the other items' queries of the SAME view (weights in the gradient).
    The mean over views. In [-4 beta, 4 alpha], 0 at collapse.

    Args: queue: keys (K, D), or what a layout takes as `extra_candidates`: blocks of candidates, or a function that
    makes them.
        official: the released code computes the products with the queue once, so that every view's repulsion uses the
        FIRST view's distances to it.
    Raises InputError with fewer than two views, or different numbers of query and key views.
    """
    if len(queries) < 2 or len(queries) != len(keys):
        raise InputError(
            "cacr_queue needs at least two views and as many key views as query views. "
            f"Got {len(queries)} and {len(keys)}."
        )
    q, k = [normalise(v) for v in queries], [normalise(v.detach()) for v in keys]
    extra_candidates = [Block(queue, gradient=False)] if isinstance(queue, Tensor) else queue
    made = [
        one_way(v, v, excluded=excluded, extra_candidates=extra_candidates, negatives=negatives).parts[0] for v in q
    ]
    terms = []
    for a, view in enumerate(q):
        source = 0 if official else a
        batch = Similarity(view, made[a].blocks[0], positive=made[a].positive, group=made[a].group)
        past = Similarity(q[source], made[source].blocks[1:]) if made[source].blocks[1:] else None
        push = _two_sources(past, batch if in_batch else None, tau_neg, view)
        pull = attraction(view, [key for b, key in enumerate(k) if b != a], alpha=alpha, tau_pos=tau_pos, detach=True)
        terms.append(batch.mean(pull - beta * push))
    return torch.stack(terms).mean()


def _two_sources(past: Similarity | None, batch: Similarity | None, tau: float, like: Tensor) -> Tensor:
    """sum_j v_j D_j of one softmax over constant-weight candidates (`past`) and others (`batch`)."""
    empty = (like.new_full(like.shape[:1], -torch.inf), like.new_zeros(like.shape[:1]))

    def ask(s: Similarity | None, detach: bool) -> Sequence[Tensor]:
        return (
            empty
            if s is None
            else s.reduce(
                LogSumExp(scale=2 * tau, where=s.negative), SoftmaxMean(scale=2 * tau, where=s.negative, detach=detach)
            )
        )

    (old, near), (new, mean) = ask(past, True), ask(batch, False)
    some, both = (old > -torch.inf) | (new > -torch.inf), (old > -torch.inf) & (new > -torch.inf)
    share = torch.sigmoid(torch.where(both, old.detach(), 0) - torch.where(both, new, 0))
    share = torch.where(both, share, (old > -torch.inf).to(share.dtype))
    return torch.where(some, 2 - 2 * (share * near + (1 - share) * mean), 0)


def cacr_targets(
    queries: Sequence[Float[Tensor, "n d"]],
    targets: Sequence[Float[Tensor, "n d"]],
    *,
    temperature: float = 1.0,
    cost: str = "rbf",
    official: bool = False,
    negatives: str = "local",
    excluded: ExcludedPairs | None = None,
) -> Float[Tensor, ""]:
    """Form C, against a momentum encoder's targets of the first views: the mean over the target views.

    For target view t the queries are all other views a, with shares p_ai = softmax_a(|q_i^a - k_i|^2 / T), constants.
    cost "rbf": sum_a mean_i p_ai 2T CE_i, CE_i InfoNCE at temperature T: two views give MoCo-v3's loss, halved.
    cost "euclidean": c = 1 - q.k, sum_a mean_i p_ai (c_ii - sum_{j != i} v_ij c_ij), v = softmax_j(-c_ij / T) constant.
    rbf: in [0, inf), 2T log n at collapse; euclidean: in [-2, 2], 0 at collapse.

    Args: official: the euclidean cost is summed over the items, as the released code does.
    Raises InputError with fewer than two query views, no target, or an unknown cost.
    """
    if len(queries) < 2 or not 1 <= len(targets) <= len(queries) or cost not in REPULSIONS:
        raise InputError(
            f"cacr_targets needs two query views, one to as many targets, and a cost of {REPULSIONS}. "
            f"Got {len(queries)}, {len(targets)} and '{cost}'."
        )
    q, k = [normalise(v) for v in queries], [normalise(v.detach()) for v in targets]
    terms = []
    for t, key in enumerate(k):
        others = [v for a, v in enumerate(q) if a != t]
        shares = target_weights(others, key, temperature)
        for v, p in zip(others, shares, strict=True):
            s = one_way(v, key, temperature=temperature, excluded=excluded, negatives=negatives).parts[0]
            if cost == "rbf":
                terms.append(s.mean(2 * temperature * p * rows.info_nce_rows(s)))
            else:
                terms.append(_euclidean_target(s, p, temperature, official))
    return torch.stack(terms).sum() / len(k)


def _euclidean_target(s: Similarity, share: Tensor, temperature: float, official: bool) -> Tensor:
    mean, count = s.reduce(SoftmaxMean(where=s.negative, detach=True), Count(where=s.negative))
    near = 1 - temperature * s.paired()
    gap = torch.where(count > 0, near - 1 + temperature * mean, near)
    return s.mean(share * gap) * (gap.shape[0] if official else 1)
