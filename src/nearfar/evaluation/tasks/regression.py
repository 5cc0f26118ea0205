"""Regression: how well the target's number can be read from a vector, and whether near vectors have near numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.regression import Fit, ordering, ridge_probe
from nearfar.evaluation.task import Part, Reference, Scores, Table, Task, first_role, register
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

LARGEST = 8  # errors that the report lists


@register
class RegressionTask(Task):
    """Mean absolute error of a ridge regression on the vectors, its penalty chosen on validation rows; beside it R2 and
    the rank correlation of differences of the number with distances of vectors."""

    primary = "mae"
    metrics = {
        "mae": Metric("mean absolute error", "error", higher_is_better=False),
        "r2": Metric("R2", "value"),
        "ordering": Metric("ordering (Spearman)", "correlation"),
        "pearson": Metric("Pearson", "correlation", brief=False),
        "gm": Metric("geometric mean error", "error", higher_is_better=False, brief=False),
    }
    beside = "ordering"
    part = Part("part of the range", "parts of the range", "The error by where the number lies.")
    chance_words = "always the mean of the training rows"
    needs = "It needs a column of numbers to be told: --target COLUMN."
    max_pairs_of = 1000

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles = (self.role,)

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return "target" in data.roles and data.target_values is not None and first_role(data, modalities) is not None

    @classmethod
    def priority(cls, data: Data) -> int | None:
        """Before all others, since the target was named by hand; of a column that holds labels too only when asked."""
        return None if data.roles["target"] in list(data.roles.get("label") or ()) else 70

    @property
    def column(self) -> str:
        return str(self.data.roles["target"])

    @property
    def values(self) -> np.ndarray:
        return np.asarray(self.data.target_values, np.float64)

    def numbered(self, split: str) -> np.ndarray:
        """Rows of the split that have a number."""
        rows = self.rows(split)
        rows = rows[np.isfinite(self.values[rows])]
        if not len(rows):
            raise InputError(f"No row of the {split} split has a number in '{self.column}'.")
        return rows

    def probe_rows(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to fit on, to choose the penalty on, and to score: never one in two of them."""
        train, test = self.numbered("train"), self.draw(self.numbered(split))
        if len(np.unique(self.values[train])) < 2:
            raise InputError(
                f"'{self.column}' is the same number in all training rows: there is nothing to predict.",
                "Name another column with --target.",
            )
        if split == "val":
            order = np.random.default_rng(0).permutation(train)
            return np.sort(order[len(order) // 5 :]), np.sort(order[: max(1, len(order) // 5)]), test
        return train, self.draw(self.numbered("val")), test

    def check(self) -> None:
        for split in self.held_out:
            self.probe_rows(split)

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        parts = self.probe_rows(split)
        train, held, test = parts
        z = [embed(self.role, rows) for rows in parts]
        fit = ridge_probe(z[0], self.values[train], z[1], self.values[held], z[2], self.values[test])
        near = self.draw(np.arange(len(test)), self.max_pairs_of)
        return self.scored(fit, ordering(z[2][near], fit.truth[near]), train, test, split, examples)

    def scored(
        self, fit: Fit, order: float, train: np.ndarray, test: np.ndarray, split: str, examples: int = 0
    ) -> Scores:
        metrics = fit.metrics | {"ordering": order}
        third = np.searchsorted(np.quantile(self.values[train], [1 / 3, 2 / 3]), fit.truth)
        names = ("lowest third", "middle third", "highest third")
        parts = {
            name: {"mae": float(fit.errors[third == k].mean())} for k, name in enumerate(names) if (third == k).any()
        }
        counts = {
            "rows": {
                "queries": len(test),
                "skipped": len(self.rows(split)) - len(self.numbered(split)),
                "gallery": len(train),
            }
        }
        return Scores(
            "mae",
            metrics["mae"],
            metrics,
            parts,
            {"mae": fit.errors},
            {"mae": self.units(test)},
            counts,
            split,
            tables=self.largest(fit, test) if examples else [],
        )

    def largest(self, fit: Fit, rows: np.ndarray) -> list[Table]:
        worst = np.argsort(-fit.errors, kind="stable")[:LARGEST]
        return [
            Table(
                f"Largest errors of '{self.column}'",
                ["row", "number", "predicted", "error"],
                [
                    [str(self.data.keys[rows[k]]), *(f"{x[k]:.4g}" for x in (fit.truth, fit.predicted, fit.errors))]
                    for k in worst
                ],
            )
        ]

    def chance(self, split: str) -> Scores:
        """Always the mean of the training rows; distances that tell nothing."""
        train, _, test = self.probe_rows(split)
        truth = self.values[test]
        return self.scored(Fit(np.full(len(test), self.values[train].mean()), truth, np.inf), 0.0, train, test, split)

    def references(self, *, size: int = 32) -> list[Reference]:
        return [
            Reference("chance", "mean predictor", "chance", lambda split, examples=0: self.chance(split)),
            *by_kind(self, size),
        ]

    def describe(self) -> str:
        return (
            f"Mean absolute error of '{self.column}', in its own unit, by a ridge regression on frozen vectors "
            "whose penalty is chosen on validation rows (lower is better); beside it R2 and the rank correlation "
            "of differences of the number with distances of vectors (times 100; 0 is chance)."
        )
