"""Trees: whether similarities follow how far the annotation trees of two dialogues agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.pairwise import spearman
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.task import Reference, Scores, Task, first_role, register
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class TreeTask(Task):
    """Whether the cosine of two dialogues follows the mean score of their trees; beside it how often the nearest other
    dialogue has the same intents.

    Args:
        most: dialogues of a split that are compared with each other, at most.
    """

    primary = "spearman"
    metrics = {"spearman": Metric("Spearman", "correlation"), "intent": Metric("intent of the nearest")}
    beside = "intent"
    chance_words = "no correlation"
    needs = "It needs a column of items and their annotation trees: --tree COLUMN."

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None, most: PositiveInt = 1000):
        super().__init__(data)
        self.roles, self.most = (str(first_role(data, modalities)),), most

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return "tree" in data.roles and first_role(data, modalities) is not None

    @classmethod
    def priority(cls, data: Data) -> int:
        return 55

    def annotated(self, split: str) -> np.ndarray:
        """Rows of the split that have a tree, the same ones each time."""
        trees = self.data.trees
        assert trees is not None
        rows = np.array([row for row in self.rows(split) if trees[row]], np.int64)
        if len(rows) < 3:
            raise InputError(
                f"{len(rows)} rows of the {split} split have a tree in '{self.data.roles['tree']}', and a "
                "correlation of pairs needs three.",
                "Annotate more of them, or choose another --task.",
            )
        return self.draw(rows, self.most)

    def check(self) -> None:
        for split in self.held_out:
            self.truth(self.annotated(split), split)

    def describe(self) -> str:
        return (
            f"How well the cosine of two rows follows the mean score of their trees ('{self.data.roles['tree']}'), "
            "over all pairs of different contents: Spearman's rank correlation (times 100; 0 is chance). Beside it, "
            "how often the nearest other row has the same intents, of rows whose intents stand twice."
        )

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        rows = self.annotated(split)
        z = np.asarray(embed(self.roles[0], rows), np.float64)
        unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        return self.scored(unit @ unit.T, rows, split)

    def scored(self, s: np.ndarray, rows: np.ndarray, split: str) -> Scores:
        """Scores from the similarity of each two rows."""
        from nearfar.sources.trees import VIEWS

        elements, truth, same = self.truth(rows, split)
        i, j = np.nonzero(np.triu(~same))
        value = spearman(s[i, j], truth[i, j])
        right = self.nearest_intent(s, same, [tree[VIEWS.index("I")] for tree in elements])
        metrics = {"spearman": value} | ({"intent": float(right.mean())} if len(right) else {})
        counts = {"pairs": {"queries": len(i), "skipped": len(self.rows(split)) - len(rows), "gallery": len(rows)}}
        return Scores("spearman", value, metrics, counts=counts, split=split)

    def truth(self, rows: np.ndarray, split: str) -> tuple[list, np.ndarray, np.ndarray]:
        """The trees' elements, the mean score of each two rows, and which rows have one content. Raises InputError
        where nothing can follow the scores: all contents are equal, or all scores."""
        from nearfar.losses import mean_score
        from nearfar.sources.trees import tree_elements

        assert self.data.trees is not None
        elements = [tree_elements(self.data.trees[row]) for row in rows]
        content = np.asarray(self.data.content(self.roles[0]))[rows]
        scores, same = mean_score(elements).numpy(), content[:, None] == content[None]
        pairs = scores[np.triu(~same)]
        if not len(pairs):
            raise InputError(f"All rows of the {split} split that have a tree are equal.", "Check the column of items.")
        if np.ptp(pairs) == 0:
            raise InputError(f"The trees of any two rows of the {split} split agree as much as those of any others: "
                             "there is nothing to follow.", "Choose another --task.")  # fmt: skip
        return elements, scores, same

    def nearest_intent(self, s: np.ndarray, same: np.ndarray, intents: Sequence[frozenset]) -> np.ndarray:
        """1 where the nearest row of another content has the same intents (of equally near ones their share), of the
        rows for which there is such a one."""
        codes = np.unique([repr(sorted(x)) for x in intents], return_inverse=True)[1].reshape(-1)
        there = (codes[:, None] == codes[None]) & ~same
        asked = there.any(1) & np.array([bool(x) for x in intents])
        hidden = np.where(same, -np.inf, s)[asked]
        nearest = np.isclose(hidden, hidden.max(1, keepdims=True), rtol=0, atol=1e-12)
        return (nearest & there[asked]).sum(1) / nearest.sum(1)

    def references(self, *, size: int = 32) -> list[Reference]:
        def nothing(split: str, examples: int = 0) -> Scores:
            rows = self.annotated(split)
            return self.scored(np.zeros((len(rows), len(rows))), rows, split)

        made: Callable[..., Scores] = nothing
        return [Reference("chance", "equal vectors", "chance", made), *by_kind(self, size)]
