"""Compositions: images told by an attribute and an object together, also those that were never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.compositional import (
    Left,
    Sweep,
    best_feasibility,
    bias_sweep,
    feasibility,
    open_sweep,
    part_accuracy,
)
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.prompts import Read, attribute_readout, by_prompts, embeds_texts, read_word_vectors
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.task import Reference, Scores, Table, Task, first_role, register
from nearfar.evaluation.zero_shot import class_hits
from nearfar.sources.compositions import Compositions, compositions, has_compositions, in_words, unseen_parts
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

TEMPLATE = "a photo of {attribute} {object}"
SHOWN = 20  # compositions in the report, those told worst first
DRAWS = 10  # of random scores, whose mean is the row "chance"


@dataclass(frozen=True)
class Asked:
    """Rows (n,) of a split and what they are told among: candidates (K, m + 1) as in `Compositions.pairs`; truth (n,)
    columns; seen, closed (K,): trained on, and those of training rows and of the split."""

    rows: np.ndarray
    candidates: np.ndarray
    truth: np.ndarray
    seen: np.ndarray
    closed: np.ndarray


@register
class CompositionTask(Task):
    """How well images are told by attribute and object, seen together in training or not (generalised compositional
    zero-shot): a bias on unseen compositions is swept; S and U are the best accuracies of seen and unseen ones, H the
    best harmonic mean, AUC the area under one over the other.

    A model that scores compositions is asked. Of others, those with a tower of texts compare the image with hard
    prompts, and from the vectors of the rest two logistic regressions tell attribute and object, whose log
    probabilities are added.

    Args:
        world: closed: told among the compositions of training rows and of the split; open: among all pairs of an
            attribute and an object, without those that are implausible by word vectors.
        template: a hard prompt with {attribute} and {object}.
        top: how many of the best count as told.
        threshold: the least feasibility of an unseen pair in the open world; auto: the best AUC on validation rows, and
            none where the model has no vectors of words; none: no pair is left out.
        left: what becomes of implausible pairs: out (they are no candidates), or zero (their scores become 0, as the
            published code of CSP has it).
        word_vectors: file of word vectors (a word and its numbers on each line, as GloVe) for the feasibility. Default
            the model's own vectors of the words.
        read: prompts or classifiers, where not what suits the model (auto).
    """

    primary = "auc"
    metrics = {
        "auc": Metric("AUC"),
        "harmonic": Metric("best harmonic mean"),
        "seen": Metric("best seen"),
        "unseen": Metric("best unseen"),
        "attribute": Metric("attribute"),
        "object": Metric("object"),
        "higher order": Metric("compositions of several attributes", brief=False),
    }
    beside = "harmonic"
    chance_words = "scores drawn at random"
    needs = "It needs images with an attribute and an object: --attribute COLUMN --object COLUMN."
    also = ("text",)

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        world: Literal["closed", "open"] = "closed",
        template: str = "a photo of {attribute} {object}",
        top: PositiveInt = 1,
        threshold: float | Literal["auto", "none"] = "auto",
        left: Left = "out",
        word_vectors: str | None = None,
        read: Read = "auto",
    ):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles = (self.role,)
        self.world, self.template, self.top, self.threshold = world, template, top, threshold
        self.left: Left = left
        self.read = read
        if not {"{attribute}", "{object}"} <= set(_slots(template)):
            raise InputError(f"The template '{template}' lacks {{attribute}} or {{object}}.",
                             f"Write for example '{TEMPLATE}'.")  # fmt: skip
        found = self.found
        self.words = None if word_vectors is None else read_word_vectors(word_vectors, found.attributes + found.objects)

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return has_compositions(data) and first_role(data, modalities) is not None

    @classmethod
    def priority(cls, data: Data) -> int | None:
        return 75

    @property
    def found(self) -> Compositions:
        return compositions(self.data)

    def check(self) -> None:
        missing = unseen_parts(self.found, self.rows("train"))
        if missing:
            role, name = missing[0]
            more = f" (nor have {len(missing) - 1} others)" if len(missing) > 1 else ""
            raise InputError(
                f"No training row of {self.data.name} has the {role} '{name}'{more}: nothing can be known of it.",
                "Give training rows with it, or leave its rows out; without a column of splits (--split none) every "
                "attribute and object stays in the training part.",
            )
        for split in self.held_out:
            asked = self.asked(split)
            known = asked.seen[asked.truth]
            if known.all() or not known.any():
                kind = "was trained on" if known.all() else "stands in no training row"
                raise InputError(f"Every composition of the {split} split of {self.data.name} {kind}; both kinds are "
                                 "measured.", "Leave out --split: some compositions are then held out.")  # fmt: skip

    def asked(self, split: str, most: int | None = None) -> Asked:
        found, rows = self.found, self.rows(split)
        rows = self.draw(rows[found.of[rows] >= 0], most)
        if not len(rows):
            raise InputError(f"No row of the {split} split has both an attribute and an object.")
        seen = found.within(self.rows("train"))
        closed = seen | found.within(self.rows(split))
        if self.world == "closed":
            here = np.flatnonzero(closed)
            place = np.full(len(found), -1)
            place[here] = np.arange(len(here))
            return Asked(rows, found.pairs[here], place[found.of[rows]], seen[here], closed[here])
        every = found.every_pair()
        place = {tuple(pair): k for k, pair in enumerate(every.tolist())}
        where = np.array([place[tuple(pair)] for pair in found.pairs.tolist()])
        flags = np.zeros((2, len(every)), bool)
        flags[0, where], flags[1, where] = seen, closed
        return Asked(rows, every, where[found.of[rows]], *flags)

    def describe(self) -> str:
        among = ("the compositions of training rows and of the split" if self.world == "closed" else
                 "all pairs of an attribute and an object that word vectors find plausible")  # fmt: skip
        return (
            f"How well {len(self.found)} compositions of {len(self.found.attributes)} attributes and "
            f"{len(self.found.objects)} objects are told among {among}: area under the accuracy of seen over that of "
            "unseen ones, as a bias on the unseen is swept; beside it the best of each and the best harmonic mean."
        )

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        asked = self.asked(split)
        scores = self.scores_of(embed, asked)
        if self.world == "closed" or not (~asked.seen).any():
            return self.scored(scores, asked, split)
        threshold = self.threshold
        feasible = None if threshold == "none" else self.feasible(embed, asked)
        if feasible is None and threshold not in ("auto", "none"):
            raise InputError("The open world asks how plausible a pair is, and this model has no vectors of words.",
                             "Give some (--word-vectors FILE), or leave none out (--threshold none).")  # fmt: skip
        if feasible is None:
            return self.scored(scores, asked, split, np.ones(len(asked.seen)))
        if threshold == "auto":
            held = asked if split == "val" else self.asked("val")
            known = scores if split == "val" else self.scores_of(embed, held)
            threshold = best_feasibility(known, held.truth, held.seen, feasible, self.left, self.top)
        return self.scored(scores, asked, split, feasible, float(threshold))

    def scores_of(self, embed: Any, asked: Asked) -> np.ndarray:
        """(n, K): by the model itself, by hard prompts, or by two classifiers."""
        answer, names = getattr(embed, "inference", None), [self.found.words(pair) for pair in asked.candidates]
        if answer is not None and answer.composes and self.read == "auto":
            import torch

            with torch.inference_mode():
                return answer.of_compositions(self.data, asked.rows, embed, names).double().cpu().numpy()
        if self.read == "prompts" or (self.read == "auto" and embeds_texts(embed)):
            prompts = [self.template.format(attribute=" ".join(a), object=o) for a, o in names]
            return by_prompts(embed, self.role, asked.rows, prompts)
        return self.by_classifiers(embed, asked)

    def by_classifiers(self, embed: Any, asked: Asked) -> np.ndarray:
        """log p(attribute) + log p(object), each of a logistic regression on the training rows (several attributes:
        the mean of theirs; such a row is one of each)."""
        found, train = self.found, self.rows("train")
        train = self.draw(train[found.of[train] >= 0])
        parts = found.pairs[found.of[train]]
        each, place = (parts[:, :-1] >= 0).nonzero()
        z, test = np.asarray(embed(self.role, train)), np.asarray(embed(self.role, asked.rows))
        attribute = attribute_readout(z[each], parts[each, place], test, len(found.attributes))
        item = attribute_readout(z, parts[:, -1], test, len(found.objects))
        used = asked.candidates[:, :-1]
        there = used >= 0
        both = (attribute[:, np.maximum(used, 0)] * there).sum(2) / there.sum(1)
        return both + item[:, asked.candidates[:, -1]]

    def feasible(self, embed: Any, asked: Asked) -> np.ndarray | None:
        """Of each candidate its feasibility (K,); 1 for those of several attributes: no word vectors judge these. None:
        there are no vectors of words."""
        found = self.found
        attributes, objects = self.words_of(embed, found.attributes), self.words_of(embed, found.objects)
        if attributes is None or objects is None:
            return None
        seen = np.zeros((len(found.attributes), len(found.objects)), bool)
        alone = (asked.candidates[:, :-1] >= 0).sum(1) == 1
        pairs = asked.candidates[:, [0, -1]]
        known = pairs[asked.seen & alone]
        seen[known[:, 0], known[:, 1]] = True
        return np.where(alone, feasibility(seen, attributes, objects)[pairs[:, 0], pairs[:, 1]], 1.0)

    def words_of(self, embed: Any, names: list[str]) -> np.ndarray | None:
        """Vectors of the names: those of a file, the model's own, or of its tower of texts; None: it has none."""
        if self.words is not None:
            return np.stack([self.words[name] for name in names])
        answer = getattr(embed, "inference", None)
        own = None if answer is None or not answer.composes else answer.of_words(names)
        if own is None and embeds_texts(embed):
            own = embed.items("text", names)
        return None if own is None else np.asarray(own, np.float64)

    def scored(
        self, scores: np.ndarray, asked: Asked, split: str, feasible: np.ndarray | None = None, threshold: float = -1.0
    ) -> Scores:
        """scores: (n, K) of the rows; feasible (K,), threshold: what the open world leaves out."""
        if feasible is None:
            sweep = bias_sweep(scores, asked.truth, asked.seen, k=self.top)
        else:
            sweep = open_sweep(scores, asked.truth, asked.seen, feasible, threshold, self.left, self.top)
        parts = asked.candidates
        metrics = {"auc": sweep.auc, "harmonic": sweep.harmonic, "seen": sweep.best_seen, "unseen": sweep.best_unseen,
                   "attribute": part_accuracy(scores, asked.truth, parts[:, :-1], asked.closed),
                   "object": part_accuracy(scores, asked.truth, parts[:, -1], asked.closed)}  # fmt: skip
        several = (parts[:, :-1] >= 0).sum(1) > 1
        rows = several[asked.truth]
        if rows.any():
            place = np.cumsum(several) - 1
            metrics["higher order"] = float(class_hits(scores[rows][:, several], place[asked.truth[rows]]).mean())
        skipped = len(self.rows(split)) - len(asked.rows)
        counts = {"rows": {"queries": len(asked.rows), "skipped": skipped, "gallery": len(parts)}}
        tables = [sweep_table(sweep), self.worst(scores, asked)]
        if feasible is not None:
            away = int((~asked.seen & (feasible < threshold)).sum())
            tables.append(Table("Open world", ["threshold", "pairs", "implausible"],
                                [(f"{threshold:.4f}" if threshold > -1 else "none", len(parts), away)]))  # fmt: skip
        return Scores("auc", metrics["auc"], metrics, counts=counts, split=split, tables=tables)

    def worst(self, scores: np.ndarray, asked: Asked) -> Table:
        """The compositions that are told worst without a bias, and what most of their rows are taken for."""
        told, lines = np.where(asked.closed, scores, -np.inf).argmax(1), []
        for one in np.unique(asked.truth):
            here = asked.truth == one
            wrong = told[here][told[here] != one]
            taken = in_words(self.found.words(asked.candidates[np.bincount(wrong).argmax()])) if len(wrong) else ""
            kind = "seen" if asked.seen[one] else "unseen"
            name = in_words(self.found.words(asked.candidates[one]))
            lines.append((float((told[here] == one).mean()), name, kind, int(here.sum()), taken))
        rows = [(name, kind, count, f"{100 * share:.1f}", taken)
                for share, name, kind, count, taken in sorted(lines)[:SHOWN]]  # fmt: skip
        columns = ["composition", "in training", "rows", "accuracy, %", "most often taken for"]
        return Table("Compositions, those told worst first", columns, rows)

    def chance(self, split: str) -> Scores:
        """The mean over scores that are drawn at random."""
        asked, rng = self.asked(split), np.random.default_rng(0)
        drawn = [self.scored(rng.normal(size=(len(asked.rows), len(asked.seen))), asked, split) for _ in range(DRAWS)]
        metrics = {name: float(np.mean([one.metrics[name] for one in drawn])) for name in drawn[0].metrics}
        return Scores("auc", metrics["auc"], metrics, counts=drawn[0].counts, split=split)

    def references(self, *, size: int = 32) -> list[Reference]:
        drawn = Reference("chance", "random scores", "chance", lambda split, examples=0: self.chance(split))
        blind = self.world == "open" and self.threshold not in ("auto", "none") and self.words is None
        return [drawn, *(() if blind or self.read == "prompts" else by_kind(self, size))]


def _slots(template: str) -> list[str]:
    return [slot for slot in ("{attribute}", "{object}") if slot in template]


def sweep_table(sweep: Sweep) -> Table:
    rows = [(f"{b:.4g}", *(f"{100 * x:.1f}" for x in (s, u, 2 * s * u / (s + u) if s + u else 0.0)))
            for b, s, u in zip(sweep.biases, sweep.seen, sweep.unseen, strict=True)]  # fmt: skip
    return Table("Bias on unseen compositions", ["bias", "seen, %", "unseen, %", "harmonic mean, %"], rows)
