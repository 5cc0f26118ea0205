"""SepCLR: common and salient patterns of a background and a target set (ICLR 2024).

    two views of each row --> encoder C --> r_C --projector--> c   (on the unit sphere)
                          --> encoder S --> r_S --projector--> s   (as it is);  t: s, with 0 in background rows
    common    views of c are near, all c spread              null      s of the background is near 0
    salient   views of s of the target are near, all t spread    entropy   c and t vary independently (joint entropy)
    loss = common + w_s salient + w_0 null + w_J entropy

What both sets show is left to c, since s tells nothing of the background. Kept are r_C and r_S: the variants `common`
(the plain vectors) and `salient`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nearfar import heads, modalities
from nearfar.checks import NonNegativeFloat, PositiveFloat, Width
from nearfar.encoders import Encoder
from nearfar.errors import InputError, did_you_mean
from nearfar.losses import attribute_terms, sepclr_terms
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, check_plan, default_views, forward_views, register
from nearfar.samplers import Permutation, Sampler
from nearfar.sources import judgements
from nearfar.sources.raw import filled
from nearfar.views import Views

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def attribute_values(column: Sequence[Any], rows: np.ndarray) -> tuple[np.ndarray, bool]:
    """An attribute of every row as float32 (N,), NaN where it is empty, and whether it is one of classes: numbers are
    brought to [0, 1] over the rows, words are counted."""
    words = [filled(v) for v in column]
    numbers = [judgements.score(v) if v else float("nan") for v in words]
    if all(v is not None for v in numbers):
        found = np.array(numbers, np.float64)
        low, high = np.nanmin(found[rows], initial=np.inf), np.nanmax(found[rows], initial=-np.inf)
        return ((found - low) / max(high - low, 1e-9)).astype(np.float32), False
    codes = {name: code for code, name in enumerate(sorted(set(words) - {""}))}
    return np.array([codes.get(v, np.nan) for v in words], np.float32), True


@register("sepclr", family="image")
class SepCLR(Method):
    """Learns apart what a target set shares with a background set and what it alone shows (`--domain COLUMN`).

    Args:
        background: the domain that is the background; all others are the target set.
        views: what is contrasted; the first two views are used.
        attributes: columns, separated by commas, that are known of target rows: one number of the salient code learns
            each (numbers, or classes where they are words).
        common_dim: d_c; length of the common code, which is kept.
        salient_dim: d_s; length of the salient code, which is kept; with attributes their number.
        projector: width of the hidden layer of both projectors, which training alone uses.
        temperature: tau; width of the kernels.
        uniformity: weight of the spread beside the nearness of views. auto: 2, or 1 with attributes.
        salient_weight: w_s; of the salient term (paper: 1000, CheXpert and ODIR 1, with attributes 100).
        null_weight: w_0; of the distance of the background's salient codes from 0 (paper: 1000, CheXpert 10, ODIR 100);
            with attributes it is part of the salient term.
        entropy_weight: w_J; of the joint entropy.
        null_vector: the salient codes of the background count as 0 in spread and entropy; false: as they are.
    """

    paper = Paper(
        "Separating common from salient patterns with Contrastive Representation Learning",
        "ICLR 2024",
        "A background set says which patterns are common; what the target set shows besides gets a code of its own.",
        arxiv="2402.11928",
        differs="only the kernel joint entropy of the paper's ways to keep the codes independent, as in the released "
        "code; numbers of attributes are brought to 0..1 over the training rows, and rows without one left out of "
        "its term; colours are jittered for each image instead of once a batch; crops keep the image's size "
        '(24 pixels of 32 in the paper\'s CIFAR-MNIST: --views "two-crops --size 24"); a term without rows of its '
        "set is 0; weights of 10 unless asked, which suit small encoders and few steps; encoders are small ones "
        "unless named (--encoder resnet18)",
    )
    needs = (frozenset({"any", "domain"}),)
    preset_paper = {"views": {"name": "two-crops", "crop": (0.2, 1.0), "flip": 0.5, "strength": 0.5, "grey": 0.2,
                              "blur": 0.0},
                    "common_dim": 32, "salient_dim": 32, "projector": 128, "temperature": 0.5, "uniformity": 2.0,
                    "salient_weight": 1000.0, "null_weight": 1000.0, "entropy_weight": 10.0}  # fmt: skip
    paper_training = {"optimiser": "adam", "lr": 3e-4, "weight_decay": 0.0, "schedule": "constant"}

    def __init__(
        self,
        encoder: Encoder,
        encoder_b: Encoder,
        *,
        background: str = "background",
        views: Views | None = None,
        attributes: str | None = None,
        common_dim: Width = 32,
        salient_dim: Width = 32,
        projector: Width = 128,
        temperature: PositiveFloat = 0.5,
        uniformity: NonNegativeFloat | Literal["auto"] = "auto",
        salient_weight: NonNegativeFloat = 10.0,
        null_weight: NonNegativeFloat = 10.0,
        entropy_weight: NonNegativeFloat = 10.0,
        null_vector: bool = True,
    ):
        super().__init__()
        self.role = encoder.role
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        if self.plan.members > 1 or self.plan.targets < 2:
            raise InputError("'sepclr' needs two whole views of each row.", "Use the default --views.")
        self.columns_of_attributes = [one.strip() for one in (attributes or "").split(",") if one.strip()]
        width = len(self.columns_of_attributes) or salient_dim
        self.common = Tower(encoder, heads.linear(encoder.dim, common_dim), kept=True)
        self.salient = Tower(encoder_b, heads.linear(encoder_b.dim, width), kept=True)
        self.common_projector = heads.mlp(common_dim, projector, common_dim)
        self.salient_projector = heads.mlp(width, projector, width)
        self.temperature, self.null_vector, self.background = temperature, null_vector, background
        self.uniformity = float((1 if self.columns_of_attributes else 2) if uniformity == "auto" else uniformity)
        self.weights = {"salient": salient_weight, "null": null_weight, "entropy": entropy_weight}
        self.code, self.rows, self.counts = -1, np.zeros(0, np.int64), (0, 0)
        self.attributes, self.discrete = torch.zeros(0, 0), []

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """That of CIFAR-MNIST; with attributes that of dSprites."""
        known = {"uniformity": 1.0, "salient_weight": 100.0} if given.get("attributes") else {}
        return {**cls.preset_paper, **known}

    @classmethod
    def lacks(cls, data: Data) -> str:
        names = data.domain_names
        return "" if "background" in names else f'must be told the background: "sepclr --background {names[0]}"'

    @classmethod
    def wants(cls, roles: Set[str], by_group: bool) -> list[str]:
        return super().wants(roles, by_group) * 2

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where no domain has the background's name, or the training rows are of one set alone, and
        for an attribute that is no column."""
        column, names = data.roles["domain"], data.domain_names
        if self.background not in names:
            raise InputError(
                f"'{column}' has no domain '{self.background}'; it has {', '.join(names[:12])}.",
                "Name the one that is the background: --background NAME.",
            )
        self.code = names.index(self.background)
        domains = np.asarray(data.domains)[rows]
        self.rows = np.asarray(rows)[domains >= 0]
        self.counts = int((domains == self.code).sum()), int(((domains >= 0) & (domains != self.code)).sum())
        if min(self.counts) < 2:
            which = ("background", "target")[int(np.argmin(self.counts))]
            raise InputError(
                f"'sepclr' compares two sets, and {min(self.counts)} of the {len(rows):,} training rows are {which} "
                f"(by '{column}').",
                "Check --background and the split.",
            )
        target = self.rows[np.asarray(data.domains)[self.rows] != self.code]
        found = [attribute_values(self.attribute(data, one, target), target) for one in self.columns_of_attributes]
        if found:
            self.attributes = torch.from_numpy(np.stack([values for values, _ in found], 1))
        self.discrete = [classes for _, classes in found]

    def attribute(self, data: Data, column: str, target: np.ndarray) -> Sequence[Any]:
        """The values of a column, of which the target's training rows hold two at least."""
        if column not in data.table.column_names and column not in data.roles:
            raise InputError(
                f"--attributes: there is no column '{column}'.{did_you_mean(column, data.table.column_names)}",
                f"Columns: {', '.join(data.table.column_names[:12])}.",
            )
        values = data.values(column)
        if len({filled(values[row]) for row in target} - {""}) < 2:
            raise InputError(f"The attribute '{column}' has no two values among the target's training rows.",
                             "Leave it out of --attributes.")  # fmt: skip
        return values

    def resolve(self, facts: Facts) -> dict[str, Any]:
        kinds = [f"{name}: {'classes' if many else 'numbers'}" for name, many in
                 zip(self.columns_of_attributes, self.discrete, strict=True)]  # fmt: skip
        told = {"attributes": ", ".join(kinds)} if kinds else {}
        return {"background_rows": self.counts[0], "target_rows": self.counts[1], "uniformity": self.uniformity} | told

    def sampler(self, stage: int) -> Sampler:
        return Permutation().only(self.rows)

    def make_views(self, batch: Batch) -> dict[str, list]:
        x = batch.inputs[self.role]
        made = self.plan(x, batch.generator())[:2]
        if self.columns_of_attributes:
            made = [modalities.get(self.role).ready(x, self.common.encoder), made[0]]
        return {self.role: made}

    def encode(self, batch: Batch) -> dict[str, Any]:
        views = batch.views[self.role]
        common = forward_views(nn.Sequential(self.common, self.common_projector), views)
        salient = nn.Sequential(self.salient, self.salient_projector)
        if self.columns_of_attributes:
            return {"common": common, "salient": [salient(views[0])] * 2}
        return {"common": common, "salient": forward_views(salient, views)}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        assert batch.domains is not None
        target = batch.domains != self.code
        self.monitored = embedded["common"][0].detach()
        options = {"temperature": self.temperature, "negatives": "global"}
        terms = sepclr_terms(embedded["common"], embedded["salient"], target, uniformity=self.uniformity,
                             null_vector=self.null_vector, **options)  # fmt: skip
        if self.columns_of_attributes:
            values = self.attributes[batch.rows.cpu()].to(target.device)
            learned = attribute_terms(embedded["salient"][0], values, target, self.discrete, **options)
            terms = terms._replace(salient=learned, null=0 * terms.null)
        told: dict[str, Tensor | float] = {name: term.detach() for name, term in terms._asdict().items()}
        return Loss(terms.weighted(**self.weights), told)

    def towers(self) -> dict[str, Tower]:
        plain = {self.role: self.common, f"{self.role}/common": self.common}
        return plain | {f"{self.role}/salient": self.salient}
