"""Generalised zero-shot: classes described by attributes, some of which were never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.compositional import Stacked, best_gamma, per_class, stacked, unit_rows
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.prompts import SCALE, Read, by_prompts, embeds_texts, ridge_onto_attributes
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.target_task import TargetTask
from nearfar.evaluation.task import Reference, Scores, Table, first_role, register
from nearfar.evaluation.zero_shot import SLOT, class_hits, in_words
from nearfar.sources.class_attributes import ClassAttributes, class_attributes, has_class_attributes
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

DRAWS = 10  # of random scores, whose mean is the row "chance"


@register
class GeneralisedZeroShotTask(TargetTask):
    """How well classes described by attributes are told, trained on or not (Xian et al. 2019): mean accuracy per class
    of seen (S) and unseen (U) classes among all of them, their harmonic mean H with a constant gamma on the scores of
    unseen classes (calibrated stacking), and zero-shot accuracy, among unseen classes alone.

    A model that scores described classes is asked. Of others, those with a tower of texts compare the image with the
    class in a hard prompt, and from the vectors of the rest a ridge regression tells the attributes, which are compared
    with those of each class (cosine).

    Args:
        gamma: what is added to the scores of unseen classes; auto: what gives the best H on validation rows.
        template: a hard prompt with {} in the place of the class.
        read: prompts or classifiers, where not what suits the model (auto).
    """

    primary = "harmonic"
    metrics = {
        "harmonic": Metric("harmonic mean"),
        "seen": Metric("seen"),
        "unseen": Metric("unseen"),
        "zero-shot": Metric("zero-shot, unseen alone"),
    }
    beside = "zero-shot"
    chance_words = "scores drawn at random"
    needs = "It needs a column of classes and a file of their attributes: --target COLUMN --class-attributes FILE."
    also = ("text",)

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        gamma: float | Literal["auto"] = "auto",
        template: str = "a photo of a {}",
        read: Read = "auto",
    ):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles = (self.role,)
        self.gamma, self.template, self.read = gamma, template, read
        if SLOT not in template:
            raise InputError(f"The template '{template}' has no {SLOT}.", f"Write {SLOT} where the class stands.")

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return has_class_attributes(data) and super().possible(data, modalities)

    @classmethod
    def priority(cls, data: Data) -> int | None:
        return 75

    @property
    def described(self) -> ClassAttributes:
        return class_attributes(self.data)

    def candidates(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Classes (k,) of training rows and of the split, and which of them were trained on (k,)."""
        train = np.unique(self.targets[self.labelled("train")])
        found = np.union1d(train, self.targets[self.labelled(split)])
        return found, np.isin(found, train)

    def check(self) -> None:
        super().check()
        for split in self.held_out:
            classes, seen = self.candidates(split)
            held = np.unique(self.targets[self.labelled(split)])
            if seen.all() or not np.isin(held, classes[seen]).any():
                kind = "was trained on" if seen.all() else "stands in no training row"
                raise InputError(f"Every class of the {split} split of {self.data.name} {kind}; both kinds are "
                                 "measured.", "Leave out --split: some classes are then held out.")  # fmt: skip

    def describe(self) -> str:
        found = self.described
        return (
            f"How well '{self.column}' ({len(found.classes)} classes, described by {len(found.names)} attributes) is "
            "told: mean accuracy per class of seen and of unseen classes among all, and their harmonic mean, with a "
            "constant on unseen classes that validation rows choose; beside it among unseen classes alone."
        )

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        rows = self.draw(self.labelled(split))
        classes, seen = self.candidates(split)
        scores, gamma = self.class_scores(embed, rows, classes), self.gamma
        if gamma == "auto":
            if split == "val":
                gamma = best_gamma(scores, np.searchsorted(classes, self.targets[rows]), seen)
            else:
                held, (known, trained) = self.draw(self.labelled("val")), self.candidates("val")
                places = np.searchsorted(known, self.targets[held])
                gamma = best_gamma(self.class_scores(embed, held, known), places, trained)
        unknown = rows[~np.isin(self.targets[rows], classes[seen])]
        return self.scored(scores, self.class_scores(embed, unknown, classes[~seen]), rows, split, float(gamma))

    def class_scores(self, embed: Any, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """(n, k) of rows and some classes, told among these."""
        answer, found = getattr(embed, "inference", None), self.described
        names, matrix = [found.classes[k] for k in classes], found.matrix[classes]
        if answer is not None and answer.describes and self.read == "auto":
            import torch

            with torch.inference_mode():
                return answer.of_described(self.data, rows, embed, names, matrix).double().cpu().numpy()
        if self.read == "prompts" or (self.read == "auto" and embeds_texts(embed)):
            return by_prompts(embed, self.role, rows, [self.template.replace(SLOT, in_words(name)) for name in names])
        train = self.draw(self.labelled("train"))
        told = ridge_onto_attributes(
            np.asarray(embed(self.role, train)), found.matrix[self.targets[train]], np.asarray(embed(self.role, rows))
        )
        return SCALE * unit_rows(told) @ unit_rows(matrix).T

    def scored(self, scores: np.ndarray, alone: np.ndarray, rows: np.ndarray, split: str, gamma: float) -> Scores:
        """scores: (n, k) of rows among all candidates; alone: of those of unseen classes among these."""
        classes, seen = self.candidates(split)
        truth = np.searchsorted(classes, self.targets[rows])
        found = stacked(scores, truth, seen, gamma)
        unknown = np.searchsorted(classes[~seen], classes[truth[~seen[truth]]])
        zero_shot = per_class(class_hits(alone, unknown), unknown)
        metrics = {"harmonic": found.harmonic, "seen": found.seen, "unseen": found.unseen, "zero-shot": zero_shot}
        skipped = len(self.rows(split)) - len(rows)
        counts = {"rows": {"queries": len(rows), "skipped": skipped, "gallery": len(classes)}}
        return Scores("harmonic", found.harmonic, metrics, counts=counts, split=split,
                      tables=[self.by_class(scores, truth, found, split)], chosen={"gamma": gamma})  # fmt: skip

    def by_class(self, scores: np.ndarray, truth: np.ndarray, found: Stacked, split: str) -> Table:
        classes, seen = self.candidates(split)
        right = class_hits(scores + found.gamma * ~seen, truth)
        rows = [(self.described.classes[classes[k]], "seen" if seen[k] else "unseen", int((truth == k).sum()),
                 f"{100 * right[truth == k].mean():.1f}") for k in np.unique(truth)]  # fmt: skip
        return Table(f"Classes, with {found.gamma:.4g} added to the scores of unseen ones",
                     ["class", "in training", "rows", "accuracy, %"], rows)  # fmt: skip

    def chance(self, split: str) -> Scores:
        """The mean over scores that are drawn at random, with gamma chosen on validation rows as for a model."""
        rng, drawn = np.random.default_rng(0), []
        rows, (classes, seen) = self.draw(self.labelled(split)), self.candidates(split)
        held, (known, trained) = self.draw(self.labelled("val")), self.candidates("val")
        unknown = int((~np.isin(self.targets[rows], classes[seen])).sum())
        for _ in range(DRAWS):
            places = np.searchsorted(known, self.targets[held])
            gamma = best_gamma(rng.normal(size=(len(held), len(known))), places, trained)
            alone = rng.normal(size=(unknown, int((~seen).sum())))
            drawn.append(self.scored(rng.normal(size=(len(rows), len(classes))), alone, rows, split, gamma))
        metrics = {name: float(np.mean([one.metrics[name] for one in drawn])) for name in drawn[0].metrics}
        return Scores("harmonic", metrics["harmonic"], metrics, counts=drawn[0].counts, split=split)

    def references(self, *, size: int = 32) -> list[Reference]:
        drawn = Reference("chance", "random scores", "chance", lambda split, examples=0: self.chance(split))
        return [drawn, *(() if self.read == "prompts" else by_kind(self, size))]
