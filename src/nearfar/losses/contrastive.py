"""Named losses over plain tensors. Each needs nothing else of the library and works in anyone's own loop.

Reductions run in float32 (float64 stays); values are scalars, the mean over all anchors that have a positive.
`negatives`: "local" contrasts within this process, "global" across all of them (torch.distributed).
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.similarity import Block, Similarity, all_views, both_ways, one_way, same
from nearfar.similarity.exchange import exchange
from nearfar.similarity.relations import Listed


def info_nce(query: Float[Tensor, "n d"], key: Float[Tensor, "m d"], *, temperature: float | Tensor = 0.07,
             symmetric: bool = False, negatives: str = "local") -> Float[Tensor, ""]:
    """-log softmax of the positive among all keys: row i of `query` belongs to row i of `key`.

    Anchors: the queries (with `symmetric` also the keys; the mean of both directions). Negatives: the other keys; rows
    of `key` beyond n are further negatives. Range [0, inf); log m at collapse. Source: CPC, van den Oord et al. 2018.
    """
    layout = both_ways if symmetric else one_way
    return layout(query, key, temperature=temperature, negatives=negatives).loss(rows.info_nce_rows)


def nt_xent(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, temperature: float | Tensor = 0.1,
            negatives: str = "local") -> Float[Tensor, ""]:
    """InfoNCE of the 2n anchors of two views, each among the 2n - 1 others (itself excluded).

    Range [0, inf); log(2n - 1) at collapse. Source: SimCLR, Chen et al., ICML 2020, eq. 1.
    """
    return all_views([view_a, view_b], temperature=temperature, negatives=negatives).loss(rows.info_nce_rows)


def clip(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, temperature: float | Tensor = 0.07,
         negatives: str = "local") -> Float[Tensor, ""]:
    """The mean of image -> text and text -> image InfoNCE. log n at collapse. Source: CLIP, Radford et al. 2021."""
    return info_nce(image, text, temperature=temperature, symmetric=True, negatives=negatives)


def align(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, temperature: float | Tensor = 1.0,
          smoothing: float = 0.1, negatives: str = "local") -> Float[Tensor, ""]:
    """The SUM of both directions, with smoothed targets: (1 - eps) on the pair plus eps / n on every candidate.

    2 log n at collapse; 0 for n = 1. Source: ALIGN, Jia et al., ICML 2021, eq. 1 and 2.
    """
    layout = both_ways(image, text, temperature=temperature, join="sum", negatives=negatives)
    return layout.loss(partial(rows.smoothed_rows, smoothing=smoothing))


def dcl(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, temperature: float | Tensor = 0.1,
        sigma: float | None = None, negatives: str = "local") -> Float[Tensor, ""]:
    """Decoupled contrastive loss of two views: the positive leaves the denominator, 2(n - 1) negatives an anchor.

    sigma: the von Mises-Fisher weighted form (0.5 in the paper). Range [log(2n-2) - 2/t, log(2n-2) + 2/t]: may be
    negative. Raises InputError for a global batch of one item. Source: DCL, Yeh et al., ECCV 2022.
    """
    layout = all_views([view_a, view_b], temperature=temperature, negatives=negatives)
    return layout.loss(partial(rows.dcl_rows, sigma=sigma))


def hcl(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, temperature: float = 0.5,
        tau_plus: float = 0.1, beta: float = 1.0, negatives: str = "local") -> Float[Tensor, ""]:
    """Hard-negative contrast of two views; see `rows.hcl_rows`. Source: Robinson et al., ICLR 2021."""
    layout = all_views([view_a, view_b], temperature=temperature, negatives=negatives)
    return layout.loss(partial(rows.hcl_rows, tau_plus=tau_plus, beta=beta))


def debiased(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, temperature: float = 0.5,
             tau_plus: float = 0.1, negatives: str = "local") -> Float[Tensor, ""]:
    """Debiased contrast of two views. Source: Chuang et al., NeurIPS 2020."""
    return hcl(view_a, view_b, temperature=temperature, tau_plus=tau_plus, beta=0.0, negatives=negatives)


def hard_contrastive(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, temperature: float = 0.3,
                     alpha: float = 0.1, negatives: str = "local") -> Float[Tensor, ""]:
    """InfoNCE over the share `alpha` of the hardest of the n - 1 cross-view negatives, both directions.

    Source: Wang and Liu, CVPR 2021, sec. 4.3; the threshold is exact, one an anchor and direction, ties kept.
    """
    layout = both_ways(view_a, view_b, temperature=temperature, negatives=negatives)
    return layout.loss(partial(rows.hard_rows, alpha=alpha))


def siglip(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, temperature: float | Tensor = 0.1,
           bias: float | Tensor = -10.0, negatives: str = "local") -> Float[Tensor, ""]:
    """Pairwise sigmoid loss: the mean over images of the sum over texts. Source: SigLIP, Zhai et al., ICCV 2023."""
    layout = one_way(image, text, temperature=temperature, negatives=negatives)
    return layout.loss(partial(rows.siglip_rows, bias=bias))


def _labelled(features: Tensor, labels: Tensor, temperature: float | Tensor, negatives: str,
              similarity: str = "cosine") -> Similarity:
    net = exchange(negatives)
    with net.together():
        if features.dim() != 2 or labels.shape != features.shape[:1]:
            raise InputError("features must be (n, D) and labels (n,). "
                             f"Got {tuple(features.shape)} and {tuple(labels.shape)}.")
    net.widths(features)
    keys, offset = net.gather(features)
    columns, _ = net.gather(labels)
    mine = torch.arange(features.shape[0], device=features.device) + offset
    return Similarity(features, Block(keys), positive=same(labels, columns), itself=Listed(mine),
                      temperature=temperature, similarity=similarity, group=net.group)


def sup_con(features: Float[Tensor, "n d"], labels: Int[Tensor, n], *, temperature: float | Tensor = 0.1,
            negatives: str = "local") -> Float[Tensor, ""]:
    """Supervised contrast: the mean over an anchor's positives outside the log; anchors without one leave the mean.

    Negative labels mean "unknown". log(n - 1) at collapse. Source: Khosla et al., NeurIPS 2020, eq. 2 (L_out).
    """
    s = _labelled(features, labels, temperature, negatives)
    return s.mean(rows.sup_con_rows(s))


def mil_nce(features: Float[Tensor, "n d"], labels: Int[Tensor, n], *, temperature: float | Tensor = 0.1,
            negatives: str = "local") -> Float[Tensor, ""]:
    """All positives of an anchor as one bag, summed inside the log. Source: Miech et al., CVPR 2020, eq. 1."""
    s = _labelled(features, labels, temperature, negatives)
    return s.mean(rows.mil_nce_rows(s))


def triplet(features: Float[Tensor, "n d"], labels: Int[Tensor, n], *, margin: float = 0.2, mining: str = "hard",
            similarity: str = "cosine", negatives: str = "local") -> Float[Tensor, ""]:
    """Triplet loss with batch-hard or semi-hard mining; range [0, margin + 2] under cosine, `margin` at collapse."""
    s = _labelled(features, labels, 1.0, negatives, similarity)
    return s.mean(rows.triplet_rows(s, margin=margin, mining=mining))
