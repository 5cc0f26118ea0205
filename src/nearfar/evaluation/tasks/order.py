"""Order: an image's caption among the same words in another order."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from nearfar.captions import caption_words
from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.order import TESTS, Choice, choices, fair_hits, macro_weights
from nearfar.evaluation.task import Reference, Scores, Table, Task, content_roles, register
from nearfar.units import Metric
from nearfar.word_classes import tagger

if TYPE_CHECKING:
    from nearfar.sources.data import Data

SHOWN = 20  # relations and attributes in the report, the commonest first


@register
class OrderTask(Task):
    """How often an image's caption is nearer to it than the same words in another order (ARO, Yuksekgonul et al.
    2023): two noun phrases exchanged around a relation, two attributes exchanged, four shuffles. A tie counts 1 / the
    number of options that tie, so a model that does not see order gets exactly chance.

    Args:
        word_classes: what says the classes of words: rules, or the folder of a pipeline of spaCy.
        least: cases that a pair of attributes needs to count.
    """

    primary = "accuracy"
    metrics = {
        "accuracy": Metric("accuracy, mean of the tests"),
        "relation": Metric("relations, mean over relations"),
        "attribution": Metric("attributes, mean over pairs of attributes"),
        "order": Metric("caption among its shuffles"),
        "ties": Metric("true captions that tie", higher_is_better=False),
    }
    beside = "order"
    chance_words = "a model that does not see order"
    needs = "It needs images with captions, and a model that embeds both."
    roles = ("image", "text")

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        word_classes: str = "rules",
        least: PositiveInt = 25,
    ):
        super().__init__(data)
        self.least = least
        train = data.splits.get("train", ())
        texts = data.texts("text", np.asarray(train)) if len(train) else data.texts("text")
        self.tag = tagger(word_classes, map(caption_words, texts))
        self.asked = cache(self._asked)

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return set(cls.roles) <= set(content_roles(data, modalities))

    def _asked(self, split: str) -> tuple[np.ndarray, list[Choice]]:
        """The rows that are asked about, and the questions; those of rare pairs of attributes are left out."""
        rows, rng = self.draw(self.rows(split)), np.random.default_rng(1)
        texts = self.data.texts("text", rows)
        found = [one for place, text in enumerate(texts) for one in choices(place, text, self.tag, rng)]
        groups = Counter(one.group for one in found if one.test == "attribution")
        often = {group for group, count in groups.items() if count >= self.least}
        found = [one for one in found if one.test != "attribution" or one.group in often]
        if not found:
            raise InputError(f"No caption of the {split} split of {self.data.name} can be put in another order.",
                             "The task needs captions of two different words or more.")  # fmt: skip
        return rows, found

    def check(self) -> None:
        for split in self.held_out:
            self.asked(split)

    def describe(self) -> str:
        return ("How often the caption of an image is nearer to it than the same words in another order: noun phrases "
                "or attributes exchanged, or words shuffled in four ways. Ties count by chance.")  # fmt: skip

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        rows, asked = self.asked(split)
        place = {text: i for i, text in enumerate(dict.fromkeys(text for one in asked for text in one.options))}
        texts = np.asarray(embed.items("text", list(place)), np.float64)
        images = np.asarray(embed("image", rows), np.float64)
        where = [np.array([place[text] for text in one.options]) for one in asked]
        return self.scored([texts[at] @ images[one.row] for one, at in zip(asked, where, strict=True)], split)

    def scored(self, scores: Sequence[np.ndarray], split: str) -> Scores:
        """scores: of the options of each question, (m,), the true one first."""
        rows, asked = self.asked(split)
        hits, ties = (np.array(x, float) for x in zip(*map(fair_hits, scores), strict=True))
        metrics, values, clusters, counts = {}, {}, {}, {}
        for test in TESTS:
            part = np.array([i for i, one in enumerate(asked) if one.test == test], np.int64)
            counts[test] = {"queries": len(part), "skipped": len(rows) - len(part),
                            "gallery": max((len(asked[i].options) for i in part), default=0)}  # fmt: skip
            if len(part):
                values[test] = hits[part] * macro_weights([asked[i].group for i in part])
                clusters[test] = self.units(rows[[asked[i].row for i in part]])
                metrics[test] = float(values[test].mean())
        metrics = {"accuracy": float(np.mean(list(metrics.values()))), **metrics, "ties": float(ties.mean())}
        return Scores("accuracy", metrics["accuracy"], metrics, per_query=values, clusters=clusters, counts=counts,
                      split=split, tables=self.tables(asked, scores, hits))  # fmt: skip

    def tables(self, asked: Sequence[Choice], scores: Sequence[np.ndarray], hits: np.ndarray) -> list[Table]:
        """The accuracy of each relation and pair of attributes, and how often each shuffle is below the caption."""
        parts: dict[tuple[str, str], list[float]] = {}
        below: dict[str, list[float]] = {}
        for one, score, hit in zip(asked, scores, hits, strict=True):
            if one.group:
                parts.setdefault((one.test, one.group), []).append(float(hit))
            for name, value in zip(one.names[1:], score[1:], strict=True):
                if one.test == "order":
                    below.setdefault(name, []).append(fair_hits(np.array([score[0], value]))[0])
        often = sorted(parts.items(), key=lambda item: -len(item[1]))[:SHOWN]
        found = [Table("Relations and attributes, the commonest first", ["test", "words", "cases", "accuracy, %"],
                       [(*key, len(x), f"{100 * np.mean(x):.1f}") for key, x in often])] if often else []  # fmt: skip
        rows = [(name, len(x), f"{100 * np.mean(x):.1f}") for name, x in below.items()]
        shuffled = Table("Shuffles, each against the caption alone", ["shuffled", "cases", "accuracy, %"], rows)
        return found + ([shuffled] if rows else [])

    def references(self, *, size: int = 32) -> list[Reference]:
        def blind(split: str, examples: int = 0) -> Scores:
            found = self.scored([np.zeros(len(one.options)) for one in self.asked(split)[1]], split)
            return dataclasses.replace(found, metrics={k: v for k, v in found.metrics.items() if k != "ties"})

        return [Reference("chance", "blind to order", "chance", blind)]
