"""DebCSE: unsupervised sentence embeddings in the debiasing perspective (CIKM 2023, arXiv 2309.07396).

A reconstruction: only the abstract could be read. Stage 1 is SimCSE, a teacher g for stage 2:

    candidates of x: changed words, neighbours, the nearest by g; random sentences, and those that share rare words
    a = 1 - edits / length,  s = cosine of g;  drawn with probability pi ~ preference by s / propensity by a
    loss = mean over i of  log sum over the batch's z+ and z- of e^(cos(z_i, .) / T) - cos(z_i, z+_i) / T

A positive thus has other words and the same meaning, a negative like words and another meaning, as in pairs that people
made. The equations are in `nearfar.losses.propensity`, the candidates in `nearfar.methods.sentence_candidates`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar import encoders, processes
from nearfar.checks import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Range,
    UnitInterval,
)
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses.propensity import (
    debcse_expected,
    debcse_layout,
    near_columns,
    negative_probabilities,
    positive_probabilities,
)
from nearfar.methods import Batch, CopyContrast, Facts, Loss, Paper, Staged, Tower, register
from nearfar.methods.sentence_candidates import Meanings, SentenceCandidates, sampled
from nearfar.similarity import ExcludedPairs, ExtraCandidates

if TYPE_CHECKING:
    from nearfar.sources.data import Data

TOLD = ["positive surface", "positive meaning", "positive below threshold", "negative surface", "negative meaning",
        "no negative"]  # fmt: skip


@register("debcse", family="text")
class DebCSE(Staged, CopyContrast):
    """A sentence finds one of other words and like meaning among sentences of like words and other meaning.

    Documents whose sentences are neighbours are those of `--group`, else of `--unit`, in the order of the rows.

    Args:
        teacher: what tells meanings: simcse, trained first for a share of the steps; given, the pretrained encoder as
            it is; minilm; or a folder of transformers, sentence-transformers or nearfar.
        teacher_share: of the steps, for the teacher.
        stage_weights: fresh starts from the first (or the given) weights, continue from those of the teacher.
        refresh: the teacher becomes the model as it is, once an epoch.
        weighting: inverse-propensity (the paper's); semantic, by meaning alone; uniform, all candidates alike.
        expected: weigh all candidates by their probability in place of a draw (many times the work).
        drawn: H; negatives of each sentence; they serve the whole batch.
        pool: K; negative candidates, half at random, half by shared rare words.
        changes: positive candidates by each of four changes of words.
        neighbours: positive candidates from before and behind in the document.
        nearest: positive candidates that are nearest by the teacher.
        rate: share of the words that a change takes out, repeats or exchanges.
        surface_temperature: t_a; of the propensity.
        positive_temperature: t_p; of the preference for like meanings.
        negative_temperature: t_n; of the preference for unlike ones.
        positive_threshold: theta_p; least likeness in meaning of a positive.
        negative_threshold: theta_n; most likeness in meaning of a negative.
        eps: the least propensity that is divided by.
        centre: take the mean of all sentences from the teacher's vectors before they are compared, so that thresholds
            mean the same for every encoder.
        mask_similar: no column is a negative of an anchor that is more alike in meaning than theta_n.
    """

    paper = Paper(
        "Rethinking Unsupervised Contrastive Sentence Embedding Learning in the Debiasing Perspective",
        "CIKM 2023",
        "Positives of other words and negatives of like words are drawn by inverse propensity.",
        arxiv="2309.07396",
        differs="a reconstruction: only the abstract could be read and there is no code, so candidates, similarities, "
        "weights, thresholds, temperatures and the loss satisfy its statements and are not the authors'; no number "
        "of it is the paper's; propensities are clipped; words are parted by white space; a biased teacher passes "
        "its bias on; its vectors are centred unless told (--centre false, as in the preset); duplicates and rows "
        "of one group are no negatives; the changed copies of a sentence are the same in the whole run, and "
        "--refresh keeps the nearest candidates; words are compared without case and marks around them; long texts "
        "are read from their start; a warm-up of a twentieth of the run; [CLS], 32 tokens, batch 64 and one epoch "
        "for either model (values of SimCSE) are --text-pooling cls --text-length 32 --batch-size 64 and --steps "
        "of two epochs",
    )
    needs = (frozenset({"text"}),)
    preset_paper = {"temperature": 0.05, "surface_temperature": 0.2, "positive_temperature": 0.1,
                    "negative_temperature": 0.5, "positive_threshold": 0.5, "negative_threshold": 0.8, "eps": 0.01,
                    "pool": 16, "drawn": 1, "centre": False}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 3e-5, "weight_decay": 0.0, "schedule": "linear", "clip_norm": 1.0}
    fixed = ("views", "loss", "negatives")
    only_with = {
        "teacher_share": {"teacher": ("simcse",)},
        "stage_weights": {"teacher": ("simcse",)},
        "refresh": {"teacher": ("simcse", "given")},
        "surface_temperature": {"weighting": ("inverse-propensity",)},
        "eps": {"weighting": ("inverse-propensity",)},
        "mask_similar": {"weighting": ("inverse-propensity", "semantic")},
        **{f"{side}_{name}": {"weighting": ("inverse-propensity", "semantic")}
           for side in ("positive", "negative") for name in ("temperature", "threshold")},
    }  # fmt: skip
    from_start = True
    stage: Tensor
    nearest: Tensor
    meanings: Meanings | None

    def __init__(
        self,
        encoder: Encoder,
        *,
        teacher: str = "simcse",
        teacher_share: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.5,
        stage_weights: Literal["fresh", "continue"] = "fresh",
        refresh: bool = False,
        weighting: Literal["inverse-propensity", "semantic", "uniform"] = "inverse-propensity",
        expected: bool = False,
        drawn: NonNegativeInt = 1,
        pool: PositiveInt = 16,
        changes: NonNegativeInt = 1,
        neighbours: NonNegativeInt = 2,
        nearest: NonNegativeInt = 2,
        rate: PositiveShare = 0.2,
        surface_temperature: PositiveFloat = 0.2,
        positive_temperature: PositiveFloat = 0.1,
        negative_temperature: PositiveFloat = 0.5,
        positive_threshold: UnitInterval = 0.5,
        negative_threshold: UnitInterval = 0.8,
        eps: NonNegativeFloat = 0.01,
        centre: bool = True,
        mask_similar: bool = False,
        **shared: Any,
    ):
        super().__init__(encoder, views=None, **shared)
        if teacher == "given" and not encoder.pretrained:
            raise InputError("The teacher is given, but the encoder has random weights.", "Name a pretrained one "
                             "(--text-encoder), or the folder of a model: --teacher FOLDER.")  # fmt: skip
        if not (changes or nearest):
            raise InputError("Without changes and nearest sentences there may be no positive.", "Use --changes 1.")
        self.told_by, self.share, self.stage_weights, self.refresh = teacher, teacher_share, stage_weights, refresh
        if teacher not in ("simcse", "given", "minilm") and not Path(teacher).is_dir():
            raise InputError(f"The teacher '{teacher}' is none of simcse, given, minilm, and not a folder.",
                             "Models are not downloaded: give the path of a local folder.")  # fmt: skip
        made = copy.deepcopy(encoder) if teacher in ("simcse", "given") else encoders.text(teacher)
        self.guide = made.requires_grad_(False)
        surface, near, away, low, high = (surface_temperature, positive_temperature, negative_temperature,
                                          positive_threshold, negative_threshold)  # fmt: skip
        if weighting != "inverse-propensity":
            surface = math.inf
        if weighting == "uniform":
            near, away, low, high = math.inf, math.inf, -math.inf, math.inf
        shared_by_both = {"surface_temperature": surface, "eps": eps}
        self.of_positives = shared_by_both | {"temperature": near, "threshold": low}
        self.of_negatives = shared_by_both | {"temperature": away, "threshold": high}
        self.expected, self.drawn, self.limit, self.mask_similar = expected, drawn, negative_threshold, mask_similar
        self.sizes = {"changes": changes, "neighbours": neighbours, "nearest": nearest, "negatives": pool, "rate": rate}
        self.centre, self.meanings = centre, None
        self.register_buffer("stage", torch.zeros((), dtype=torch.long))

    # -- the stages

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        """Candidates that need no teacher. Raises InputError for fewer than two different sentences."""
        rows = np.asarray(rows)
        content = np.asarray(data.content(self.role))[rows]
        if len(np.unique(content)) < 2:
            raise InputError(f"The {len(rows):,} training rows of {data.name} hold one sentence.", "Give more of them.")
        groups = None if data.groups is None else np.asarray(data.groups)[rows]
        units = np.asarray(data.units)[rows] if "unit" in data.roles else None
        self.candidates = SentenceCandidates(
            data.texts(self.role, rows), [content, *([] if groups is None else [groups])],
            units if groups is None else groups, most=self.tower.encoder.special.length, seed=self.seed,
            **self.sizes)  # fmt: skip
        self.place = torch.full((len(data),), -1)
        self.place[torch.from_numpy(rows)] = torch.arange(len(rows))
        self.register_buffer("nearest", torch.full((len(rows), self.sizes["nearest"]), -1))

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if self.told_by == "simcse" and facts.steps < 2:
            raise InputError(f"{facts.steps} step is too few for teacher and student.", "Use more --steps.")
        told = {"teacher_steps": self.stage_starts()[-1]} if self.told_by == "simcse" else {}
        return super().resolve(facts) | told | {"positive_candidates": self.candidates.positives}

    def stage_starts(self) -> Sequence[int]:
        return self.second_from(self.share) if self.told_by == "simcse" else [0]

    def before_draw(self, step: int) -> None:
        super().before_draw(step)
        if step == 0 and self.told_by != "simcse" and not int(self.stage):
            self.stage.fill_(1)
        if not int(self.stage):
            return
        if self.refresh and (step - self.stage_starts()[-1]) % self.facts.epoch == 0 and step > self.stage_starts()[-1]:
            self.take_teacher()
        if self.meanings is None:
            self.look()

    def begin_stage(self, stage: int) -> None:
        self.stage.fill_(stage)
        self.take_teacher()
        if self.stage_weights == "fresh":
            self.renew(0, [(self.role, self.tower)])
            self.tau.restart()

    def take_teacher(self) -> None:
        """The model as it is becomes the teacher."""
        self.guide.load_state_dict(self.tower.encoder.state_dict())
        self.meanings = None

    def look(self) -> None:
        """The teacher's vectors of all sentences; the nearest of each, once."""
        self.meanings = Meanings(self.guide, self.survey.features(Tower(self.guide)), self.centre)
        if bool((self.nearest < 0).all()):
            self.candidates.find_nearest(self.meanings.vectors.to(self.nearest.device))
            self.nearest.copy_(processes.broadcast(torch.from_numpy(self.candidates.nearest)))
        self.candidates.set_nearest(self.nearest.cpu().numpy())

    # -- a step of the second stage

    def make_views(self, batch: Batch) -> dict[str, list]:
        """The sentences, a positive and H negatives of each (expected: all candidates), as tokens; beside them their
        numbers, probabilities, the teacher's vectors, and what is told of them."""
        if not int(self.stage):
            return super().make_views(batch)
        assert self.meanings is not None
        places = self.place[batch.rows.cpu()].numpy()
        own, generator = self.meanings.vectors[torch.from_numpy(places)], None if self.expected else batch.generator()
        sides = [
            sampled(own, found, self.meanings.of(found), probabilities, options, count, generator)
            for found, probabilities, options, count in (
                (self.candidates.of_positives(places), positive_probabilities, self.of_positives, 1),
                (self.candidates.of_negatives(places), negative_probabilities, self.of_negatives, self.drawn))
        ]  # fmt: skip
        texts = [[self.candidates.texts[k] for k in places.tolist()], *(column for x in sides for column in x.texts)]
        beside = {"rows": [x.rows for x in sides], "pi": [x.pi for x in sides], "told": [x.told for x in sides],
                  "vectors": [own, *(x.vectors for x in sides)]}  # fmt: skip
        made = {name: [x.to(batch.rows.device) for x in values] for name, values in beside.items()}
        return {self.role: [self.tower.encoder.prepare(column) for column in texts]} | made

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        if "rows" not in batch.views:
            return super().loss(embedded, batch)
        z, pi = embedded["views"], batch.views["pi"]
        m = pi[0].shape[1]
        positives = torch.stack(z[1 : 1 + m], 1)
        negatives = torch.stack(z[1 + m :], 1) if len(z) > 1 + m else z[0].new_zeros(len(z[0]), 0, z[0].shape[1])
        own, *columns = batch.views["vectors"]
        columns, kinds = torch.cat([x.flatten(0, 1) for x in columns]), []
        if self.mask_duplicates:
            kinds = self.candidates.kinds(
                self.place.to(batch.rows)[batch.rows], batch.views["rows"], batch.identities()
            )
        hidden = (lambda net: near_columns(own, columns, self.limit, net)) if self.mask_similar else None
        if self.expected:
            self.monitored = z[0].detach()
            total = debcse_expected(z[0], positives, pi[0], negatives, pi[1], drawn=self.drawn, kinds=kinds,
                                    hidden=hidden, temperature=self.temperature(), gather="global")  # fmt: skip
            found = Loss(total, {"temperature": self.temperature().detach()})
        else:
            options = self.layout_options(batch) | {"excluded": ExcludedPairs(kinds)}
            if hidden is not None:
                options["extra_candidates"] = lambda anchors: ExtraCandidates((), hidden(anchors.net))
            layout = debcse_layout(z[0], positives[:, 0], negatives, batch.views["rows"][1] >= 0, **options)
            found = self.report(layout, z[0], batch)
        if self.logged(batch):
            told = torch.cat(batch.views["told"], 1)
            found.terms |= dict(zip(TOLD, told.mean(0).unbind(), strict=True))
        return found
