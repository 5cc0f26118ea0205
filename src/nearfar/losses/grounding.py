"""CREST: regions and attributes look at each other (ACM MM 2024, arXiv 2404.09640), reconstructed.

    X (R, d_v) regions of an image, A (K, w) words of attributes, Z (C, K) attributes of classes
    V_k = softmax( q(a_k) k(X)^T / sqrt d ) v(X)      attributes look at regions      psi_k = < s(a_k), V_k >
    T_r = softmax( q(x_r) k(A)^T / sqrt d ) v(A)      regions look at attributes,
    h_r = T_r + what is recalled of patterns for it,                                  psi_k = < s(a_k), mean h_r >
    score of a class = < psi, z / |z| >

n images. The paper's equations could not be read; these follow its figure.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, check
from nearfar.errors import InputError
from nearfar.similarity import accumulated, normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import exchange


def attend(
    query: Float[Tensor, "n q d"], key: Float[Tensor, "n r d"], value: Float[Tensor, "n r d"]
) -> Float[Tensor, "n q d"]:
    """softmax( q k^T / sqrt d ) v: each row a mean of the values. The order of keys (with their values) is nothing."""
    return F.scaled_dot_product_attention(query, key, value)


def recall(rows: Float[Tensor, "n r d"], patterns: Float[Tensor, "m d"], kept: PositiveInt = 4) -> Tensor:
    """h = t + the mean of the s patterns with the largest t . p, weighed by the softmax of these scores, (n, R, d); t
    itself without patterns. kept: s, of which there are no more than patterns."""
    check("kept", kept, PositiveInt)
    if not len(patterns):
        return rows
    scores, best = (rows @ patterns.T).topk(min(kept, len(patterns)), -1)
    return rows + (scores.softmax(-1)[..., None] * patterns[best]).sum(-2)


def grounded_scores(words: Float[Tensor, "k d"], grounded: Float[Tensor, "n k d"]) -> Float[Tensor, "n k"]:
    """psi_k = < a_k, V_k >: how far each attribute is seen where it looks. words: s(A)."""
    return (grounded * words).sum(-1)


def region_scores(words: Float[Tensor, "k d"], rows: Float[Tensor, "n r d"]) -> Float[Tensor, "n k"]:
    """psi_k = the mean over regions of < a_k, h_r >. words: s(A)."""
    return rows.mean(1) @ words.T


def class_logits(
    psi: Float[Tensor, "n k"], classes: Float[Tensor, "c k"], scale: PositiveFloat = 1.0
) -> Float[Tensor, "n c"]:
    """o_c = scale * < psi, z_c / |z_c| >, in single precision at least; 0 for a class without attributes."""
    with full_precision(psi.device):
        unit = normalise(classes)
        return scale * (psi.to(unit.dtype) @ unit.T)


def certain_contrast(
    grounded: Float[Tensor, "n k d"],
    labels: Int[Tensor, "n"],
    uncertainty: Float[Tensor, "n"] | None = None,
    *,
    temperature: PositiveFloat = 0.2,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """L_VICL: images of a class look alike attribute by attribute, and sure images of other classes do not.

    s_ij = the mean over attributes of cos(V_ik, V_jk), divided by the temperature; the mean over anchors with positives
    of the mean over positives p of -log( e^s_ip / ( e^s_ip + sum_j w_j e^s_ij ) ), j of other classes. Weights
    w_j = |N_i| (1 - u_j) / sum over N_i of (1 - u), constants, have mean 1; without uncertainty, and where nothing is
    sure, all are 1. In [0, inf); 0 without positives or without negatives. Does not change when all V are turned or
    lengthened.

    negatives: "global": the images of all processes."""
    check("temperature", temperature, PositiveFloat)
    one = exchange(negatives)
    z, of = one.gather(normalise(grounded).flatten(1))[0], one.gather(labels)[0]
    with full_precision(z.device):
        s = z @ z.T / (temperature * max(1, grounded.shape[1]))
        alike = of[:, None] == of
        positive = alike & ~torch.eye(len(of), dtype=torch.bool, device=of.device)
        rivals = s if uncertainty is None else s + _log_weights(one.gather(uncertainty.detach())[0], ~alike).to(s.dtype)
        some = ~alike.all(1, keepdim=True)
        hard = torch.where(some, rivals.masked_fill(alike, -torch.inf), 0).logsumexp(1, keepdim=True)
        terms = torch.where(positive & some, F.softplus(hard - s), 0)
        counts = positive.sum(1)
        return (terms.sum(1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def _log_weights(uncertainty: Tensor, rival: Tensor) -> Tensor:
    """log w (n, n) of each image as a rival of each other one."""
    sure = (1 - accumulated(uncertainty)).clamp(min=0).expand(rival.shape) * rival
    total = sure.sum(1, keepdim=True)
    weights = rival.sum(1, keepdim=True) * sure / torch.where(total > 0, total, 1)
    return torch.where(total > 0, weights, 1).log()


def pattern_margin(
    rows: Float[Tensor, "n r d"],
    patterns: Float[Tensor, "m d"],
    *,
    margin: NonNegativeFloat = 1.0,
    commitment: NonNegativeFloat = 0.1,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """L_DIGS: the mean over rows t of [ |t - p|^2 - |t - q|^2 + margin ]+ + commitment |t - p|^2, p and q the patterns
    with the largest t . p, which are constants. >= 0; of one pattern the last term alone, of none 0.

    negatives: "global": the mean is that of all processes."""
    check("margin", margin, NonNegativeFloat)
    check("commitment", commitment, NonNegativeFloat)
    flat, held = accumulated(rows.flatten(0, 1)), accumulated(patterns.detach())
    if not len(held):
        return flat.sum() * 0
    with full_precision(flat.device):
        best = (flat.detach() @ held.T).topk(min(2, len(held)), 1)[1]
        far = [(flat - held[column]).square().sum(1) for column in best.unbind(1)]
    apart = (far[0] - far[1] + margin).relu() if len(far) == 2 else 0
    return exchange(negatives).mean(apart + commitment * far[0])


def agreed_attributes(
    a: Float[Tensor, "n k"], b: Float[Tensor, "n k"], unsure_a: Tensor | None = None, unsure_b: Tensor | None = None
) -> Float[Tensor, "n k"]:
    """psi = ( (1-u) psi + (1-u') psi' ) / ( (1-u) + (1-u') ): the mean of both paths' attributes by how sure each is,
    with gradient through u; the plain mean without uncertainties (n,) and where neither is sure."""
    if unsure_a is None or unsure_b is None:
        return (a + b) / 2
    sure = torch.stack([1 - unsure_a, 1 - unsure_b]).clamp(min=0)
    total = sure.sum(0)
    share = torch.where(total > 0, sure / torch.where(total > 0, total, 1), 0.5)[..., None]
    return share[0] * a + share[1] * b


def attribute_loss(
    psi: Float[Tensor, "n k"], classes: Float[Tensor, "c k"], target: Int[Tensor, "n"], *, negatives: str = "local"
) -> Float[Tensor, ""]:
    """L_ARISE: the mean over images and attributes of (psi - z_y)^2, >= 0; 0 of none.

    negatives: "global": the mean is that of all processes."""
    if psi.shape[1] != classes.shape[1]:
        raise InputError(f"Images have {psi.shape[1]} attributes, classes {classes.shape[1]}.")
    wide = accumulated(psi)
    return exchange(negatives).mean((wide - classes[target].to(wide.dtype)).square().mean(1))


__all__ = [
    "agreed_attributes",
    "attend",
    "attribute_loss",
    "certain_contrast",
    "class_logits",
    "grounded_scores",
    "pattern_margin",
    "recall",
    "region_scores",
]
