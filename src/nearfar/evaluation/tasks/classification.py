"""Classification: how often a model tells the class of a row, as a whole and in its worst part."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.probe import linear_probe
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.target_task import TargetTask
from nearfar.evaluation.task import Reference, Scores, first_role, pair_of, register
from nearfar.modalities import kinds
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def macro_f1(truth: np.ndarray, told: np.ndarray) -> float:
    """The mean over the classes of `truth` (n,) of their F1, 0..1; -1 in `told` is no class."""
    found = []
    for name in np.unique(truth):
        hits = int(((truth == name) & (told == name)).sum())
        found.append(2 * hits / int((truth == name).sum() + (told == name).sum()))
    return float(np.mean(found))


@register
class ClassTask(TargetTask):
    """How often the class of a row is told. A model that tells classes is asked; other vectors are read by a logistic
    regression, of both columns ([u, v, u * v, |u - v|]) where there are two."""

    metrics = {
        "accuracy": Metric("accuracy"),
        "macro f1": Metric("macro F1"),
        "worst": Metric("accuracy of the worst domain"),
    }
    beside = "macro f1"
    chance_words = "always the commonest class"
    needs = "It needs a column of classes: --target COLUMN."

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None):
        super().__init__(data)
        self.roles = pair_of(data, modalities) or (str(first_role(data, modalities)),)

    @property
    def target_labels(self) -> np.ndarray:
        return self.targets

    def check(self) -> None:
        if len(np.unique(self.targets[self.labelled("train")])) < 2:
            raise InputError(f"'{self.column}' has one value only in the training part, so accuracy says nothing.",
                             "Name another column with --target.")  # fmt: skip
        super().check()

    def describe(self) -> str:
        return (
            f"How often '{self.column}' is told: accuracy, macro F1 and, where rows have domains, the accuracy of the "
            "worst one. A model that tells classes is asked; other vectors are read by a logistic regression."
        )

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        rows, answer = self.draw(self.labelled(split)), getattr(embed, "inference", None)
        if answer is not None and answer.classifies:
            return self.scored(self.asked(answer, embed, rows), rows, split)
        return self.scored(self.probed(embed, split, rows), rows, split)

    def asked(self, answer: Any, embed: Embed, rows: np.ndarray) -> np.ndarray:
        """What a model says of each row, as a number of `target_names`; -1 for a class that these data do not have."""
        import torch

        with torch.inference_mode():
            names = answer.of_classes(self.data, rows, embed)
        place = {name: k for k, name in enumerate(self.data.target_names)}
        return np.array([place.get(name, -1) for name in names])

    def probed(self, embed: Embed, split: str, rows: np.ndarray) -> np.ndarray:
        train = self.draw(self.labelled("train"))
        held = self.draw(self.labelled("val")) if split != "val" else train[:0]
        if split == "val":
            order = np.random.default_rng(0).permutation(train)
            train, held = order[len(order) // 5 :], order[: max(1, len(order) // 5)]
        parts = [part for some in (train, held, rows) for part in (self.vectors(embed, some), self.targets[some])]
        return linear_probe(*parts).told

    def vectors(self, embed: Embed, rows: np.ndarray) -> np.ndarray:
        u, *other = (np.asarray(embed(role, rows)) for role in self.roles)
        return np.concatenate([u, other[0], u * other[0], abs(u - other[0])], 1) if other else u

    def scored(self, told: np.ndarray, rows: np.ndarray, split: str) -> Scores:
        truth = self.targets[rows]

        def measured(part: np.ndarray) -> dict[str, float]:
            return {"accuracy": float(right[part].mean()), "macro f1": macro_f1(truth[part], told[part])}

        right = (told == truth).astype(np.float64)
        return self.scores_of(right, rows, split, measured)

    def references(self, *, size: int = 32) -> list[Reference]:
        def commonest(split: str, examples: int = 0) -> Scores:
            rows = self.draw(self.labelled(split))
            guess = np.bincount(self.targets[self.labelled("train")]).argmax()
            return self.scored(np.full(len(rows), guess), rows, split)

        made: Callable[..., Scores] = commonest
        alone = [self] if len(kinds(self.roles)) == 1 else [self.of_role(role) for role in self.roles]
        rows = [reference for task in alone for reference in by_kind(task, size)]
        return [Reference("chance", "commonest class", "chance", made), *rows]

    def of_role(self, role: str) -> ClassTask:
        """The same task on one of its columns."""
        other = copy.copy(self)
        other.roles = (role,)
        return other
