"""CoT: attributes from several layers, as the object sees them (Kim et al., ICCV 2023).

    image --encoder--> vector c, maps F_l of three layers
    v_o = W c,  G_l = F_l under gates of channels and places that v_o opens,  v_a = W [mean G_l],  v_p = MLP [v_o; v_a]
    words E_o, E_a, trained;   y_(a,o) = MLP [E_o; E_a]
    L = CE(v_p, y) + 0.4 CE(v_o, E_o) + 0.6 CE(v_a, E_a)     by cosine, over the pairs of training and over all words

From a late step on the encoder is held, each image gets a partner of the same object with another, rare attribute,
and in half of the steps a mixed image must find its mixed label among all pairs: L + L_mix.
score(a, o) = cos(v_p, y) + cos(v_a, E_a) + cos(v_o, E_o). The equations are those of `nearfar.losses.primitives`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nearfar import processes
from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, Range, ShareBelowOne, UnitInterval, Width
from nearfar.encoders import Encoder
from nearfar.encoders.base import evaluating
from nearfar.errors import InputError
from nearfar.heads.primitives import Attention, LabelComposer, Primitives
from nearfar.losses import primitives as equations
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, check_plan, register
from nearfar.methods.batch import by_member
from nearfar.methods.composing import Trained, trained_compositions, words_of
from nearfar.methods.late_partners import LatePartners
from nearfar.methods.primitives import ComposedPrimitives, layers_between
from nearfar.samplers import Permutation, Sampler
from nearfar.views import Views

if TYPE_CHECKING:
    from nearfar.sources.data import Data

SCALE = 100.0  # of the scores, so that the step of a sweep over biases, 1e-4, is fine
Layers = tuple[PositiveInt, PositiveInt, PositiveInt]


@register("cot", family="image")
class CoT(Method):
    """Images with an attribute and an object (`--attribute` and `--object`); pairs that were never trained on are
    told by what is learned of their parts.

    The curve shows the terms of the loss: pair, object, attribute, and mix where a step has mixed images.

    Args:
        attention: object (the object's vector opens gates of channels and places in the maps), pooled (the maps of the
            layers as they are), last (attributes from the last vector, as objects).
        layers: whose maps are read. auto: a quarter, half and three quarters of the depth (of 12: 9,6,3), or the three
            before the last of a shallow network.
        words: vectors at the start: random, a file of word vectors (as GloVe's), or the folder of a model of texts.
        dim: of all vectors, that of the words. auto: the given words', else 300.
        dropout: of what the pair's vector is made of.
        temperature: of the three classifiers.
        object_weight: of the classifier of objects.
        attribute_weight: of that of attributes.
        augment_from: share of the run after which images get partners of rare attributes and the encoder is held;
            batches are then halved, a partner an image. 1: never.
        augment_share: in which share of the steps after it the partners take part; in the others they are left out.
        partners: how a partner's attribute is drawn among the others of its object: rare (by 1 / its images) or
            frequent (by its images).
        mix_weight: of the mixed images; 0: partners are further images, nothing is mixed.
        mix_temperature: of mixed images among all pairs.
        beta: mixed by a share from Beta(beta, beta), one a step; 1: uniform.
        hold_encoder: whether the encoder stays as it is from then on.
        encoder_rate: multiple of the learning rate for the encoder. auto: 0.1 where it is pretrained, else 1.
        word_rate: multiple for the words. auto: 0.025, of random ones 1.
        milestones: two shares of the run after which the learning rate is a tenth, beside the run's schedule.
        views: the first view of an image is used. Default a crop of half the area at least, since sides, colours and
            light may be attributes.
        official: as the released code: the held encoder keeps its dropout and its batch statistics moving, and scores
            are sums of cosines (nearfar: times 100, fine enough for the sweep over biases).

    Raises InputError: fewer than two compositions, an attribute or object without a training row, an encoder without
    maps, batches too small to be halved.
    """

    paper = Paper(
        "Hierarchical Visual Primitive Experts for Compositional Zero-Shot Learning",
        "ICCV 2023",
        "Attributes are read from several layers as the object directs, and rare ones are mixed into other images.",
        arxiv="2308.04016",
        differs="random unit vectors as words unless a file is given (the paper: GloVe); AdamW and a cosine schedule "
        "unless asked (--preset paper: Adam with L2 decay, rates by group, a tenth of them from 23/36 and again from "
        "30/36 of the run on, as for C-GQA); a warm-up of a twentieth of the run; no mirroring by default; the held "
        "encoder is in evaluation mode and scores are times 100 (--official for the released code); the weights of the "
        "loss are those that the code uses, not those of its configuration files; vectors and words are mixed, as in "
        "the code, not images, as the abstract has it; several attributes count as the mean of theirs; the model is "
        "kept as it ends (the code: at its best validation AUC); batch norms see the rows of their own process",
    )
    needs = (frozenset({"image", "attribute", "object"}),)
    supervised = True
    uses_batch = False
    measured_by = "compositions"
    preset_paper = {
        "dropout": 0.2, "temperature": 0.05, "object_weight": 0.4, "attribute_weight": 0.6,
        "augment_from": 24 / 36, "augment_share": 0.5, "mix_weight": 1.0, "mix_temperature": 0.1, "beta": 1.0,
        "encoder_rate": 0.1, "word_rate": 0.025, "milestones": (23 / 36, 30 / 36),
        "views": {"name": "two-crops", "crop": (0.08, 1.0), "flip": 0.5, "strength": 0.0, "grey": 0.0, "blur": 0.0},
    }  # fmt: skip
    paper_training = {"optimiser": "adam", "lr": 1e-4, "weight_decay": 5e-5, "schedule": "constant", "decay_all": True}
    only_with = {
        "layers": {"attention": ("object", "pooled")},
        **{name: {"mix_weight": Range(0, open_low=True)} for name in ("mix_temperature", "beta")},
        **{name: {"augment_from": Range(0, 1, open_high=True)}
           for name in ("augment_share", "partners", "mix_weight", "hold_encoder")},
    }  # fmt: skip
    of: Tensor
    shares: Tensor
    objects: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        attention: Attention = "object",
        layers: Layers | Literal["auto"] = "auto",
        words: str = "random",
        dim: Width | Literal["auto"] = "auto",
        dropout: ShareBelowOne = 0.2,
        temperature: PositiveFloat = 0.05,
        object_weight: NonNegativeFloat = 0.4,
        attribute_weight: NonNegativeFloat = 0.6,
        augment_from: UnitInterval = 2 / 3,
        augment_share: UnitInterval = 0.5,
        partners: Literal["rare", "frequent"] = "rare",
        mix_weight: NonNegativeFloat = 1.0,
        mix_temperature: PositiveFloat = 0.1,
        beta: PositiveFloat = 1.0,
        hold_encoder: bool = True,
        encoder_rate: PositiveFloat | Literal["auto"] = "auto",
        word_rate: PositiveFloat | Literal["auto"] = "auto",
        milestones: tuple[UnitInterval, UnitInterval] | None = None,
        views: Views | None = None,
        official: bool = False,
    ):
        super().__init__()
        mapped: Any = encoder
        if not hasattr(mapped, "with_maps"):
            raise InputError("'cot' reads maps of several layers, which a frozen or joined encoder does not give.",
                             "Leave out --freeze; a low --encoder-rate keeps the encoder near its start.")  # fmt: skip
        self.role, self.tower = encoder.role, Tower(mapped.without_projection())
        self.plan = check_plan(views or self.default_part("views"), encoder)
        if self.plan.members > 1:
            raise InputError("'cot' looks at each image alone, and these views show rows of a group together.",
                             "Choose other --views.")  # fmt: skip
        self.attention, self.dropout, self.words, self.dim = attention, dropout, words, None if dim == "auto" else dim
        self.layers = () if attention == "last" else layers_between(mapped.layers) if layers == "auto" else layers
        for layer in self.layers:
            mapped.check_layer(layer)
        self.temperature, self.mix_temperature = temperature, mix_temperature
        self.weights = {"object": object_weight, "attribute": attribute_weight, "mix": mix_weight}
        self.late = LatePartners(augment_from, augment_share, partners == "rare", beta)
        self.hold_encoder, self.milestones, self.official = hold_encoder, milestones or (), official
        known = words != "random"
        self.rates = {"encoder": (0.1 if encoder.pretrained else 1.0) if encoder_rate == "auto" else encoder_rate,
                      "words": (0.025 if known else 1.0) if word_rate == "auto" else word_rate}  # fmt: skip
        self.trained_on: Trained | None = None

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        mild = {"name": "two-crops", "crop": (0.5, 1.0), "flip": 0.0, "strength": 0.0, "grey": 0.0, "blur": 0.0}
        return {"views": mild}

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        made = self.trained_on = trained_compositions(data, rows)
        if len(made.pairs) < 2:
            raise InputError(f"All training rows of {data.name} have one composition: there is nothing to tell apart.",
                             "Check --attribute and --object.")  # fmt: skip
        found, drawn = made.found, torch.Generator().manual_seed(self.seed * 1_000_003 + 29)
        both = words_of(self.words, [*found.attributes, *found.objects], self.dim, drawn)
        attributes, objects = both[: len(found.attributes)], both[len(found.attributes) :]
        self.composer = LabelComposer(attributes, objects)
        channels = self.tower.encoder.channels_of(self.layers) if self.layers else []
        self.primitives = Primitives(self.tower.encoder.dim, channels, both.shape[1], self.attention, self.dropout)
        pairs = torch.from_numpy(made.pairs)
        self.register_buffer("of", torch.from_numpy(made.of), persistent=False)
        self.register_buffer("shares", equations.attribute_shares(pairs, len(attributes)), persistent=False)
        self.register_buffer("objects", pairs[:, -1].clone(), persistent=False)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        made = self.trained_on
        assert made is not None
        found = {"compositions": made.words, "dim": self.width}
        found |= {"layers": ",".join(map(str, self.layers))} if self.layers else {}
        if (start := self.late.start(facts.steps)) < facts.steps:
            if facts.batch_size // 2 // processes.rank_and_world()[1] < 2:
                raise InputError(f"Batches of {facts.batch_size} are halved for the augmentation, and a process must "
                                 "have two of the images left.", "Use a larger --batch-size, or --augment-from 1."
                                 )  # fmt: skip
            found["augmented_from"] = start
        return found

    @property
    def width(self) -> int:
        return self.composer.objects.shape[1]

    def stage_of(self, step: int) -> int:
        """1: images have partners."""
        return int(step >= self.late.start(self.facts.steps))

    def sampler(self, stage: int) -> Sampler:
        made = self.trained_on
        assert made is not None
        if stage == 0:
            return Permutation().only(made.rows)
        of = made.of[made.rows]
        return self.late.sampler(made.rows, made.pairs[of, -1], of, self.facts.batch_size // 2)

    def make_views(self, batch: Batch) -> dict[str, list]:
        x, both = batch.inputs[self.role], self.late.drawn(batch)[0]
        shown = x if both else by_member(x, batch.members)[0]
        return {self.role: by_member(self.plan(shown, batch.generator())[0], 1 + both)}

    def seen(self, x: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """The encoder's vector and maps; without gradient once it is held."""
        encoder = self.tower.encoder
        if not (self.hold_encoder and self.stage_of(batch.step)):
            return encoder.with_maps(x, self.layers)
        with torch.no_grad(), evaluating(*([] if self.official else [encoder])):
            return encoder.with_maps(x, self.layers)

    def encode(self, batch: Batch) -> dict[str, Any]:
        shown = batch.views[self.role]
        found = self.primitives(*self.seen(torch.cat(shown), batch))
        return {name: list(z.chunk(len(shown))) for name, z in zip(("object", "attribute", "pair"), found, strict=True)}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        of = self.of[batch.rows].view(batch.members, -1)[: len(embedded["pair"])]
        item, attribute, pair = (torch.cat(embedded[name]) for name in ("object", "attribute", "pair"))
        self.monitored, rows = pair.detach(), of.reshape(-1)
        labels = self.composer.labels(self.shares, self.objects)
        told = {"temperature": self.temperature, "negatives": "global"}
        terms = {
            "pair": equations.cosine_classifier(pair, labels, rows, **told),
            "object": equations.cosine_classifier(item, self.composer.objects, self.objects[rows], **told),
            "attribute": equations.cosine_classifier(attribute, self.composer.attributes, self.shares[rows], **told),
        }
        if len(of) == 2 and self.weights["mix"]:
            terms["mix"] = self.mixed(embedded["pair"], of, labels, self.late.drawn(batch)[1])
        total = sum(
            (self.weights.get(name, 1.0) * term for name, term in terms.items()), torch.zeros_like(terms["pair"])
        )
        return Loss(total, {name: term.detach() for name, term in terms.items()})

    def mixed(self, pair: Sequence[Tensor], of: Tensor, labels: Tensor, share: float) -> Tensor:
        """L_mix: images and the words of their attributes, mixed with their partners'."""
        mine, theirs = (self.shares[rows] for rows in of)
        virtual = equations.mixed(pair[0], pair[1], share)
        label = self.composer.labels(equations.mixed(mine, theirs, share), self.objects[of[0]])
        return equations.mixed_pairs(virtual, label, labels, temperature=self.mix_temperature, negatives="global")

    def rate(self, step: int) -> float:
        passed = sum(step >= round(share * self.facts.steps) for share in self.milestones)
        return super().rate(step) * 0.1**passed

    def scaled_parameters(self) -> dict[nn.Parameter, float]:
        rates = dict.fromkeys(self.tower.encoder.parameters(), self.rates["encoder"])
        return rates | dict.fromkeys((self.composer.attributes, self.composer.objects), self.rates["words"])

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    def inference(self) -> ComposedPrimitives | None:
        if self.trained_on is None:
            return None
        found = self.trained_on.found
        return ComposedPrimitives(self.primitives, self.composer, self.layers, 1.0 if self.official else SCALE,
                                  attributes=found.attributes, objects=found.objects, known=found.names,
                                  seen=self.trained_on.seen.tolist(), role=self.role)  # fmt: skip

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> ComposedPrimitives:
        return ComposedPrimitives.restored(config)
