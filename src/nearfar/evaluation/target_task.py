"""Tasks on a column of classes of which each row is told one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.task import Scores, Table, Task, first_role

if TYPE_CHECKING:
    from nearfar.sources.data import Data


class TargetTask(Task):
    """A task on the column of classes, of which rows without a class are no part."""

    primary = "accuracy"

    def __init__(self, data: Data):
        super().__init__(data)
        self.column = str(data.roles.get("target") or next(iter(data.labels)))

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return data.targets is not None and first_role(data, modalities) is not None

    @property
    def targets(self) -> np.ndarray:
        """int64 (N,) into `data.target_names`, -1 where a row has no class."""
        return np.asarray(self.data.targets)

    def labelled(self, split: str) -> np.ndarray:
        """Rows of the split that have a class."""
        rows = self.rows(split)
        rows = rows[self.targets[rows] >= 0]
        if not len(rows):
            raise InputError(f"No row of the {split} split has a class in '{self.column}'.")
        return rows

    def check(self) -> None:
        for split in self.held_out:
            self.labelled(split)

    def scores_of(
        self,
        right: np.ndarray,
        rows: np.ndarray,
        split: str,
        measured: Callable[[np.ndarray], dict[str, float]],
        *,
        gallery: int = 0,
        tables: Sequence[Table] = (),
    ) -> Scores:
        """The scores of rows (n,), as a whole, by domain, and of the worst of these.

        right: how far the class of each is told, (n,) 0..1; measured: places among the rows -> metrics, "accuracy"
        among them; gallery: among how many classes it is told; tables: for the report."""
        domains, metrics = self.by_domain(rows, measured), measured(np.arange(len(rows)))
        if domains:
            metrics["worst"] = min(one["accuracy"] for one in domains.values())
        skipped = len(self.rows(split)) - len(rows)
        return Scores(
            "accuracy",
            metrics["accuracy"],
            metrics,
            per_query={"accuracy": right},
            clusters={"accuracy": self.units(rows)},
            counts={"rows": {"queries": len(rows), "skipped": skipped, "gallery": gallery}},
            split=split,
            domains=domains,
            tables=list(tables),
        )
