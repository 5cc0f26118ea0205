"""Whitening of a batch in shuffled groups of channels (WhitenedCSE, arXiv 2305.17746).

    y = x[:, p], divided into groups of s consecutive channels, each centred over the rows
    C = y^T y / n = U diag(S) U^T      W = U diag(S^-1/2) U^T      z = y W, channels back in their places

Afterwards each group has mean 0 and the identity as its covariance; channels of different groups stay as they were to
each other. Nothing is remembered from batch to batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import InputError


class _InverseRoot(torch.autograd.Function):
    """C^-1/2 of symmetric matrices (g, s, s), eps added to their eigenvalues. Its derivative has a closed form in
    which no difference of eigenvalues stands below the line, so that equal ones do no harm:
    dW = U (F * (U^T dC U)) U^T,  F_ij = -1 / (r_i r_j (r_i + r_j)),  r the roots of the eigenvalues."""

    @staticmethod
    def forward(ctx: Any, covariance: Tensor, eps: float) -> Tensor:
        values, vectors = torch.linalg.eigh(covariance)
        root = (values + eps).sqrt()
        ctx.save_for_backward(root, vectors)
        return vectors / root[:, None] @ vectors.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        root, u = ctx.saved_tensors
        a, b = root[:, :, None], root[:, None]
        return u @ (-(u.mT @ grads[0] @ u) / (a * b * (a + b))) @ u.mT, None


def whitening_matrix(
    y: Float[Tensor, "g n s"], *, eps: float = 0.0, differentiate: bool = False
) -> Float[Tensor, "g s s"]:
    """C^-1/2 of the biased covariance of each group's centred rows: symmetric (ZCA), positive definite.

    eps: is added to the eigenvalues. differentiate: whether gradients flow through it; else it is a constant.
    Raises InputError where a covariance is singular: no more rows than channels, equal rows, a constant channel."""
    y = y if differentiate else y.detach()
    covariance = y.mT @ y / y.shape[1]
    with torch.no_grad():
        values = torch.linalg.eigvalsh(covariance) + eps
        least = values[:, -1] * covariance.shape[-1] * torch.finfo(values.dtype).eps
    if bool((values[:, 0] <= least).any()):
        still = int((covariance.diagonal(dim1=1, dim2=2) + eps <= least[:, None]).sum())
        constant = f"{still} channel{'s are' if still > 1 else ' is'} constant"
        raise InputError(
            f"{y.shape[1]} rows cannot whiten groups of {y.shape[2]} channels: "
            f"{constant if still else 'a covariance is singular'}.",
            "Use an eps above 0 (--eps 1e-3)" + ("." if still else ", a larger batch, or more and smaller groups."),
        )
    made = _InverseRoot.apply(covariance, eps)
    assert isinstance(made, Tensor)
    return made


def group_whitening(
    x: Float[Tensor, "n d"],
    groups: int,
    permutation: Int[Tensor, "d"] | None = None,
    *,
    eps: float = 0.0,
    differentiate: bool = False,
) -> Float[Tensor, "n d"]:
    """The rows with each of `groups` groups of d / groups channels whitened over them, channels in their places.

    permutation: which channels stand together, groups of consecutive ones of x[:, permutation]; None: as they are.
    groups = d standardises each channel, groups = 1 is plain ZCA. eps, differentiate: see `whitening_matrix`; the
    centring and the product are differentiated always. Half precision is computed in float32, and given back in it.
    Source: WhitenedCSE, shuffled group whitening. Raises InputError for groups that do not divide the channels,
    for no rows, and for rows that are not finite."""
    n, d = x.shape
    if groups < 1 or d % groups:
        raise InputError(f"{groups} groups do not divide {d} channels into equal parts.",
                         f"Use one of {', '.join(str(g) for g in range(1, d + 1) if not d % g)}.")  # fmt: skip
    if not n or not bool(x.isfinite().all()):
        raise InputError(f"Only rows of finite numbers can be whitened. Got {n} rows{', not all finite' if n else ''}.",
                         "In training: a lower learning rate, or --precision 32.")  # fmt: skip
    order = torch.arange(d, device=x.device) if permutation is None else permutation
    with torch.autocast(x.device.type, enabled=False):
        y = x if x.dtype == torch.float64 else x.float()
        y = y[:, order].view(n, groups, d // groups).transpose(0, 1)
        y = y - y.mean(1, keepdim=True)
        z = y @ whitening_matrix(y, eps=eps, differentiate=differentiate)
        return z.transpose(0, 1).reshape(n, d)[:, order.argsort()].to(x.dtype)


def whitened_views(
    views: Sequence[Float[Tensor, "n d"]],
    permutations: Int[Tensor, "v d"],
    groups: int,
    *,
    blocks: bool = False,
    **options: Any,
) -> list[Float[Tensor, "n d"]]:
    """`group_whitening` of each view over its n rows, with a permutation of its own.

    blocks: as the released code of WhitenedCSE has it: the rows of all views, sorted by item, are cut into as many
    blocks as there are views, so that all views of one item share a permutation, which differs between items.
    options: eps, differentiate."""
    if not blocks:
        return [group_whitening(x, groups, p, **options) for x, p in zip(views, permutations, strict=True)]
    count, (n, d) = len(views), views[0].shape
    rows = torch.stack(list(views), 1).view(count, n, d)
    done = [group_whitening(x, groups, p, **options) for x, p in zip(rows, permutations, strict=True)]
    return list(torch.cat(done).view(n, count, d).unbind(1))


__all__ = ["group_whitening", "whitened_views", "whitening_matrix"]
