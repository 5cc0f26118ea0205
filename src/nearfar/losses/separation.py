"""SepCLR: what a background set shares with a target set, apart from what the target set alone shows (ICLR 2024).

    c: common codes, on the unit sphere;  s: salient codes, as they are;  t: s, with 0 in the rows of the background
    alignment(a, b)       mean |a_i - b_i|^2 / 2 tau
    uniformity(a)         log mean_{i<j} e^(-|a_i - a_j|^2 / 2 tau)
    joint_entropy(c, s)   mean_i log mean_j e^(-(|c_i - c_j|^2 + |s_i - s_j|^2) / 2 tau)      (minus an entropy)
    common    alignment(c1, c2) + u mean_v uniformity(c_v)                                    of all rows
    salient   alignment(s1, s2) of the target rows + u mean_v uniformity(t_v)                 of all rows
    null      mean_v |s_v|^2 of the background rows
    entropy   mean_v joint_entropy(c_v, t_v)
    loss = common + w_s salient + w_0 null + w_J entropy

Means and pairs are of the rows of all processes (`negatives="global"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.losses.noncontrastive import uniformity_among
from nearfar.similarity import Block, LogSumExp, Similarity, accumulated, check_temperature, normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import Exchange, exchange

SMOOTH = 0.025  # variance of the kernel over a number, and of the null vector of its code


class SepCLRTerms(NamedTuple):
    """The four terms, scalars."""

    common: Tensor
    salient: Tensor
    null: Tensor
    entropy: Tensor

    def weighted(self, salient: float = 10.0, null: float = 10.0, entropy: float = 10.0) -> Tensor:
        """common + w_s salient + w_0 null + w_J entropy (paper: 1000, 1000, 10; CheXpert 1, 10, 10)."""
        return self.common + salient * self.salient + null * self.null + entropy * self.entropy


def sepclr(
    common: Sequence[Float[Tensor, "n d"]],
    salient: Sequence[Float[Tensor, "n k"]],
    target: Bool[Tensor, "n"],
    *,
    temperature: float = 0.5,
    uniformity: float = 2.0,
    salient_weight: float = 10.0,
    null_weight: float = 10.0,
    entropy_weight: float = 10.0,
    null_vector: bool = True,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The loss of a batch of both sets: `sepclr_terms`, weighted. Its lowest value depends on the weights; 0 at
    collapse of all codes to the null vector (and of the common ones to one point)."""
    terms = sepclr_terms(common, salient, target, temperature=temperature, uniformity=uniformity,
                         null_vector=null_vector, negatives=negatives)  # fmt: skip
    return terms.weighted(salient_weight, null_weight, entropy_weight)


def sepclr_terms(
    common: Sequence[Float[Tensor, "n d"]],
    salient: Sequence[Float[Tensor, "n k"]],
    target: Bool[Tensor, "n"],
    *,
    temperature: float = 0.5,
    uniformity: float = 2.0,
    null_vector: bool = True,
    negatives: str = "local",
) -> SepCLRTerms:
    """The four terms of two views of each row.

    Args: common: codes of both views, brought to unit length here. salient: codes of both views, of any length. target:
    which rows are of the target set; the others are background. temperature: tau. uniformity: u, its weight beside the
    alignment. null_vector: False: the salient codes of the background are spread as they are, in place of 0.
    A term without rows (no target, no background) is 0. Raises InputError: other shapes, fewer than two rows.
    Source: SepCLR, ICLR 2024 (official code; k-JEM).
    """
    net = exchange(negatives)
    with net.together():
        _check([*common, *salient], target, temperature)
    with full_precision(target.device):
        c, s = [normalise(accumulated(x)) for x in common], [accumulated(x) for x in salient]
        t = [masked(x, target) if null_vector else x for x in s]
        spread = [[kernel_uniformity(x, temperature=temperature, negatives=negatives) for x in views]
                  for views in (c, t)]  # fmt: skip
        near = [alignment(a, b, rows, temperature=temperature, negatives=negatives)
                for (a, b), rows in ((c, torch.ones_like(target)), (s, target))]  # fmt: skip
        apart = [joint_entropy(a, b, temperature=temperature, negatives=negatives) for a, b in zip(c, t, strict=True)]
        return SepCLRTerms(
            near[0] + uniformity * _mean(spread[0]),
            near[1] + uniformity * _mean(spread[1]),
            _mean([null_distance(x, target, negatives=negatives) for x in s]),
            _mean(apart),
        )


def masked(s: Float[Tensor, "n k"], target: Bool[Tensor, "n"]) -> Float[Tensor, "n k"]:
    """t: the salient codes with the null vector 0 in the rows of the background, which get no gradient."""
    return torch.where(target[:, None], s, 0)


def alignment(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    rows: Bool[Tensor, "n"],
    *,
    temperature: float = 0.5,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean of |a_i - b_i|^2 / (2 temperature) over the rows that count; in [0, inf), 0 without any.

    Raises InputError: vectors of different shapes, a temperature that is not above 0."""
    check_temperature(float(temperature))
    if a.shape != b.shape:
        raise InputError(f"The two views must have one shape. Got {tuple(a.shape)} and {tuple(b.shape)}.")
    return _mean_over((accumulated(a) - accumulated(b)).square().sum(1) / (2 * temperature), rows, exchange(negatives))


def null_distance(s: Float[Tensor, "n k"], target: Bool[Tensor, "n"], *, negatives: str = "local") -> Float[Tensor, ""]:
    """The mean of |s_i|^2 over the rows of the background; in [0, inf), 0 without any."""
    return _mean_over(accumulated(s).square().sum(1), ~target, exchange(negatives))


def kernel_uniformity(
    z: Float[Tensor, "n d"], *, temperature: float = 0.5, negatives: str = "local"
) -> Float[Tensor, ""]:
    """log mean_{i<j} e^(-|z_i - z_j|^2 / (2 temperature)) of vectors of any length.

    In (-inf, 0], 0 where all are equal. Raises InputError for fewer than two rows. `uniformity` is the same of unit
    vectors, t = 1 / (2 temperature)."""
    check_temperature(float(temperature))
    return uniformity_among(accumulated(z), 1 / (2 * temperature), exchange(negatives), unit=False)


def joint_entropy(
    c: Float[Tensor, "n d"], s: Float[Tensor, "n k"], *, temperature: float = 0.5, negatives: str = "local"
) -> Float[Tensor, ""]:
    """mean_i log (1/n) sum_j e^(-(|c_i - c_j|^2 + |s_i - s_j|^2) / (2 temperature)), j = i included: minus a kernel
    estimate of the joint entropy of both codes. In [-log n, 0]; 0 where all rows are equal in both, or there is one."""
    net = exchange(negatives)
    z = torch.cat([accumulated(c), accumulated(s)], 1)  # squared distances add up
    keys, _, ring = net.keys(z)
    matrix = Similarity(z, Block(keys, ring=ring), temperature=2 * temperature, similarity="euclidean", group=net.group)
    rows = matrix.reduce(LogSumExp())
    many = net.count(z)
    return net.sum((rows - torch.log(rows.new_tensor(float(max(1, many))))).sum()) / max(1, many)


def attribute_terms(
    s: Float[Tensor, "n a"],
    values: Float[Tensor, "n a"],
    target: Bool[Tensor, "n"],
    discrete: Sequence[bool],
    *,
    temperature: float = 0.5,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The salient term where attributes of the target rows are known, one number of the salient code each:

        mean over a of  uniformity(t_a) + 1/2 [ mean_{i<j} k(y_i, y_j) (s_i - s_j)^2 + null_a ]     i, j: target rows

    k = e^(-(y_i - y_j)^2 / 0.05) and null_a = mean |s|^2 / 0.05 of the background for a number; k = 1 where the classes
    are equal, else 0, and null_a = mean |s|^2 / (2 temperature) for a class. values: in [0, 1] for numbers, NaN where
    one is not known (such a row is aligned with none).
    Source: SepCLR, supervised variant (official code, dSprites).
    """
    net = exchange(negatives)
    _check_attributes(s, values, target, discrete)
    s, y = accumulated(s), values.to(accumulated(s).dtype)
    codes, numbers = net.gather(s)[0], net.gather(y)[0]
    known = net.gather((target[:, None] & y.isfinite()).to(s.dtype))[0] > 0
    found = []
    for a, classes in enumerate(discrete):
        code, number = codes[known[:, a], a], numbers[known[:, a], a]
        i, j = torch.triu_indices(len(code), len(code), 1, device=code.device)
        gap = number[i] - number[j]
        kernel = (gap == 0).to(code.dtype) if classes else torch.exp(-gap.square() / (2 * SMOOTH))
        near = (kernel * (code[i] - code[j]).square()).sum() / max(1, len(i))
        far = null_distance(s[:, a : a + 1], target, negatives=negatives) / (2 * (temperature if classes else SMOOTH))
        spread = kernel_uniformity(masked(s[:, a : a + 1], target), temperature=temperature, negatives=negatives)
        found.append(spread + (near + far) / 2)
    return _mean(found)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _mean_over(values: Tensor, rows: Tensor, net: Exchange) -> Tensor:
    """The mean of the values (n,) whose rows count, over all processes; 0 with a graph where none does."""
    count = net.sum(rows.sum().to(values.dtype)).detach()
    return net.sum(values.masked_fill(~rows, 0).sum()) / count.clamp(min=1)


def _check(codes: Sequence[Tensor], target: Tensor, temperature: float) -> None:
    if len(codes) != 4 or any(x.dim() != 2 or len(x) != len(target) for x in codes) or target.dtype != torch.bool:
        found = f"{[tuple(x.shape) for x in codes]} and {tuple(target.shape)}, {target.dtype}"
        raise InputError("SepCLR needs two views of common and of salient codes, (n, D) each, and a boolean target "
                         f"(n,). Got {found}.")  # fmt: skip
    if codes[0].shape != codes[1].shape or codes[2].shape != codes[3].shape:
        raise InputError(f"Two views have codes of other lengths: {[x.shape[1] for x in codes]}.")
    check_temperature(float(temperature))


def _check_attributes(s: Tensor, values: Tensor, target: Tensor, discrete: Sequence[bool]) -> None:
    if s.dim() != 2 or s.shape != values.shape or len(target) != len(s) or len(discrete) != s.shape[1]:
        found = f"{tuple(s.shape)}, {tuple(values.shape)}, {tuple(target.shape)} and {len(discrete)} kinds"
        raise InputError("Each attribute needs one number of the salient code: codes and values (n, a), a target (n,). "
                         f"Got {found}.")  # fmt: skip


__all__ = [
    "alignment",
    "attribute_terms",
    "joint_entropy",
    "kernel_uniformity",
    "masked",
    "null_distance",
    "sepclr",
    "sepclr_terms",
]
