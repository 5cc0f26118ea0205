"""NegCLIP: captions of the same words in another order, and images that look alike, as negatives (Yuksekgonul et al.,
ICLR 2023).

    item:  (x, t) and t-, a hard caption of t;   (x_h, t_h), one of the K images nearest to x, and t_h-
    I = [x; x_h]  (2B)      T = [t; t_h; t-; t_h-]  (4B)      S = I T' / tau
    L = 1/2 [ CE(S, the true caption among all 4B)  +  CE(S' of the 2B true captions, their image among the 2B) ]

Random negatives differ in their words, so that a bag of words already tells them apart. A hard caption is a candidate
of images alone: no image belongs to it. The equation is `nearfar.losses.negclip`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from nearfar import modalities
from nearfar.captions import caption_words, exchanged_words, hard_captions
from nearfar.checks import MOST, NonNegativeInt, PositiveInt, Range
from nearfar.encoders import Encoder, Features, Frozen
from nearfar.encoders.batches import vectors
from nearfar.errors import InputError
from nearfar.losses import negclip_layout
from nearfar.methods import Batch, Facts, Loss, PairContrast, Paper, register
from nearfar.methods.batch import by_member
from nearfar.samplers import Partners, Permutation, Sampler, listed
from nearfar.similarity import Similarity, Temperature
from nearfar.word_classes import tagger

if TYPE_CHECKING:
    from nearfar.sources.data import Data

SCALE = (0.01, 1.0)  # tau, so that the log of the scale 1 / tau stays within 0 and log 100
NEW = 1 << 40  # content ids of captions that the data do not hold begin here


class HardCaptions:
    """Hard captions of training rows, of which each draws one that is not its own caption.

    ids (n,): the content of each of them; first, count (N,): which of them a row of the data draws from; own (N,): the
    content of its caption. read: the inputs of some of them, by their places.
    """

    def __init__(self, ids: np.ndarray, first: np.ndarray, count: np.ndarray, own: np.ndarray, read: Any):
        self.ids, self.first, self.count, self.own, self.read = ids, first, count, own, read

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The place of each row's hard caption among the texts, and its content (-1: the row has none)."""
        first, count = self.first[rows], self.count[rows]
        step = (rng.random(len(rows)) * count).astype(np.int64)
        mine = self.ids[np.where(count > 0, first + step, 0)] == self.own[rows]
        place = np.where(count > 0, first + np.where(mine, (step + 1) % np.maximum(count, 1), step), 0)
        return place, np.where(count > 0, self.ids[place], -1)


@register("negclip", family="multimodal")
class NegCLIP(PairContrast):
    """A caption with its words in another order, and an image that looks alike, are negatives: the order counts.

    Args:
        hard: hard captions. swapped: two constituents of one kind (nouns, adjectives, adverbs, verbs, noun phrases)
            change places; own: of the data (--negative COLUMN, or rows labelled 0); random: captions of other rows, a
            control; none. auto: own where the data hold some, else swapped.
        swaps: most hard captions that are made of one caption; one is drawn anew in each batch.
        word_classes: what says the classes of words: rules (English by lists and endings; in other languages the rarer
            words change places), or the folder of a pipeline of spaCy.
        unswappable: what becomes of a caption that has nothing to swap: random (two of its words change places) or drop
            (it is not trained on).
        images: K; one of so many nearest images joins the batch with its caption and hard caption; 0: none.
        nearest: what says how near two images are: encoder (the one that is trained, as it begins) or pixels. auto:
            the encoder where it is pretrained.
        temperature: tau; its start where it is learned; kept within 0.01 and 1.

    Raises InputError: all captions are equal, or none has a hard caption.
    """

    paper = Paper(
        "When and why vision-language models behave like bags-of-words, and what to do about it?",
        "ICLR 2023",
        "Captions with their words exchanged and images that look alike are negatives, so that word order counts.",
        arxiv="2210.01936",
        differs="classes of words by rules unless a pipeline of spaCy is named; what means the same in another order "
        "(a cat and a dog) is no hard caption; identical images and captions are masked "
        "(--mask-duplicates false for the paper's behaviour); the images nearest to the encoder that is "
        "trained, as it begins, or in pixels; the temperature learns at five times the rate and starts at 0.07, not "
        "from a checkpoint; a warm-up of a twentieth of a run (the paper: 50 steps); no gathering in the paper's "
        "code, whose diagonal is wrong on several processes",
    )
    needs = (frozenset({"image", "text"}),)
    preset_paper = {"hard": "swapped", "images": 3, "temperature": 0.07, "mask_duplicates": False}
    paper_training = {"optimiser": "adamw", "lr": 1e-6, "weight_decay": 0.2, "betas": (0.9, 0.98), "eps": 1e-6,
                      "schedule": "cosine"}  # fmt: skip
    defaults = {"temperature": 0.07, "learn_temperature": True}
    usual_head = "linear"
    fixed = ("symmetric", "negatives")
    only_with = {
        **PairContrast.only_with,
        **{name: {"hard": ("auto", "swapped")} for name in ("swaps", "word_classes", "unswappable")},
        "nearest": {"images": Range(1, MOST)},
    }

    def __init__(
        self,
        encoder: Encoder,
        encoder_b: Encoder | None = None,
        *,
        hard: Literal["auto", "swapped", "own", "random", "none"] = "auto",
        swaps: PositiveInt = 5,
        word_classes: str = "rules",
        unswappable: Literal["random", "drop"] = "random",
        images: NonNegativeInt = 3,
        nearest: Literal["auto", "encoder", "pixels"] = "auto",
        **shared: Any,
    ):
        super().__init__(encoder, encoder_b, **shared)
        self.tau = Temperature(shared["temperature"], SCALE, shared["learn_temperature"])
        self.hard, self.swaps, self.word_classes, self.unswappable = hard, swaps, word_classes, unswappable
        if hard in ("auto", "swapped") and word_classes != "rules":
            tagger(word_classes, ())  # a folder that is none is told before the data are read
        self.images = images
        self.nearest = ("encoder" if encoder.pretrained else "pixels") if nearest == "auto" else nearest
        self.pool: HardCaptions | None = None
        self.summary: dict[str, Any] = {}

    def prepare(self, data: Data, rows: Any) -> None:
        rows, content = np.asarray(rows), np.asarray(data.content(self.roles[1]))
        column = data.roles[self.roles[1]]
        if len(np.unique(content[rows])) < 2:
            raise InputError(f"All {len(rows):,} training captions of {data.name} ('{column}') are equal: nothing "
                             "tells two images apart.", "Name another column: --text COLUMN.")  # fmt: skip
        if self.hard == "auto":
            self.hard = "own" if data.roles.get("negative") or data.pair_labels is not None else "swapped"
        self.kept, self.summary = rows, {"hard": self.hard}
        if self.hard != "none":
            lists = self.lists(data, rows, content)
            if not any(lists):
                raise InputError(f"None of the {len(rows):,} training captions of {data.name} ('{column}') has a hard "
                                 "caption: no two words of one of them can change places.", "Give captions of several "
                                 "words, hard captions of your own (--negative COLUMN), or --hard none.")  # fmt: skip
            if self.hard == "swapped" and self.unswappable == "drop":
                self.kept = rows[[bool(found) for found in lists]]
            self.pool = self.pooled(data, rows, content, lists)
        if self.images:
            self.summary["nearest"] = self.nearest
            self.partner = self.neighbours(data, self.kept)

    def lists(self, data: Data, rows: np.ndarray, content: np.ndarray) -> list[list[str]]:
        """The hard captions of each of the rows."""
        if self.hard == "own":
            found = own_captions(data, rows, self.roles)
            self.summary["without"] = share_in_words(sum(not made for made in found), len(rows), "have no hard caption")
            return found
        first, inverse = np.unique(content[rows], return_index=True, return_inverse=True)[1:]
        texts = data.texts(self.roles[1], rows[first])
        if self.hard == "random":
            return [texts, *([] for _ in rows[1:])]
        tag, rng = tagger(self.word_classes, map(caption_words, texts)), np.random.default_rng([self.seed, 17])
        made = [hard_captions(text, tag, rng, most=self.swaps) for text in texts]
        without = sum(not made[i] for i in inverse.reshape(-1))
        words = {"drop": "are left out", "random": "change two words at random"}[self.unswappable]
        self.summary["without"] = share_in_words(without, len(rows), f"have nothing to swap and {words}")
        if self.unswappable == "random":
            made = [found or exchanged_words(text, rng) for found, text in zip(made, texts, strict=True)]
        return [made[i] for i in inverse.reshape(-1)]

    def pooled(self, data: Data, rows: np.ndarray, content: np.ndarray, lists: list[list[str]]) -> HardCaptions:
        """The hard captions, known by their content as the data's own are."""
        encoder: Any = self.tower_b.encoder
        kind, texts = modalities.get(encoder.modality), [text for found in lists for text in found]
        own = (kind.content(text) for text in data.texts(self.roles[1], rows))
        known = dict(zip(own, content[rows].tolist(), strict=True))
        ids = np.array([known.setdefault(kind.content(text), NEW + len(known)) for text in texts], np.int64)
        lengths = np.array([len(found) for found in lists])
        first, count = np.zeros(len(data), np.int64), np.zeros(len(data), np.int64)
        first[rows], count[rows] = np.cumsum(lengths) - lengths, lengths
        if self.hard == "random":
            first[rows], count[rows] = 0, len(texts)
        read = kind.reader_of(texts, encoder).raw if not isinstance(encoder, Frozen) else frozen_reader(encoder, texts)
        return HardCaptions(ids, first, count, content, read)

    def neighbours(self, data: Data, rows: np.ndarray) -> Any:
        """Of each row, the rows of the K other images that are nearest to its own, each image alike."""
        content, role = np.asarray(data.content(self.roles[0]))[rows], self.roles[0]
        _, first, image, many = np.unique(content, return_index=True, return_inverse=True, return_counts=True)
        if len(first) < 2:
            raise InputError(f"All {len(rows):,} training images of {data.name} are equal: none has a neighbour.",
                             "Name another column: --image COLUMN; or use --images 0.")  # fmt: skip
        z = torch.from_numpy(np.asarray(self.looks(data, role, rows[first]), np.float32))
        found = Similarity(z, z).topk(min(self.images + 1, len(z)))[1]
        other = found != torch.arange(len(z))[:, None]
        other[:, -1] &= ~other.all(1)  # an image whose copies in the encoder's eyes crowd it out
        of, near = (x.numpy() for x in (other.nonzero()[:, 0], found[other]))
        order = np.argsort(image, kind="stable")
        members = np.split(rows[order], np.cumsum(many)[:-1])
        pairs = [(row, other, 1 / many[b]) for a, b in zip(of, near, strict=True) for row in members[a]
                 for other in members[b]]  # fmt: skip
        mine, others, weights = (np.array(column) for column in zip(*pairs, strict=True))
        return listed(mine, others, weights)

    def looks(self, data: Data, role: str, rows: np.ndarray) -> np.ndarray:
        encoder: Any = self.tower_a.encoder
        if self.nearest == "pixels":
            from nearfar.evaluation.references import pixels

            return pixels(data, role, size=16)(role, rows)
        return vectors(encoder, modalities.of(role).items(data, role, rows, getattr(encoder, "size", None)))

    def resolve(self, facts: Facts) -> dict[str, Any]:
        return super().resolve(facts) | self.summary

    def sampler(self, stage: int) -> Sampler:
        base = Permutation().only(self.kept)
        return Partners(self.partner, base) if self.images else base

    @property
    def members(self) -> int:
        return 2 if self.images else 1

    def drawn_negatives(self, data: Data) -> Sequence[Any]:
        return () if self.pool is None else (self.pool,)

    def make_views(self, batch: Batch) -> dict[str, list]:
        made = super().make_views(batch)
        hard = made.get("negative", [])
        return made | ({"negative": [x for both in hard for x in by_member(both, batch.members)]} if hard else {})

    def encode(self, batch: Batch) -> dict[str, Any]:
        (images, texts), hard = (batch.views[role] for role in self.roles), batch.views.get("negative", [])
        made = {"a": [self.tower_a(x) for x in images], "b": [self.tower_b(x) for x in texts]}
        return made | ({"negative": [self.tower_b(x) for x in hard]} if hard else {})

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        rows = dataclasses.replace(batch, members=1)  # the hard images are items like the others
        image, text = (torch.cat(embedded[side]) for side in ("a", "b"))
        hard = torch.cat(embedded["negative"]) if "negative" in embedded else None
        options = self.with_hard_negatives(self.layout_options(rows), rows)
        return self.report(negclip_layout(image, text, hard, **options), image, rows)


def share_in_words(count: int, of: int, what: str) -> str | None:
    return f"{count:,} of {of:,} captions {what}" if count else None


def frozen_reader(encoder: Frozen, texts: Sequence[str]) -> Any:
    """Features of texts, made once, by their places."""
    made = torch.from_numpy(np.asarray(encoder.features(texts)))
    return lambda places, rng: Features(made[torch.from_numpy(places)])


def own_captions(data: Data, rows: np.ndarray, roles: tuple[str, str]) -> list[list[str]]:
    """The hard captions that the data hold of each of the rows: its cells in the columns of hard negatives, and the
    captions of rows labelled 0 with its image; none that is its own caption."""
    kind = modalities.of(roles[1])
    cells = [data.texts(column, rows) for column in data.roles.get("negative") or ()]
    found = [list(texts) for texts in zip(*cells, strict=True)] if cells else [[] for _ in rows]
    if data.pair_labels is not None:
        train, images = np.asarray(data.splits["train"]), np.asarray(data.content(roles[0]))
        apart, by_image = train[data.pair_labels[train] == 0], {}
        for image, text in zip(images[apart].tolist(), data.texts(roles[1], apart), strict=True):
            by_image.setdefault(image, []).append(text)
        found = [texts + by_image.get(int(images[row]), []) for texts, row in zip(found, rows, strict=True)]
    own = [kind.content(text) for text in data.texts(roles[1], rows)]
    return [[text for text in dict.fromkeys(texts) if text.strip() and kind.content(text) != mine]
            for texts, mine in zip(found, own, strict=True)]  # fmt: skip
