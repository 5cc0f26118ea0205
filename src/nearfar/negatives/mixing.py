"""Hard negative mixing (MoCHi, Kalantidis et al., NeurIPS 2020): synthetic negatives from the hardest of a queue.

hardest N of the queue for each query --> h  = normalise(alpha n_i + (1 - alpha) n_j),  alpha ~ U(0, 1)
                                          h' = normalise(beta q + (1 - beta) n_j),      beta ~ U(0, 1/2)
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.checks import NonNegativeInt, PositiveInt, UnitInterval
from nearfar.negatives.base import Items
from nearfar.negatives.queue import Queue
from nearfar.similarity import (
    Anchors,
    Block,
    ExtraCandidates,
    LogSumExp,
    Max,
    Mean,
    Relation,
    Similarity,
    everyone,
    function,
    normalise,
    per_row,
)


def hardest(
    query: Float[Tensor, "n d"],
    keys: Float[Tensor, "k d"],
    count: int,
    *,
    where: Relation = everyone,
    similarity: str = "cosine",
) -> Int[Tensor, "n count"]:
    """The columns of each query's own `count` most similar keys, hardest first; -1 where there are fewer. Detached."""
    s = Similarity(query.detach(), Block(keys.detach()), similarity=similarity)
    return s.topk(count, where=where)[1]


def mix(
    first: Float[Tensor, "*n d"], second: Float[Tensor, "*n d"], share: Float[Tensor, "*n"], unit: bool = True
) -> Float[Tensor, "*n d"]:
    """share * first + (1 - share) * second, scaled to length 1 (a zero vector stays zero); detached."""
    made = (share[..., None] * first + (1 - share[..., None]) * second).detach()
    return normalise(made).to(made.dtype) if unit else made


def mix_hardest(
    hard: Float[Tensor, "n l d"], pairs: Int[Tensor, "n s 2"], alpha: Float[Tensor, "n s"], unit: bool = True
) -> Float[Tensor, "n s d"]:
    """h_m = normalise(alpha_m n_i + (1 - alpha_m) n_j) for the places (i, j) of each query's own list `hard`."""
    return mix(_taken(hard, pairs[..., 0]), _taken(hard, pairs[..., 1]), alpha, unit)


def mix_query(
    query: Float[Tensor, "n d"],
    hard: Float[Tensor, "n l d"],
    places: Int[Tensor, "n s"],
    beta: Float[Tensor, "n s"],
    unit: bool = True,
) -> Float[Tensor, "n s d"]:
    """h'_m = normalise(beta_m q + (1 - beta_m) n_j), beta_m in (0, 1/2): the query's share is the smaller one."""
    q = normalise(query).to(query.dtype) if unit else query
    return mix(q[:, None].expand(-1, places.shape[1], -1), _taken(hard, places), beta, unit)


def _taken(hard: Tensor, places: Tensor) -> Tensor:
    return hard.gather(1, places[..., None].expand(*places.shape, hard.shape[-1]))


def drawn(total: Int[Tensor, "n"], shape: tuple[int, ...], generator: torch.Generator) -> Int[Tensor, "n *s"]:
    """Places drawn uniformly, with replacement, from the first `total` of each row's list (0 where it is empty)."""
    u = torch.rand((len(total), *shape), generator=generator, device=total.device)
    most = total.view(-1, *[1] * len(shape))
    return torch.minimum((u * most).long(), (most - 1).clamp(min=0))


class Mixing(Queue):
    """A queue, and synthetic negatives mixed from its hardest keys and from the query (MoCHi).

    Args:
        size: K; how many keys the queue keeps. auto: as in `queue`. Paper: 16384 (ImageNet-100), 65536 (ImageNet-1k).
        hard: N; of each query's hardest keys are the mixtures made. auto: K / 16 within [8, 1024].
        mixed: s; mixtures of two hard keys a query. auto: N.
        with_query: s'; mixtures of a hard key with the query. auto: N / 2.
        start: share of the run before mixing begins. auto: the later of a twentieth of the run (the paper's 10 of 200
            epochs) and a queue that has been filled once, at most half of the run.
        in_batch: the other keys of the batch are negatives as well.
        random_start: fill with random unit vectors at first, as MoCo does; else unfilled places are invisible.

    mixed = with_query = 0 is the queue exactly. Mixtures are constants: the gradient reaches the query through its
    product with them alone; they never enter the queue. Where the similarity is not the cosine they are not scaled to
    length 1. Curve: `mixed_mass` (their share of the softmax), `mixed_hardest` (their share of the N hardest
    candidates), `proxy` (share of anchors whose positive is above all negatives), `cos_mixed`, `cos_with_query`.
    Raises InputError: counts below 0 (`hard` below 1), a start outside [0, 1].
    """

    def __init__(
        self,
        size: PositiveInt | Literal["auto"] = "auto",
        hard: PositiveInt | Literal["auto"] = "auto",
        mixed: NonNegativeInt | Literal["auto"] = "auto",
        with_query: NonNegativeInt | Literal["auto"] = "auto",
        start: UnitInterval | Literal["auto"] = "auto",
        in_batch: bool = True,
        random_start: bool = False,
    ):
        super().__init__(size, in_batch, random_start)
        self.hard, self.mixed, self.with_query, self.start = hard, mixed, with_query, start
        self.counts, self.begin = (0, 0, 0), 0

    def setup(self, dim: int, identity_kinds: int, batch_size: int, samples: int, steps: int | None = None) -> None:
        super().setup(dim, identity_kinds, batch_size, samples, steps)
        n = max(8, min(1024, self.capacity // 16)) if self.hard == "auto" else int(self.hard)
        n = min(n, self.capacity)
        mixed = n if self.mixed == "auto" else int(self.mixed)
        self.counts = (n, mixed, n // 2 if self.with_query == "auto" else int(self.with_query))
        run = steps or 1
        if self.start == "auto":
            self.begin = min(max(run // 20, -(-self.capacity // batch_size)), run // 2)
        else:
            self.begin = math.ceil(float(self.start) * run)

    @property
    def resolved(self) -> dict[str, int]:
        """What each "auto" became."""
        return dict(zip(("hard", "mixed", "with_query", "start_step"), (*self.counts, self.begin), strict=True))

    def extra_candidates(self, anchors: Anchors, items: Items) -> ExtraCandidates:
        block = self.memory(anchors, items)
        if block is None:
            return ExtraCandidates()
        made = self.mixtures(anchors, items, block) if items.step >= self.begin else None
        return ExtraCandidates([block] if made is None else [block, made])

    @torch.no_grad()
    def mixtures(self, anchors: Anchors, items: Items, block: Block) -> Block | None:
        """Each anchor's own list of s + s' synthetic keys; invisible to an anchor without a single hard key."""
        n, s, s_query = self.counts
        if s + s_query == 0:
            return None
        query, keys, unit = anchors.query.detach(), block.keys, anchors.similarity == "cosine"
        assert isinstance(keys, Tensor)
        places = hardest(query, keys, n, where=block.visible, similarity=anchors.similarity)
        keys = normalise(keys) if unit else keys  # a longer key would take a larger share of its mixtures
        total, hard = (places >= 0).sum(1), keys[places.clamp(min=0)].to(query.dtype)
        generator = items.generator()
        alpha = torch.rand((len(query), s), generator=generator, device=query.device).to(query.dtype)
        beta = torch.rand((len(query), s_query), generator=generator, device=query.device).to(query.dtype) / 2
        h = mix_hardest(hard, drawn(total, (s, 2), generator), alpha, unit)
        h_query = mix_query(query, hard, drawn(total, (s_query,), generator), beta, unit)
        return Block(torch.cat([h, h_query], 1), per_anchor=True, visible=per_row(total > 0), gradient=False)

    @torch.no_grad()
    def terms(self, s: Similarity) -> dict[str, Tensor | float]:
        own = [b for b, block in enumerate(s.blocks) if block.per_anchor]
        positives = s.positive & s.visible & ~s.itself
        rival, best = s.reduce(Max(where=s.negative), Max(where=positives))
        proxy: dict[str, Tensor | float] = {"proxy": (rival < best).float().mean()}
        if not own:
            return proxy
        place, first = own[0], self.counts[1]
        made = s.negative & function(lambda t: _of(t, place, None))
        everything, positives, mixtures, cos_h, cos_query = s.reduce(
            LogSumExp(where=s.negative),
            LogSumExp(where=positives),
            LogSumExp(where=made),
            Mean(where=s.negative & function(lambda t: _of(t, place, slice(0, first)))),
            Mean(where=s.negative & function(lambda t: _of(t, place, slice(first, None)))),
        )
        mass = (mixtures - torch.logaddexp(everything, positives)).exp().mean()
        t = s.row_temperature()
        proxy |= {"mixed_mass": mass, "mixed_hardest": self._among_hardest(s, place)}
        if first:
            proxy["cos_mixed"] = (cos_h * t).mean()
        if self.counts[2]:
            proxy["cos_with_query"] = (cos_query * t).mean()
        return proxy

    def _among_hardest(self, s: Similarity, place: int) -> Tensor:
        """The share of mixtures among the N hardest candidates of each anchor."""
        found = [s.topk(self.counts[0], where=s.negative, block=b)[0] for b in range(len(s.blocks))]
        block = torch.cat([torch.full_like(x, b) for b, x in enumerate(found)], 1)
        values, order = torch.cat(found, 1).topk(self.counts[0], 1)
        return (block.gather(1, order) == place)[values > -math.inf].float().mean()


def _of(t, place: int, columns: slice | None) -> Tensor:
    """Which columns of a tile belong to the own lists (or to a part of them)."""
    index = t.column_index()
    if t.block != place:
        return torch.zeros_like(index, dtype=torch.bool)[None]
    inside = torch.ones_like(index, dtype=torch.bool)
    if columns is not None:
        inside &= index >= columns.start
        inside &= index < columns.stop if columns.stop is not None else True
    return inside[None]
