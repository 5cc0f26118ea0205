"""What methods that learn words of prompts share: compositions of an attribute and an object as vectors of tokens in a
frozen text tower, a classifier over those trained on, and what the finished model answers.

    [start] a photo of  v_a v_o  [end]  --frozen text tower-->  t_(a,o)        f(x) --frozen picture tower-->
    z_k = s cos(f(x), t_k) over the K compositions of training rows;   L = cross-entropy of z with the true one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar import modalities, views
from nearfar.checks import PositiveFloat, PositiveInt
from nearfar.encoders import Embedded, Encoder, Frozen, LayeredText
from nearfar.encoders.openclip import OpenClipText
from nearfar.errors import InputError, did_you_mean
from nearfar.methods.base import Loss, Method
from nearfar.methods.batch import Batch, Facts
from nearfar.methods.inference import Inference, Request
from nearfar.methods.tower import Tower
from nearfar.samplers import Permutation, Sampler

if TYPE_CHECKING:
    from nearfar.sources.data import Data

Names = Sequence[tuple[tuple[str, ...], str]]
CHUNK = 256  # prompts that pass the text tower at once, where no gradient is wanted
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
    """s cos(image, prompt), within -s and s; 0 for a zero vector."""
    return scale * F.normalize(images, dim=1) @ F.normalize(prompts, dim=1).T


def composition_loss(
    images: Float[Tensor, "n p"], prompts: Float[Tensor, "k p"], true: Int[Tensor, "n"], scale: float = 100.0
) -> Float[Tensor, ""]:
    """The mean over images of the cross-entropy of `composition_logits` with the true composition, in [0, 2 s + log k];
    0 of no images, and of a single composition."""
    if not len(images):
        return (images.sum() + prompts.sum()) * 0
    return F.cross_entropy(composition_logits(images, prompts, scale).float(), true)


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

    def of(self, names: Names) -> Tensor:
        """Vectors (K, p) of compositions by their names, those of one number of attributes together. Raises InputError
        for a name that was not learned."""
        rows = [self.numbers(one) for one in names]
        found: list[Tensor | None] = [None] * len(rows)
        for length in sorted({len(row) for row in rows}):
            places = [i for i, row in enumerate(rows) if len(row) == length]
            pairs = torch.tensor([rows[i] for i in places], device=self.words.device)
            made = torch.cat([self(part) for part in pairs.split(CHUNK)])
            for i, vector in zip(places, made, strict=True):
                found[i] = vector
        return torch.stack([one for one in found if one is not None])

    def numbers(self, name: tuple[tuple[str, ...], str]) -> list[int]:
        """Rows of `words` of a composition."""
        attributes, item = name
        sides = [*((self.attributes, "attribute", one, 0) for one in attributes),
                 (self.objects, "object", item, len(self.attributes))]  # fmt: skip
        for known, role, one, _ in sides:
            if one not in known:
                raise InputError(f"This model knows no {role} '{one}'.{did_you_mean(one, known)}",
                                 f"It knows {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}.")  # fmt: skip
        return [known.index(one) + first for known, _, one, first in sides]


@dataclass
class Options:
    """Which compositions are told apart.

    Args:
        compositions: all pairs of a known attribute and object (all), those of the data that it was trained on, among
            them the ones that are only tested (known), those of training rows (seen), or names, divided by commas
            ("wet dog, old dark car"), or a .txt file of them, one on each line.
        top: how many are named for each row, the best first.
        bias: added to the scores of those that were not trained on.
    """

    compositions: str = "all"
    top: PositiveInt = 1
    bias: float = 0.0


class ComposedInference(Inference):
    """The composition whose prompt is nearest to a picture. seen, known: compositions (rows of attributes, object) that
    were trained on, and all of the data."""

    options: ClassVar[type] = Options
    composes: ClassVar[bool] = True

    def __init__(self, prompts: Prompts, known: Names, seen: Sequence[bool], scale: float, role: str = "image"):
        super().__init__()
        self.prompts, self.known, self.seen, self.scale, self.role = prompts, list(known), list(seen), scale, role
        self._made: tuple[Names, Tensor] | None = None

    def config(self) -> dict[str, Any]:
        known = [[list(attributes), item, bool(seen)] for (attributes, item), seen in zip(self.known, self.seen,
                                                                                         strict=True)]  # fmt: skip
        return {"attributes": self.prompts.attributes, "objects": self.prompts.objects, "context": self.prompts.said,
                "scale": self.scale, "known": known, "role": self.role}  # fmt: skip

    @classmethod
    def restored(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> ComposedInference:
        prompts = Prompts(towers["text"], config["attributes"], config["objects"], config["context"])
        known = [(tuple(attributes), item) for attributes, item, _ in config["known"]]
        return cls(prompts, known, [seen for *_, seen in config["known"]], config["scale"], config["role"])

    def of_compositions(self, data: Data, rows: np.ndarray, embed: Any, candidates: Names) -> Tensor:
        images = torch.from_numpy(np.array(embed(self.role, rows)))
        if self._made is None or self._made[0] != candidates:  # rows come in pieces, prompts are the same
            self._made = candidates, self.prompts.of(candidates)
        prompts = self._made[1]
        return composition_logits(images.to(prompts.device), prompts, self.scale)

    def of_words(self, names: Sequence[str]) -> np.ndarray:
        """Vectors of the tower for the plain name: learned rows of attributes and objects are no words."""
        encoder = self.prompts.tower.encoder
        with torch.no_grad():
            return self.prompts.tower.embed(encoder.prepare(list(names))).float().cpu().numpy()

    def predict(self, request: Request, options: Options) -> dict[str, Any]:
        """prediction, score and seen (whether it was trained on); with --top K also prediction_2, ..."""
        names = self.named(options.compositions)
        scores = self.of_compositions(request.data, request.rows, request.embed, names).float().cpu().numpy()
        seen = set(self.trained_on())
        new = np.array([one not in seen for one in names])
        order = np.argsort(-(scores + options.bias * new), axis=1, kind="stable")[:, : options.top]
        found: dict[str, Any] = {}
        for k in range(order.shape[1]):
            ending = "" if k == 0 else f"_{k + 1}"
            found[f"prediction{ending}"] = [in_words(names[i]) for i in order[:, k]]
            found[f"score{ending}"] = np.take_along_axis(scores, order[:, k, None], 1)[:, 0]
            found[f"seen{ending}"] = [not bool(new[i]) for i in order[:, k]]
        return found

    def trained_on(self) -> Names:
        return [one for one, seen in zip(self.known, self.seen, strict=True) if seen]

    def named(self, said: str) -> Names:
        """The compositions that `Options.compositions` means."""
        if said == "all":
            return [((a,), o) for a in self.prompts.attributes for o in self.prompts.objects]
        if said in ("known", "seen"):
            return self.known if said == "known" else self.trained_on()
        path = Path(said)
        if path.suffix.lower() == ".txt":
            if not path.is_file():
                raise InputError(f"There is no file of compositions '{said}'.")
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        else:
            lines = said.split(",")
        found = [self.read(line.strip()) for line in lines if line.strip()]
        if not found:
            raise InputError("No composition is named.", "Write for example --compositions 'wet dog, old car', or all.")
        return list(dict.fromkeys(found))

    def read(self, words: str) -> tuple[tuple[str, ...], str]:
        """ "old dark car" as known attributes and a known object. Raises InputError for what is none."""
        from nearfar.sources.compositions import clean_name

        clean, known = clean_name(words), self.prompts
        for item in sorted(known.objects, key=len, reverse=True):
            if clean.endswith(f" {item}"):
                attributes = split_names(clean[: -len(item) - 1], known.attributes)
                if attributes:
                    return tuple(attributes), item
        raise InputError(f"'{words}' is no composition that this model knows: attributes, then an object.",
                         f"Attributes: {', '.join(known.attributes[:8])}, ...; objects: "
                         f"{', '.join(known.objects[:8])}, ...")  # fmt: skip


def split_names(words: str, known: Sequence[str]) -> list[str]:
    """A text as known names one behind the other; [] where it is none."""
    if words in known:
        return [words]
    for name in sorted(known, key=len, reverse=True):
        if words.startswith(f"{name} ") and (rest := split_names(words[len(name) + 1 :], known)):
            return [name, *rest]
    return []


def in_words(name: tuple[tuple[str, ...], str]) -> str:
    return " ".join([*name[0], name[1]])


def common_space(image: Encoder, text: Encoder, untrained: bool) -> tuple[nn.Module | None, nn.Module | None]:
    """The heads that lead two towers into their common space; of random towers of different widths a random map for the
    pictures. Raises InputError for towers that were not trained together, unless `untrained`."""
    if image.joint is not None and text.joint is not None and image.joint.space == text.joint.space:
        return image.joint.head, text.joint.head
    if not untrained:
        raise InputError("The two towers were not trained together: in them no picture is like its prompt.",
                         f"{MODEL} Or take random ones all the same (--untrained true).")  # fmt: skip
    return (None if image.dim == text.dim else nn.Linear(image.dim, text.dim, bias=False)), None


class PromptLearner(Method):
    """Both towers stay as they are; words of prompts are learned as vectors, from pictures with an attribute and an
    object.

    Args:
        context: what stands in front of attribute and object.
        scale: s; what the cosines are multiplied by (CLIP's is 100).
        views: how a picture is changed before it is encoded. Default not at all; its features are then computed once.
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
        self.found: Any = None

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
        from nearfar.sources.compositions import compositions, unseen_parts

        found, rows = compositions(data), np.asarray(rows)
        missing = unseen_parts(found, rows)
        if missing:
            role, name = missing[0]
            raise InputError(f"No training row of {data.name} has the {role} '{name}': its word would not be learned.",
                             "Give training rows with it, or leave its rows out.")  # fmt: skip
        self.found, self.kept = found, rows[found.of[rows] >= 0]
        self.seen = found.within(rows)
        self.prompts = Prompts(self.tower_b, found.attributes, found.objects, self.context)
        self.prompts.check_length(int(found.orders.max()))
        self.prompts.learn(self.learned)
        place = np.full(len(found), -1)
        place[self.seen] = np.arange(self.seen.sum())
        numbers = found.pairs.copy()
        numbers[:, -1] += len(found.attributes)
        self.register_buffer("of", torch.from_numpy(np.where(found.of >= 0, place[found.of], -1)), persistent=False)
        self.register_buffer("pairs", torch.from_numpy(numbers[self.seen]), persistent=False)

    def sampler(self, stage: int) -> Sampler:
        return Permutation().only(self.kept)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        return {"compositions": f"{int(self.seen.sum()):,} of {len(self.found):,} are trained on"}

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
        words, orders = self.vocabulary(), (self.pairs[:, :-1] >= 0).sum(1)
        prompts = images.new_empty(len(self.pairs), self.tower_dim)
        for order in orders.unique().tolist():
            here = orders == order
            pairs = torch.cat([self.pairs[here][:, :order], self.pairs[here][:, -1:]], 1)
            prompts = prompts.index_put((here.nonzero()[:, 0],), self.prompts(pairs, words).to(prompts.dtype))
        self.monitored = prompts.detach()
        total = composition_loss(images, prompts, true, self.scale)
        with torch.no_grad():
            told = composition_logits(images, prompts.detach(), self.scale).argmax(1)
        return Loss(total, {"accuracy": (told == true).float().mean()})

    @property
    def tower_dim(self) -> int:
        return self.tower_b.encoder.joint.dim if self.tower_b.encoder.joint else self.tower_b.encoder.dim

    def towers(self) -> dict[str, Tower]:
        return {"image": self.tower_a, "text": self.tower_b}

    def inference(self) -> Inference:
        assert self.prompts is not None
        return ComposedInference(self.prompts, self.found.names, self.seen.tolist(), self.scale)

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
