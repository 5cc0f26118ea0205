"""R-Drop: regularised dropout (Liang et al., NeurIPS 2021), also as SPACE-2 (COLING 2022) trains classes of dialogues.

    x --twice, other dropout--> h_1, h_2 --linear--> logits;    loss = cross-entropy of both + weight KL between both

What is kept for embedding is the encoder. The linear layer tells the class (`nearfar predict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nearfar.checks import NonNegativeFloat
from nearfar.encoders import Encoder
from nearfar.losses import r_drop, symmetric_kl
from nearfar.methods import Batch, Loss, Method, Paper, Tower, check_plan, register
from nearfar.methods.contrast.copies import check_dropout
from nearfar.methods.text_classes import Classes, classifier, training_classes
from nearfar.views import build

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register("r-drop", family="text")
class RDrop(Method):
    """A linear layer on the encoder tells the class of each text (`--target COLUMN`), the same under any dropout.

    Of a model that another method has trained: --text-encoder RUN.

    Args:
        weight: the weight of the divergence between both passes: half of R-Drop's alpha (there beside the sum of both
            cross-entropies, 1 for sentences, so 0.5), or SPACE-2's 5. 0: cross-entropy alone.
    """

    paper = Paper(
        "R-Drop: Regularized Dropout for Neural Networks",
        "NeurIPS 2021",
        "Two passes under other dropout tell the class, and tell it alike.",
        arxiv="2106.14448",
        differs="a linear layer on the encoder's pooled vector, without a dropout of its own; the cross-entropy is "
        "the mean of both passes, as in SPACE-2 (R-Drop: their sum, so the weight is half of its alpha); the preset "
        "is that of the released fine-tuning on GLUE: alpha 1, learning rate 1e-5 for all of its tasks; a warm-up of "
        "a twentieth of the run (released: 6 %, --warmup N); SPACE-2's fine-tuning on intents is --weight 5 --lr 1e-4 "
        "--schedule linear --clip-norm 5 --text-dropout 0.25, without its masked-LM term; of its tasks classes of "
        "texts alone",
    )
    needs = (frozenset({"text", "target"}),)
    target = "classes"
    measured_by = "classification"
    supervised = True
    uses_batch = False
    from_start = True
    preset_paper = {"weight": 0.5}
    paper_training = {"optimiser": "adamw", "lr": 1e-5, "weight_decay": 0.01, "betas": (0.9, 0.98), "eps": 1e-6,
                      "schedule": "linear"}  # fmt: skip

    def __init__(self, encoder: Encoder, *, weight: NonNegativeFloat = 5.0):
        super().__init__()
        if weight:
            check_dropout(encoder, "r-drop", ", or --weight 0")
        self.role, self.tower, self.weight = encoder.role, Tower(encoder), weight
        self.plan = check_plan(build("twice"), encoder)
        self.names: list[str] = []

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where the training rows are of one class."""
        self.names = training_classes(data, rows)
        self.classifier = classifier(self.tower.encoder.dim, len(self.names), layers=0)

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())}

    def encode(self, batch: Batch) -> dict[str, Any]:
        h = [self.tower.features(x) for x in batch.views[self.role]]
        return {"features": h[0], "logits": [self.classifier(x) for x in h]}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        self.monitored = embedded["features"].detach()
        assert batch.targets is not None
        a, b = embedded["logits"]
        total: Tensor = r_drop(a, b, batch.targets, weight=self.weight, negatives="global")
        apart = symmetric_kl(a.detach(), b.detach(), negatives="global")
        return Loss(total, {"class": total.detach() - self.weight * apart, "divergence": apart})

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    def inference(self) -> Classes:
        return Classes(self.classifier, self.names, None)

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> Classes:
        return Classes.restored(config, None)
