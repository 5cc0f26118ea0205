"""Bags of instances with one label each: contrast of instances by pseudo classes, prototypes, soft labels, pooling.

    a = softmax(o) Y    Y = (1, 0) for an instance of a negative bag, (1, 1) for one of a positive bag
    r = softmax(q mu^T)    mu_c <- m_p mu_c + (1 - m_p) q_i  for c = argmax a_i, in the order of the batch

Two classes: 0 negative, 1 positive. An instance of a negative bag is surely negative; in a positive bag nothing is
known of a single one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows, sup_con_rows
from nearfar.similarity import Block, Similarity, diagonal, normalise, one_way, same
from nearfar.similarity.exchange import exchange


def masked_scores(logits: Float[Tensor, "n 2"], positive_bag: Bool[Tensor, "n"]) -> Float[Tensor, "n 2"]:
    """softmax(logits) Y, in [0, 1]: an instance of a negative bag keeps the score of class 0 alone.

    Their argmax is the pseudo class of an instance. Source: INS (arXiv 2307.02249)."""
    scores = logits.softmax(1)
    return torch.stack([scores[:, 0], scores[:, 1] * positive_bag], 1)


def prototype_scores(q: Float[Tensor, "n d"], prototypes: Float[Tensor, "2 d"]) -> Float[Tensor, "n 2"]:
    """softmax(q mu^T) without a temperature, in (0, 1); 1/2 each while both prototypes are zero. q: unit vectors.

    Source: INS."""
    return (q @ prototypes.T).softmax(1)


@torch.no_grad()
def moved_prototypes(
    prototypes: Float[Tensor, "2 d"], q: Float[Tensor, "n d"], classes: Int[Tensor, "n"], momentum: float = 0.9
) -> Float[Tensor, "2 d"]:
    """mu_c <- m_p mu_c + (1 - m_p) q_i for each row in turn, c its class; both brought to length 1 afterwards.

    A class without a row keeps its prototype (a zero one stays zero). The order of rows counts. Source: INS, as in
    PiCO."""
    if not 0 <= momentum <= 1:
        raise InputError(f"The momentum of prototypes must be in [0, 1]. Got {momentum}.")
    moved = prototypes.clone()
    for c in range(len(prototypes)):
        own = q[classes == c].to(moved.dtype)
        powers = torch.arange(len(own) - 1, -1, -1, device=q.device, dtype=moved.dtype)
        moved[c] = momentum ** len(own) * moved[c] + ((1 - momentum) * momentum**powers) @ own
    return normalise(moved)


@torch.no_grad()
def pseudo_targets(
    targets: Float[Tensor, "n 2"], scores: Float[Tensor, "n 2"], positive_bag: Bool[Tensor, "n"], phi: float
) -> Float[Tensor, "n 2"]:
    """phi targets + (1 - phi) one-hot(argmax(scores Y)); (1, 0) for instances of negative bags. Rows sum to 1.

    scores: of the prototypes; equal ones count as class 0. phi 1 keeps the targets of positive bags, 0 takes the
    decision alone. Source: INS."""
    if not 0 <= phi <= 1:
        raise InputError(f"phi must be in [0, 1]. Got {phi}.")
    decided = (scores[:, 1] > scores[:, 0]) & positive_bag
    hard = torch.stack([~decided, decided], 1).to(targets.dtype)
    sure = torch.tensor([1.0, 0.0], dtype=targets.dtype, device=targets.device)
    return torch.where(positive_bag[:, None], phi * targets + (1 - phi) * hard, sure)


def linear_between(ends: tuple[float, float], share: float) -> float:
    """From the first end to the second as the share goes from 0 to 1 (phi of INS: 0.95 to 0.8 over the run)."""
    return ends[0] + (ends[1] - ends[0]) * min(1.0, max(0.0, share))


def soft_cross_entropy(
    logits: Float[Tensor, "n c"],
    targets: Float[Tensor, "n c"],
    *,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """- mean_i sum_c target_ic log softmax(logits_i)_c, in [0, inf); the mean over all processes with "global"."""
    return -exchange(negatives).mean(targets * logits.log_softmax(1))


def ins_contrast(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "n d"],
    queue: Float[Tensor, "m d"],
    classes: Int[Tensor, "n"],
    queue_classes: Int[Tensor, "m"],
    *,
    temperature: float | Tensor = 0.07,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Instances of one pseudo class attract each other: the mean over anchors q_i of

        - 1/|P_i| sum_{j in P_i} ( s_ij - log sum_{l != i} e^{s_il} ),   s = q_i . v / temperature

    over V = [q; k; queue] without q_i itself; P_i: rows of V of the class of i, its own key among them. Gradients flow
    through q as anchors and as candidates; keys and queue are constants. In [log of the number of positives, inf).

    classes: >= 0; queue_classes: -1 where unknown (a negative of all). All classes different, it is InfoNCE of the own
    key over all other rows. Cosine: vectors need not have length 1. Source: INS, instance-level weakly supervised
    contrast. Raises InputError: shapes that do not fit."""
    if q.shape != k.shape or classes.shape != q.shape[:1] or queue_classes.shape != queue.shape[:1]:
        raise InputError(
            f"Queries and keys must be (n, D), classes (n,), those of the queue (m,). Got "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(classes.shape)}, {tuple(queue_classes.shape)}."
        )
    net = exchange(negatives)
    every, first = net.gather(q)
    others, known = net.gather(k.detach())[0], net.gather(classes)[0]
    keys = torch.cat([every, others.to(every.dtype), queue.detach().to(every.dtype)])
    s = Similarity(
        q,
        keys,
        positive=same(classes, torch.cat([known, known, queue_classes])),
        itself=diagonal(len(q), first, q.device),
        temperature=temperature,
        group=net.group,
    )
    return s.mean(sup_con_rows(s))


def queue_contrast(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "n d"],
    queue: Float[Tensor, "m d"],
    *,
    temperature: float | Tensor = 0.07,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """MoCo: -log softmax of the own key among it and the queue; nothing else of the batch is a negative. In [0, inf).

    Cosine. Source: He et al., MoCo, CVPR 2020, eq. 1; the warm-up of INS."""
    layout = one_way(
        q,
        k.detach(),
        temperature=temperature,
        in_batch=False,
        negatives=negatives,
        extra_candidates=[Block(queue.detach(), gradient=False)],
    )
    return layout.loss(info_nce_rows)


def bag_probabilities(p: Float[Tensor, "n"], bags: Int[Tensor, "n"], pool: str = "mean") -> Float[Tensor, "b"]:
    """What the probabilities of a bag's instances make of the bag: their mean (INS), max, or lse, the logarithm of the
    mean of e^p; all in [0, 1]. bags: the number of each instance's bag, 0 .. b - 1, each with one instance at least."""
    count = int(bags.max()) + 1 if len(bags) else 0
    if pool == "max":
        return p.new_full((count,), -torch.inf).scatter_reduce(0, bags, p, "amax")
    sizes = torch.bincount(bags, minlength=count).to(p.dtype)
    if pool == "lse":
        return (p.new_zeros(count).index_add(0, bags, p.exp()) / sizes).log()
    if pool != "mean":
        raise InputError(f"A bag's score is the mean, max or lse of its instances. Got '{pool}'.")
    return p.new_zeros(count).index_add(0, bags, p) / sizes


def bag_cross_entropy(p: Float[Tensor, "b"], labels: Bool[Tensor, "b"]) -> Float[Tensor, ""]:
    """Mean of -log p of positive bags and -log(1 - p) of negative ones, p in [0, 1] kept 1e-7 away from its ends;
    in [0, 16.2). Source: INS, bag constraint."""
    p = p.float().clamp(1e-7, 1 - 1e-7)
    return -torch.where(labels, p.log(), (1 - p).log()).mean()


def attention_pooling(
    h: Float[Tensor, "n d"],
    scores: Float[Tensor, "n"],
    bags: Int[Tensor, "n"],
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "n"]]:
    """The mean of a bag's instances weighted by softmax(scores) within the bag, and these weights (they sum to 1 in
    each bag). bags: 0 .. b - 1. Source: Ilse, Tomczak, Welling, ICML 2018 (arXiv 1802.04712), eq. 7 and 8."""
    count = int(bags.max()) + 1 if len(bags) else 0
    top = scores.detach().new_full((count,), -torch.inf).scatter_reduce(0, bags, scores.detach(), "amax")
    weight = (scores - top[bags]).exp()
    weight = weight / weight.new_zeros(count).index_add(0, bags, weight)[bags]
    pooled = h.new_zeros(count, h.shape[1])
    return pooled.index_add(0, bags, (weight[:, None] * h).to(h.dtype)), weight  # autocast widens the weights


def bag_logit_loss(logits: Float[Tensor, "b"], labels: Bool[Tensor, "b"]) -> Float[Tensor, ""]:
    """Mean binary cross-entropy of bag logits, in [0, inf)."""
    return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


__all__ = [
    "attention_pooling",
    "bag_cross_entropy",
    "bag_logit_loss",
    "bag_probabilities",
    "ins_contrast",
    "masked_scores",
    "moved_prototypes",
    "prototype_scores",
    "pseudo_targets",
    "queue_contrast",
    "soft_cross_entropy",
]
