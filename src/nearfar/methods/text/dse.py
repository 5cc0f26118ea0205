"""DSE: distilled sentence embedding (Barkan et al., AAAI 2020).

    a --encoder--> u, b --encoder--> v     the last k layers side by side, mean over the tokens without [CLS]
    p = MLP [u, v, u * v, |u - v|]         t: what a model that reads both texts together says (raw logits)
    loss = (1 - alpha) * loss(p, label) + alpha * sum over outputs (p - t)^2

The vectors of all candidates are computed once; for a query the head alone runs. The teacher is a column of the data, a
model of `cross-encoder`, or a sequence classifier of transformers; its scores are constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.checks import PositiveInt, ShareBelowOne, UnitInterval, Width
from nearfar.encoders import Encoder, layered
from nearfar.encoders.tokens import frame
from nearfar.errors import InputError
from nearfar.heads import PairHead, linear
from nearfar.losses import dse
from nearfar.losses.distillation import distillation_term, label_term
from nearfar.methods import Batch, Facts, Loss, Paper, Tower, register
from nearfar.methods.judged import ROLES, SIDES, JudgedPairs, PairAnswers, SideScorer, answers, restored
from nearfar.methods.pair_teachers import HOW, columns_named, columns_of, in_words, scores_by, scores_in

if TYPE_CHECKING:
    from nearfar.sources.data import Data

POOLINGS = {"mean": "mean", "sqrt-mean": "mean_sqrt_len_tokens", "max": "max"}


@register("dse", family="text")
class DSE(JudgedPairs):
    """Two texts that are encoded alone are scored as a model scores them that reads both together.

    Args:
        teacher: columns of its scores, A,B,... (of classes one each, in the order of their sorted names; of a label of
            two one, or two: of 0, then of 1, taken as the second minus the first), or the folder of a `cross-encoder`
            or of a sequence classifier. auto: the column "teacher", or those called teacher_CLASS.
        alpha: share of the distillation beside the labels; 0: labels alone, 1: the teacher alone, which needs no label.
        layers: k; how many of the encoder's last layers make the vector. Paper: 4. auto: 4, or all that there are.
        join: how the layers become one: concat (k times the width) or mean.
        pooling: over the tokens: mean, sqrt-mean (the sum over the square root of their number) or max.
        first: the token [CLS] in front counts as well.
        dropout: in training, of the pooled vectors.
        dim: width of a linear layer behind them, kept at inference. Default: none.
        head: features ([u, v, u * v, |u - v|] through two layers), dot (the inner product) or dot-layers.
        hidden: width of the head's hidden layer.
    """

    paper = Paper(
        "Scalable Attentive Sentence-Pair Modeling via Distilled Sentence Embedding",
        "AAAI 2020",
        "A head on two separate vectors learns the score of a model that reads both texts together.",
        arxiv="1908.05161",
        differs="as in the released code labels are mixed in (the paper: the teacher alone, --alpha 1); rows without a "
        "label or without a teacher's score count in the other term; the norm of all gradients together is clipped, "
        "not of each parameter, and Adam corrects its bias; batch 16, two batches a step, sentences of 128 tokens, 5 "
        "to 8 epochs and a warm-up of a tenth are --batch-size 16 --accumulate 2 --text-length 128 --steps N --warmup "
        "N; of an encoder of fewer than 4 layers all are taken; a frozen encoder is refused; the last weights are "
        "kept, not the best of all epochs on the data that are reported",
    )
    preset_paper = {"alpha": 0.5, "layers": "auto", "join": "concat", "pooling": "mean", "first": False, "dropout": 0.1,
                    "head": "features", "hidden": 512}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 2e-5, "weight_decay": 0.01, "schedule": "linear", "eps": 1e-6,
                      "clip_norm": 1.0}  # fmt: skip
    layered = True
    needs = (
        frozenset({"text", "text_b", "target"}),
        frozenset({"text", "text_b", "score"}),
        frozenset({"text", "text_b", "pair_label"}),
        frozenset({"text", "text_b"}),
    )
    scores: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        teacher: str = "auto",
        alpha: UnitInterval = 0.5,
        layers: PositiveInt | Literal["auto"] = "auto",
        join: Literal["concat", "mean"] = "concat",
        pooling: Literal["mean", "sqrt-mean", "max"] = "mean",
        first: bool = False,
        dropout: ShareBelowOne = 0.1,
        dim: Width | None = None,
        head: Literal["features", "dot", "dot-layers"] = "features",
        hidden: Width = 512,
    ):
        super().__init__()
        inner = layered(encoder, "'dse'")
        self.fewer = layers == "auto" and inner.depth < 4
        self.layers = min(4, inner.depth) if layers == "auto" else layers
        inner.pool_layers(self.layers, join, POOLINGS[pooling], first)
        self.tower = Tower(inner, None if dim is None else linear(inner.dim, dim), kept=True)
        self.teacher, self.alpha, self.dropout = teacher, alpha, nn.Dropout(dropout)
        self.kind, self.hidden, self.dim = head, hidden, dim or inner.dim

    @property
    def needs_labels(self) -> bool:
        return self.alpha < 1

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        """Raises InputError where there is no label and alpha is not 1, and for a teacher without scores."""
        if self.needs_labels and not self.labelled(data):
            raise InputError(
                "'dse' needs a label of the pairs, or --alpha 1.",
                "Name the column: --pair-label, --score or --target COLUMN.",
            )
        super().prepare(data, rows)
        columns = columns_of(data, self.teacher, self.names) if self.alpha > 0 else []
        self.asked = (data, rows) if self.alpha > 0 and not columns else None
        made, binary = torch.full((len(data), self.outputs), float("nan")), self.judgement == "binary"
        self.told = {}
        if columns:
            made = scores_in(data, columns, self.outputs, binary, self.names)
            self.told = {"teacher": in_words(columns, self.names, binary)}
            if bool(made[rows].isnan().any(1).all()):
                raise InputError(f"None of the {len(rows):,} training rows has a score in {', '.join(columns)}.", HOW)
        self.register_buffer("scores", made)

    @classmethod
    def lacks(cls, data: Data) -> str:
        if not cls.labelled(data):
            return "needs a label of the pairs, or --alpha 1"
        return "" if columns_named(data) else 'needs the scores of a teacher: "dse --teacher FOLDER"'

    @staticmethod
    def labelled(data: Data) -> bool:
        return any(role in data.roles for role in ROLES)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        self.head = PairHead(self.dim, self.outputs, self.kind, self.hidden)
        layers = f"{self.layers} (all that there are; paper: 4)" if self.fewer else self.layers
        return super().resolve(facts) | self.told | {"layers": layers}

    def before_draw(self, step: int) -> None:
        """The teacher's scores of all training rows, once."""
        super().before_draw(step)
        if self.asked is not None and bool(self.scores.isnan().all()):
            data, rows = self.asked
            made = scores_by(self.teacher, data, rows, self.judgement, self.names)
            self.scores[torch.from_numpy(np.asarray(rows)).to(self.scores.device)] = made.to(self.scores)

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {role: [frame(batch.inputs[role], self.tower.encoder.special)] for role in SIDES}

    def encode(self, batch: Batch) -> dict[str, Any]:
        u, v = (self.tower.project(self.dropout(self.tower.features(x))) for x in self.sides(batch))
        return {"u": u, "v": v}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        self.monitored = embedded["u"].detach()
        p, y, t = self.head(embedded["u"], embedded["v"]), self.labels[batch.rows], self.scores[batch.rows]
        total = dse(p, y, t, alpha=self.alpha, judgement=self.judgement, negatives="global")  # pyright: ignore
        terms: dict[str, Tensor | float] = {}
        if self.logged(batch):
            told = p.detach()
            if self.labelled:
                terms["label"] = label_term(told, y, self.judgement, negatives="global")  # pyright: ignore
            if self.alpha > 0:
                terms["distilled"] = distillation_term(told, t, negatives="global")
        return Loss(total, terms)

    def towers(self) -> dict[str, Tower]:
        return dict.fromkeys(self.reads, self.tower)

    def inference(self) -> PairAnswers:
        return answers(SideScorer(self.head), self.judgement, self.names)

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> PairAnswers:
        return restored(config, SideScorer(PairHead(**config["scorer"])))
