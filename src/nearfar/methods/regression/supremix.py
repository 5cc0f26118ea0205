"""SupReMix: mixup your own pairs (arXiv 2309.16633).

    x --two views--> encoder --> h --projector--> z;  y: the number of x, in units (below)
    negatives: rows of another number, and their mixtures with the anchor
    positives: rows of the same number, and mixtures of a lower and a higher row whose number is the anchor's
    loss = -mean over positives p of [ s_p - log sum over all c of (|y - y_c| + 1) e^(s_c) ],  s = z . z_c / tau

Equal numbers are rare, so the mixtures are most of the positives: they draw the space out along the number. What is
kept is the encoder; a linear map from its vectors to the number is fitted afterwards (`nearfar predict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar.checks import PositiveFloat, PositiveInt
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses import mixing_shares, supremix
from nearfar.losses.ordered import Weight
from nearfar.methods import Batch, Facts, Loss, Paper, ViewContrast, register
from nearfar.methods.regressing import Regressor, numbers_of
from nearfar.similarity.exchange import exchange

if TYPE_CHECKING:
    from nearfar.sources.data import Data

SPREAD = 16.0  # standard deviation of the ages in the paper's faces, in years


def auto_unit(values: np.ndarray) -> float:
    """What counts as 1 in window and weight: the standard deviation of the numbers (n,) is 16 of it, as that of the
    paper's ages is 16 years; at least what lies between neighbouring numbers (the median), as it is of whole ages."""
    values = values.astype(np.float64)
    gaps = np.diff(np.unique(values))
    return max(float(np.std(values)) / SPREAD, float(np.median(gaps)) if len(gaps) else 0.0)


def straddled(values: np.ndarray, window: float) -> bool:
    """Whether any of the numbers (n,) has a lower and a higher one nearer than the window."""
    gaps = np.diff(np.unique(values.astype(np.float64)))
    return bool(((gaps[1:] < window) & (gaps[:-1] < window)).any())


@register("supremix", family="regression")
class SupReMix(ViewContrast):
    """Learns from a number of each row (`--target COLUMN`): vectors lie in the order of the numbers.

    Args:
        temperature: tau; divides the cosine.
        window: e; mixed positives are made of rows whose numbers lie nearer than this to the anchor's, in units.
        target_unit: how much of the target counts as 1 in window and weight (paper: a year). auto: a sixteenth of the
            standard deviation over the training rows, as a year is of the paper's ages, but at least the median gap
            between neighbouring numbers.
        weight: of a candidate at distance d: linear (d + 1), squared (d^2 + 1), inverse, inverse-squared, none.
        mix: which mixtures there are: both, negatives, positives, none.
        anchor_share: Beta distribution of the anchor's share in a mixed negative.
        pool: parts of the batch that are contrasted apart, to save memory; their mean counts.
        mask_duplicates: equal items (and members of one group) with different numbers are no negatives.
    """

    paper = Paper(
        "Mixup Your Own Pairs",
        "arXiv 2023",
        "Mixtures of a lower and a higher row are positives of what lies between, so that vectors follow a number.",
        arxiv="2309.16633",
        differs="the linear regressor is a ridge regression instead of one trained with L1; two slips of the released "
        "code are not repeated (real and mixed logits shifted by different maxima; weights of mixtures sorted apart "
        "from their mixtures); a row without a positive leaves the mean; cosine instead of steps in the learning rate; "
        "crops of images change colours as well unless told (--views.strength 0 --views.grey 0); the unit of the "
        "target, a year in the paper, follows the data unless named (--target-unit)",
    )
    needs = (frozenset({"any", "target"}),)
    target = "numbers"
    supervised = True
    preset_paper = {"temperature": 0.3, "window": 5.0, "weight": "linear", "anchor_share": (2.0, 8.0),
                    "pool": 1, "projector": 2048, "dim": 128}  # fmt: skip
    paper_training = {"optimiser": "adam", "lr": 1e-3, "weight_decay": 0.0}
    defaults = {"temperature": 0.3}
    fixed = ("learn_temperature", "loss", "negatives", "momentum")

    def __init__(
        self,
        encoder: Encoder,
        *,
        window: PositiveFloat = 5.0,
        target_unit: PositiveFloat | Literal["auto"] = "auto",
        weight: Weight = "linear",
        mix: Literal["both", "negatives", "positives", "none"] = "both",
        anchor_share: tuple[PositiveFloat, PositiveFloat] = (2.0, 8.0),
        pool: PositiveInt = 1,
        **shared: Any,
    ):
        super().__init__(encoder, **shared)
        if self.plan.members > 1:
            raise InputError("'supremix' learns a number of each row, and these views show rows of a group together.",
                             "Choose other --views.")  # fmt: skip
        self.window, self.unit, self.weight, self.beta, self.pool = window, target_unit, weight, anchor_share, pool
        self.mixes = {"both": ("negatives", "positives"), "none": ()}.get(mix, (mix,))
        self.values, self.regressor = np.zeros(0), (None,)

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where all training rows have the same number."""
        self.values = numbers_of(data, rows)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if self.pool > facts.batch_size:
            raise InputError(f"--pool {self.pool} parts of a batch of {facts.batch_size} rows would be empty.",
                             "Use a smaller --pool or a larger --batch-size.")  # fmt: skip
        if self.unit == "auto":
            self.unit = auto_unit(self.values)
        if "positives" in self.mixes and not straddled(self.values, self.window * float(self.unit)):
            raise InputError(
                "There are no mixed positives: no training row has a lower and a higher number within "
                f"{self.window:g} units of {self.unit:g}.",
                "Use a larger --target-unit or --window, or --mix negatives.",
            )
        return super().resolve(facts) | {"target_unit": self.unit}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z, places = embedded["views"], torch.arange(len(batch), device=batch.rows.device)
        self.monitored = z[0].detach()
        parts = [self.part(z, batch, p, number) for number, p in enumerate(places.tensor_split(self.pool))]
        return Loss(torch.stack(parts).mean(), {"masked": batch.masked_share()} if self.logged(batch) else {})

    def part(self, z: list[Tensor], batch: Batch, places: Tensor, number: int) -> Tensor:
        """The loss of the items at these places of the batch, all views of each: a scalar."""
        views, shares = len(z), None
        rows = torch.cat([v[places] for v in z])
        assert batch.values is not None
        assert isinstance(self.unit, float | int)
        values = batch.values[places] / self.unit
        if "negatives" in self.mixes:
            many = exchange("global").count(rows)
            shares = mixing_shares(len(rows), many, beta=self.beta, seed=(batch.random_seed, number)).to(rows.device)
        known = batch.item_identities()[places].T if self.mask_duplicates else ()
        return supremix(
            rows,
            values.repeat(views),
            shares=shares,
            window=self.window if "positives" in self.mixes else None,
            temperature=self.temperature(),
            weight=self.weight,
            identities=[ids.repeat(views) for ids in known],
            negatives="global",
        )

    def on_fit_end(self) -> None:
        """The linear regressor on the vectors of the trained encoder."""
        z = self.survey.features().cpu().numpy()
        self.regressor = (Regressor(z.shape[1]).fit(z.astype(np.float64), self.values.astype(np.float64)),)

    def inference(self) -> Regressor | None:
        return self.regressor[0]

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> Regressor:
        return Regressor(**config)
