"""A cross-encoder: both texts of a pair in one sequence (Devlin et al., NAACL 2019). The teacher of `dse`.

    "[CLS] a [SEP] b [SEP]" --encoder--> h --dropout, linear--> p
    loss = cross-entropy with logits of a label of two, or of a class; squared difference of a number

Every token of one side sees those of the other, so nothing of a pair can be computed beforehand: a query among n
candidates costs n passes. `nearfar predict` tells pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearfar.checks import ShareBelowOne
from nearfar.encoders import Encoder, layered
from nearfar.losses.distillation import label_term
from nearfar.methods import Batch, Facts, Loss, Paper, Tower, register
from nearfar.methods.judged import JointScorer, JudgedPairs, PairAnswers, answers, restored


@register("cross-encoder", family="pairs")
class CrossEncoder(JudgedPairs):
    """Both texts of a pair pass the encoder together; it tells the pair's label, number or class.

    Args:
        dropout: in training, of the vector of the sequence.
    """

    paper = Paper(
        "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding (pairs of sentences)",
        "NAACL 2019",
        "A pair is read as one sequence, in which every token sees those of the other side.",
        arxiv="1810.04805",
        differs="the vector of the sequence is the encoder's own pooling without BERT's pooler; the two sides are told "
        "apart by vectors that begin as nothing; 2 to 4 epochs, batch 16 or 32 and a warm-up of a tenth are --steps N "
        "--batch-size 32 --warmup N; its vectors of single texts are trained for nothing",
    )
    layered = True
    preset_paper = {"dropout": 0.1}
    paper_training = {"optimiser": "adamw", "lr": 2e-5, "weight_decay": 0.01, "schedule": "linear", "eps": 1e-6,
                      "clip_norm": 1.0}  # fmt: skip

    def __init__(self, encoder: Encoder, *, dropout: ShareBelowOne = 0.1):
        super().__init__()
        self.tower, self.drop = Tower(layered(encoder, "'cross-encoder'")), dropout

    def resolve(self, facts: Facts) -> dict[str, Any]:
        self.scorer = JointScorer(self.tower.encoder, self.outputs, self.drop)
        return super().resolve(facts)

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"p": self.scorer(*self.sides(batch))}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        y, judgement = self.labels[batch.rows], self.judgement
        return Loss(label_term(embedded["p"], y, judgement, negatives="global"))  # pyright: ignore

    def towers(self) -> dict[str, Tower]:
        return dict.fromkeys(self.reads, self.tower)

    def inference(self) -> PairAnswers:
        return answers(self.scorer, self.judgement, self.names)

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> PairAnswers:
        said = config["scorer"]
        return restored(config, JointScorer(towers["text"].encoder, said["outputs"], said["dropout"]))
