"""M3CoL: rows of a modality are mixed, and the mixture is near to both partners in another (TMLR 2025).

    x_m --encoder f_m--> e_m,   m = 1..M          c_m(e_m), c([e_1 .. e_M]) --> class
    mix      e~_i = lambda_i e_i + (1 - lambda_i) e_pi(i),   lambda ~ Beta(a, a) with probability s, else 1
    M3Co     cross-entropy of cos(e~_1, e_2) / tau with lambda_i on i and 1 - lambda_i on pi(i), both directions
    Soft     cross-entropy of cos(e_1, e_2) / t with the softmax of cos(e_2, e_2) / t, both directions
    L = CE fusion + sum CE alone + w (sum over 1->2, 2->3, .. M->1 of M3Co, in the first third of the run, else Soft)

The classifiers see the vectors as they are, never mixed ones; the fusion classifier answers. With `--rate 0 --phase 1`
the contrast is CLIP's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar import modalities
from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, UnitInterval, Width
from nearfar.encoders import Encoder, Features, Frozen
from nearfar.encoders.numeric import GroupedVectors
from nearfar.errors import InputError
from nearfar.losses import draw_mixture, m3co, mix_rows, soft_contrast
from nearfar.losses.mixtures import mix_columns
from nearfar.methods import Batch, Facts, Loss, Paper, register
from nearfar.methods.contrast.pairs import pair_views
from nearfar.methods.fused import OfModalities
from nearfar.similarity import ExcludedPairs
from nearfar.views import Views


@register("m3col", family="multimodal")
class M3CoL(OfModalities):
    """Tells classes of rows of two or more modalities, which learn what rows share across them (`--target COLUMN`).

    Args:
        groups: which columns of numbers are a modality: "mean *; *error; worst *", each if need be with a name,
            "size=radius,area; ...". Default: all numbers are one; columns that hold lists are one each.
        mix: what is mixed: embeddings (as in the released code), or inputs of images and numbers beside embeddings of
            the others (as in the paper).
        alpha: a; of the Beta distribution of the mixing shares.
        rate: s; the share of rows that are mixed; 0: none, the contrast is CLIP's.
        phase: share of the run in which mixtures are contrasted, before soft targets are.
        weight: w; of the contrast beside the classifiers; 0: none.
        temperature: tau; of the contrast of mixtures.
        soft_temperature: t; of the soft targets and of what is compared with them.
        unimodal: a classifier on each modality alone, beside that on all.
        hidden: width of the classifiers' hidden layers. auto: 256, or that of the vectors where all are numbers.
        layers: linear layers of each classifier. auto: 3, or 2 where all are numbers.
        head: a layer between encoder and vector: none or linear. auto: linear where the encoders differ in width or
            are frozen.
        dim: width of the vectors, with such layers.
        views: how an image is changed before it is encoded.
        text_lr: learning rate of encoders of texts (paper: 2e-5); default that of the others.
        head_lr: learning rate of the classifiers; default that of the encoders.
        mask_duplicates: rows that are equal in a modality (or of one group) are no negatives of each other, nor of
            mixtures with the other; soft targets tell them apart by themselves.
        official: as the released code does it: candidates are mixed rows too, and a row that is its own partner loses
            a part of its target.
    """

    paper = Paper(
        "Harnessing Shared Relations via Multimodal Mixup Contrastive Learning for Multimodal Classification",
        "TMLR 2025",
        "A mixture of two rows in one modality is near to both of them in another, in proportion to their shares.",
        arxiv="2409.17777",
        differs="embeddings are mixed, as in the released code (--mix inputs: images and numbers before the encoder, "
        "as in the paper); candidates are clean rows and a row that is its own partner keeps its whole target "
        "(--official true for the released code, which overwrites both); rows that are equal in a modality are "
        "masked where mixtures are contrasted (--mask-duplicates false for the paper's behaviour); rows are mixed "
        "with those of their own process; the phases divide steps, not epochs; a constant learning rate in the "
        "preset in place of one that "
        "falls when the training accuracy stays (factor 0.2), and one rate of all classifiers (released: 5e-5 and "
        "1e-4); batches of 32, four a step, are --batch-size 32 --accumulate 4, and tables in one batch with two "
        "layers of 1000 (ROSMAP; BRCA: 768 and --lr 5e-3) are --batch-size ROWS --vector-width 1000 --vector-layers "
        "1; a warm-up of a twentieth of the run; no dropout, which the released code sets and does not apply; a "
        "number that never changes in training is not scaled; the last weights are kept, not those best on test data",
    )
    needs = (frozenset({"pair", "target"}), frozenset({"vector", "target"}))
    target = "classes"
    measured_by = "classification"
    supervised = True
    prefers = {"vector_scale": "min-max"}
    only_with = {"official": {"mix": ("embeddings",)}}
    preset_paper = {"alpha": 0.15, "rate": 0.5, "phase": 0.33, "weight": 0.1, "temperature": 0.1,
                    "soft_temperature": 0.125, "unimodal": True, "mix": "embeddings", "hidden": 256, "layers": 3,
                    "views": {"name": "members", "k": 1, "flip": 0.5, "rotate": 0.0, "zoom": 0.0, "shift": 0.0,
                              "saturation": 0.0, "grey": 0.0},
                    "text_lr": 2e-5, "head_lr": 1e-4, "mask_duplicates": False}  # fmt: skip
    paper_training = {"optimiser": "adam", "lr": 5e-5, "weight_decay": 1e-4, "schedule": "constant"}

    def __init__(
        self,
        *encoders: Encoder,
        groups: str | None = None,
        mix: Literal["embeddings", "inputs"] = "embeddings",
        alpha: PositiveFloat = 0.15,
        rate: UnitInterval = 0.5,
        phase: UnitInterval = 0.33,
        weight: NonNegativeFloat = 0.1,
        temperature: PositiveFloat = 0.1,
        soft_temperature: PositiveFloat = 0.125,
        unimodal: bool = True,
        hidden: Width | Literal["auto"] = "auto",
        layers: PositiveInt | Literal["auto"] = "auto",
        head: Literal["auto", "none", "linear"] = "auto",
        dim: Width = 256,
        views: Views | None = None,
        text_lr: PositiveFloat | None = None,
        head_lr: PositiveFloat | None = None,
        mask_duplicates: bool = True,
        official: bool = False,
    ):
        super().__init__()
        self.take_encoders(encoders, groups, head, dim)
        self.take_classifiers(hidden, layers, unimodal)
        towers: Any = self.encoders
        made = [tower.encoder for tower in towers]
        if mix == "inputs" and any(isinstance(one, Frozen) for one in made):
            raise InputError("--mix inputs changes what the encoders see, and --freeze keeps what they made.",
                             "Leave out one of both.")  # fmt: skip
        self.plans = {one.modality: pair_views(views, one) for one in made}
        if any(plan is not None and plan.members > 1 for plan in self.plans.values()):
            raise InputError("'m3col' takes one view of each image, and these views show rows of a group together.",
                             "Set --views.k 1, or choose other --views.")  # fmt: skip
        self.mix, self.official, self.mask_duplicates = mix, official, mask_duplicates
        self.alpha, self.share_mixed, self.phase, self.weight = alpha, rate, phase, weight
        self.temperature, self.soft_temperature, self.rates = temperature, soft_temperature, (text_lr, head_lr)

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"views": {"name": "members", "k": 1}}

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """That of N24News; of groups of numbers that of ROSMAP."""
        if given.get("groups") is None:
            return cls.preset_paper
        left = ("views", "text_lr", "head_lr", "hidden", "layers")
        return {name: value for name, value in cls.preset_paper.items() if name not in left}

    @classmethod
    def training_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if given.get("groups") is None:
            return cls.paper_training
        return {"optimiser": "adam", "lr": 2e-3, "weight_decay": 0.0, "schedule": "constant"}

    def resolve(self, facts: Facts) -> dict[str, Any]:
        self.switch = math.floor(self.phase * facts.steps) if self.phase < 1 else facts.steps
        told = {"modalities": ", ".join(self.named), "hidden": self.hidden, "layers": self.layers}
        return told | ({"soft_from_step": self.switch} if self.weight else {})

    def scaled_parameters(self) -> dict[nn.Parameter, float]:
        (text, head), lr = self.rates, self.optimisation.lr
        found: dict[nn.Parameter, float] = {}
        if text is not None:
            texts = [tower for _, tower, encoder in self.sides() if encoder.modality == "text"]
            found |= {p: text / lr for tower in texts for p in tower.parameters()}
        return found | (dict.fromkeys(self.fused.parameters(), head / lr) if head is not None else {})

    def mixes(self, batch: Batch) -> bool:
        """Whether mixtures are contrasted in this step."""
        return self.weight > 0 and batch.step < self.switch

    def mixture(self, batch: Batch, place: int) -> tuple[Tensor, Tensor]:
        """Partners and shares of the modality at a place, as `draw_mixture` gives them."""
        drawn = draw_mixture(len(batch), alpha=self.alpha, rate=self.share_mixed, seed=(batch.random_seed, place))
        return drawn[0].to(batch.rows.device), drawn[1].to(batch.rows.device)

    def make_views(self, batch: Batch) -> dict[str, list]:
        """One view of each modality; where inputs are mixed, a mixed one of images and numbers beside it."""
        made: dict[str, list] = {}
        generator, place = batch.generator(), 0
        for role, _, encoder in self.sides():
            x: Any = batch.inputs[role]
            plan = self.plans[encoder.modality]
            if not isinstance(x, Features):
                x = plan(x, generator)[0] if plan is not None else modalities.of(role).ready(x, encoder)
            many, made[role] = self.many(encoder), [x]
            if self.mixes(batch) and self.early(encoder):
                made[role].append(self.mixed_inputs(x, encoder, [self.mixture(batch, place + k) for k in range(many)]))
            place += many
        return made

    def early(self, encoder: Any) -> bool:
        """Whether the inputs of an encoder are mixed, not what it makes of them."""
        return self.mix == "inputs" and encoder.modality in ("image", "vector")

    def mixed_inputs(self, x: Any, encoder: Any, drawn: list[tuple[Tensor, Tensor]]) -> Tensor:
        if encoder.modality == "vector":
            x = encoder.filled(x)
        groups = encoder.groups if isinstance(encoder, GroupedVectors) else None
        return mix_rows(x, *drawn[0]) if groups is None else mix_columns(x, [*groups.values()], drawn)

    def encode(self, batch: Batch) -> dict[str, Any]:
        """vectors: of each modality, (n, dim); mixed: of those whose inputs were mixed."""
        found: dict[str, Any] = {"vectors": [], "mixed": []}
        for role, tower, encoder in self.sides():
            for name, x in zip(found, batch.views[role], strict=False):
                found[name] += encoder.each(x) if isinstance(encoder, GroupedVectors) else [tower(x)]
        return found

    def mixtures(self, embedded: dict[str, Any], drawn: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The mixed vectors of each modality: those of mixed inputs, or mixtures of its vectors."""
        made = iter(embedded["mixed"])
        early = [self.early(encoder) for _, _, encoder in self.sides() for _ in range(self.many(encoder))]
        return [next(made) if first else mix_rows(e, *one)
                for first, e, one in zip(early, embedded["vectors"], drawn, strict=True)]  # fmt: skip

    def contrast(self, embedded: dict[str, Any], batch: Batch) -> Tensor:
        """The sum over each modality and the next one, around."""
        e: list[Tensor] = embedded["vectors"]
        after = around(len(e))
        if not self.mixes(batch):
            terms = [soft_contrast(e[a], e[b], temperature=self.soft_temperature, negatives="global") for a, b in after]
            return torch.stack(terms).sum()
        drawn = [self.mixture(batch, k) for k in range(len(e))]
        mixed = self.mixtures(embedded, drawn)
        clean = mixed if self.official else e
        options = {"temperature": self.temperature, "added": not self.official, "negatives": "global"}
        terms = [m3co(mixed[a], clean[b], *drawn[a], excluded=self.equal(batch, a, b), **options) for a, b in after]
        return torch.stack(terms).sum()

    def equal(self, batch: Batch, a: int, b: int) -> ExcludedPairs | None:
        """Rows that are no negatives of each other between two modalities: of one group, equal in a column, or in a
        group of numbers that is one of the two. The other groups do not count, since few numbers may be equal by
        chance."""
        if not self.mask_duplicates:
            return None
        return ExcludedPairs([*batch.identities(), *self.equal_groups(batch, (a, b))], batch.known)

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        e: list[Tensor] = embedded["vectors"]
        self.monitored, known = e[0].detach(), self.class_losses(e, batch)
        total = torch.stack(known).sum()
        terms: dict[str, Tensor | float] = {"fusion": known[0].detach()}
        if self.weight:
            between = self.contrast(embedded, batch)
            total, terms["contrast"] = total + self.weight * between, between.detach()
            if self.mask_duplicates and self.mixes(batch) and self.logged(batch):
                shares = [batch.masked_share(self.equal_groups(batch, pair)) for pair in around(len(e))]
                terms["masked"] = sum(shares) / len(shares)
        return Loss(total, terms)


def around(count: int) -> list[tuple[int, int]]:
    """Each modality with the next one, the last with the first."""
    return [(k, (k + 1) % count) for k in range(count)]
