"""Losses of mixtures of experts for embeddings: MNR+, and what teaches a router.

Source: Contrastive Learning and Mixture of Experts Enables Precise Vector Embeddings (arXiv 2401.15713), official code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import accumulated, check_temperature, normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import Exchange, exchange


def mnr(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 1.0,
    normalised: bool = False,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Multiple negatives ranking: cross-entropy of the rows of a b^T / t with their own place; one direction.

    normalised: rows of length 1; then it is InfoNCE. 0 for one pair, log n for equal rows. Computed in float32 at
    least. Raises InputError for other shapes.
    """
    net = _checked(a, b, temperature, negatives)
    with full_precision(a.device):
        a, b = (normalise(x) if normalised else accumulated(x) for x in (a, b))
        keys, first = net.gather(b)
        own = first + torch.arange(len(a), device=a.device)
        return net.mean(F.cross_entropy(a @ keys.T / temperature, own, reduction="none"))


def _checked(a: Tensor, b: Tensor, temperature: float | Tensor, negatives: str) -> Exchange:
    check_temperature(temperature)
    if a.dim() != 2 or a.shape != b.shape:
        raise InputError(f"The two sides must be (n, d) alike. Got {tuple(a.shape)} and {tuple(b.shape)}.")
    return exchange(negatives)


def mnr_plus_targets(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], *, temperature: float | Tensor = 1.0
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Which candidate each row of a, and each row of b, is to find: M = softmax over rows of t (a a^T + b b^T) / 2; the
    largest of each row, and of each column. Of equal ones the first. No gradient.

    With rows of length 1 every row finds its own partner, and nearly always every column; with others a row of a large
    norm may win. Computed in float32 at least.
    """
    with torch.no_grad(), full_precision(a.device):
        a, b = accumulated(a), accumulated(b)
        m = (temperature * (a @ a.T + b @ b.T) / 2).log_softmax(1)  # of the softmax itself small ones would be 0 alike
        return m.argmax(1), m.argmax(0)


def mnr_plus(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    *,
    temperature: float | Tensor = 1.0,
    normalised: bool = False,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean of both directions' cross-entropy of a b^T / t with the targets of `mnr_plus_targets`.

    normalised: rows of length 1; then it is nearly always symmetric InfoNCE: each row aims at its own partner, and each
    column unless a softmax over rows puts another first. Inner products as they are by default, as in the released
    code. 0 for one pair. Computed in float32 at least. Raises InputError for other shapes.
    """
    net = _checked(a, b, temperature, negatives)
    with full_precision(a.device):
        a, b = (net.gather(normalise(x) if normalised else accumulated(x))[0] for x in (a, b))
        rows, columns = mnr_plus_targets(a, b, temperature=temperature)
        s = a @ b.T / temperature
        return (F.cross_entropy(s, rows) + F.cross_entropy(s.T, columns)) / 2


def router_loss(
    a: Float[Tensor, "layers n experts"],
    b: Float[Tensor, "layers n experts"],
    domains: Int[Tensor, "n"],
    *,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Cross-entropy of the routers' logits, their mean over both texts and all layers, with the domain of each pair.

    In [0, inf); log of the number of experts for logits that say nothing.
    """
    logits = ((accumulated(a) + accumulated(b)) / 2).mean(0)
    return exchange(negatives).mean(F.cross_entropy(logits, domains, reduction="none"))


def balance_loss(logits: Float[Tensor, "... experts"], *, negatives: str = "local") -> Float[Tensor, ""]:
    """experts times the sum over experts of the mean router probability and the share of choices, over all layers and
    texts: 1 where both are uniform, at most the number of experts. The choices carry no gradient. Source: Shazeer et
    al., 2017; Fedus et al., Switch Transformers, 2022, eq. 4."""
    flat = exchange(negatives).gather(accumulated(logits).reshape(-1, logits.shape[-1]))[0]
    share = F.one_hot(flat.argmax(1), flat.shape[1]).to(flat.dtype).mean(0)
    return flat.shape[1] * (flat.softmax(1).mean(0) * share).sum()
