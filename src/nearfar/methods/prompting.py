"""What methods that learn words of prompts share: compositions of an attribute and an object as vectors of tokens in a
frozen text tower, a classifier over those trained on, and what the finished model answers.

    [start] a photo of  v_a v_o  [end]  --frozen text tower-->  t_(a,o)        f(x) --frozen image tower-->
    z_k = s cos(f(x), t_k) over the K compositions of training rows;   L = cross-entropy of z with the true one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar import modalities, views
from nearfar.checks import PositiveFloat
from nearfar.encoders import Embedded, Encoder, Frozen, LayeredText
from nearfar.encoders.openclip import OpenClipText
from nearfar.errors import InputError
from nearfar.methods.base import Loss, Method
from nearfar.methods.batch import Batch, Facts
from nearfar.methods.composing import Composing, Name, Trained, trained_compositions
from nearfar.methods.inference import Inference
from nearfar.methods.tower import Tower
from nearfar.samplers import Permutation, Sampler
from nearfar.similarity.answer.normalise import accumulated
from nearfar.similarity.answer.numerics import full_precision

if TYPE_CHECKING:
    from nearfar.sources.data import Data

CHUNK = 256  # prompts that pass the text tower at once, where no gradient is wanted
VIEWS = {
    "name": "members", "k": 1, "rotate": 5.0, "zoom": 0.0, "shift": 0.0, "saturation": 0.0, "grey": 0.0, "flip": 0.5,
}  # fmt: skip
"""How CSP's code changes images, but for a random perspective."""
MODEL = "Start from a trained image-text model: --model FOLDER (of nearfar, transformers or open_clip)."


def name_vectors(table: Float[Tensor, "v d"], ids: Sequence[Sequence[int]]) -> Float[Tensor, "n d"]:
    """The mean of the rows of a table of tokens over the sub-tokens of each name: one of a single token copies its row.
    ids: token numbers of each name, one or more."""
    return torch.stack([table[torch.as_tensor(list(one), device=table.device)].mean(0) for one in ids])


def composed(
    template: Float[Tensor, "l d"], table: Float[Tensor, "n d"], pairs: Int[Tensor, "k m"], place: int
) -> Float[Tensor, "k l d"]:
    """The template once for each composition, with rows of the table in its m places from `place` on.

    pairs: rows of the table, of each composition its attributes and then its object."""
    k, m = pairs.shape
    return torch.cat([template[:place].expand(k, -1, -1), table[pairs], template[place + m :].expand(k, -1, -1)], 1)


def composition_logits(
    images: Float[Tensor, "n p"], prompts: Float[Tensor, "k p"], scale: float = 100.0
) -> Float[Tensor, "n k"]:
    """s cos(image, prompt) in single precision at least, within -s and s; 0 for a zero vector."""
    with full_precision(images.device):
        return scale * F.normalize(accumulated(images), dim=1) @ F.normalize(accumulated(prompts), dim=1).T


def composition_loss(
    images: Float[Tensor, "n p"], prompts: Float[Tensor, "k p"], true: Int[Tensor, "n"], scale: float = 100.0
) -> Float[Tensor, ""]:
    """The mean over images of the cross-entropy of `composition_logits` with the true composition, in [0, 2 s + log k];
    0 of no images, and of a single composition."""
    if not len(images):
        return (images.sum() + prompts.sum()) * 0
    return F.cross_entropy(composition_logits(images, prompts, scale), true)


def injectable(encoder: Any) -> Any:
    """The text encoder, which takes vectors in place of tokens. Raises InputError for another one."""
    if isinstance(encoder, LayeredText | OpenClipText):
        return encoder
    name = "a frozen one" if isinstance(encoder, Frozen) else type(encoder).__name__
    mend = "Leave out --freeze: both towers stay frozen anyway." if isinstance(encoder, Frozen) else MODEL
    raise InputError(f"Learned words are put into the text tower as vectors; this one ({name}) takes none.", mend)


class Prompts(nn.Module):
    """Prompts of compositions: the words of `context`, then the vectors of the attributes and of the object.

    encoder: the text tower's encoder, which is no part of this module. words (A + O, d): attributes first; context
    (c, d): vectors of the context's tokens. Both start as the tower's own.
    """

    words: Tensor
    context: Tensor

    def __init__(self, tower: Tower, attributes: Sequence[str], objects: Sequence[str], context: str = "a photo of"):
        super().__init__()
        self._tower = (tower,)
        self.attributes, self.objects, self.said = list(attributes), list(objects), context
        encoder = injectable(tower.encoder)
        self.prefix = encoder.encode_ids([context])[0]
        if not self.prefix:
            raise InputError(
                f"The context '{context}' has no token of this text tower.", "Write --context 'a photo of'."
            )
        table = encoder.table.weight.detach()
        ids = encoder.encode_ids([*attributes, *objects])
        empty = next((name for name, one in zip([*attributes, *objects], ids, strict=True) if not one), None)
        if empty is not None:
            raise InputError(f"'{empty}' has no token of this text tower.", "Write the name in other words.")
        self.register_buffer("words", name_vectors(table, ids).clone())
        self.register_buffer("context", table[torch.tensor(self.prefix, device=table.device)].clone())

    @property
    def tower(self) -> Tower:
        return self._tower[0]

    def learn(self, name: str) -> None:
        """Make `words` or `context` a parameter."""
        value = getattr(self, name)
        delattr(self, name)
        self.register_parameter(name, nn.Parameter(value))

    def check_length(self, order: int) -> None:
        """Raises InputError where the tower does not read a prompt with so many attributes."""
        special = self.tower.encoder.special
        needed = special.frame + len(self.prefix) + order + 1
        if needed > special.length:
            room = special.length - special.frame - order - 1
            raise InputError(
                f"The text tower reads {special.length} tokens; a prompt '{self.said}' with {order} "
                f"attribute{'s' * (order > 1)} and an object has {needed} ({special.frame} of them around the text).",
                f"Use a context of {room} tokens or fewer (--context)."
                if room > 0
                else f"Take a tower that reads {needed} tokens or more (--text-length {needed} when it is trained).",
            )

    def forward(self, pairs: Tensor, words: Tensor | None = None) -> Tensor:
        """Vectors (K, p) of compositions (K, m) of attributes and an object, rows of `words`, which may be given as
        dropout left them."""
        words, encoder = self.words if words is None else words, self.tower.encoder
        m = pairs.shape[1]
        self.check_length(m - 1)
        filler = self.prefix[-1:] * m
        whole: Embedded = encoder.embedded(encoder.build([[*self.prefix, *filler]]))
        place = encoder.special.before + len(self.prefix)
        template = torch.cat([whole.vectors[0, : place - len(self.prefix)], self.context, whole.vectors[0, place:]])
        sequences = composed(template, words, pairs, place)
        k = len(pairs)
        return self.tower.embed(Embedded(sequences, whole.mask.expand(k, -1), whole.end.expand(k)))

    def of(self, compositions: Tensor, words: Tensor | None = None, chunk: int | None = None) -> Tensor:
        """Vectors (K, p) of compositions (K, m + 1) as in `Compositions.pairs`, those of one number of attributes
        together; words as in `forward`. chunk: so many pass the tower at once; default all."""
        orders, objects = (compositions[:, :-1] >= 0).sum(1), compositions[:, -1:] + len(self.attributes)
        places, found = [], []
        for order in orders.unique().tolist():
            here = (orders == order).nonzero()[:, 0]
            pairs = torch.cat([compositions[here][:, :order], objects[here]], 1)
            places.append(here)
            found += [self(part, words) for part in pairs.split(chunk or len(pairs))]
        return torch.cat(found)[torch.cat(places).argsort()]


class ComposedInference(Composing):
    """The composition whose prompt is nearest to an image."""

    def __init__(self, prompts: Prompts, known: Sequence[Name], seen: Sequence[bool], scale: float,
                 role: str = "image"):  # fmt: skip
        super().__init__(prompts.attributes, prompts.objects, known, seen, role)
        self.prompts, self.scale = prompts, scale
        self._made: tuple[Sequence[Name], Tensor] | None = None

    def config(self) -> dict[str, Any]:
        return super().config() | {"context": self.prompts.said, "scale": self.scale}

    @classmethod
    def restored(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> ComposedInference:
        names = cls.names_in(config)
        prompts = Prompts(towers["text"], names.pop("attributes"), names.pop("objects"), config["context"])
        return cls(prompts, scale=config["scale"], **names)

    def of_compositions(self, data: Data, rows: np.ndarray, embed: Any, candidates: Sequence[Name]) -> Tensor:
        images = torch.from_numpy(np.array(embed(self.role, rows)))
        if self._made is None or self._made[0] != candidates:  # rows come in pieces, prompts are the same
            numbers = torch.from_numpy(self.numbers(candidates)).to(self.prompts.words.device)
            self._made = candidates, self.prompts.of(numbers, chunk=CHUNK)
        prompts = self._made[1]
        return composition_logits(images.to(prompts.device), prompts, self.scale)

    def of_words(self, names: Sequence[str]) -> np.ndarray:
        """Vectors of the tower for the plain name: learned rows of attributes and objects are no words."""
        encoder = self.prompts.tower.encoder
        with torch.no_grad():
            return self.prompts.tower.embed(encoder.prepare(list(names))).float().cpu().numpy()


def common_space(image: Encoder, text: Encoder, untrained: bool) -> tuple[nn.Module | None, nn.Module | None]:
    """The heads that lead two towers into their common space; of random towers of different widths a random map for the
    images. Raises InputError for towers that were not trained together, unless `untrained`."""
    if image.joint is not None and text.joint is not None and image.joint.space == text.joint.space:
        return image.joint.head, text.joint.head
    if not untrained:
        raise InputError("The two towers were not trained together: in them no image is like its prompt.",
                         f"{MODEL} Or take random ones all the same (--untrained true).")  # fmt: skip
    return (None if image.dim == text.dim else nn.Linear(image.dim, text.dim, bias=False)), None


class PromptLearner(Method):
    """Both towers stay as they are; words of prompts are learned as vectors, from images with an attribute and an
    object.

    Args:
        context: what stands in front of attribute and object.
        scale: s; what the cosines are multiplied by (CLIP's is 100; of a model of another temperature 1 / that).
        views: how an image is changed before it is encoded. Default not at all; its features are then computed once.
        untrained: take towers with random weights all the same.

    Raises InputError: towers without a common space, a text tower that takes no vectors, or one that is too short.
    """

    needs = (frozenset({"image", "attribute", "object"}),)
    layered = True
    supervised = True
    uses_batch = False
    measured_by = "compositions"
    prefers: ClassVar[Mapping[str, Any]] = {
        "optimiser": "adam", "schedule": "constant", "warmup": 0, "weight_decay": 1e-5,
    }  # fmt: skip
    preset_paper: ClassVar[Mapping[str, Any]] = {"scale": 100.0, "context": "a photo of", "views": VIEWS}
    paper_training = {"optimiser": "adam", "lr": 5e-5, "weight_decay": 1e-5, "schedule": "constant"}
    role = "image"
    of: Tensor
    pairs: Tensor
    learned: ClassVar[str] = "words"

    def __init__(
        self,
        encoder: Encoder,
        encoder_b: Encoder | None = None,
        *,
        context: str = "a photo of",
        scale: PositiveFloat = 100.0,
        views: views.Views | None = None,
        untrained: bool = False,
    ):
        super().__init__()
        by_kind = {one.modality: one for one in (encoder, encoder_b) if one is not None}
        image, text = by_kind["image"], injectable(by_kind["text"])
        kept = image if isinstance(image, Frozen) or views is not None else Frozen(image)
        heads = common_space(image, text, untrained)
        self.tower_a, self.tower_b = (
            Tower(one, head, kept=True) for one, head in zip((kept, text), heads, strict=True)
        )
        for tower in (self.tower_a, self.tower_b):
            tower.requires_grad_(False).eval()
        self.plan, self.scale, self.context = views, scale, context
        self.prompts: Prompts | None = None
        self.trained_on: Trained | None = None

    @classmethod
    def wants(cls, roles: Set[str], by_group: bool) -> list[str]:
        return ["image", "text"]

    @classmethod
    def lacks(cls, data: Data) -> str:
        return f"it starts from a trained image-text model: --methods {cls.slug} --model FOLDER"

    def train(self, mode: bool = True) -> PromptLearner:
        super().train(mode)
        for tower in (self.tower_a, self.tower_b):
            tower.eval()
        return self

    def prepare(self, data: Data, rows: Any) -> None:
        made = self.trained_on = trained_compositions(data, rows)
        self.prompts = Prompts(self.tower_b, made.found.attributes, made.found.objects, self.context)
        self.prompts.check_length(int(made.found.orders.max()))
        self.prompts.learn(self.learned)
        self.register_buffer("of", torch.from_numpy(made.of), persistent=False)
        self.register_buffer("pairs", torch.from_numpy(made.pairs), persistent=False)

    def sampler(self, stage: int) -> Sampler:
        assert self.trained_on is not None
        return Permutation().only(self.trained_on.rows)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        assert self.trained_on is not None
        return {"compositions": self.trained_on.words}

    def make_views(self, batch: Batch) -> dict[str, list]:
        x = batch.inputs["image"]
        if self.plan is None:
            ready = x if not hasattr(x, "dtype") else modalities.get("image").ready(x, self.tower_a.encoder)
            return {"image": [ready]}
        return {"image": self.plan(x, batch.generator())}

    def encode(self, batch: Batch) -> dict[str, Any]:
        with torch.no_grad():
            return {"images": self.tower_a.embed(batch.views["image"][0])}

    def vocabulary(self) -> Tensor:
        """The vectors of attributes and objects of this step."""
        assert self.prompts is not None
        return self.prompts.words

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        assert self.prompts is not None
        images, true = embedded["images"].detach(), self.of[batch.rows]
        prompts = self.prompts.of(self.pairs, self.vocabulary()).to(images.dtype)
        self.monitored = prompts.detach()
        total = composition_loss(images, prompts, true, self.scale)
        with torch.no_grad():
            told = composition_logits(images, prompts.detach(), self.scale).argmax(1)
        return Loss(total, {"accuracy": (told == true).float().mean()})

    def towers(self) -> dict[str, Tower]:
        return {"image": self.tower_a, "text": self.tower_b}

    def inference(self) -> Inference:
        assert self.prompts is not None
        assert self.trained_on is not None
        return ComposedInference(self.prompts, self.trained_on.found.names, self.trained_on.seen.tolist(), self.scale)

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> Inference:
        return ComposedInference.restored(config, towers)


__all__ = [
    "ComposedInference",
    "PromptLearner",
    "Prompts",
    "composed",
    "composition_logits",
    "composition_loss",
    "name_vectors",
]
