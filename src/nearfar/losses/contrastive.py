"""Named losses over plain tensors. Each needs nothing else of the library and works in anyone's own loop.

Reductions run in float32 (float64 stays); values are scalars, the mean over all anchors that have a positive.
`negatives`: "local" contrasts within this process, "global" across all of them (torch.distributed).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.similarity import (
    Block,
    ExcludedPairs,
    Similarity,
    all_views,
    both_ways,
    diagonal,
    low_rank,
    normalise,
    one_way,
    own_view,
    same,
)
from nearfar.similarity.exchange import exchange
from nearfar.similarity.relations import Listed


def info_nce(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "m d"],
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = False,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """-log softmax of the positive among all keys: row i of `query` belongs to row i of `key`.

    Anchors: the queries (with `symmetric` also the keys; the mean of both directions). Negatives: the other keys; rows
    of `key` beyond n are further negatives. Range [0, inf); log m at collapse. Source: CPC, van den Oord et al. 2018.
    """
    layout = both_ways if symmetric else one_way
    return layout(query, key, temperature=temperature, negatives=negatives).loss(rows.info_nce_rows)


def nt_xent(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.1,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """InfoNCE of the 2n anchors of two views, each among the 2n - 1 others (itself excluded).

    Range [0, inf), at most log(1 + (2n - 2) e^{2/t}); log(2n - 1) at collapse.
    Source: SimCLR, Chen et al., ICML 2020, eq. 1.
    """
    return all_views([view_a, view_b], temperature=temperature, negatives=negatives).loss(rows.info_nce_rows)


def clip(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.07,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean of image -> text and text -> image InfoNCE: anchors are both sides, negatives the other rows.

    Range [0, inf); log n at collapse. Source: CLIP, Radford et al., ICML 2021, fig. 3.
    """
    return info_nce(image, text, temperature=temperature, symmetric=True, negatives=negatives)


def align(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 1.0,
    smoothing: float = 0.1,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The SUM of both directions, with smoothed targets: (1 - eps) on the pair plus eps / n on every candidate.

    Lowest: twice the entropy of the targets; 2 log n at collapse; 0 for n = 1.
    Source: ALIGN, Jia et al., ICML 2021, eq. 1 and 2.
    """
    layout = both_ways(image, text, temperature=temperature, join="sum", negatives=negatives)
    return layout.loss(partial(rows.smoothed_rows, smoothing=smoothing))


def dcl(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.1,
    sigma: float | None = None,
    detach: bool = True,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Decoupled contrastive loss of two views: the positive leaves the denominator, 2(n - 1) negatives an anchor.

    sigma: the von Mises-Fisher weighted form (0.5 in the paper), with the weights of `dcl_weights`, constants in the
    gradient unless detach is false. Range [log(2n-2) - 2/t, log(2n-2) + 2/t]: may be
    negative; log(2n-2) at collapse (unweighted). Raises InputError for a global batch of one item.
    Source: DCL, Yeh et al., ECCV 2022.
    """
    layout = all_views([view_a, view_b], temperature=temperature, negatives=negatives)
    return layout.loss(partial(rows.dcl_rows, sigma=sigma, detach=detach))


def dcl_weights(
    view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, sigma: float = 0.5, negatives: str = "local"
) -> Float[Tensor, "n"]:
    """w_i = 2 - n softmax_i(cos(a_i, b_i) / sigma), the weight of each positive pair in the weighted `dcl`: mean 1,
    from 2 - n to 2, larger for a pair that is far apart. Source: DCL, eq. 6."""
    return rows.positive_weights(one_way(view_a, view_b, negatives=negatives).parts[0], sigma)


def hcl(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    temperature: float = 0.5,
    tau_plus: float = 0.1,
    beta: float = 1.0,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Hard-negative contrast of two views, 2n anchors with 2n - 2 negatives each; see `rows.hcl_rows`.

    tau_plus: expected share of hidden positives; beta: concentration on hard negatives. Range (0, inf); log(2n - 1) at
    collapse; 0 for n = 1. Source: Robinson et al., ICLR 2021, eq. 4 and 5.
    """
    layout = all_views([view_a, view_b], temperature=temperature, negatives=negatives)
    return layout.loss(partial(rows.hcl_rows, tau_plus=tau_plus, beta=beta))


def debiased(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    temperature: float = 0.5,
    tau_plus: float = 0.1,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Debiased contrast of two views: `hcl` without the concentration on hard negatives (beta = 0).

    Range (0, inf); log(2n - 1) at collapse; 0 for n = 1. Source: Chuang et al., NeurIPS 2020, eq. 8.
    """
    return hcl(view_a, view_b, temperature=temperature, tau_plus=tau_plus, beta=0.0, negatives=negatives)


def hard_contrastive(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    temperature: float = 0.3,
    alpha: float = 0.1,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """InfoNCE over the share `alpha` of the hardest of the n - 1 cross-view negatives, both directions.

    The threshold is exact, one an anchor and direction, ties kept, a constant in the gradient. Range [0, inf), at most
    `clip`; log n at collapse (all tie). Source: Wang and Liu, CVPR 2021, sec. 4.3.
    """
    layout = both_ways(view_a, view_b, temperature=temperature, negatives=negatives)
    return layout.loss(partial(rows.hard_rows, alpha=alpha))


def simple(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    weight: float | None = None,
    alpha: float | None = None,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """-s_ii + lambda sum_j s_ij over the cross-view negatives, both directions: contrast without hardness weighting.

    weight: lambda; None: 1 over the number of negatives that count. alpha: only the share of the hardest (the hard
    simple loss). Range [-2, 2], 0 at collapse with weight None. Source: Wang and Liu, CVPR 2021, sec. 3.3 and 4.3.
    """
    layout = both_ways(view_a, view_b, negatives=negatives)
    return layout.loss(partial(rows.simple_rows, weight=weight, alpha=alpha))


def groco(
    views: Sequence[Float[Tensor, "n d"]],
    *,
    top_k: int = 10,
    steepness: float = 1.0,
    targets: int | None = None,
    detach: bool = True,
    excluded: ExcludedPairs | None = None,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Group ordering: by cosine, every positive before the K nearest other items of the anchor's OWN view.

    Anchors: every view of every item; positives: the item's other views among the first `targets` (default all); the
    mean over items, then views, of `group_ordering`. An anchor with fewer than K negatives has those; without any its
    loss is 0. In [0, inf), small: 0.202 where all similarities are equal, at best 0.147 (K = 10, two views, steepness
    1). detach: positives and negatives are constants in the gradient (the value is the same).
    Source: GroCo, Shvetsova et al., ICCV 2023, sec. 3. Raises InputError with fewer than two views or targets.
    """
    layout = own_view(
        views, targets=targets, gradient=not detach, together=True, excluded=excluded, negatives=negatives
    )
    return layout.loss(partial(rows.groco_rows, top_k=top_k, steepness=steepness))


def siglip(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.1,
    bias: float | Tensor = -10.0,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Pairwise sigmoid loss: the mean over images of the sum over texts of softplus(-y (s + bias)), y = 1 or -1.

    Range (0, inf); softplus(-1/t - b) + (n - 1) softplus(1/t + b) at collapse: n log 2 with the defaults, the paper's.
    Source: SigLIP, Zhai et al., ICCV 2023, eq. 1.
    """
    layout = one_way(image, text, temperature=temperature, negatives=negatives)
    return layout.loss(partial(rows.siglip_rows, bias=bias))


def _labelled(
    features: Tensor, labels: Tensor, temperature: float | Tensor, negatives: str, similarity: str = "cosine"
) -> Similarity:
    net = exchange(negatives)
    with net.together():
        if not (isinstance(features, Tensor) and isinstance(labels, Tensor)):
            raise InputError(
                f"features and labels must be tensors. Got {type(features).__name__} and {type(labels).__name__}."
            )
        if features.dim() != 2 or not features.is_floating_point() or labels.shape != features.shape[:1]:
            raise InputError(
                "features must be floats (n, D) and labels (n,). "
                f"Got {features.dtype} {tuple(features.shape)} and {tuple(labels.shape)}."
            )
        if labels.is_floating_point() or labels.is_complex():
            raise InputError(f"labels must be whole numbers (n,). Got {labels.dtype}.", "Convert them: y.long().")
    net.widths(features)
    keys, offset, ring = net.keys(features)
    columns, _ = net.gather(labels)
    itself = diagonal(features.shape[0], offset, features.device)
    return Similarity(
        features,
        Block(keys, ring=ring),
        positive=same(labels, columns),
        itself=itself,
        temperature=temperature,
        similarity=similarity,
        group=net.group,
    )


def sup_con(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, n],
    *,
    temperature: float | Tensor = 0.1,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Supervised contrast: the mean over an anchor's positives outside the log; anchors without one leave the mean.

    A label of -1 means "unknown"; others below 0 raise InputError.
    Range [0, inf), lowest log of the number of positives; log(n - 1) at collapse.
    Source: Khosla et al., NeurIPS 2020, eq. 2 (L_out).
    """
    s = _labelled(features, labels, temperature, negatives)
    return s.mean(rows.sup_con_rows(s))


def mil_nce(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, n],
    *,
    temperature: float | Tensor = 0.1,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """All positives of an anchor as one bag, summed inside the log: -log( bag / (bag + negatives) ).

    A label of -1 means "unknown"; others below 0 raise InputError.
    Range [0, inf); log((n - 1) / p) at collapse, p positives an anchor.
    Source: MIL-NCE, Miech et al., CVPR 2020, eq. 1.
    """
    s = _labelled(features, labels, temperature, negatives)
    return s.mean(rows.mil_nce_rows(s))


def soft_nearest_neighbour(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, n],
    *,
    temperature: float | Tensor = 1.0,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """-log of the share of an anchor's own class in sum_j e^{-|x_i - x_j|^2 / T}: `mil_nce` over squared distances.

    Plain vectors, not scaled to unit length. Range [0, inf); log((n - 1) / p) at collapse, p positives an anchor.
    Source: Frosst et al., ICML 2019, eq. 1.
    """
    s = _labelled(features, labels, temperature, negatives, "euclidean")
    return s.mean(rows.mil_nce_rows(s))


def triplet(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, n],
    *,
    margin: float = 0.2,
    mining: str = "hard",
    similarity: str = "cosine",
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Triplet loss with batch-hard or semi-hard mining: max(0, s_negative - s_positive + margin).

    mining "hard": the least similar positive and the most similar negative of the batch (Hermans et al. 2017);
    "semi-hard": the most similar negative that is still farther than the positive, else the hardest (FaceNet, Schroff
    et al., CVPR 2015). Range [0, margin + 2] under cosine, `margin` at collapse.
    """
    s = _labelled(features, labels, 1.0, negatives, similarity)
    return s.mean(rows.triplet_rows(s, margin=margin, mining=mining))


def cwcl(
    trained: Float[Tensor, "n d"],
    frozen: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.07,
    weighted: str = "trained",
    reference: Float[Tensor, "n r"] | None = None,
    negatives: str = "local",
    excluded: ExcludedPairs | None = None,
) -> Float[Tensor, ""]:
    """Continuously weighted contrast with a frozen tower: the SUM of a weighted direction and a plain one.

    Weights w_ij = cos(r_i, r_j) / 2 + 1/2 of the frozen vectors (or of `reference`), rows scaled to sum 1, constants.
    weighted: whose vectors are the anchors of the weighted direction: "trained", "frozen", "both", or "none" (then
    both are plain: the sum of InfoNCE in both directions). excluded: items that are no negatives of each other in a
    plain direction (the weights know them in the other). No gradient reaches `frozen`. Lowest: the entropy of the
    weights' rows; 2 log n at collapse; 0 for n = 1.
    Source: CWCL, Srinivasa et al., NeurIPS 2023.
    """
    if weighted not in ("trained", "frozen", "both", "none"):
        raise InputError(f"weighted must be 'trained', 'frozen', 'both' or 'none'. Got '{weighted}'.")
    held = normalise((frozen if reference is None else reference).detach())
    everyone, _ = exchange(negatives).gather(held)
    weight = low_rank(held / 2, everyone, 0.5)
    terms = []
    for who, anchors, candidates in (("trained", trained, frozen.detach()), ("frozen", frozen.detach(), trained)):
        soft = weighted in ("both", who)
        s = one_way(
            anchors, candidates, temperature=temperature, excluded=None if soft else excluded, negatives=negatives
        ).parts[0]
        terms.append(s.mean(rows.weighted_rows(s, weight) if soft else rows.info_nce_rows(s)))
    return torch.stack(terms).sum()


def cwcl_weights(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """w_ij = cos(q_i, q_j) / 2 + 1/2 in [0, 1], each row divided by its sum: the soft targets of `cwcl` from the frozen
    tower's vectors; a constant. The whole matrix, to look at: the loss sums with its factors."""
    unit = normalise(vectors.detach())
    w = (unit @ unit.T / 2 + 0.5).clamp(0, 1)
    return w / w.sum(1, keepdim=True)


def team_up(
    view_1: Float[Tensor, "n d"],
    view_2: Float[Tensor, "n d"],
    strength: Float[Tensor, n],
    *,
    temperature: float = 0.4,
    gamma: float = 1.0,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """InfoNCE over two views in which candidate j counts exp(gamma strength_j / t) times; strengths are constants.

    gamma 0: NT-Xent (GRACE's loss). Range [0, inf); 0 for n = 1. Source: CSGCL, IJCAI 2023, team-up objective.
    """
    net = exchange(negatives)
    with net.together():
        if view_1.shape != view_2.shape or strength.shape != view_1.shape[:1]:
            raise InputError(
                "The views must be (n, D) and strength (n,). "
                f"Got {tuple(view_1.shape)}, {tuple(view_2.shape)} and {tuple(strength.shape)}."
            )
    views = [normalise(v) for v in (view_1, view_2)]
    lift = strength.detach().to(views[0].dtype)[:, None] * (gamma / temperature)
    # The weight of a candidate is one more coordinate of its key: exact where e^lift would underflow.
    n = len(lift)
    keys, offset, ring = net.keys(torch.cat([torch.cat([v, lift], 1) for v in views]))
    query = torch.cat([torch.cat([v / temperature, torch.ones_like(lift)], 1) for v in views])
    mine = torch.arange(n, device=lift.device) + offset
    s = Similarity(
        query,
        Block(keys, ring=ring),
        positive=Listed(torch.cat([mine + n, mine])),
        group=net.group,
        itself=diagonal(2 * n, offset, lift.device),
        similarity="dot",
    )
    return s.mean(rows.info_nce_rows(s))
