"""The losses that are measured and the peers they stand beside. Each is f(a, b) -> scalar on rows of any length.

A peer that is not installed is said to be missing. Beside the extra `bench` of the package, install as peers:
pytorch-metric-learning==2.9.0, info-nce-pytorch==0.1.4, pykeops==2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
CLASSES = 100
EACH_ROW = -1  # as many matrices as there are rows


@dataclass(frozen=True)
class Cell:
    """`products`: the matrix products that the loss needs, in units of n^2 d flops for n rows in all. `share`: rows of
    each view for n rows in all. `built`: matrices (n, n) of floats that a peer which builds them holds at its peak, or
    EACH_ROW."""

    peers: dict[str, Callable[[float], Loss]]
    products: int
    share: float = 1.0
    built: dict[str, int] = field(default_factory=dict)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)


def labels(x: Tensor) -> Tensor:
    """A class of each row of x."""
    return torch.randint(0, CLASSES, (len(x),), generator=torch.Generator().manual_seed(1)).to(x.device)


def places(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device)


def dense_info_nce(t: float) -> Loss:
    return lambda a, b: F.cross_entropy(unit(a) @ unit(b).T / t, places(a))


def dense_clip(t: float) -> Loss:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        s, target = unit(a) @ unit(b).T / t, places(a)
        return (F.cross_entropy(s, target) + F.cross_entropy(s.T, target)) / 2

    return loss


def dense_nt_xent(t: float) -> Loss:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        z, n = unit(torch.cat([a, b])), len(a)
        s = (z @ z.T / t).fill_diagonal_(-torch.inf)
        return F.cross_entropy(s, (places(z) + n) % (2 * n))

    return loss


def dense_sup_con(t: float) -> Loss:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        z, y = unit(a), labels(a)
        s, eye = z @ z.T / t, torch.eye(len(a), dtype=torch.bool, device=a.device)
        log = s - s.masked_fill(eye, -torch.inf).logsumexp(1, keepdim=True)
        friends = (y[:, None] == y) & ~eye
        some = friends.any(1)
        return -(torch.where(friends, log, 0).sum(1)[some] / friends.sum(1)[some]).mean()

    return loss


def chunked(t: float) -> Loss:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise ImportError(f"torch {torch.__version__} has no linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions()
    return lambda a, b: F.linear_cross_entropy(unit(a) / t, unit(b), places(a), options=options)


def chunked_clip(t: float) -> Loss:
    one = chunked(t)
    return lambda a, b: (one(a, b) + one(b, a)) / 2


def open_clip(t: float) -> Loss:
    from open_clip.loss import ClipLoss

    loss = ClipLoss()
    return lambda a, b: loss(unit(a), unit(b), torch.tensor(1 / t))


def lightly(t: float) -> Loss:
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=t)


def ranking(t: float) -> Loss:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(torch.nn.Sequential(torch.nn.Identity()), scale=1 / t)
    return lambda a, b: loss.compute_loss_from_embeddings([a, b], places(a))


def cached_ranking(t: float) -> Loss:
    """Gradients are made chunk by chunk inside the loss; the model's own passes are left out."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = torch.nn.Sequential(torch.nn.Identity())
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / t, mini_batch_size=256)
    return lambda a, b: loss.calculate_loss([[a], [b]], with_backward=True)


def info_nce_pytorch(t: float) -> Loss:
    from info_nce import InfoNCE

    return InfoNCE(temperature=t)


def metric_learning_nt_xent(t: float) -> Loss:
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=t)
    return lambda a, b: loss(torch.cat([a, b]), places(a).repeat(2))


def metric_learning_sup_con(t: float) -> Loss:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(temperature=t)
    return lambda a, b: loss(a, labels(a))


def _keops(x: Tensor, y: Tensor) -> Tensor:
    from pykeops.torch import LazyTensor

    s = (LazyTensor(x[:, None, :].contiguous()) * LazyTensor(y[None, :, :].contiguous())).sum(-1)
    return s.logsumexp(1).squeeze(-1)


def keops_info_nce(t: float) -> Loss:
    import pykeops  # noqa: F401

    def loss(a: Tensor, b: Tensor) -> Tensor:
        x, y = unit(a) / t, unit(b)
        return (_keops(x, y) - (x * y).sum(1)).mean()

    return loss


def keops_clip(t: float) -> Loss:
    one = keops_info_nce(t)
    return lambda a, b: (one(a, b) + one(b, a)) / 2


def nearfar(name: str) -> Callable[[float], Loss]:
    from nearfar import losses

    if name == "sup_con":
        return lambda t: lambda a, b: losses.sup_con(a, labels(a), temperature=t)
    return lambda t: lambda a, b: getattr(losses, name)(a, b, temperature=t)


CELLS: dict[str, Cell] = {
    "clip": Cell(
        {"dense": dense_clip, "linear_cross_entropy": chunked_clip, "open_clip": open_clip, "keops": keops_clip},
        8,
        built={"dense": 4, "open_clip": 5},
    ),
    "info_nce": Cell(
        {
            "dense": dense_info_nce,
            "linear_cross_entropy": chunked,
            "sentence-transformers": ranking,
            "sentence-transformers cached": cached_ranking,
            "info-nce-pytorch": info_nce_pytorch,
            "keops": keops_info_nce,
        },
        6,
        built={"dense": 3, "sentence-transformers": 4, "info-nce-pytorch": 4},
    ),
    "nt_xent": Cell(
        {"dense": dense_nt_xent, "lightly": lightly, "pytorch-metric-learning": metric_learning_nt_xent},
        4,
        0.5,
        built={"dense": 3, "lightly": 5, "pytorch-metric-learning": EACH_ROW},
    ),
    "sup_con": Cell(
        {"dense": dense_sup_con, "pytorch-metric-learning": metric_learning_sup_con},
        4,
        built={"dense": 6, "pytorch-metric-learning": 8},
    ),
}
