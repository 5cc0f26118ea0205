"""Hydra (SimLAP): any two classes make a positive pair, each pair through a gate of its own (arXiv 2410.18200).

    s_ik = < n(g_i * q_i), n(g_i * k_k) > / T      g_i in (0, 1)^D, of the classes (y1_i, y2_i);  n: to unit length
    positives of i: keys of class y2_i;  negatives: keys of neither class;  one denominator for each positive p:
    l_ip = log( e^(s_ip) + sum over negatives of e^(s_ik) ) - s_ip

Every anchor filters all keys anew, yet no (N, M, D) tensor is made: the products are (g_i^2 * q_i) . k_k, the lengths
those of (g_i^2) . (k_k^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.checks import NonNegativeFloat, check, one_of
from nearfar.errors import InputError
from nearfar.losses.rows import softplus
from nearfar.similarity import (
    Block,
    Count,
    ExcludedPairs,
    LogSumExp,
    Similarity,
    Source,
    Sum,
    diagonal,
    nobody,
    normalise,
    same,
)
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import Exchange, exchange

Pairs = Literal["arbitrary", "identical", "distinct"]
Reduction = Literal["pairs", "anchors"]


class GatedCosine(Source):
    """Cosine of what each anchor's gate lets through of both vectors, by two products a tile: in [-1, 1], 0 where it
    lets nothing through.

    query: (N, D), keys: (M, D), gate: (N, D), not negative; only the ratios of a gate's values count."""

    def __init__(self, query: Float[Tensor, "n d"], keys: Float[Tensor, "m d"], gate: Float[Tensor, "n d"]):
        q, k = normalise(query), normalise(keys)
        largest = gate.detach().abs().amax(1, keepdim=True)
        self.held = (q, k, gate.to(q.dtype) / torch.where(largest == 0, 1, largest))
        self.shape = (len(q), len(k))

    def tensors(self) -> Sequence[Tensor]:
        return self.held

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor]) -> Tensor:
        query, keys, gate = tensors
        with full_precision(query.device):
            q, k, squared = query[rows], keys[columns], gate[rows].square()
            filtered = squared * q
            square = (filtered * q).sum(1, keepdim=True) * (squared @ k.square().T)
            some = ~(square <= torch.finfo(square.dtype).tiny)  # what is no number stays one
            return torch.where(some, filtered @ k.T * torch.where(some, square, 1).rsqrt(), 0)


def filtered_cosine(
    query: Float[Tensor, "n d"], keys: Float[Tensor, "m d"], gate: Float[Tensor, "n d"]
) -> Float[Tensor, "n m"]:
    """The whole matrix of `GatedCosine`, < n(g_i * q_i), n(g_i * k_k) >, to look at; the loss never builds it."""
    return Similarity(GatedCosine(query, keys, gate)).dense()


def released_similarity(
    query: Float[Tensor, "n d"], keys: Float[Tensor, "m d"], gate: Float[Tensor, "n d"], subtract: float = 0.5
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Anchors and keys whose inner product is (g_i^2 * n(q_i)) . n(k_k) - alpha n(q_i) . n(k_k).

    Brought to unit length before the gate and not after: closing a gate lowers the similarity. subtract: alpha. Source:
    the newest release of the official code."""
    q = normalise(query)
    return (gate.to(q.dtype).square() - subtract) * q, normalise(keys)


def pair_weights(distance: Float[Tensor, "c c"], alpha: float) -> Float[Tensor, "c c"]:
    """(1 + d)^(-alpha) in (0, 1]: how readily two classes at distance d >= 0 are paired; alpha 0: all alike."""
    check("alpha", alpha, NonNegativeFloat, "argument")
    return (1 + distance).pow(-alpha)


def class_distances(labels: Int[Tensor, "n"], coarse: Int[Tensor, "n"], classes: int) -> Float[Tensor, "c c"]:
    """Steps between two classes in the tree of root, coarse class and class: 0 of one with itself, 2 below one coarse
    class, else 4. A class belongs to the commonest coarse class of its rows; to none where no row tells (-1)."""
    known = (labels >= 0) & (coarse >= 0)
    counts = torch.zeros(classes, int(coarse.max()) + 1 if known.any() else 1)
    counts = counts.index_put((labels[known], coarse[known]), torch.tensor(1.0), accumulate=True)
    of = torch.where(counts.sum(1) > 0, counts.argmax(1), -1)
    near = (of[:, None] == of[None]) & (of[:, None] >= 0)
    return torch.where(torch.eye(classes, dtype=torch.bool), 0.0, torch.where(near, 2.0, 4.0))


def draw_partners(
    labels: Int[Tensor, "n"],
    kind: str = "arbitrary",
    *,
    classes: Int[Tensor, "c"] | None = None,
    weights: Float[Tensor, "k k"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "n"]:
    """The second class y2 of each anchor.

    arbitrary: a permutation of the labels, so that the batch holds a key of it (it may be the anchor's own);
    identical: the anchor's own; distinct: another one of `classes` (default 0 to the largest label), each as likely.
    weights: with arbitrary, the labels of rows drawn in proportion to weights[y1, y2] (`pair_weights`) instead. -1
    (unknown) is nobody's partner under weights and has none but under a permutation.
    Raises InputError: distinct with a single class.
    """
    one_of("pairs", kind, get_args(Pairs))
    if kind == "identical" or not len(labels):
        return labels
    if kind == "arbitrary" and weights is None:
        return labels[torch.randperm(len(labels), generator=generator, device=labels.device)]
    known = labels >= 0
    if kind == "arbitrary":
        assert weights is not None
        likely = weights.to(labels.device)[labels.clamp(min=0)][:, labels.clamp(min=0)] * known
        drawn = torch.multinomial(torch.where(known.any(), likely, 1), 1, generator=generator)[:, 0]
        return torch.where(known, labels[drawn], -1)
    classes = torch.arange(int(labels.max()) + 1, device=labels.device) if classes is None else classes
    if len(classes) < 2:
        raise InputError("Distinct pairs need two classes at least.", "Use arbitrary or identical pairs.")
    step = torch.randint(1, len(classes), labels.shape, generator=generator, device=labels.device)
    place = torch.searchsorted(classes, labels.clamp(min=0))
    return torch.where(known, classes[(place + step) % len(classes)], -1)


def hydra(
    query: Float[Tensor, "n d"],
    keys: Float[Tensor, "m d"],
    gates: Float[Tensor, "n d"] | None,
    labels: Int[Tensor, "n"],
    partners: Int[Tensor, "n"],
    *,
    temperature: float | Tensor = 0.1,
    reduction: str = "pairs",
    subtract: float | None = None,
    own: bool = False,
    excluded: ExcludedPairs | None = None,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """L_pair: each positive of an anchor against the keys of neither class, all seen through the anchor's gate.

    query, keys: row i of both is one item (of class labels[i]); gates: (n, D) of the pair (labels, partners), None: all
    open. The mean over all pairs of an anchor and a positive of l_ip = softplus(LSE(negatives) - s_ip); reduction
    "anchors": the mean over anchors of sum_p l_ip / (|P_i| + 1e-6), an anchor without a positive counting 0. In
    [0, inf); 0 without positives or without negatives; log(1 + |N_i|) each where all similarities are equal.

    Args: subtract: alpha, takes `released_similarity` in place of the filtered cosine; None: the paper's. own: keys are
        the anchors themselves, which leave their rows. labels -1: unknown, neither anchor nor key; excluded: items that
        are no negatives of each other. negatives: "global": keys of all processes.
    Raises InputError: shapes that do not fit, an unknown reduction. Source: Hydra, sec. 3; all gates open, partners =
    labels and every label once it is `info_nce`.
    """
    net = exchange(negatives)
    with net.together():
        _check(query, keys, gates, labels, partners)
        one_of("reduction", reduction, get_args(Reduction))
    total, count = pair_rows(gated_pairs(query, keys, gates, labels, partners, temperature=temperature,
                                         subtract=subtract, own=own, excluded=excluded, net=net))  # fmt: skip
    if reduction == "anchors":
        many = net.sum((labels >= 0).sum().to(total.dtype)).detach()
        return net.sum((total / (count + 1e-6)).sum()) / many.clamp(min=1)
    return net.sum(total.sum()) / net.sum(count.sum()).detach().clamp(min=1)


def gated_pairs(
    query: Tensor,
    keys: Tensor,
    gates: Tensor | None,
    labels: Tensor,
    partners: Tensor,
    *,
    temperature: float | Tensor,
    subtract: float | None,
    own: bool,
    excluded: ExcludedPairs | None,
    net: Exchange,
) -> Similarity:
    """The similarity of `hydra`: its positives are the keys of the second class, its negatives those of neither."""
    net.widths(query)
    every, first, _ = net.keys(keys, whole=True)
    columns = net.gather(labels)[0]
    items = torch.arange(len(query), device=query.device)
    itself = diagonal(len(query), first, query.device) if own else nobody
    hidden = nobody if excluded is None else excluded.relation(items, net, len(keys))
    paired = (labels >= 0) & (partners >= 0)
    anchor, partner = (torch.where(paired, x, -1) for x in (labels, partners))
    positive = same(partner, columns) & ~itself
    known = same(torch.where(paired, 0, -1), torch.where(columns >= 0, 0, -1))
    visible = positive | (known & ~same(anchor, columns) & ~hidden)
    gates = torch.ones_like(query) if gates is None else gates
    if subtract is None:
        return Similarity(None, [Block(GatedCosine(query, every, gates), visible=visible)], positive=positive,
                          itself=itself, temperature=temperature, group=net.group)  # fmt: skip
    anchors, unit = released_similarity(query, every, gates, subtract)
    return Similarity(anchors, [Block(unit, visible=visible)], positive=positive, itself=itself,
                      temperature=temperature, similarity="dot", group=net.group)  # fmt: skip


def pair_rows(s: Similarity) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """The sum of l_ip over an anchor's positives, and how many they are; other positives are in no denominator."""
    negatives = s.reduce(LogSumExp(where=s.negative))
    level = torch.where(negatives > -torch.inf, negatives, torch.finfo(negatives.dtype).min / 4)
    total, count = s.reduce(Sum(phi=_each, per_row=level, where=s.positive), Count(where=s.positive))
    return total, count


def _each(s: Tensor, level: Tensor) -> Tensor:
    return softplus(level - s)


def gate_entropy(gates: Float[Tensor, "c d"]) -> Float[Tensor, ""]:
    """The mean entropy of gates as Bernoulli probabilities, in [0, log 2]: 0 where each is open or closed."""
    g = gates.clamp(1e-6, 1 - 1e-6)
    return -(g * g.log() + (1 - g) * (1 - g).log()).mean()


def gate_overlap(gates: Float[Tensor, "c d"]) -> Float[Tensor, "c c"]:
    """Cosine of the gates of any two classes, in [0, 1]: 1 where both let the same dimensions through."""
    unit = normalise(gates)
    return unit @ unit.T


def _check(query: Tensor, keys: Tensor, gates: Tensor | None, labels: Tensor, partners: Tensor) -> None:
    if query.dim() != 2 or keys.shape != query.shape or (gates is not None and gates.shape != query.shape):
        shown = [tuple(x.shape) for x in (query, keys, gates) if x is not None]
        raise InputError(f"Anchors, keys and gates must be (n, D) alike. Got {shown}.")
    if labels.shape != query.shape[:1] or partners.shape != query.shape[:1]:
        raise InputError(f"Labels and partners must be ({len(query)},). Got {tuple(labels.shape)} and "
                         f"{tuple(partners.shape)}.")  # fmt: skip


__all__ = [
    "GatedCosine",
    "class_distances",
    "draw_partners",
    "filtered_cosine",
    "gate_entropy",
    "gate_overlap",
    "hydra",
    "pair_weights",
    "released_similarity",
]
