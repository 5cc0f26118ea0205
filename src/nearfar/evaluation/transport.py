"""Optimal transport at inference: class prototypes are carried onto the cloud of the queries (OpTA of BECLR).

A few labelled examples give a biased class mean. The queries of a task, taken together, show where the classes lie;
moving each prototype to the mean of the queries that the transport plan assigns to it removes much of the bias. This
looks at all queries at once (transductive): compare it only with what may do so too.

Its rival without transport, `soft_k_means`, assigns each query by itself: what the plan's equal class sizes give is the
difference of the two.

Source: Poulakakis-Daktylidis and Jamali-Rad, BECLR, ICLR 2024, section 3.3; entropic transport: Cuturi, NeurIPS 2013;
soft k-means: Ren et al., Meta-Learning for Semi-Supervised Few-Shot Classification, ICLR 2018, equation 3.
"""

from typing import Any

import numpy as np

from nearfar.errors import InputError


def transport_plan(cost: Any, *, eps: float = 0.05, tolerance: float = 1e-4, most: int = 1000) -> np.ndarray:
    """The entropic plan between uniform weights: cost (..., n, m) -> P with row sums 1/n and column sums 1/m.

    Minimises <P, C> - eps H(P) by Sinkhorn's alternating updates of the potentials in log space, until those of the
    rows move by less than `tolerance` in all, or `most` rounds; each leading entry is a problem of its own.
    Raises InputError: eps <= 0, or a cost that is not finite.
    """
    cost = np.asarray(cost, np.float64)
    if not eps > 0:
        raise InputError(f"eps must be in (0, inf). Got {eps}.")
    if cost.ndim < 2 or not cost.size or not np.isfinite(cost).all():
        raise InputError(f"A transport plan needs a finite cost matrix (n, m). Got shape {cost.shape}.")
    n, m = cost.shape[-2:]
    score = -cost.reshape(-1, n, m) / eps
    u, v = np.zeros((len(score), n, 1)), np.zeros((len(score), 1, m))
    moving = np.arange(len(score))
    for _ in range(most):
        s = score[moving]
        fresh = -np.log(n) - _log_sum(s + v[moving], 2)
        moved = eps * np.abs(fresh - u[moving]).sum((1, 2))
        u[moving], v[moving] = fresh, -np.log(m) - _log_sum(s + fresh, 1)
        moving = moving[moved >= tolerance]
        if not len(moving):
            break
    return np.exp(score + u + v).reshape(cost.shape)


def _log_sum(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis, keepdims=True)
    return top + np.log(np.exp(x - top).sum(axis, keepdims=True))


def carried(prototypes: np.ndarray, queries: np.ndarray, *, eps: float = 0.05) -> np.ndarray:
    """One pass: each prototype (..., n, d) becomes the plan's weighted mean of the queries (..., m, d).

    The cost is the squared distance divided by its largest value; where all are equal nothing is told apart and every
    prototype becomes the queries' mean.
    """
    plan = transport_plan(distances(prototypes, queries), eps=eps)
    return plan / plan.sum(-1, keepdims=True) @ queries


def distances(prototypes: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Squared distances (..., n, m) of prototypes (..., n, d) and queries (..., m, d), divided by the largest."""
    centre = queries.mean(-2, keepdims=True)  # far from the origin the expanded square has few digits left
    prototypes, queries = prototypes - centre, queries - centre
    lengths = [(x**2).sum(-1) for x in (prototypes, queries)]
    cost = lengths[0][..., :, None] + lengths[1][..., None, :] - 2 * prototypes @ np.swapaxes(queries, -1, -2)
    cost = np.maximum(cost, 0)
    return cost / np.maximum(cost.max((-2, -1), keepdims=True), np.finfo(np.float64).tiny)


def opta(prototypes: Any, queries: Any, *, eps: float = 0.05, passes: int = 1, keep: float = 0.0) -> np.ndarray:
    """Aligns class prototypes (..., n, d) with the queries (..., m, d) of one task, or of many; float64 (..., n, d).

    Args:
        eps: weight of the plan's entropy. Paper: 0.05.
        passes: how often the transport is repeated from the moved prototypes. Paper: 5 with one shot, else 1.
        keep: share of the original prototype in the result. Paper: 0 with one shot, else 0.3.

    Raises InputError: shapes that do not fit, passes < 1, keep outside [0, 1].
    """
    start, cloud = _fitting(prototypes, queries)
    if passes < 1 or not 0 <= keep <= 1:
        raise InputError(f"passes must be at least 1 and keep in [0, 1]. Got {passes} and {keep}.")
    moved = start
    for _ in range(passes):
        moved = carried(moved, cloud, eps=eps)
    return keep * start + (1 - keep) * moved


def soft_k_means(prototypes: Any, queries: Any, *, shots: int = 1, eps: float = 0.05, passes: int = 1) -> np.ndarray:
    """Class means (..., n, d) of `shots` labelled items each, with the queries (..., m, d) added by how near they are;
    float64 (..., n, d).

    w_qc = softmax over the classes of -D_cq / eps, with D as in `distances`;
    p_c <- (shots p_c + sum_q w_qc q) / (shots + sum_q w_qc), repeated `passes` times from the moved prototypes.
    Raises InputError: shapes that do not fit, passes or shots < 1, eps <= 0.
    """
    start, cloud = _fitting(prototypes, queries)
    if passes < 1 or shots < 1 or not eps > 0:
        raise InputError(f"passes and shots must be at least 1 and eps above 0. Got {passes}, {shots} and {eps}.")
    moved = start
    for _ in range(passes):
        score = -distances(moved, cloud) / eps
        w = np.exp(score - _log_sum(score, -2))
        moved = (shots * start + w @ cloud) / (shots + w.sum(-1, keepdims=True))
    return moved


def _fitting(prototypes: Any, queries: Any) -> tuple[np.ndarray, np.ndarray]:
    start, cloud = np.asarray(prototypes, np.float64), np.asarray(queries, np.float64)
    fit = min(start.ndim, cloud.ndim) > 1 and start.shape[-1] == cloud.shape[-1]
    if not fit or not min(start.shape[-2], cloud.shape[-2]):
        raise InputError(f"Prototypes (n, d) and queries (m, d) do not fit. Got {start.shape} and {cloud.shape}.")
    if not (np.isfinite(start).all() and np.isfinite(cloud).all()):
        raise InputError("Prototypes and queries must be finite. Got NaN or infinity.")
    return start, cloud
