"""CoT: attributes and objects as visual primitives of several layers (Kim et al., ICCV 2023).

    F_l  maps of a layer, v_o an object's vector:   F' = F_l * g (channels),   G_l = F_l + F' * s (places)
    cosines of an image with the words of objects and of attributes, and with the labels of pairs, each a classifier
    rare attributes: two images of one object are mixed, and so are the words of their attributes

The released code's equations. n images, K pairs of A attributes and O objects.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.checks import PositiveFloat, UnitInterval, check
from nearfar.errors import InputError
from nearfar.similarity import normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import exchange


def let_through(maps: Float[Tensor, "n c h w"], channels: Float[Tensor, "n c"]) -> Float[Tensor, "n c h w"]:
    """F' = F * sigmoid(logit) of each channel: |F'| < |F|."""
    return maps * channels.sigmoid()[..., None, None]


def guide(objects: Float[Tensor, "n d"], through: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2 h w"]:
    """What the gate of places is made from: the mean of an object's vector at every place, and F' averaged over its
    channels."""
    mean = through.mean(1, keepdim=True)
    return torch.cat([objects.mean(1).to(mean.dtype)[:, None, None, None].expand_as(mean), mean], 1)


def guided(
    maps: Float[Tensor, "n c h w"], through: Float[Tensor, "n c h w"], places: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, "n c h w"]:
    """G = F + F' * sigmoid(logit) of each place: |G - F| < |F| where F' is F behind its gate."""
    return maps + through * places.sigmoid()


def cosine_logits(
    z: Float[Tensor, "n d"], classes: Float[Tensor, "k d"], temperature: PositiveFloat = 0.05
) -> Float[Tensor, "n k"]:
    """cos(z, class) / t in single precision at least, within -1/t and 1/t; 0 for a zero vector."""
    check("temperature", temperature, PositiveFloat)
    with full_precision(z.device):
        return normalise(z) @ normalise(classes).T / temperature


def cosine_classifier(
    z: Float[Tensor, "n d"],
    classes: Float[Tensor, "k d"],
    target: Int[Tensor, "n"] | Float[Tensor, "n k"],
    *,
    temperature: PositiveFloat = 0.05,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean over rows of the cross-entropy of `cosine_logits` with the true class, at least 0; 0 of no rows.

    target: the class of each row, or the share of each class in it, rows that sum to 1 (several attributes alike).
    negatives: "global": the mean is that of all processes."""
    if z.shape[1] != classes.shape[1]:
        raise InputError(f"Vectors of {z.shape[1]} numbers have no cosine with classes of {classes.shape[1]}.")
    logits = cosine_logits(z, classes, temperature)
    target = target.to(logits.dtype) if target.is_floating_point() else target
    return exchange(negatives).mean(F.cross_entropy(logits, target, reduction="none"))


def mixed(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], share: UnitInterval | Tensor) -> Float[Tensor, "n d"]:
    """share * a + (1 - share) * b: a itself at 1, b at 0."""
    return share * a + (1 - share) * b


def mixed_pairs(
    virtual: Float[Tensor, "n d"],
    label: Float[Tensor, "n d"],
    classes: Float[Tensor, "k d"],
    *,
    temperature: PositiveFloat = 0.1,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """L_mix: a virtual image is told from all pairs of training by its virtual label, the mean of

        - log  e^(u.q) / ( e^(u.q) + sum_k e^(u.y_k) ),     each cosine divided by the temperature

    virtual: u, mixed images; label: q, of the mixed words; classes: y, of all pairs of training, the two true ones
    among them: above 0, and at least log 2 where q is one of them. 0 of no rows. negatives: "global": the mean is that
    of all processes."""
    if virtual.shape != label.shape:
        raise InputError(f"Each virtual image needs a label. Got {tuple(virtual.shape)} and {tuple(label.shape)}.")
    check("temperature", temperature, PositiveFloat)
    own = (normalise(virtual) * normalise(label)).sum(1, keepdim=True) / temperature
    logits = torch.cat([own, cosine_logits(virtual, classes, temperature)], 1)
    return exchange(negatives).mean(logits.logsumexp(1) - own[:, 0])


def attribute_shares(pairs: Int[Tensor, "k m"], attributes: int) -> Float[Tensor, "k a"]:
    """The share of each of A attributes in a pair: 1 / (their number) each. pairs: attributes, -1 behind the last, and
    in the last column the object, as `nearfar.sources.compositions` has them."""
    used = pairs[:, :-1]
    shares = torch.zeros(len(pairs), attributes, device=pairs.device)
    rows, places = (used >= 0).nonzero(as_tuple=True)
    shares[rows, used[rows, places]] = 1.0
    return shares / shares.sum(1, keepdim=True).clamp(min=1)


def composition_scores(
    pair: Float[Tensor, "n d"],
    attribute: Float[Tensor, "n d"],
    item: Float[Tensor, "n d"],
    labels: Float[Tensor, "k d"],
    attribute_words: Float[Tensor, "a d"],
    object_words: Float[Tensor, "o d"],
    pairs: Int[Tensor, "k m"],
) -> Float[Tensor, "n k"]:
    """cos(v_p, y) + cos(v_a, E_a) + cos(v_o, E_o) of each pair, in [-3, 3]; of several attributes the mean of theirs.

    pairs: as in `attribute_shares`."""
    told, used = cosine_logits(attribute, attribute_words, 1.0), pairs[:, :-1]
    parts = [torch.where(column >= 0, told[:, column.clamp(min=0)], 0) for column in used.unbind(1)]
    both = torch.stack(parts).sum(0) / (used >= 0).sum(1).clamp(min=1)
    return cosine_logits(pair, labels, 1.0) + both + cosine_logits(item, object_words, 1.0)[:, pairs[:, -1]]


__all__ = [
    "attribute_shares",
    "composition_scores",
    "cosine_classifier",
    "cosine_logits",
    "guide",
    "guided",
    "let_through",
    "mixed",
    "mixed_pairs",
]
