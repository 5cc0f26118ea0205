"""CLIP-rocket, and SiamLIP, BYOLIP, BarLIP, SwALIP beside it: improved baselines for vision-language pre-training (Fini
et al., TMLR 2023).

    image, caption --weak-->        x0, t0      --tower, linear head-->  z      G = CLIP(z; s)
                     --strong, A x--> x1.., t1..  --tower, MLP-->          h      L = mean_ab CLIP(h_a, h_b; s_h, eps)
    loss = (G + A L) / (1 + A)   [mode sum: twice that]   + weight * extra(images, captions)

Strong views of both sides keep small data from being learned by heart; a head and a temperature of their own keep them
from blurring z. Used are z, h, or both: w cos z + (1 - w) cos h. The equations are `nearfar.losses.clip_rocket`,
`barlip`, `siamlip` and `swalip`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from nearfar import heads
from nearfar.checks import PositiveFloat, PositiveInt, Range, UnitInterval, Width
from nearfar.encoders import Encoder, Features
from nearfar.encoders.base import without_dropout
from nearfar.errors import InputError
from nearfar.losses import clip_rocket_terms
from nearfar.methods import Batch, Facts, Loss, Paper, Tower, check_plan, register
from nearfar.methods.contrast.extra_terms import PROJECTED, WEIGHTS, WithExtraTerm
from nearfar.similarity import Temperature
from nearfar.views import Views
from nearfar.views.words import Words

SCALE = (0.01, 1.0)  # of a temperature, so that the log of its inverse stays within 0 and log 100
SOME = Range(1, 16)
PAPER = {
    "barlow": {"extra_hidden": 3000, "extra_dim": 8192},
    "simsiam": {"extra_hidden": 2048, "extra_dim": 128},
    "byol": {"extra_hidden": 2048, "extra_dim": 128},
    "swav": {"smoothing": 0.0},
}


@register("clip-rocket", family="multimodal")
class CLIPRocket(WithExtraTerm):
    """CLIP with strong views of images and captions beside the weak ones, through heads of their own.

    Args:
        local: A; strong views of each image and caption beside the first one; 0: CLIP.
        first: how the first views are changed: weak; strong, as the others; plain, not at all.
        views: how images are changed: weak-strong, or another plan of 1 + local views.
        text_views: how captions are changed: words, or another plan of 1 + local views.
        projector: separate: strong views have a head (three layers) and a temperature of their own; shared: those of
            the first view.
        hidden: width of the hidden layers of that head.
        local_temperature: start of their temperature.
        smoothing: eps; share of the target that is spread over all candidates, of strong views alone. auto: 0.1, with
            --extra swav 0.
        mode: avg: the mean over views and directions; sum: twice that, beside which an extra term weighs half as much.
        dropout: local: dropout and drop-path of encoders act on strong views alone; all: on the first one too.
        extra: a further term between images and captions: none, barlow (BarLIP), simsiam (SiamLIP), byol (BYOLIP),
            swav (SwALIP, of two strong views).
        extra_weight: its weight. auto: 1, of swav 0.2.
        extra_hidden: width of the hidden layers of its projectors, and of its predictors.
        extra_dim: width of what they give. auto: of barlow as extra_hidden, else 128.
        momentum: m of the copy that gives byol's targets.
        eps: entropy weight of swav's assignments.
        iterations: their Sinkhorn rounds.
        inference: what the model gives: z, h, or ensemble, a vector whose cosine is share cos z + (1 - share) cos h; z
            and h are its variants. Without a head of its own for strong views: z.
        share: w; weight of z in the ensemble.
        official: candidates are constants, as gathered ones are in the released code on several processes.
        head: of the first view: linear, without a bias; mlp; none; own: that of the model that the encoders came with
            (--model). auto: own where there is one, else linear.
        temperature: start of the temperature of the first view; both are kept within 0.01 and 1.

    The vectors of a frozen encoder are made once: all views of its column are one.
    Raises InputError: views that are not 1 + local; swav with other than two strong views, or with smoothing.
    """

    paper = Paper(
        "Improved baselines for vision-language pre-training",
        "TMLR 2023",
        "Strong views of images and captions, with a head of their own, make CLIP as good as its relatives.",
        arxiv="2305.08675",
        differs="gradients flow through all candidates (--official: constants, as on several processes in the released "
        "code); identical items are masked in all CLIP terms, by the caption that was drawn for the row "
        "(--mask-duplicates false for the paper's behaviour); no synonyms without a file of them (the code: WordNet); "
        "words are parted by blanks, without NLTK's tokenizer; batch norms see the items of one process; the "
        "temperatures learn at five times the rate; heads start as torch has them; dropout of the encoder in its own "
        "places; warm-up from 0 over a twentieth of a run (paper: from 1e-6, an epoch of 32); not the older SwALIP "
        "with prototypes",
    )
    needs = (frozenset({"image", "text"}),)
    preset_paper = {
        "local": 2,
        "views": {"name": "weak-strong", "weak_crop": (0.5, 1.0), "crop": (0.08, 1.0), "flip": 0.5, "strength": 0.5,
                  "grey": 0.2, "blur": 0.5},
        "text_views": {"name": "words", "stop_words": 0.8, "synonym": 0.4, "swap": 0.4, "deletion": 0.2},
        "projector": "separate", "hidden": 4096, "dim": 512, "temperature": 0.07, "local_temperature": 0.1,
        "smoothing": 0.1, "mode": "sum", "momentum": 0.99, "eps": 0.05, "iterations": 3, "mask_duplicates": False,
    }  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 3e-3, "lr_batch": 4096, "weight_decay": 0.1, "betas": (0.9, 0.98),
                      "eps": 1e-8, "schedule": "cosine", "final": 1 / 300}  # fmt: skip
    defaults = {"temperature": 0.07, "learn_temperature": True}
    usual_head = "linear"
    fixed = ("symmetric", "loss", "negatives")
    follows = {"views": "first"}
    only_with = {
        **{name: {"local": SOME} for name in ("projector", "smoothing", "mode", "dropout")},
        **{name: {"local": SOME, "projector": ("separate",)} for name in ("hidden", "local_temperature", "inference")},
        "share": {"local": SOME, "projector": ("separate",), "inference": ("ensemble",)},
        "extra_weight": {"extra": tuple(WEIGHTS)},
        "extra_hidden": {"extra": PROJECTED},
        "extra_dim": {"extra": PROJECTED},
        "momentum": {"extra": ("byol",)},
        "eps": {"extra": ("swav",)},
        "iterations": {"extra": ("swav",)},
    }

    def __init__(
        self,
        encoder: Encoder,
        encoder_b: Encoder | None = None,
        *,
        local: Annotated[int, Range(0, 16)] = 2,
        first: Literal["weak", "strong", "plain"] = "weak",
        text_views: Views | None = None,
        projector: Literal["separate", "shared"] = "separate",
        hidden: Width = 512,
        local_temperature: PositiveFloat = 0.1,
        smoothing: UnitInterval | Literal["auto"] = "auto",
        mode: Literal["avg", "sum"] = "avg",
        dropout: Literal["local", "all"] = "local",
        extra: Literal["none", "barlow", "simsiam", "byol", "swav"] = "none",
        extra_weight: PositiveFloat | Literal["auto"] = "auto",
        extra_hidden: Width = 512,
        extra_dim: Width | Literal["auto"] = "auto",
        momentum: UnitInterval = 0.99,
        eps: PositiveFloat = 0.05,
        iterations: PositiveInt = 3,
        inference: Literal["ensemble", "z", "h"] = "ensemble",
        share: UnitInterval = 0.5,
        official: bool = False,
        **shared: Any,
    ):
        super().__init__(encoder, encoder_b, **shared)
        self.local, self.mode, self.dropout, self.official = local, mode, dropout, official
        self.smoothing = (0.0 if extra == "swav" else 0.1) if smoothing == "auto" else float(smoothing)
        if extra == "swav":
            check_swav(local, self.smoothing)
        own = bool(local) and projector == "separate"
        self.kept, self.share = inference if own else "z", share
        chosen = {"local": local, "first": first}
        plans = (shared["views"] or self.default_part("views", **chosen),
                 text_views or self.default_part("text_views", **chosen))  # fmt: skip
        sides = self.tower_a, self.tower_b
        self.plans = {t.encoder.modality: self.check_count(check_plan(plan, t.encoder))
                      for t, plan in zip(sides, plans, strict=True)}  # fmt: skip
        self.tau = Temperature(shared["temperature"], SCALE, shared["learn_temperature"])
        self.local_tau = Temperature(local_temperature, SCALE, shared["learn_temperature"]) if own else None
        kind = self.chosen_head(encoder, sides[1].encoder) if shared["head"] == "auto" else shared["head"]
        made = [self.heads_of(tower, kind, hidden) for tower in sides]
        for tower, (z, _) in zip(sides, made, strict=True):
            tower.head = z
        self.local_heads = nn.ModuleList([h for _, h in made] if own else [])
        self.resolved = {"smoothing": self.smoothing} if local and smoothing == "auto" else {}
        self.resolved |= self.take_term(extra, extra_weight, extra_hidden, extra_dim, momentum, eps, iterations)

    def check_count(self, plan: Views) -> Views:
        if plan.count != 1 + self.local or plan.members > 1:
            name = type(plan).__name__.lower()
            raise InputError(
                f"{1 + self.local} views of each {plan.modality} are needed, the first and --local {self.local}; the "
                f"views '{name}' give {plan.count}{' of several rows' if plan.members > 1 else ''}.",
                "Use the default views, or another --local.",
            )
        return plan

    def heads_of(self, tower: Tower, kind: str, hidden: int) -> tuple[nn.Module | None, nn.Module]:
        """The head of the first view and that of strong ones; those of such a model, where it starts from one."""
        z, width = tower.head, tower.encoder.dim
        if isinstance(z, heads.Ensemble):
            return z.first, z.second
        if kind == "linear":
            z = heads.linear(width, self.dim, bias=False)
        return z, heads.mlp(width, hidden, self.dim, layers=3)

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        settings = {"strong": chosen["local"], "first": chosen["first"]}
        return {"views": {"name": "weak-strong", **settings}, "text_views": {"name": "words", **settings}}

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**cls.preset_paper, **PAPER.get(given.get("extra", "none"), {})}

    def resolve(self, facts: Facts) -> dict[str, Any]:
        found = super().resolve(facts) | self.resolved | {"inference": self.kept}
        plan = self.plans["text"]
        if isinstance(plan, Words) and plan.synonym and not plan.synonyms and plan.strong:
            found["synonyms"] = "no file of them (--text-views.synonyms FILE): swaps and deletions alone"
        return found

    def scaled_parameters(self) -> dict[nn.Parameter, float]:
        found = super().scaled_parameters()
        return found if self.local_tau is None else found | {self.local_tau.log_tau: 5.0}

    def make_views(self, batch: Batch) -> dict[str, list]:
        made, generator = {}, batch.generator()
        for role, tower in zip(self.roles, (self.tower_a, self.tower_b), strict=True):
            x = batch.inputs[role]
            still = isinstance(x, Features)
            made[role] = [x] * (1 + self.local) if still else self.plans[tower.encoder.modality](x, generator)
        return made

    def features(self, tower: Tower, x: Any, local: bool) -> Tensor:
        """(n, encoder.dim) of a view; dropout acts on the first one only where it was asked for."""
        with nullcontext() if local or self.dropout == "all" else without_dropout(tower.encoder):
            return tower.features(x)

    def encode(self, batch: Batch) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for k, (side, tower) in enumerate(zip("ab", (self.tower_a, self.tower_b), strict=True)):
            found = [self.features(tower, x, bool(v)) for v, x in enumerate(batch.views[self.roles[k]])]
            local = self.local_heads[k] if self.local_heads else tower.project
            made[side], made[f"h_{side}"] = tower.project(found[0]), [local(f) for f in found[1:]]
            made |= self.projections(k, found)
        return {name: x for name, x in made.items() if len(x)}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        options = self.layout_options(batch)
        h = embedded.get("h_a", []), embedded.get("h_b", [])
        local_tau = self.temperature() if self.local_tau is None else self.local_tau()
        self.monitored = embedded["a"].detach()
        terms = clip_rocket_terms(
            embedded["a"], embedded["b"], *h, temperature=options["temperature"], local_temperature=local_tau,
            smoothing=self.smoothing, official=self.official, excluded=options["excluded"], negatives="global",
        )  # fmt: skip
        told: dict[str, Tensor | float] = {"temperature": self.temperature().detach(), "whole": terms.whole.detach()}
        if h[0]:
            told |= {"local": terms.local.detach(), "local_temperature": local_tau.detach()}
        if self.mask_duplicates and self.logged(batch):
            told["masked"] = batch.masked_share()
        total = terms.total(self.mode)
        if self.extra != "none":
            extra = self.extra_term(embedded, local_tau)
            told["extra"], total = extra.detach(), total + self.extra_weight * extra
        return Loss(total, told)

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        super().after_step(embedded, batch)
        if self.local_tau is not None:
            self.local_tau.project()

    def towers(self) -> dict[str, Tower]:
        found = {}
        for k, tower in enumerate((self.tower_a, self.tower_b)):
            head: nn.Module | None = tower.head
            if self.kept != "z":
                h = self.local_heads[k]
                z = nn.Identity() if head is None else head
                head = h if self.kept == "h" else heads.Ensemble(z, h, self.share).train(self.training)
            found[self.roles[k]] = made = Tower(tower.encoder, head, kept=True)
            made.training = self.training
        return found


def check_swav(local: int, smoothing: float) -> None:
    if local != 2:
        raise InputError(f"--extra swav swaps two strong views a side; --local is {local}.", "Use --local 2.")
    if smoothing:
        raise InputError("--extra swav has targets of its own, and none are smoothed.", "Leave out --smoothing.")
