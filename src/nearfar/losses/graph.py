"""Losses over the edges of a graph: PamC and what stands beside it, in O(edges d + N d + K^2 d).

influence = influence_matrix(edges, n, order=2)      # who is a positive of whom, and how much; sparse
loss = pamc(z, assignment, influence)                # negatives are K clusters in place of N nodes
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.losses.rows import softplus
from nearfar.similarity import LogSumExp, Similarity, diagonal, normalise
from nearfar.similarity.answer.numerics import finite, safe_log


def influence_matrix(
    edges: Int[Tensor, "2 e"], n: int, *, order: int = 1, cumulative: bool = True
) -> Float[Tensor, "n n"]:
    """I = A + A^2 + ... + A^order (or A^order alone) as a sparse tensor, A = D^{-1} (adjacency + 1), rows of sum 1.

    edges: pairs of nodes in either direction or both; doubles and self loops are dropped. Row sums are `order`, or 1.
    Raises InputError for edges of nodes that are not within 0 .. n - 1, or an order below 1.
    """
    low, high = (int(edges.min()), int(edges.max())) if edges.numel() else (0, 0)
    if order < 1 or edges.shape[0] != 2 or low < 0 or high >= max(n, 1):
        raise InputError(
            f"Needs edges (2, E) among {n} nodes and an order of at least 1. Got {tuple(edges.shape)} of nodes {low} "
            f"to {high}, and {order}."
        )
    loops = torch.arange(n, device=edges.device).repeat(2, 1)
    index = torch.cat([edges, edges.flip(0), loops], 1)
    ones = torch.ones(index.shape[1], dtype=torch.float64, device=edges.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's notes on the state of its sparse tensors
        a = torch.sparse_coo_tensor(index, ones, (n, n)).coalesce()
        degree = torch.bincount(a.indices()[0], minlength=n).double()
        a = torch.sparse_coo_tensor(a.indices(), 1 / degree[a.indices()[0]], (n, n)).coalesce()
        power, total = a, a
        for _ in range(order - 1):
            power = torch.sparse.mm(power, a)
            total = total + power
    return (total if cumulative else power).coalesce()


def _edges_log_sum(z: Tensor, influence: Tensor, tau: float) -> Tensor:
    """log sum_j I_ij exp(tau s_ij) over the stored entries of I, s_ii := 0; -inf for a row without any."""
    influence = influence.coalesce()
    row, column = influence.indices()
    s = torch.where(row == column, 0, (z[row] * z[column]).sum(1)) * tau + safe_log(influence.values().to(z.dtype))
    top = s.new_full((z.shape[0],), -torch.inf).scatter_reduce(0, row, s.detach(), "amax")
    return finite(top) + safe_log(torch.zeros_like(top).index_add(0, row, (s - finite(top)[row]).exp()))


def _check(z: Tensor, influence: Tensor) -> None:
    n = z.shape[0]
    if z.dim() != 2 or not influence.is_sparse or influence.shape != (n, n):
        raise InputError(
            f"Needs z (N, D) and a sparse influence (N, N). Got {tuple(z.shape)} and "
            f"{'sparse' if influence.is_sparse else 'dense'} {tuple(influence.shape)}.",
            "nearfar.losses.influence_matrix makes one from edges.",
        )


def pamc(
    z: Float[Tensor, "n d"], assignment: Tensor, influence: Float[Tensor, "n n"], *, inverse_temperature: float = 1.0
) -> Float[Tensor, ""]:
    """-(1/N) sum_i log sum_j I_ij e^{tau s_ij}  +  (1/K) sum_k log sum_l e^{tau t_kl},  s_ii := t_kk := 0.

    Positives: the stored entries of I; s = cosine of nodes. Negatives: clusters in place of nodes, t = cosine of the
    sums of their members; empty clusters are left out. tau MULTIPLIES the cosine. A node without a stored entry leaves
    the mean. May be negative: at least log(1 + (K-1) e^-tau) - log r - tau with row sums r.

    Args: assignment: (N,) a cluster number of each node, as in the released code, or (N, K) soft shares, as in the
        paper; gradients reach z through the sums, and soft shares.
    Source: PamC, arXiv 2209.14067. The whole graph in one process.
    """
    _check(z, influence)
    near = _edges_log_sum(normalise(z), influence, inverse_temperature)
    return _others(meta_nodes(z, assignment), inverse_temperature).mean() - _mean(near)


def meta_nodes(z: Float[Tensor, "n d"], assignment: Tensor) -> Float[Tensor, "k d"]:
    """c_k = sum of the members' vectors, for (N,) cluster numbers (clusters without a member are left out) or (N, K)
    soft shares; gradients reach z and the shares. Source: PamC, meta-nodes."""
    wide = z.to(normalise(z[:1]).dtype)
    if assignment.dim() != 1:
        return assignment.to(wide.dtype).T @ wide
    k = int(assignment.max()) + 1 if len(assignment) else 0
    sums = wide.new_zeros(k, z.shape[1]).index_add(0, assignment, wide)
    return sums[torch.bincount(assignment, minlength=k) > 0]


def graph_mlp(
    z: Float[Tensor, "n d"], influence: Float[Tensor, "n n"], *, inverse_temperature: float = 1.0
) -> Float[Tensor, ""]:
    """-(1/N) sum_i log( sum_j I_ij e^{tau s_ij} / sum_j e^{tau s_ij} ), s_ii := 0.

    All nodes are negatives, O(N^2 d) time. What `pamc` approximates, and equals with one node a cluster.
    Source: Graph-MLP, arXiv 2106.04051 (with SCGC's I).
    """
    _check(z, influence)
    unit = normalise(z)
    return _mean(_others(unit, inverse_temperature) - _edges_log_sum(unit, influence, inverse_temperature))


def _others(z: Tensor, tau: float) -> Tensor:
    """log sum_l e^{tau cos_kl} with the self entry e^0 = 1."""
    if tau == 0:
        return torch.log(z.new_full((z.shape[0],), float(z.shape[0]))) + 0 * z.sum(1)
    itself = diagonal(z.shape[0], device=z.device)
    s = Similarity(z, z, itself=itself, temperature=1 / tau)
    return softplus(s.reduce(LogSumExp(where=~itself)))


def _mean(rows: Tensor) -> Tensor:
    some = rows.isfinite()
    return torch.where(some, rows, 0).sum() / some.sum().clamp(min=1)


def soft_assignment(z: Float[Tensor, "n d"], centres: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    """q_ik = (1 + |z_i - mu_k|^2)^{-1}, rows scaled to sum 1 (Student t, one degree of freedom; DEC, ICML 2016)."""
    near = 1 / (1 + (z[:, None] - centres).square().sum(2))
    return near / near.sum(1, keepdim=True)


def sharpened(q: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """p_ik = (q_ik^2 / f_k) / sum_l (q_il^2 / f_l), f_k = sum_i q_ik: the target of DEC, a constant in the gradient."""
    p = q.detach().square() / q.detach().sum(0)
    return p / p.sum(1, keepdim=True)


def cluster_divergence(q: Float[Tensor, "n k"], p: Float[Tensor, "n k"] | None = None) -> Float[Tensor, ""]:
    """KL = (1/N) sum_ik p_ik log(p_ik / q_ik), p = `sharpened(q)` unless given; at least 0, 0 only where q = p."""
    p = sharpened(q) if p is None else p.detach()
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum() / max(len(q), 1)


def neighbour_prediction(
    logits: Float[Tensor, "n s"],
    targets: Float[Tensor, "n s"],
    valid: Tensor | None = None,
    *,
    form: str = "logistic",
) -> Float[Tensor, ""]:
    """Which of the listed nodes are neighbours: the mean over rows of the mean over their places that count.

    targets: Y, 1 or 0. valid: bool (n, s), which places count, None: all; a row without any leaves the mean. form:
    "logistic", log(1 + e^-ya), or "hinge", max(0, 1 - ya)^2, with y = 2Y - 1; both are 0 at the least, log 2 and 1
    where all logits are 0. Computed in float32 at least. Source: GIANT, ICLR 2022, as GAugLLM (KDD 2024) trains its
    encoder of texts.
    """
    one_of("form", form, ("logistic", "hinge"))
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    y = 2 * targets.to(wide.dtype) - 1
    rows = functional.softplus(-y * wide) if form == "logistic" else (1 - y * wide).clamp(min=0).square()
    counts = torch.ones_like(rows, dtype=torch.bool) if valid is None else valid
    many = counts.sum(1)
    means = torch.where(counts, rows, 0).sum(1) / many.clamp(min=1)
    return means.sum() / (many > 0).sum().clamp(min=1)
