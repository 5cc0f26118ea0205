"""Several views of both sides of a pair: CLIP-rocket, and the terms of BarLIP, SiamLIP and SwALIP beside it (Fini et
al., TMLR 2023). View 0 of a list is the global one, the others are local; images meet texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.losses.assignment import sinkhorn
from nearfar.losses.noncontrastive import byol_rows, cross_correlation
from nearfar.losses.rows import smoothed_rows
from nearfar.similarity import ExcludedPairs, both_ways, normalise, one_way
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import exchange

Views = Sequence[Float[Tensor, "n d"]]
MODES = ("avg", "sum")


def view_pairs(image: Sequence[Tensor], text: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Which views meet: the global ones, and every local image every local text. Raises InputError for lists of
    different lengths, or none."""
    check_lists(image, text)
    local = range(1, len(image))
    return [(0, 0), *((a, b) for a in local for b in local)]


def check_lists(image: Sequence[Tensor], text: Sequence[Tensor], least: int = 1) -> None:
    if len(image) != len(text) or len(image) < least:
        raise InputError(f"Images and texts have as many views each, {least} or more. Got {len(image)} and "
                         f"{len(text)}.")  # fmt: skip


def smoothed_clip(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 0.07,
    smoothing: float = 0.0,
    official: bool = False,
    excluded: ExcludedPairs | None = None,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean of both directions' cross-entropy against (1 - eps) on the pair plus eps / n on every candidate.

    smoothing: eps; 0 is `clip`. official: candidates are constants, as gathered ones are in the released code: only
    anchors are moved, by half of the gradient. Range [0, inf) for eps = 0. Source: arXiv 2305.08675, sec. 3."""
    rows = partial(smoothed_rows, smoothing=smoothing)
    if not official:
        layout = both_ways(image, text, temperature=temperature, excluded=excluded, negatives=negatives)
        return layout.loss(rows)
    back = None if excluded is None else excluded.reversed()
    options = {"temperature": temperature, "negatives": negatives}
    forth = one_way(image, text.detach(), excluded=excluded, **options).loss(rows)
    return (forth + one_way(text, image.detach(), excluded=back, **options).loss(rows)) / 2


class RocketTerms(NamedTuple):
    """The loss of the global views, and the mean over all pairs of local ones (0 without any), A local views a side."""

    whole: Tensor
    local: Tensor
    views: int

    def total(self, mode: str = "avg") -> Tensor:
        """(whole + A local) / (1 + A); mode "sum": twice that, the sum of both directions."""
        one_of("mode", mode, MODES)
        return (self.whole + self.views * self.local) / (1 + self.views) * (2 if mode == "sum" else 1)


def clip_rocket_terms(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    local_image: Views = (),
    local_text: Views = (),
    *,
    temperature: float | Tensor = 0.07,
    local_temperature: float | Tensor = 0.1,
    smoothing: float = 0.1,
    official: bool = False,
    excluded: ExcludedPairs | None = None,
    negatives: str = "local",
) -> RocketTerms:
    """The two terms of `clip_rocket`, whose arguments these are."""
    check_lists(local_image, local_text, 0)
    shared = {"official": official, "excluded": excluded, "negatives": negatives}
    whole = smoothed_clip(image, text, temperature=temperature, **shared)
    local = [smoothed_clip(a, b, temperature=local_temperature, smoothing=smoothing, **shared)
             for a in local_image for b in local_text]  # fmt: skip
    return RocketTerms(whole, torch.stack(local).mean() if local else 0 * whole.detach(), len(local_image))


def clip_rocket(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    local_image: Views = (),
    local_text: Views = (),
    *,
    temperature: float | Tensor = 0.07,
    local_temperature: float | Tensor = 0.1,
    smoothing: float = 0.1,
    mode: str = "avg",
    official: bool = False,
    excluded: ExcludedPairs | None = None,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """CLIP of the weak (global) views z, and smoothed CLIP of every strong (local) image with every strong text h.

    (CLIP(z) + A mean_ab CLIP_eps(h_a, h_b)) / (1 + A), A views a side; mode "sum": twice that. Compared by cosine; z
    and h may differ in width and have a temperature each. A = 0 is `clip`. Range [0, inf); log n at collapse.
    official: candidates are constants. Raises InputError for lists of different lengths.
    Source: CLIP-rocket, Fini et al., TMLR 2023 (arXiv 2305.08675), sec. 3.
    """
    return clip_rocket_terms(
        image, text, local_image, local_text, temperature=temperature, local_temperature=local_temperature,
        smoothing=smoothing, official=official, excluded=excluded, negatives=negatives,
    ).total(mode)  # fmt: skip


def barlip(
    image: Views, text: Views, *, weight: float = 0.005, scale: float = 0.025, negatives: str = "local"
) -> Float[Tensor, ""]:
    """scale times the mean of `cross_correlation` over the pairs of views (global with global, local with local).

    image, text: 1 + A projections each, the global one first; their last layer is a batch norm. Range [0, inf), 0 where
    every correlation is the identity. Source: BarLIP (arXiv 2305.08675), sec. 3; weight and scale of the released code.
    """
    terms = [cross_correlation(image[a], text[b], weight=weight, negatives=negatives)
             for a, b in view_pairs(image, text)]  # fmt: skip
    return scale * torch.stack(terms).mean()


def siamlip(
    predicted_image: Views,
    predicted_text: Views,
    target_image: Views,
    target_text: Views,
    *,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean of 2 - 2 cos(p, v) over pairs of views, p of one side and v of the other, both ways; no gradient into v.

    1 + A views each, the global one first. Range [0, 4]. v of the same network: SiamLIP; of a momentum copy: BYOLIP.
    Source: arXiv 2305.08675, sec. 3, after SimSiam and BYOL.
    """
    net, terms = exchange(negatives), []
    for a, b in view_pairs(predicted_image, target_text):
        terms.append(net.mean(byol_rows(predicted_image[a], target_text[b])))
    for a, b in view_pairs(predicted_text, target_image):
        terms.append(net.mean(byol_rows(predicted_text[a], target_image[b])))
    return torch.stack(terms).mean()


def swalip(
    local_image: Views,
    local_text: Views,
    *,
    temperature: float | Tensor = 0.1,
    eps: float = 0.05,
    iterations: int = 3,
    official: bool = False,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Each pair of local views (a, b) predicts the balanced assignment of the pair of the other views (1 - a, 1 - b).

    S_ab = cos(h_a, h_b) of all images and texts of the batch, which are each other's prototypes; targets `sinkhorn`
    of S_(1-a)(1-b) with entropy eps, rows that sum to 1, constants. The mean of both directions and of the four pairs.
    Range [0, inf); log n at collapse. Exactly two local views a side, else InputError. official: candidates are
    constants. Source: SwALIP (arXiv 2305.08675), sec. 3, after SwAV; the version of its final runs.
    """
    check_lists(local_image, local_text, 2)
    if len(local_image) != 2:
        raise InputError(f"SwALIP swaps two local views a side. Got {len(local_image)}.", "Use --local 2.")
    net, terms = exchange(negatives), []
    sides = [[normalise(z) for z in side] for side in (local_image, local_text)]
    for mine, others in (sides, sides[::-1]):
        keys = [net.gather(z.detach() if official else z)[0] for z in others]
        with full_precision(keys[0].device):
            s = [[q @ k.T for k in keys] for q in mine]
        for a in range(2):
            for b in range(2):
                target = sinkhorn(s[1 - a][1 - b], eps=eps, iterations=iterations, group=net.group)
                terms.append(net.mean(-(target * torch.log_softmax(s[a][b] / temperature, 1)).sum(1)))
    return torch.stack(terms).mean()


__all__ = [
    "RocketTerms",
    "barlip",
    "clip_rocket",
    "clip_rocket_terms",
    "siamlip",
    "smoothed_clip",
    "swalip",
    "view_pairs",
]
