"""Hard negatives of each row, found among all training rows by an exact index of their embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.checks import NonNegativeInt, PositiveInt, Range, UnitInterval
from nearfar.negatives.base import Items, Negatives, Survey, columns_of, known_pairs
from nearfar.similarity import (
    Anchors,
    Block,
    ExtraCandidates,
    Relation,
    Similarity,
    at_most,
    dense,
    diagonal,
    nobody,
    same,
)
from nearfar.similarity.exchange import exchange


@dataclass(frozen=True, eq=False)
class Found:
    """lists: columns of each row's hard negatives, hardest first, (N, L), -1 for none; scores: their similarity.
    positive: the similarity of each row with its own positive, (N,). above: the share of the nearest L candidates of
    a row that are nearer than its positive: an estimate of the share of false negatives without the margin."""

    lists: Int[Tensor, "n l"]
    scores: Float[Tensor, "n l"]
    positive: Float[Tensor, "n"]
    above: float


def mine(
    anchors: Float[Tensor, "n d"],
    keys: Float[Tensor, "n d"],
    count: int,
    *,
    known: Relation = nobody,
    margin: float = 0.05,
    skip: int = 0,
) -> Found:
    """The `count` keys most similar to each anchor that are neither its own (row i and key i), nor `known` to belong
    to it, nor so near that they are probably positives: s_ij <= s_ii - margin |s_ii|.

    skip: how many of the nearest that are left are passed over. Exact, O(N (d + count)) memory.
    """
    s = Similarity(anchors.detach(), Block(keys.detach()), positive=diagonal(len(anchors), device=anchors.device))
    free = ~(known | s.positive)
    positive = s.paired()
    scores, lists = s.topk(count + skip, where=free & at_most(positive - margin * positive.abs()))
    nearest = s.topk(count, where=free)[0]
    there = nearest.isfinite()
    above = (nearest > positive[:, None])[there].float().mean() if bool(there.any()) else torch.zeros(())
    return Found(lists[:, skip:], scores[:, skip:], positive, float(above))


def shared_label(lists: Int[Tensor, "n l"], labels: Int[Tensor, "n"]) -> float:
    """The share of mined pairs whose rows have one label: false negatives, where labels say so. NaN if none is."""
    there = (lists >= 0) & (labels[:, None] >= 0) & (labels[lists.clamp(min=0)] >= 0)
    equal: Bool[Tensor, "n l"] = labels[:, None] == labels[lists.clamp(min=0)]
    return float(equal[there].float().mean()) if bool(there.any()) else float("nan")


class Mined(Negatives):
    """Each anchor's own list of hard negatives, mined among all training rows. Their vectors are the latest keys of
    those rows (a bank, filled when the lists are made and kept up by every step), as constants.

    Args:
        count: L; hard negatives of a row.
        start: share of the run before the first mining (0: with the encoder as it comes, for pretrained ones).
        refresh: steps after which the lists are mined again; none: once.
        margin: candidates nearer than the row's own positive less this share of its similarity are left out: they are
            probably positives.
        skip: how many of the nearest candidates are passed over.
        hard_ratio: probability that a place of a list holds its mined row; else a random training row takes it, which
            all anchors of the batch see. Paper: 1, and 0.9 for Contriever's fine-tuning.
        in_batch: the other keys of the batch are negatives as well.

    Known positives, duplicates and the row itself are never mined. The run folder gets mined.json with examples to
    look at; curve: `mined_false`, the estimated share of false negatives among the mined pairs (by the first label
    column, else the share of the nearest candidates that are nearer than the positive).
    State: the lists (N, L), the bank (N, D), its negative_groups (N,), the estimate.
    Raises InputError: counts below 1, shares outside [0, 1]; data whose items are no rows (a stream).
    """

    needs_rows = True
    lists: Tensor
    bank: Tensor
    negative_groups: Tensor
    false: Tensor

    def __init__(
        self,
        count: PositiveInt = 16,
        start: UnitInterval = 0.1,
        refresh: PositiveInt | None = None,
        margin: Annotated[float, Range(0, 2, open_high=True)] = 0.05,
        skip: NonNegativeInt = 0,
        in_batch: bool = True,
        hard_ratio: UnitInterval = 1.0,
    ):
        super().__init__()
        self.hard_ratio = hard_ratio
        self.count, self.start, self.refresh, self.margin, self.skip = count, start, refresh, margin, skip
        self.in_batch = in_batch
        self.rows = torch.empty(0, dtype=torch.long)
        self.known: Items | None = None
        self.register_buffer("lists", torch.empty(0, 0, dtype=torch.long))
        self.register_buffer("bank", torch.empty(0, 0))
        self.register_buffer("negative_groups", torch.empty(0, dtype=torch.long))
        self.register_buffer("false", torch.zeros(()))

    def setup(self, dim: int, identity_kinds: int, batch_size: int, samples: int, steps: int | None = None) -> None:
        device = self.bank.device
        self.lists = torch.full((samples, self.count), -1, dtype=torch.long, device=device)
        self.bank = torch.zeros(samples, dim, device=device)
        self.negative_groups = torch.full((samples,), -1, dtype=torch.long, device=device)

    def reset(self) -> None:
        self.lists.fill_(-1)
        self.bank.zero_()
        self.negative_groups.fill_(-1)

    def due(self, step: int, steps: int) -> bool:
        """Whether the lists are mined before this step."""
        first = min(int(self.start * steps), steps - 1)
        again = self.refresh is not None and step > first and (step - first) % self.refresh == 0
        return step == first or again

    def before(self, step: int, steps: int, survey: Survey | None) -> None:
        if survey is None:
            return
        if not len(self.rows):
            self.rows = torch.from_numpy(survey.rows).sort().values.to(self.bank.device)
            self.known = survey.items(self.rows.cpu().numpy()).to(self.bank.device)
        if self.due(step, steps):
            self.renew(survey, step)

    @torch.no_grad()
    def renew(self, survey: Survey, step: int) -> None:
        """Mines all lists, fills the bank, and leaves examples in the run folder."""
        assert self.known is not None
        order = torch.from_numpy(survey.rows).argsort()
        anchors, keys = (x[order].to(self.bank.device) for x in survey.sides())
        every = torch.arange(len(anchors), device=self.bank.device)
        found = mine(
            anchors,
            keys,
            self.count,
            known=known_pairs(every, self.known, self.known.stored),
            margin=self.margin,
            skip=self.skip,
        )
        self.lists.copy_(found.lists)
        self.bank.copy_(keys)
        share = found.above
        if survey.labels is not None:
            share = shared_label(found.lists.cpu(), torch.from_numpy(survey.labels)[order])
        self.false.fill_(share)
        record = self.account(found, survey, step, share)
        survey.note("mined", record)
        told = f"mined at step {step}: {record['rows_with_negatives']:.0%} of the rows have hard negatives"
        if math.isfinite(share):
            told += f", about {share:.1%} of them false (by {record['estimated_by']})"
        survey.tell(f"{told}; examples in mined.json")

    def account(self, found: Found, survey: Survey, step: int, share: float, examples: int = 10) -> dict[str, Any]:
        """What was mined, for the reader: shares, and the lists of a few rows by their names."""
        shown = torch.linspace(0, len(found.lists) - 1, min(examples, len(found.lists))).long().tolist()
        return {
            "step": step,
            "rows_with_negatives": float((found.lists >= 0).any(1).float().mean()),
            "false_negatives": share if math.isfinite(share) else None,
            "estimated_by": "the first label column" if survey.labels is not None else "candidates above the positive",
            "nearer_than_the_positive": found.above,
            "examples": [
                {
                    "row": survey.key(int(self.rows[i])),
                    "positive_score": round(float(found.positive[i]), 4),
                    "negatives": [
                        {"row": survey.key(int(self.rows[j])), "score": round(float(x), 4)}
                        for j, x in zip(found.lists[i].tolist(), found.scores[i].tolist(), strict=True)
                        if j >= 0
                    ][:5],
                }
                for i in shown
            ],
        }

    def extra_candidates(self, anchors: Anchors, items: Items) -> ExtraCandidates:
        place = columns_of(items.rows, self.rows) if len(self.rows) else torch.full_like(items.rows, -1)
        lists = torch.where(place[:, None] >= 0, self.lists[place.clamp(min=0)], -1)
        if bool((lists < 0).all()):
            return ExtraCandidates()
        others = []
        if self.hard_ratio < 1:
            generator = items.generator()
            mined = torch.rand(lists.shape, generator=generator, device=lists.device) < self.hard_ratio
            spare = int(((lists >= 0) & ~mined).sum())
            lists = torch.where(mined, lists, -1)
            drawn = torch.randint(len(self.rows), (spare,), generator=generator, device=lists.device)
            others = [self.random(drawn, anchors, items)] if spare else []
        lists = lists[anchors.items]
        keys = self.bank[lists.clamp(min=0)].to(anchors.query.dtype)
        visible: Relation = dense(lists >= 0)
        if items.negative_groups is not None:
            visible = visible & same(items.negative_groups[anchors.items], self.negative_groups[lists.clamp(min=0)])
        return ExtraCandidates([Block(keys, per_anchor=True, visible=visible, gradient=False), *others])

    def random(self, columns: Int[Tensor, "k"], anchors: Anchors, items: Items) -> Block:
        """Training rows that all anchors see, but for those that belong to an anchor."""
        assert self.known is not None
        excluded = known_pairs(anchors.items, items, self.known.stored[columns])
        excluded = excluded | same(items.rows[anchors.items], self.rows[columns])
        visible: Relation = ~excluded
        if items.negative_groups is not None:
            visible = visible & same(items.negative_groups[anchors.items], self.negative_groups[columns])
        return Block(self.bank[columns].to(anchors.query.dtype), visible=visible, gradient=False)

    def terms(self, s: Similarity) -> dict[str, Tensor | float]:
        return {"mined_false": self.false} if bool(self.false.isfinite()) else {}  # none was mined, or none has a label

    @torch.no_grad()
    def update(self, keys: Tensor, items: Items) -> None:
        net = exchange("global")
        keys, rows = net.gather(keys.detach())[0], net.gather(items.rows)[0]
        place = columns_of(rows, self.rows) if len(self.rows) else torch.full_like(rows, -1)
        self.bank[place[place >= 0]] = keys[place >= 0].to(self.bank.dtype)
        if items.negative_groups is not None:
            self.negative_groups[place[place >= 0]] = net.gather(items.negative_groups)[0][place >= 0]
