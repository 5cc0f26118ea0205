"""What methods of views and methods of pairs share: a similarity from embeddings, a loss part, negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.checks import PositiveFloat
from nearfar.errors import InputError
from nearfar.losses.parts import InfoNCE, RowLoss, parts
from nearfar.methods.base import Loss, Method
from nearfar.methods.batch import Batch, Facts
from nearfar.negatives import Items, Negatives
from nearfar.similarity import Anchors, ExcludedPairs, ExtraCandidates, Layout, Relation, Temperature, same


def part_name(loss: RowLoss) -> str:
    """The name of a loss on the command line."""
    return next((name for name, cls in parts.items() if type(loss) is cls), type(loss).__name__.lower())


def other_groups(negative_groups: Tensor, anchors: Anchors) -> Relation:
    """The pairs of an anchor and an item of another negative group, which are no negatives of each other.

    negative_groups: (n,) integers, of the items; the mask form of MCL's joint labels.
    """
    return ~same(negative_groups[anchors.items], anchors.columns(negative_groups))


class Contrast(Method):
    """Shared wiring: temperature, loss, negatives, masking of duplicates.

    Args:
        temperature: tau; divides the similarities.
        learn_temperature: train tau (kept in log space, within 0.01 and 100).
        loss: the row loss: infonce, smoothed, dcl, hcl, debiased, hard, nearest, groco, simple, siglip, triplet, cacr;
            with labels or groups as positives: supcon, milnce; of `pairs` with a score: cosent, cosine-regression.
        negatives: further negatives, or fewer: none, queue, mixing, cross-batch, mined, cluster, fnc.
        mask_duplicates: known positives (one group) and exact duplicates are no negatives.
    """

    only_with = {"temperature": {"loss": "tempered"}}
    reads_scores = False

    def __init__(
        self,
        *,
        temperature: PositiveFloat = 0.1,
        learn_temperature: bool = False,
        loss: RowLoss | None = None,
        negatives: Negatives | None = None,
        mask_duplicates: bool = True,
    ):
        super().__init__()
        loss = loss or InfoNCE()
        if learn_temperature and not loss.tempered:
            raise InputError(
                f"The loss '{part_name(loss)}' has no temperature to learn.", "Use --learn-temperature false."
            )
        if loss.graded and not self.reads_scores:
            raise InputError(
                f"The loss '{part_name(loss)}' needs pairs with a score.",
                "Use it with pairs: nearfar fit pairs DATA --score COLUMN.",
            )
        if loss.graded and negatives is not None:
            raise InputError(
                f"The loss '{part_name(loss)}' compares pairs by their scores and has no negatives.",
                "Leave out --negatives.",
            )
        self.tau = Temperature(temperature, learned=learn_temperature)
        self.row_loss, self.negatives, self.mask_duplicates = loss, negatives, mask_duplicates
        self.identity_kinds = 0
        self.supervised = type(self).supervised or loss.positives not in (None, "group")

    def scaled_parameters(self) -> dict[nn.Parameter, float]:
        # A temperature that starts far from its optimum has few steps to get there.
        return {self.tau.log_tau: 5.0}

    def temperature(self) -> Tensor:
        return self.tau()

    def layout_options(self, batch: Batch) -> dict[str, Any]:
        """What every layout takes: temperature, excluded pairs, further positives and candidates, all ranks."""
        extra_positives = self.extra_positives(batch)
        return {
            "temperature": self.temperature() if self.row_loss.tempered else 1.0,
            "negatives": "global",
            "excluded": batch.excluded() if self.mask_duplicates else None,
            "extra_positives": None if extra_positives is None else ExcludedPairs([(extra_positives, extra_positives)]),
            "extra_candidates": self.extra_candidates(batch),
        }

    def extra_positives(self, batch: Batch) -> Tensor | None:
        """What makes items positives of each other, where the loss takes several: (n,) integers."""
        return None if self.row_loss.positives is None else batch.extra_positives(self.row_loss.positives)

    def extra_candidates(self, batch: Batch, blocks: bool = True) -> Callable[[Anchors], ExtraCandidates] | tuple[()]:
        """What the negatives part and the negative groups of the batch add to each similarity; `blocks=False`: only who
        hides from whom (the way back, whose candidates are the anchors)."""
        part, items = self.negatives, self.items(batch)
        if part is None and items.negative_groups is None:
            return ()

        def extra_candidates(anchors: Anchors) -> ExtraCandidates:
            found = ExtraCandidates() if part is None else part.extra_candidates(anchors, items)
            excluded = found.excluded
            if items.negative_groups is not None:
                excluded = excluded | other_groups(items.negative_groups, anchors)
            return ExtraCandidates(found.blocks if blocks else (), excluded, found.extra_positives)

        return extra_candidates

    def item_identities(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(n, kinds) of the items as anchors and as candidates: what hides an item from a remembered one; items of one
        class are no negatives either."""
        both = batch.item_identities(), batch.key_identities()
        if not self.mask_duplicates:
            both = both[0][:, :0], both[1][:, :0]
        if self.row_loss.positives is None:
            return both
        extra_positives = self.extra_positives(batch)
        mine = both[0].new_full((len(both[0]), 1), -1) if extra_positives is None else extra_positives[:, None]
        return torch.cat([both[0], mine], 1), torch.cat([both[1], mine], 1)

    def items(self, batch: Batch) -> Items:
        """The batch as a negatives part sees it; steps are those of the stage."""
        step, steps = self.within(batch.step)
        item_identities, key_identities = self.item_identities(batch)
        known = None if batch.known is None or not self.mask_duplicates else (batch.known[0], batch.partner_kind)
        return Items(
            batch.rows[: len(batch)],
            item_identities,
            batch.negative_groups,
            step,
            steps,
            batch.seed + 7919 * (batch.step - step) + 104_729 * batch.accumulation_step + (batch.rank << 40),
            key_identities,
            known,
        )

    def stored_kinds(self, facts: Facts) -> int:
        """How many identities a memory keeps with each key: the columns of `item_identities`."""
        return (facts.identity_kinds if self.mask_duplicates else 0) + (self.row_loss.positives is not None)

    def setup_negatives(self, dim: int, facts: Facts) -> dict[str, Any]:
        if self.negatives is None:
            return {}
        self.negatives.setup(dim, self.stored_kinds(facts), facts.batch_size, facts.samples, self.within(0)[1])
        size = {"size": self.negatives.capacity} if self.negatives.capacity else {}
        return {f"negatives.{k}": v for k, v in (size | self.negatives.resolved).items()}

    @property
    def needs_rows(self) -> bool:
        return self.negatives is not None and self.negatives.needs_rows

    def before_draw(self, step: int) -> None:
        super().before_draw(step)
        if self.negatives is not None:
            self.negatives.before(*self.within(step), self.survey)

    def report(self, layout: Layout, z: Tensor, batch: Batch) -> Loss:
        self.monitored = z.detach()
        terms: dict[str, Tensor | float] = {}
        if self.row_loss.tempered:
            terms["temperature"] = self.temperature().detach()
        if self.logged(batch):
            if self.mask_duplicates:
                terms["masked"] = batch.masked_share()
            if self.negatives is not None:
                with torch.no_grad():
                    terms |= self.negatives.terms(layout.parts[0])
        return Loss(layout.loss(self.row_loss), terms)

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        self.tau.project()
        if self.negatives is not None:
            keys = self.keys_of(embedded, own=self.negatives.own_keys)
            self.negatives.update(keys, self.items(batch))

    def sides(self, embedded: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Each item as an anchor and as a key, (n, D) twice."""
        raise TypeError(f"{type(self).__name__} keeps no memory")

    def side_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The rows (sample ids) of both sides, (n,) twice."""
        raise TypeError(f"{type(self).__name__} does not say of which rows its sides are")

    def keys_of(self, embedded: dict[str, Any], own: bool = False) -> Tensor:
        """What enters the memory after a step, (n, D); `own`: the student's, also where a teacher gives the keys."""
        raise TypeError(f"{type(self).__name__} keeps no memory")
