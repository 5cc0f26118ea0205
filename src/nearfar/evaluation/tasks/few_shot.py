"""Few-shot: tell new classes apart after a few labelled items of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from nearfar.checks import PositiveInt, Range
from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.fewshot import Classifier, Transductive, few_shot
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.statistics import interval
from nearfar.evaluation.task import Part, Reference, Scores, Task, counts_in, first_role, register
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class FewShotTask(Task):
    """Episodes over classes of the split: tell `ways` of them apart after seeing `shots` items of each.

    The main score is the accuracy with one shot, without transport; what sees all queries of an episode at once stands
    beside it ("1-shot+opta"). Meant for splits by class (--unit with the label column).

    Args:
        ways: classes of an episode. auto: 5, or as many as each held-out split has.
        shots: labelled items a class, one or several numbers separated by commas.
        queries: unlabelled items a class.
        episodes: how many are drawn.
        classifier: what tells queries apart: logistic, a regression on the class means of standardised vectors;
            nearest, the class mean at the least Euclidean distance, of vectors as the model gives them.
        transductive: what moves the class means by all queries: opta, optimal transport onto them, as if each class
            had as many; soft-k-means, each query by itself.
    """

    part = Part("setting", "settings", "")
    chance_words = "one of the classes, drawn"

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        ways: Annotated[int, Range(2)] | Literal["auto"] = "auto",
        shots: str | Sequence[int] = "1,5",
        queries: PositiveInt = 15,
        episodes: Annotated[int, Range(2, 1_000_000)] = 600,
        classifier: Classifier = "logistic",
        transductive: Transductive = "opta",
    ):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles, self.column = (self.role,), list(data.labels)[-1]
        self.shots, self.queries, self.count = counts_in("shots", shots), queries, episodes
        self.classifier, self.transductive = classifier, transductive
        self.ways = self.auto_ways() if ways == "auto" else ways
        self.primary = f"{self.shots[0]}-shot"
        names = [f"{k}-shot{more}" for k in self.shots for more in ("", f"+{self.transductive}")]
        ends = {"low": Metric("from"), "high": Metric("to")}
        self.metrics = {name: Metric(f"{name} accuracy" if name == self.primary else name) for name in names} | {
            "accuracy": Metric("accuracy"),
            "gain": Metric("gain"),
            **ends,
        }

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return bool(data.labels) and first_role(data, modalities) is not None

    @classmethod
    def priority(cls, data: Data) -> int:
        return 10

    def auto_ways(self) -> int:
        """5, or as many classes with enough items as each held-out split has."""
        least = max(self.shots) + self.queries
        held = [split for split in ("val", "test") if len(self.data.splits.get(split, ()))]
        sizes = {split: np.unique(self.items(split)[1], return_counts=True)[1] for split in held}
        rich = {split: int((size >= least).sum()) for split, size in sizes.items()}
        poor = min(rich, key=lambda split: rich[split], default=None)
        if poor is not None and rich[poor] < 2:
            raise InputError(
                f"Few-shot episodes on '{self.column}' need 2 classes of at least {least} items in each held-out "
                f"split; {rich[poor]} of the {len(sizes[poor])} classes of {poor} have them.",
                "Keep whole classes out with --unit and the label column, give more items a class, or choose another "
                "--task; `nearfar evaluate` also takes fewer --shots and --queries.",
            )
        return 5 if poor is None else min(5, rich[poor])

    def items(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows with a label, and their labels; of rows with one label and equal content the first, so that no query of
        an episode is a copy of a labelled item."""
        rows = self.rows(split)
        labels = np.asarray(self.data.labels[self.column])[rows]
        rows, labels = rows[labels >= 0], labels[labels >= 0]
        content = np.asarray(self.data.content(self.role))[rows]
        first = np.sort(np.unique(np.stack([labels, content], 1), axis=0, return_index=True)[1])
        return rows[first], labels[first]

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        rows, labels = self.items(split)
        z = embed(self.role, rows) if self.classifier == "logistic" else embed.raw(self.role, rows)
        found = {
            k: few_shot(
                z,
                labels,
                ways=self.ways,
                shots=k,
                queries=self.queries,
                count=self.count,
                classifier=self.classifier,
                transductive=self.transductive,
            )
            for k in self.shots
        }
        scores = self.scored(
            {f"{k}-shot": one.plain for k, one in found.items()}
            | {f"{k}-shot+{self.transductive}": one.aligned for k, one in found.items()},
            split,
        )
        for k, one in found.items():
            gain = one.gain
            scores.directions[f"{self.ways}-way {k}-shot, what {self.transductive} adds"] = {
                "gain": gain.mean,
                "low": gain.mean if gain.low is None else gain.low,
                "high": gain.mean if gain.high is None else gain.high,
            }
        return scores

    def scored(self, values: dict[str, np.ndarray], split: str) -> Scores:
        """Scores from the accuracy of each episode, by setting."""
        metrics = {name: float(one.mean()) for name, one in values.items()}
        ends = {name: interval(one).bounds or (metrics[name],) * 2 for name, one in values.items()}
        directions = {
            f"{self.ways}-way {name}": {"accuracy": metrics[name], "low": ends[name][0], "high": ends[name][1]}
            for name in values
        }
        counts = {
            "episodes": {
                "queries": self.count * self.ways * self.queries,
                "skipped": 0,
                "gallery": len(np.unique(self.items(split)[1])),
            }
        }
        return Scores(
            self.primary,
            metrics[self.primary],
            metrics,
            directions,
            {self.primary: values[self.primary]},
            {self.primary: np.arange(self.count)},
            counts,
            split,
        )

    def chance(self, split: str) -> Scores:
        """One class in `ways` is right."""
        names = [f"{k}-shot{more}" for k in self.shots for more in ("", f"+{self.transductive}")]
        return self.scored({name: np.full(self.count, 1 / self.ways) for name in names}, split)

    def references(self, *, size: int = 32) -> list[Reference]:
        return [
            Reference("chance", "chance", "chance", lambda split, examples=0: self.chance(split)),
            *by_kind(self, size),
        ]

    def unseen(self, split: str) -> tuple[int, int]:
        """How many classes of the split are in no training row, and how many there are."""
        labels = np.asarray(self.data.labels[self.column])
        here, trained = np.unique(self.items(split)[1]), labels[np.asarray(self.data.splits["train"])]
        return int((~np.isin(here, trained)).sum()), len(here)

    def describe(self) -> str:
        split = next((name for name in ("test", "val") if len(self.data.splits.get(name, ()))), "train")
        new, all_of_them = self.unseen(split)
        held = (
            f"none of the {all_of_them} classes was trained on"
            if new == all_of_them
            else f"{new} of the {all_of_them} classes were never trained on; --unit with the label column keeps all out"
        )
        how = {"logistic": "", "nearest": " by the nearest class mean"}[self.classifier]
        moved = {"opta": "by optimal transport onto the queries", "soft-k-means": "by soft k-means on the queries"}[
            self.transductive
        ]
        return (
            f"{self.ways}-way episodes on '{self.column}': accuracy{how} after "
            f"{' and '.join(map(str, self.shots))} labelled items a class, {self.queries} unlabelled ones, mean of "
            f"{self.count} episodes ({held}). "
            f"+{self.transductive}: prototypes moved {moved}, which sees them all at once."
        )
