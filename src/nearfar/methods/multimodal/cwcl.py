"""CWCL: continuously weighted contrast with a frozen tower of the other modality (Srinivasa et al., NeurIPS 2023).

    v --frozen tower--> q      w_ij = q_i.q_j / 2 + 1/2: how much pair j is a positive of pair i
    u --trained tower--> p     L = weighted cross-entropy of p over all q  +  plain InfoNCE of q over all p

Of a batch's "negatives" many mean nearly the same. The frozen tower knows how near they are, so every pair of the batch
is a positive to that degree, and the geometry of the frozen space is carried over as a whole. The equation is
`nearfar.losses.cwcl`. Features of the frozen tower are computed once and joined to the batches by row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from nearfar import encoders, modalities
from nearfar.encoders import Encoder, Frozen
from nearfar.errors import InputError
from nearfar.losses import cwcl
from nearfar.methods import Batch, Loss, PairContrast, Paper, Tower, register

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def class_vectors(prompts: Float[Tensor, "p d"], classes: Int[Tensor, "p"]) -> Float[Tensor, "c d"]:
    """Each class's vector: the mean of its prompts' unit vectors, scaled to unit length. classes: 0 .. c - 1."""
    sums = prompts.new_zeros(int(classes.max()) + 1, prompts.shape[1])
    return normalize(sums.index_add(0, classes, normalize(prompts, dim=1)), dim=1)


def zero_shot(vectors: Float[Tensor, "n d"], classes: Float[Tensor, "c d"]) -> Int[Tensor, "n"]:
    """The class of the highest cosine for each vector."""
    return (normalize(vectors, dim=1) @ normalize(classes, dim=1).T).argmax(1)


def reference_encoder(name: str, like: Any) -> Encoder:
    """The encoder of that name or folder, of the kind of `like`. Raises InputError where it is not there or was never
    trained."""
    kind = modalities.get(like.modality)
    if like.modality == "text":
        options = kind.options(text_encoder=name)
        kind.check(options)
        made = encoders.text(name) if kind.pretrained(options) else None
    else:
        kind.check(kind.options(weights=name))
        made = encoders.image("small", size=like.size, weights=name)
    if made is None or not made.pretrained:
        raise InputError(f"The reference '{name}' is not a trained encoder.", "Give minilm, or the path of a folder.")
    return made


@register("cwcl", family="multimodal")
class ContinuousWeights(PairContrast):
    """One tower stays frozen and gives continuous weights; the other learns to speak its language.

    Args:
        frozen: which tower stays as it is. Give it pretrained weights (--text-encoder minilm, --weights FILE or the
            folder of a nearfar model). A fresh small text encoder compares keywords; a fresh image encoder is
            refused.
        untrained: take a frozen image encoder with random weights all the same.
        weighted: whose vectors are the anchors of the weighted direction: trained, frozen, both, or none (one positive
            a row in both directions, the paper's baseline). Which one the paper weights could not be verified; the
            effect is nearly the same.
        reference: an encoder of the frozen side's kind whose space gives the weights in place of the frozen tower's:
            for texts minilm or a folder, for images a file of weights or the folder of a nearfar model. Its
            vectors are computed once.
        temperature: tau; where it is learned, its start.
        learn_temperature: train tau, as the paper does. Fixed by default: in an earlier check that did better (78.0 %
            against 75.7 % zero-shot accuracy on halves of digits).
        head: of the trained tower, into the frozen space: linear or mlp.
        views: how the input of the trained tower is changed before it is encoded; the frozen one sees it as it is.

    Raises InputError: a frozen image encoder with random weights, unless `untrained`.
    """

    paper = Paper(
        "Cross-Modal Transfer with Continuously Weighted Contrastive Loss",
        "NeurIPS 2023",
        "Every pair of the batch is a positive to the degree that a frozen tower finds the two alike.",
        arxiv="2309.14580",
        differs="the temperature is fixed unless learned or --preset paper; no code was released; trained anchors "
        "carry the weights unless weighted says otherwise; identical items are "
        "masked in the plain direction (--mask-duplicates false for all as negatives)",
    )
    needs = (frozenset({"image", "text"}),)
    preset_paper = {"temperature": 0.07, "learn_temperature": True, "weighted": "trained", "mask_duplicates": False}

    defaults = {"temperature": 0.07}
    fixed = ("symmetric", "loss", "negatives", "dim")
    reference_vectors: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        encoder_b: Encoder | None = None,
        *,
        frozen: Literal["text", "image"] = "text",
        untrained: bool = False,
        weighted: Literal["trained", "frozen", "both", "none"] = "trained",
        reference: str | None = None,
        head: Literal["linear", "mlp"] = "linear",
        **shared: Any,
    ):
        both = [encoder, encoder_b or encoder]
        place = next((k for k, e in enumerate(both) if e.modality == frozen), 1)
        if frozen == "image" and not both[place].pretrained and not untrained:
            raise InputError(
                "The frozen image encoder has random weights: how alike it finds two images is noise.",
                "Give it weights (--weights with a file or the folder of a nearfar model), freeze the texts' encoder "
                "(--frozen text), or take it as it is (--untrained true).",
            )
        both[place] = both[place] if isinstance(both[place], Frozen) else Frozen(both[place])
        super().__init__(*both, head=head, dim=both[place].dim, **shared)
        held = Tower(both[place], kept=True)  # scores live in the frozen space as it is
        if place:
            self.tower_b = held
        else:
            self.tower_a = held
        self.frozen_first, self.weighted = not place, weighted
        self.reference = None if reference is None else Frozen(reference_encoder(reference, both[place]))
        self.register_buffer("reference_vectors", None, persistent=False)

    def prepare(self, data: Data, rows: Any) -> None:
        """The reference's vectors of all rows: they are part of the data, and of no checkpoint."""
        if self.reference is None:
            return
        role = self.roles[0 if self.frozen_first else 1]
        encoder: Any = self.reference
        items = modalities.of(role).items(data, role, None, getattr(encoder, "size", None))
        self.reference_vectors, self.reference = torch.from_numpy(np.asarray(encoder.features(items))), None

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        a, b = embedded["a"], embedded["b"]
        trained, frozen = (b, a) if self.frozen_first else (a, b)
        self.monitored = trained.detach()
        excluded = batch.excluded() if self.mask_duplicates else None
        known = self.reference_vectors
        reference = None if known is None else known[batch.rows[: len(batch)].to(known.device)].to(trained.device)
        total = cwcl(
            trained,
            frozen,
            temperature=self.temperature(),
            weighted=self.weighted,
            reference=reference,
            negatives="global",
            excluded=excluded,
        )
        return Loss(total, {"temperature": self.temperature().detach()})
