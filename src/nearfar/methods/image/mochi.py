"""MoCHi: hard negative mixing on top of momentum contrast (Kalantidis et al., NeurIPS 2020).

    x --two views--> x_q, x_k;   q = f_q(x_q);   k = f_k(x_k), f_k <- m f_k + (1 - m) f_q;   then k enters the queue Q
    hardest N keys of Q for q --> s mixtures h of two of them, s' mixtures h' of one of them and q
    loss = -log e^{q.k/t} / (e^{q.k/t} + sum_Q e^{q.n/t} + sum_h e^{q.h/t} + sum_h' e^{q.h'/t})

After a few epochs few keys of the queue weigh anything in the softmax; mixtures of those few are new, harder negatives
for the price of one small matrix product. The equations are in `nearfar.negatives.mixing`, so every method may use
them (`--negatives mixing`); here they stand with their host: a teacher, a queue, one direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from nearfar.encoders import Encoder
from nearfar.methods import Paper, ViewContrast, register
from nearfar.negatives import Negatives


@register("mochi", family="image")
class MoCHi(ViewContrast):
    """A view finds the teacher's key of another view among a queue of keys and mixtures of the hardest of them.

    Args:
        temperature: tau; divides the cosine.
        negatives: the queue and its mixtures; --negatives queue is MoCo-v2 with the same everything: the batch's keys
            are no negatives, and the queue starts with random unit vectors.
        momentum: m; of the teacher that encodes the keys. auto: keeps the drift of the oldest key, (1 - m) K / B, at
            or below 0.1, within [0.99, 0.9995].
        both_directions: the second view is an anchor as well (the paper: the first only).
    """

    paper = Paper(
        "Hard Negative Mixing for Contrastive Learning",
        "NeurIPS 2020",
        "Mix the hardest negatives of a queue with each other and with the query: harder ones for one small product.",
        arxiv="2010.01028",
        differs="no code was published; keys of the same sample or group are hidden from the ranking and the loss "
        "(mask_duplicates); AdamW instead of SGD unless asked for; the teacher's batch norm sees its own batch instead "
        "of a shuffled one",
    )
    preset_paper = {
        "temperature": 0.2,
        "momentum": 0.999,
        "negatives": {"name": "mixing", "size": 16384, "hard": 1024, "mixed": 1024, "with_query": 128, "start": 0.05},
        "projector": 2048,
        "dim": 128,
    }  # fmt: skip
    paper_training = {"optimiser": "sgd", "lr": 0.03, "weight_decay": 1e-4, "decay_all": True}

    defaults = {"temperature": 0.2, "momentum": "auto"}
    follows = {"both_directions": "momentum"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        negatives: Negatives | Literal["auto"] | None = "auto",
        both_directions: bool = False,
        **shared: Any,
    ):
        part = self.default_part("negatives") if negatives == "auto" else negatives
        super().__init__(encoder, negatives=part, **shared)
        self.both_directions = both_directions

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"negatives": {"name": "mixing", "in_batch": False, "random_start": True}}
