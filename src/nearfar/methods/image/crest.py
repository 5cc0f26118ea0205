"""CREST: evidence for classes on two paths between regions and attributes (ACM MM 2024), a reconstruction.

    image --encoder--> regions X;   words A of attributes look at X, and X looks at A  -->  psi, psi' of attributes
    score of a class = < psi, z / |z| >   --softplus-->  evidence, a Dirichlet opinion a path;   Dempster fuses both
    L = L_EDL (both paths and fused) + 0.5 L_VICL (images alike by attribute; unsure negatives count less)
        + 0.1 L_DIGS (patterns apart) + L_ARISE (the attributes of both paths, by how sure they are, are those of z)

Classes that were never trained on are told by their attributes alone. The equations are those of
`nearfar.losses.evidential` and `nearfar.losses.grounding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nearfar import modalities
from nearfar.checks import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range, Width
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.heads.grounding import Grounded, Grounding, Paths
from nearfar.losses import evidential, grounding
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, check_plan, register
from nearfar.methods.batch import by_member
from nearfar.methods.composing import words_of
from nearfar.methods.described import Described, batches_of_classes, described_classes
from nearfar.methods.describing import DescribedClasses, Learned
from nearfar.samplers import Balanced, Sampler
from nearfar.similarity.exchange import exchange
from nearfar.views import Views

if TYPE_CHECKING:
    from nearfar.sources.data import Data

Auto = Literal["auto"]
TWO, VISUAL, REGIONS = {"paths": ("both",)}, {"paths": ("both", "visual")}, {"paths": ("both", "attribute")}
EVIDENTIAL = {"learned": ("evidential",)}


@register("crest", family="image")
class CREST(Method):
    """Images with a class that attributes describe (`--target` and `--class-attributes FILE`); classes that were
    never trained on are told too, each answer with its uncertainty.

    The curve shows the terms of the loss (told, vicl, digs, arise), the mean uncertainty of the fused opinion, and the
    conflict of the two paths.

    Args:
        paths: both; visual (attributes look at regions); attribute (regions look at attributes); pooled (attributes are
            linear in the mean region, without attention: a plain regression).
        learned: evidential (the loss of opinions), cross-entropy (of the mean of both paths' scores), regression (the
            attributes alone, classes by cosine).
        evidence: what makes a score evidence: softplus, or exp (of scores held within -10 and 10).
        scale: of the scores. With many classes softplus evidence of a few units leaves all uncertain.
        fusion: dempster (e + e' + e e' / C), sum (e + e'), mean ((e + e') / 2).
        certainty: whether negatives and the attributes of both paths are weighed by how sure they are.
        words: vectors of the attributes' names: random, a file of word vectors (as GloVe's), or the folder of a model
            of texts. They stay as they are.
        word_width: of random words. auto: 300, that of GloVe's.
        dim: d; of queries, keys and values.
        patterns: M; learned patterns that regions recall. 0: none.
        kept: s; patterns that a region recalls.
        temperature: T; of the contrast (VICL).
        margin: by which the second pattern is farther than the best (DIGS).
        commitment: of a region's distance to its best pattern (DIGS).
        contrast_weight: of VICL.
        pattern_weight: of DIGS.
        attribute_weight: of ARISE.
        anneal_epochs: until the divergence of wrong evidence counts in full.
        classes: of a batch. auto: 10, or as many as there are.
        each: images of every one; smaller classes are not drawn. auto: 5, or as many as the smallest class with two
            has.
        map_layer: whose map the regions are; last: the encoder's last.
        hold_encoder: whether the encoder stays as it is. auto: where it is pretrained.
        views: how an image is changed before it is encoded. Default not at all.

    Raises InputError: data without attributes of classes, one class alone, an encoder without maps, no term to learn
    from.
    """

    paper = Paper(
        "CREST: Cross-modal Resonance through Evidential Deep Learning for Enhanced Zero-Shot Learning",
        "ACM MM 2024",
        "Regions look at attributes and attributes at regions; evidence of both for each class is fused.",
        arxiv="2404.09640",
        differs="a reconstruction: the paper's equations could not be read and its model code was never published; "
        "modules and names of losses are those of its figure, opinions, fusion and their loss those of trusted "
        "multi-view classification (TMC); scores of the attribute path, evidence by softplus, the patterns and the "
        "three further losses are our reading, and no number is the paper's (--preset paper: Adam at 1e-4, batches of "
        "10 classes of 5); fusion is computed from evidence, where total conflict divides by nothing; attributes are "
        "divided by the largest in size; random unit vectors as words unless a file is given (GloVe); the encoder is "
        "held only where it is pretrained (a ResNet-101 at 448 pixels there), and its maps are made anew in every step",
    )
    needs = (frozenset({"image", "target"}),)
    target = "classes"
    supervised = True
    measured_by = "generalised-zero-shot"
    preset_paper = {"classes": 10, "each": 5}
    paper_training = {"optimiser": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant"}
    only_with = {
        "evidence": EVIDENTIAL,
        "anneal_epochs": EVIDENTIAL,
        "certainty": EVIDENTIAL | VISUAL,
        "fusion": EVIDENTIAL | TWO,
        "words": {"paths": ("both", "visual", "attribute")},
        "word_width": {"words": ("random",), "paths": ("both", "visual", "attribute")},
        "dim": {"paths": ("both", "visual", "attribute")},
        "patterns": REGIONS,
        "kept": REGIONS | {"patterns": Range(0, open_low=True)},
        "contrast_weight": VISUAL,
        "temperature": VISUAL | {"contrast_weight": Range(0, open_low=True)},
        "pattern_weight": REGIONS | {"patterns": Range(0, open_low=True)},
        **{name: REGIONS | {"pattern_weight": Range(0, open_low=True)} for name in ("margin", "commitment")},
    }  # fmt: skip
    of: Tensor
    matrix: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        paths: Paths = "both",
        learned: Learned = "evidential",
        evidence: evidential.Evidence = "softplus",
        scale: PositiveFloat = 1.0,
        fusion: evidential.Fusion = "dempster",
        certainty: bool = True,
        words: str = "random",
        word_width: Width | Auto = "auto",
        dim: Width = 256,
        patterns: NonNegativeInt = 32,
        kept: PositiveInt = 4,
        temperature: PositiveFloat = 0.2,
        margin: NonNegativeFloat = 1.0,
        commitment: NonNegativeFloat = 0.1,
        contrast_weight: NonNegativeFloat = 0.5,
        pattern_weight: NonNegativeFloat = 0.1,
        attribute_weight: NonNegativeFloat = 1.0,
        anneal_epochs: PositiveInt = 10,
        classes: PositiveInt | Auto = "auto",
        each: PositiveInt | Auto = "auto",
        map_layer: PositiveInt | Literal["last"] = "last",
        hold_encoder: bool | Auto = "auto",
        views: Views | None = None,
    ):
        super().__init__()
        mapped: Any = encoder
        if not hasattr(mapped, "feature_map"):
            raise InputError("'crest' reads regions of a map, which a frozen or joined encoder does not give.",
                             "Leave out --freeze; --hold-encoder true keeps the encoder as it is.")  # fmt: skip
        if learned == "regression" and not attribute_weight:
            raise InputError("'crest' has nothing left to learn from.", "Use a larger --attribute-weight.")
        if classes == 1:
            raise InputError("--classes 1: a batch of one class has nothing to tell apart.", "Use --classes 2 or more.")
        self.role, self.layer = encoder.role, None if map_layer == "last" else map_layer
        mapped.check_layer(self.layer)
        self.tower = Tower(mapped.without_projection())
        self.held = encoder.pretrained if hold_encoder == "auto" else hold_encoder
        if self.held:
            self.tower.requires_grad_(False).eval()
        self.plan = None if views is None else check_plan(views, encoder)
        if self.plan is not None and self.plan.members > 1:
            raise InputError("'crest' looks at each image alone, and these views show rows of a group together.",
                             "Choose other --views.")  # fmt: skip
        self.words, self.word_width = words, None if word_width == "auto" else word_width
        self.sizes = {"dim": dim, "patterns": patterns, "kept": kept, "paths": paths}
        self.settings = {"learned": learned, "kind": evidence, "fusion": fusion, "scale": scale}
        self.certainty, self.anneal_epochs = certainty and learned == "evidential", anneal_epochs
        self.temperature, self.margin, self.commitment = temperature, margin, commitment
        self.weights = {"vicl": contrast_weight, "digs": pattern_weight if patterns else 0.0, "arise": attribute_weight}
        self.wanted = (classes, each)
        self.trained_on: Described | None = None

    @classmethod
    def lacks(cls, data: Data) -> str:
        from nearfar.sources.class_attributes import has_class_attributes

        return "" if has_class_attributes(data) else "attributes of the classes: --class-attributes FILE"

    def train(self, mode: bool = True) -> CREST:
        super().train(mode)
        if self.held:
            self.tower.eval()
        return self

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        made = self.trained_on = described_classes(data, rows, "crest")
        counts = np.bincount(made.of[rows][made.of[rows] >= 0], minlength=len(made.matrix))
        self.classes, self.each = batches_of_classes(counts, *self.wanted, "crest")
        encoder: Any = self.tower.encoder
        channels = encoder.map_channels if self.layer is None else encoder.channels_of([self.layer])[0]
        drawn = torch.Generator().manual_seed(self.seed * 1_000_003 + 31)
        pooled = self.sizes["paths"] == "pooled"
        names = made.found.names
        words = torch.zeros(len(names), 1) if pooled else words_of(self.words, names, self.word_width, drawn)
        self.grounding = Grounding(words, channels, **self.sizes)
        self.register_buffer("of", torch.from_numpy(made.of), persistent=False)
        self.register_buffer("matrix", torch.from_numpy(made.matrix).float(), persistent=False)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        made = self.trained_on
        assert made is not None
        return {"described": made.words, "attributes": made.attributes, "classes": self.classes, "each": self.each,
                "hold_encoder": self.held}  # fmt: skip

    def sampler(self, stage: int) -> Sampler:
        return Balanced("target", self.classes, self.each)

    def make_views(self, batch: Batch) -> dict[str, list]:
        x = batch.inputs[self.role]
        shown = modalities.get(self.role).ready(x, self.tower.encoder) if self.plan is None else (
            self.plan(x, batch.generator())[0])  # fmt: skip
        return {self.role: by_member(shown, batch.members)}

    def encode(self, batch: Batch) -> dict[str, Any]:
        """psi of each path, and what attributes see and regions read, each a member of the batch after the other."""
        shown = batch.views[self.role]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.held):
            maps = self.tower.encoder.feature_map(torch.cat(shown), self.layer)
        made: Grounded = self.grounding(maps.flatten(2).transpose(1, 2))
        found = {f"psi{k}": one for k, one in enumerate(made.psi)} | {"seen": made.seen, "read": made.read}
        return {name: list(z.chunk(len(shown))) for name, z in found.items() if z is not None}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        y, made = self.of[batch.rows], {name: torch.cat(z) for name, z in embedded.items()}
        psi = [made[name] for name in ("psi0", "psi1") if name in made]
        self.monitored, one = psi[0].detach(), exchange("global")
        logits = [grounding.class_logits(x, self.matrix, self.settings["scale"]) for x in psi]
        terms, told, unsure = {}, {}, [None, None]
        if self.settings["learned"] == "evidential":
            weight = evidential.annealing(1 + batch.step // self.facts.epoch, self.anneal_epochs)
            found = evidential.path_terms(logits, y, weight, kind=self.settings["kind"], fusion=self.settings["fusion"])
            terms["told"] = sum(one.mean(rows) for rows in found.rows)
            unsure = found.of_path if self.certainty else unsure
            told["uncertainty"] = one.mean(found.uncertainty)
            told |= {} if found.conflict is None else {"conflict": one.mean(found.conflict)}
        elif self.settings["learned"] == "cross-entropy":
            terms["told"] = one.mean(F.cross_entropy(torch.stack(logits).mean(0), y, reduction="none"))
        if "seen" in made and self.weights["vicl"]:
            terms["vicl"] = grounding.certain_contrast(made["seen"], y, unsure[0], temperature=self.temperature,
                                                       negatives="global")  # fmt: skip
        if "read" in made and self.weights["digs"]:
            terms["digs"] = grounding.pattern_margin(made["read"], self.grounding.patterns, margin=self.margin,
                                                     commitment=self.commitment, negatives="global")  # fmt: skip
        if self.weights["arise"]:
            agreed = psi[0] if len(psi) == 1 else grounding.agreed_attributes(psi[0], psi[1], *unsure)
            terms["arise"] = grounding.attribute_loss(agreed, self.matrix, y, negatives="global")
        total = torch.stack([self.weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
        return Loss(total, {name: term.detach() for name, term in terms.items()} | told)

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    def inference(self) -> DescribedClasses | None:
        if self.trained_on is None:
            return None
        found = self.trained_on.found
        return DescribedClasses(self.grounding, found.names, found.classes, torch.from_numpy(found.matrix).float(),
                                self.trained_on.seen.tolist(), self.settings, self.layer, self.role)  # fmt: skip

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> DescribedClasses:
        return DescribedClasses.restored(config)
