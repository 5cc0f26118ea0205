"""Mixed rows of one side against rows of another: M3Co and its soft form (M3CoL, TMLR 2025).

e~_i = lambda_i e_i + (1 - lambda_i) e_pi(i),   pi a permutation of the batch, lambda ~ Beta(a, a) or 1
P_ij = lambda_i [j = i] + (1 - lambda_i) [j = pi(i)]     how much candidate j of the other side is the mixture's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nearfar.checks import PositiveFloat, UnitInterval, check
from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import ExcludedPairs, LogSumExp, Relation, Similarity, both_ways, normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import Exchange, exchange
from nearfar.similarity.relations import Listed


def draw_mixture(
    n: int, *, alpha: float = 0.15, rate: float = 0.5, seed: int | Sequence[int] = 0
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """The partner of each of n rows, a permutation, and the row's own share lambda, float32 in [0, 1].

    lambda ~ Beta(alpha, alpha), mostly near 0 or 1 for a small alpha, with probability `rate`; else 1, and the row
    stays as it is. Source: M3CoL, sec. 3."""
    check("alpha", alpha, PositiveFloat, "argument")
    check("rate", rate, UnitInterval, "argument")
    rng = np.random.default_rng(seed)
    partner, share, drawn = rng.permutation(n), rng.beta(alpha, alpha, n), rng.random(n) < rate
    return torch.from_numpy(partner), torch.from_numpy(np.where(drawn, share, 1).astype(np.float32))


def mix_rows(e: Float[Tensor, "n *d"], partner: Int[Tensor, "n"], shares: Float[Tensor, "n"]) -> Float[Tensor, "n *d"]:
    """shares_i e_i + (1 - shares_i) e_partner(i), with gradient to both; the length is not brought to 1."""
    own = shares.to(e).view(-1, *[1] * (e.dim() - 1))
    return own * e + (1 - own) * e[partner]


def mix_columns(
    x: Float[Tensor, "n d"], groups: Sequence[Sequence[int]], drawn: Sequence[tuple[Tensor, Tensor]]
) -> Float[Tensor, "n d"]:
    """Rows of numbers of which each group of columns is mixed (`mix_rows`) by partners and shares of its own; columns
    of no group stay."""
    mixed = x.clone()
    for places, (partner, shares) in zip(groups, drawn, strict=True):
        mixed[:, places] = mix_rows(x[:, places], partner, shares)
    return mixed


def mixture_targets(
    partner: Int[Tensor, "n"], shares: Float[Tensor, "n"], *, added: bool = True
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """How much of P_i lies on row i itself, and how much on its partner; both together 1.

    added: where a row is its own partner both parts add up; False: the second takes the place of the first, as in the
    released code, so that such a row has only 1 - lambda, and 0 where it is not mixed."""
    own = shares if added else torch.where(partner == torch.arange(len(partner), device=partner.device), 0, shares)
    return own, 1 - shares


def m3co(
    mixed: Float[Tensor, "n d"],
    clean: Float[Tensor, "n d"],
    partner: Int[Tensor, "n"],
    shares: Float[Tensor, "n"],
    *,
    temperature: float | Tensor = 0.1,
    added: bool = True,
    excluded: ExcludedPairs | None = None,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Cross-entropy of the cosines of mixed rows (`mix_rows`) and rows of the other side with the targets P, the mean
    of both directions; the targets of a row of `clean` are the column of P, which need not sum to 1.

    In [0, inf); 0 for n = 1, log n at collapse; `clip` where all shares are 1. partner: a permutation of this process's
    rows; candidates are those of all processes with negatives="global". added: see `mixture_targets`.
    excluded: items that are no negatives of each other, by `kinds` alone: a mixture does not see what equals one of its
    two rows, but for these two themselves.
    Raises InputError for other shapes and where partner is no permutation. Source: M3CoL, eq. 2 to 4."""
    net = exchange(negatives)
    with net.together():
        _check(mixed, clean)
        _check_mixture(len(mixed), partner, shares)
    back = partner.argsort()
    own, other = (x.to(mixed.device) for x in mixture_targets(partner, shares, added=added))
    hidden = None if excluded is None else _OfMixtures.made(excluded, partner, shares.to(mixed.device))
    layout = both_ways(mixed, clean, temperature=temperature, excluded=hidden, negatives=negatives)
    forth = layout.parts[0]

    def rows(s: Similarity) -> Tensor:
        columns, weights = (partner, other) if s is forth else (back, other[back])
        return position_rows(s, columns, own, weights)

    return layout.loss(rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class _OfMixtures(ExcludedPairs):
    """Pairs of a mixture and a row that is equal to one of those in it, but for these themselves.

    target (n,): of each anchor the row or mixture that is not its own and has a part in it, -1 for none; back (n,): of
    each candidate."""

    target: Tensor
    back: Tensor

    @classmethod
    def made(cls, items: ExcludedPairs, partner: Tensor, shares: Tensor) -> _OfMixtures:
        first, second, back = shares > 0, shares < 1, partner.argsort()
        kinds = [(torch.where(part, of, -1), column) for row, column in items.kinds
                 for part, of in ((first, row), (second, row[partner]))]  # fmt: skip
        return cls(kinds, target=torch.where(second, partner, -1), back=torch.where(second[back], back, -1))

    def relation(self, items: Tensor, net: Exchange, width: int, repeat: int = 1) -> Relation:
        target, first = self.target[items], net.gather(self.target)[1]
        kept = Listed(torch.where(target < 0, -1, target + first))
        return super().relation(items, net, width, repeat) & ~kept

    def reversed(self) -> _OfMixtures:
        return _OfMixtures([(column, row) for row, column in self.kinds], target=self.back, back=self.target)


def position_rows(s: Similarity, further: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy with two positions as targets: `own` (n,) on the declared positive, `other` (n,) on that of row
    `further` (n,). Each row, (n,); in [0, inf)."""
    info, paired = info_nce_rows(s), s.paired()
    assert isinstance(s.positive, Listed)
    own, other = own.to(info), other.to(info)
    return (own + other) * info + other * (paired - s.at(s.positive.columns[further]))


def soft_contrast(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], *, temperature: float = 0.125, negatives: str = "local"
) -> Float[Tensor, ""]:
    """Cross-entropy of the cosines of a and b, and of their transposes, with soft targets T, the softmax of the cosines
    within b: the mean of both directions. The gradient reaches T too, and T is the same in both.

    In [0, inf); 0 for n = 1, log n at collapse; `soft_contrast(a, a)` is the entropy of T; `clip` as the temperature
    goes to 0, for distinct rows. Memory O(n d) beside the similarities. negatives="global": the candidates are the rows
    of all processes. Source: M3CoL, eq. 5 and 6."""
    net = exchange(negatives)
    with net.together():
        _check(a, b)
        check("temperature", temperature, PositiveFloat, "argument")
    layout = both_ways(a, b, temperature=temperature, negatives=negatives)
    forth = layout.parts[0]
    with full_precision(a.device):
        u, v = normalise(a), normalise(b)
        every_u, every_v = net.gather(u)[0], net.gather(v)[0]
        values = torch.cat([every_v, every_u], 1)
        aim = scaled_dot_product_attention(v[None], every_v[None], values[None], scale=1 / temperature)[0]
        towards_v, towards_u = aim.chunk(2, 1)
        attracted = (u * towards_v).sum(1) / temperature, (v * towards_u).sum(1) / temperature

    def rows(s: Similarity) -> Tensor:
        return s.reduce(LogSumExp()) - attracted[0 if s is forth else 1]

    return layout.loss(rows)


def _check(a: Tensor, b: Tensor) -> None:
    if a.dim() != 2 or a.shape != b.shape:
        raise InputError(f"Both sides must be rows (n, D) of one shape. Got {tuple(a.shape)} and {tuple(b.shape)}.")


def _check_mixture(n: int, partner: Tensor, shares: Tensor) -> None:
    if partner.shape != (n,) or shares.shape != (n,):
        raise InputError(f"A mixture of {n} rows has {n} partners and shares. Got {tuple(partner.shape)} and "
                         f"{tuple(shares.shape)}.")  # fmt: skip
    if partner.is_floating_point() or not torch.equal(partner.sort().values, torch.arange(n, device=partner.device)):
        raise InputError(f"Partners must be a permutation of 0 to {n - 1}: each row is partner of one.")
    if not bool(((shares >= 0) & (shares <= 1)).all()):
        raise InputError("Shares of a mixture lie in [0, 1].")


__all__ = ["draw_mixture", "m3co", "mix_columns", "mix_rows", "mixture_targets", "position_rows", "soft_contrast"]
