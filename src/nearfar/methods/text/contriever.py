"""Contriever: unsupervised dense retrieval from independent crops and a momentum queue (Izacard et al., TMLR 2022).

    text --two independent crops--> query span, key span
    query --encoder theta--> q;   key --teacher xi, xi <- m xi + (1 - m) theta--> k
    loss = -log softmax([q.k, q.Q_1 .. q.Q_K] / T)[0];   then k enters the queue Q

Two random spans of one text share its topic but rarely its words in order, so matching them among many others forces
topical features. With `momentum=none` the other keys of the batch are the negatives (the in-batch form).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from torch import Tensor

from nearfar import modalities
from nearfar.checks import NonNegativeFloat, Range, UnitInterval
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.methods import Batch, Loss, Paper, ViewContrast, against_targets, register
from nearfar.negatives import Negatives
from nearfar.samplers import Chunks, Sampler


@register("contriever", family="text")
class Contriever(ViewContrast):
    """Two independent crops of a text find each other among a queue of earlier crops.

    Args:
        temperature: T; divides the similarity.
        views: crops (independent), ict (a span and the rest of the text), twice, delete, mask.
        momentum: m; of the teacher that encodes the keys; none: both sides by one encoder, negatives in the batch.
        negatives: the queue; with the default size a documented rule of the data.
        normalise: compare by cosine. The paper compares plain inner products, which needs long training.
        both_directions: keys are anchors as well (the paper: queries only).
        smoothing: label smoothing eps of the loss.
        stream: cut chunks from one long stream of all texts instead of taking each text as a document.
        length: L; tokens of a chunk (stream), or the most that is read of a document around a random place.
        alpha: texts are drawn from each corpus (role `domain`) with probability proportional to (its share)^alpha.
    """

    paper = Paper(
        "Unsupervised Dense Information Retrieval with Contrastive Learning",
        "TMLR 2022",
        "Two random spans of one document are a query and its answer; a momentum queue supplies negatives.",
        arxiv="2112.09118",
        differs="cosine instead of the inner product unless normalise=false; each text is a document unless "
        "stream=true",
    )
    needs = (frozenset({"text"}),)
    preset_paper = {
        "temperature": 0.05,
        "momentum": 0.9995,
        "negatives": {"name": "queue", "size": 131072},
        "normalise": False,
        "stream": True,
        "length": 256,
        "alpha": 0.0,
    }

    paper_training = {
        "optimiser": "adamw",
        "lr": 5e-5,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "schedule": "linear",
        "decay_all": True,
    }

    defaults = {"temperature": 0.05, "momentum": "auto"}
    of_part = {"smoothing": "loss"}
    fixed = ("projector", "dim")
    follows = {"normalise": "momentum"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        negatives: Negatives | Literal["auto"] | None = "auto",
        normalise: bool = True,
        both_directions: bool = False,
        smoothing: UnitInterval = 0.0,
        stream: bool = False,
        length: Annotated[int, Range(2, 65_536)] = 256,
        alpha: NonNegativeFloat = 1.0,
        **shared: Any,
    ):
        if alpha != 1 and not stream:
            raise InputError("--alpha weighs the corpora of a stream of text, and texts are documents here.",
                             "Add --stream, or leave out --alpha.")  # fmt: skip
        chosen = {"momentum": shared["momentum"], "smoothing": smoothing}
        shared["views"] = shared["views"] or self.default_part("views", **chosen)
        shared["loss"] = shared["loss"] or self.default_part("loss", **chosen)
        if negatives == "auto":
            negatives = self.default_part("negatives", **chosen)
        super().__init__(encoder, negatives=negatives, projector=0, **shared)
        self.similarity = "cosine" if normalise else "dot"
        self.both_directions, self.stream, self.length, self.alpha = both_directions, stream, length, alpha
        self.chunk = length

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        loss = {"name": "smoothed", "smoothing": chosen["smoothing"]} if chosen["smoothing"] else {"name": "infonce"}
        found: dict[str, dict[str, Any]] = {"views": {"name": "crops"}, "loss": loss}
        if chosen["momentum"] is not None:
            found["negatives"] = {"name": "queue", "in_batch": False, "random_start": True}
        return found

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        preset = dict(cls.preset_paper)
        if given.get("momentum", 0) is None:
            del preset["negatives"]
        if not given.get("stream", True):
            del preset["alpha"]
        return preset

    def sampler(self, stage: int) -> Sampler:
        return Chunks(self.role, self.chunk, self.alpha) if self.stream else super().sampler(stage)

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z = embedded["views"]
        options = self.layout_options(batch) | {"similarity": self.similarity}
        queries = z if self.both_directions else z[:1]
        targets = z if self.teacher is None else embedded["targets"]
        return self.report(against_targets(queries, targets, self.in_batch, options), z[0], batch)

    def keys_of(self, embedded: dict[str, Any], own: bool = False) -> Tensor:
        return embedded["views" if own or self.teacher is None else "targets"][1]

    @classmethod
    def suits(cls, roles: Mapping[str, Any]) -> tuple[int, str] | None:
        why = "there are texts without pairs: two crops of one text are its positives"
        return (10, why) if modalities.first(roles) == "text" else None
