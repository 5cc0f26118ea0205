"""Hydra (later SimLAP): simple representation learning from arbitrary pairs of classes (arXiv 2410.18200).

    item i of class y1_i, and a second class y2_i drawn for it;  gate g_i = g(y1_i, y2_i) in (0, 1)^D, learned
    x --two views--> encoder, projector (last a layer norm) --> z, k;   s_ik = cosine of g_i * z_i and g_i * k_k
    loss = mean over the keys p of class y2_i of  softplus( LSE over keys of neither class - s_ip )

Any two classes are alike in some subspace of the features; the gate finds it, and the encoder is asked for many such
features. Projector, gate and the vectors of classes serve training alone; the gates are kept beside the model for
`nearfar diagnose`. The equations are those of `nearfar.losses.gated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from nearfar import heads
from nearfar.checks import NonNegativeFloat, UnitInterval, Width, WidthOrNone
from nearfar.encoders import Encoder
from nearfar.errors import InputError, did_you_mean
from nearfar.heads.gates import Kind
from nearfar.losses import class_distances, draw_partners, gate_entropy, gate_overlap, hydra, pair_weights
from nearfar.losses.gated import Pairs, Reduction
from nearfar.methods import Batch, Facts, Inference, Loss, Paper, Request, ViewContrast, against_targets, register
from nearfar.momentum import momentum_at
from nearfar.similarity.exchange import exchange

if TYPE_CHECKING:
    from nearfar.sources.data import Data

FORMS: dict[str, dict[str, Any]] = {
    "views": {"projector": 2048},
    "momentum": {"temperature": 0.2, "momentum": 0.99, "predictor": 4096, "projector": 4096, "projector_layers": 3},
    "single": {"projector": 2048},
}
"""What the papers' runs set in each form beside `preset_paper`: SimLAP and Hydra-MoCo on ImageNet, CIFAR-10."""

VIT = {"optimiser": "adamw", "lr": 1.5e-4, "lr_batch": 256, "weight_decay": 0.1}
TRAINING: dict[str, dict[str, Any]] = {
    "views": VIT, "momentum": VIT, "single": {"optimiser": "adam", "lr": 1e-3, "weight_decay": 5e-4},
}  # fmt: skip


class Gates(Inference):
    """The gates of a finished model, for `nearfar diagnose`: how open they are, how far they overlap, and whether they
    overlap where classes lie near each other."""

    def __init__(self, names: list[str], gate: heads.PairGate):
        super().__init__()
        self.names, self.gate = names, gate

    def config(self) -> dict[str, Any]:
        return {"classes": self.names, "gate": self.gate.sizes}

    def diagnostics(self, request: Request) -> list[Any]:
        from nearfar.evaluation.gates import gate_diagnostics

        with torch.no_grad():
            gates = self.eval().gate.of_classes().cpu()
        data, rows = request.data, request.rows
        number = {name: k for k, name in enumerate(self.names)}
        mine = np.array([number.get(name, -1) for name in data.target_names] + [-1])
        labels = mine[data.targets[rows]] if data.targets is not None else np.full(len(rows), -1)
        overlap, z = gate_overlap(gates).numpy(), request.vectors().numpy()
        return gate_diagnostics(gates.numpy(), overlap, self.names, z, labels)


@register("hydra", family="image")
class Hydra(ViewContrast):
    """Any two classes (`--label` or `--target COLUMN`) make a positive pair, seen through a gate of that pair.

    The curve shows `openness`, the mean of the gates, and `alone`, the share of anchors without a positive.

    Args:
        form: views (keys are the other view; SimLAP), momentum (a teacher's, beside an ordinary InfoNCE; Hydra-MoCo),
            single (keys are the same view of the other items; the released CIFAR script).
        pairs: how an anchor's second class is drawn: arbitrary (a permutation of the batch), distinct (another class,
            each as likely), identical (its own class, as SupCon).
        gate: of a pair of classes: pair, product (of both classes' own), stochastic, gumbel, none (all open).
        gate_width: length of a class's vector.
        gate_hidden: width of the gate's hidden layer.
        reduction: pairs (the mean over all positive pairs), anchors (each anchor's mean first, as SimLAP's code).
        subtract: alpha; the newest release's similarity, g^2 n(z).n(k) - alpha n(z).n(k), with unit length before the
            gate (0.5 there). none: unit length behind the gate.
        beta: of the pairs beside InfoNCE (momentum).
        gamma: of the entropy of the classes' gates, which pushes them to 0 and 1.
        alpha: with arbitrary pairs, second classes are drawn in proportion to (1 + distance)^-alpha.
        coarse: column of labels that groups the classes; two of one group are at distance 2, others at 4.
        predictor: width of the predictor's hidden layer (momentum); 0 for none.
        own_predictor: a second predictor, for the pairs alone (momentum).
        momentum: m of the teacher, by cosine to 1 (momentum). auto: 0.99.
        temperature: T; learned with --learn-temperature.
        projector_layers: linear layers of the projection head; a layer norm follows, so that gates can close.
    """

    paper = Paper(
        "Rethinking Positive Pairs in Contrastive Learning",
        "arXiv 2024",
        "Any two classes are a positive pair in a subspace of their own, which a learned gate selects.",
        arxiv="2410.18200",
        differs="a reconstruction from the released code: the paper's own figures could not be read; both views are "
        "anchors in turn; distances of classes by a column of coarser labels instead of WordNet; the classifier of the "
        "CIFAR script, which only watches, is left out; duplicates with other labels are no negatives; a warm-up of a "
        "twentieth of the run (40 of 300 epochs); AdamW at nearfar's own rate unless asked (--preset paper); the "
        "mean over pairs in every form (SimLAP's release takes it over anchors: --reduction anchors); two crops with "
        "SimCLR's strength in every form (one view of CIFAR-10; MoCo v3's are asymmetric); gates see the batch through "
        "batch norm",
    )
    needs = (frozenset({"any", "target"}),)
    target = "classes"
    supervised = True
    preset_paper = {"temperature": 0.1, "dim": 256, "gate_width": 512, "gate_hidden": 1024, "beta": 1.0, "gamma": 0.0,
                    "views": {"name": "two-crops", "crop": (0.2, 1.0), "strength": 1.0, "blur": 0.5}}  # fmt: skip
    fixed = ("loss", "negatives")
    only_with = {
        "alpha": {"pairs": ("arbitrary",)},
        **{name: {"form": ("momentum",)} for name in ("beta", "predictor", "own_predictor", "momentum")},
        **{name: {"gate": get_args(Kind)} for name in ("gate_width", "gate_hidden", "gamma")},
    }
    follows = {"momentum": "own_predictor", "projector_layers": "projector"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        form: Literal["views", "momentum", "single"] = "views",
        pairs: Pairs = "arbitrary",
        gate: Kind | Literal["none"] = "pair",
        gate_width: Width = 512,
        gate_hidden: Width = 1024,
        reduction: Reduction = "pairs",
        subtract: NonNegativeFloat | None = None,
        beta: NonNegativeFloat = 1.0,
        gamma: NonNegativeFloat = 0.0,
        alpha: NonNegativeFloat = 0.0,
        coarse: str | None = None,
        predictor: WidthOrNone = 512,
        own_predictor: bool = False,
        momentum: UnitInterval | Literal["auto"] = "auto",
        projector_layers: Width = 2,
        **shared: Any,
    ):
        m = None if form != "momentum" else 0.99 if momentum == "auto" else momentum
        super().__init__(encoder, momentum=m, projector_layers=projector_layers, last_norm="layer", **shared)
        if self.plan.members > 1:
            raise InputError("'hydra' learns a class of each row, and these views show rows of a group together.",
                             "Choose other --views.")  # fmt: skip
        if alpha and coarse is None:
            raise InputError("--alpha draws arbitrary pairs by the distance of their classes.",
                             "Name the column of coarser labels with --coarse.")  # fmt: skip
        self.form, self.pairs, self.kind, self.sizes = form, pairs, gate, (gate_width, gate_hidden)
        self.reduction, self.subtract, self.beta, self.gamma = reduction, subtract, beta, gamma
        self.alpha, self.coarse = alpha, coarse
        count = 0 if form != "momentum" or not predictor else 2 if own_predictor else 1
        self.predictors = torch.nn.ModuleList(heads.predictor(self.dim, predictor) for _ in range(count))
        self.gate: heads.PairGate | None = None
        self.names, self.weights, self.seen = [""], None, torch.zeros(0, dtype=torch.long)

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**cls.preset_paper, **FORMS[given.get("form", "views")]}

    @classmethod
    def training_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return TRAINING[given.get("form", "views")]

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where all training rows are of one class, or there is no such column of coarser labels."""
        target, self.names = np.asarray(data.targets)[rows], list(data.target_names)
        self.seen = torch.from_numpy(np.unique(target))
        if len(self.seen) < 2:
            raise InputError(f"All {len(rows):,} training rows are of one class, '{self.names[target[0]]}': a pair "
                             "needs negatives of other classes.", "Name another column with --target.")  # fmt: skip
        if self.pairs == "distinct" and len(self.seen) < 3:
            raise InputError(
                "The training rows are of two classes: where every pair is of both, none is left as a negative.",
                "Use --pairs arbitrary or identical, or a target with more classes.",
            )
        if self.coarse is not None:
            if self.coarse not in data.labels:
                near = did_you_mean(self.coarse, list(data.labels))
                raise InputError(f"There is no column of labels '{self.coarse}'.{near}",
                                 f"Known: {', '.join(data.labels) or 'none'}. Name it with --label.")  # fmt: skip
            coarse = torch.from_numpy(np.asarray(data.labels[self.coarse])[rows])
            distance = class_distances(torch.from_numpy(target), coarse, len(self.names))
            self.weights = pair_weights(distance, self.alpha)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if self.kind != "none":
            self.gate = heads.PairGate(len(self.names), self.dim, *self.sizes, kind=self.kind)
        return super().resolve(facts) | {"classes": len(self.seen)}

    def encode(self, batch: Batch) -> dict[str, Any]:
        made = super().encode(batch)
        return made | {f"predicted {k}": [p(z) for z in made["views"]] for k, p in enumerate(self.predictors)}

    def before_targets(self, batch: Batch) -> None:
        if self.teacher is not None:
            assert isinstance(self.momentum, float)
            self.teacher.follow(self.tower, momentum_at(batch.step, batch.steps, self.momentum, schedule="cosine"))

    def drawn(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class, second class and gate of each item of this process; drawn for those of all processes alike, and not
        from the numbers that the views are made of."""
        assert batch.targets is not None
        labels, first = exchange("global").gather(batch.targets)
        generator = batch.common_generator()
        weights = self.weights if self.alpha else None
        partners = draw_partners(labels, self.pairs, classes=self.seen.to(labels.device), weights=weights,
                                 generator=generator)  # fmt: skip
        mine = slice(first, first + len(batch))
        gates = None if self.gate is None else self.gate(labels, partners, generator)[mine]
        return batch.targets, partners[mine], gates

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z, (labels, partners, gates) = embedded["views"], self.drawn(batch)
        self.monitored = z[0].detach()
        anchors = embedded[f"predicted {len(self.predictors) - 1}"] if self.predictors else z
        keys, own = embedded.get("targets", z)[: self.plan.targets], self.form == "single"
        excluded = batch.excluded() if self.mask_duplicates else None
        options = {"temperature": self.temperature(), "reduction": self.reduction, "subtract": self.subtract,
                   "own": own, "excluded": excluded, "negatives": "global"}  # fmt: skip
        pair = [hydra(q, k, gates, labels, partners, **options)
                for (a, q), (b, k) in product(enumerate(anchors), enumerate(keys)) if (a == b) == own]  # fmt: skip
        total, terms = torch.stack(pair).mean(), self.terms_of(labels, partners, gates, batch)
        if self.form == "momentum":
            queries = embedded["predicted 0"] if self.predictors else z
            layout = against_targets(queries, embedded["targets"], True, self.layout_options(batch))
            instance = layout.loss(self.row_loss)
            terms |= {"pair": total.detach(), "instance": instance.detach()}
            total = (instance + self.beta * total) / (1 + self.beta)
        if self.gamma and self.gate is not None:
            total = total + self.gamma * gate_entropy(self.gate.of_classes()[self.seen.to(total.device)])
        return Loss(total, terms)

    def terms_of(
        self, labels: Tensor, partners: Tensor, gates: Tensor | None, batch: Batch
    ) -> dict[str, Tensor | float]:
        terms: dict[str, Tensor | float] = {"temperature": self.temperature().detach()}
        if self.logged(batch):
            there = exchange("global").gather(labels)[0]
            terms["alone"] = 1 - torch.isin(partners, there).float().mean()
            terms |= {} if gates is None else {"openness": gates.detach().mean()}
            terms |= {"masked": batch.masked_share()} if self.mask_duplicates else {}
        return terms

    def inference(self) -> Gates | None:
        return None if self.gate is None else Gates(self.names, self.gate)

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Any) -> Gates:
        return Gates(list(config["classes"]), heads.PairGate(**config["gate"]))
