"""Balanced assignment by optimal transport (Sinkhorn-Knopp) and the swapped prediction of cluster codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import accumulated


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "b k"], *, eps: float = 0.05, iterations: int = 3, group: dist.ProcessGroup | None = None
) -> Float[Tensor, "b k"]:
    """Codes of equal total weight a prototype: rows sum to 1, every prototype gets about b / k.

    Alternating normalisation of exp(scores / eps) in log space, prototypes first, samples last; a constant in the
    gradient. eps: entropy weight; iterations: R. Source: SwAV, Caron et al., NeurIPS 2020, sec. 3.1.
    """
    if not eps > 0:
        raise InputError(f"eps must be in (0, inf). Got {eps}.")
    q = scores.detach().double() / eps if scores.dtype == torch.float64 else scores.detach().float() / eps
    k = q.shape[1]
    batch = _total(q.new_tensor(float(q.shape[0])), group)
    q = q - _logsum(q.reshape(-1), 0, group)
    for _ in range(iterations):
        q = q - _logsum(q, 0, group) - torch.log(q.new_tensor(float(k)))
        q = q - torch.logsumexp(q, 1, keepdim=True) - batch.log()
    return (q + batch.log()).exp()


def _total(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if group is not None:
        dist.all_reduce(x, group=group)
    return x


def _logsum(q: Tensor, dim: int, group: dist.ProcessGroup | None) -> Tensor:
    if group is None:
        return torch.logsumexp(q, dim, keepdim=True)
    top = q.amax(dim, keepdim=True)
    dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
    return top + _total((q - top).exp().sum(dim, keepdim=True), group).log()


def swapped_prediction(
    scores: Sequence[Float[Tensor, "b k"]], codes: Sequence[Float[Tensor, "b k"]], *, temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Mean over code views c, over the other views v, over the batch of -sum_k q_c log softmax(o_v / tau).

    `scores`: o_v of every view; `codes`: q_c of the first len(codes) views. log k when everything collapses.
    Source: SwAV, eq. 2 and 6. Raises InputError with fewer than two views.
    """
    if len(scores) < 2:
        raise InputError(f"Swapped prediction needs at least two views. Got {len(scores)}.")
    logs = [torch.log_softmax(accumulated(o) / temperature, 1) for o in scores]
    terms = [
        torch.stack([-(q * log).sum(1).mean() for v, log in enumerate(logs) if v != c]).mean()
        for c, q in enumerate(codes)
    ]
    return torch.stack(terms).mean()
