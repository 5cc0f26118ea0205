"""Zero-shot: classes are told by their names alone, in the words of templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.target_task import TargetTask
from nearfar.evaluation.task import Reference, Scores, Table, first_role, register
from nearfar.evaluation.zero_shot import (
    class_hits,
    class_scores,
    names_of,
    read_class_names,
    read_templates,
    vectors_of_classes,
)
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

SHOWN = 20  # classes in the report, those told worst first


@register
class ZeroShotTask(TargetTask):
    """How often the class of an item is told by its name: the class whose name, in the words of the templates, is
    nearest to the item (CLIP, Radford et al. 2021). Nothing is trained on labels. Equal similarities count by chance.

    Args:
        templates: a sentence with {} where the class stands ("a photo of a {}."), or a file of them, one on each line;
            a class is the mean of its sentences. Default the class alone.
        class_names: file of the names of the classes, where the data hold codes: a table of class and name, or JSON
            {class: name or names}. Default the classes as they are, "_" as a blank.
    """

    metrics = {
        "accuracy": Metric("zero-shot accuracy"),
        "per class": Metric("mean accuracy per class"),
        "hit@5": Metric("among the 5 nearest"),
        "worst": Metric("accuracy of the worst domain"),
    }
    beside = "per class"
    chance_words = "a class at random"
    needs = "It needs a column of classes, and a model that embeds texts beside it."

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        templates: str | None = None,
        class_names: str | None = None,
    ):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles = tuple(dict.fromkeys([self.role, "text"]))
        self.templates = read_templates(templates)
        self.names = names_of(data.target_names, None if class_names is None else read_class_names(class_names))
        if len(self.names) < 2:
            raise InputError(f"'{self.column}' has one class only, so accuracy says nothing.",
                             "Name another column with --target.")  # fmt: skip

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return (modalities is None or "text" in modalities) and super().possible(data, modalities)

    def describe(self) -> str:
        words = f'{len(self.templates)} templates ("{self.templates[0]}", ...)' if len(self.templates) > 1 else (
            f'the template "{self.templates[0]}"')  # fmt: skip
        return (
            f"How often '{self.column}' ({len(self.names)} classes) is told by the names of its classes alone, in "
            f"{words}: nothing is trained on labels."
        )

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        rows = self.draw(self.labelled(split))
        classes = vectors_of_classes(embed, self.names, self.templates)
        return self.scored(class_scores(embed(self.role, rows), classes), rows, split)

    def scored(self, scores: np.ndarray, rows: np.ndarray, split: str) -> Scores:
        """scores: (n, C) of the rows against all classes."""
        truth = self.targets[rows]
        right, near = class_hits(scores, truth), class_hits(scores, truth, 5)

        def measured(part: np.ndarray) -> dict[str, float]:
            each = [right[part][truth[part] == one].mean() for one in np.unique(truth[part])]
            found = {"accuracy": float(right[part].mean()), "per class": float(np.mean(each))}
            return found | ({"hit@5": float(near[part].mean())} if scores.shape[1] > 5 else {})

        tables = [self.by_class(scores, truth, right)]
        return self.scores_of(right, rows, split, measured, gallery=scores.shape[1], tables=tables)

    def by_class(self, scores: np.ndarray, truth: np.ndarray, right: np.ndarray) -> Table:
        """The classes that are told worst, and what most of their rows are taken for."""
        told, lines = scores.argmax(1), []
        for one in np.unique(truth):
            part = truth == one
            wrong = told[part][told[part] != one]
            taken = self.names[np.bincount(wrong).argmax()][0] if len(wrong) else ""
            lines.append((float(right[part].mean()), self.names[one][0], int(part.sum()), taken))
        rows = [(name, count, f"{100 * share:.1f}", taken) for share, name, count, taken in sorted(lines)[:SHOWN]]
        return Table("Classes, those told worst first", ["class", "rows", "accuracy, %", "most often taken for"], rows)

    def references(self, *, size: int = 32) -> list[Reference]:
        def drawn(split: str, examples: int = 0) -> Scores:
            rows = self.draw(self.labelled(split))
            return self.scored(np.zeros((len(rows), len(self.names))), rows, split)

        def commonest(split: str, examples: int = 0) -> Scores:
            rows, scores = self.draw(self.labelled(split)), np.zeros(len(self.names))
            train = self.targets[self.data.splits["train"]]
            scores[np.bincount(train[train >= 0], minlength=len(scores)).argmax()] = 1
            return self.scored(np.broadcast_to(scores, (len(rows), len(scores))), rows, split)

        return [
            Reference("chance", "a class at random", "chance", drawn),
            Reference("commonest", "commonest class", "reference", commonest),
        ]
