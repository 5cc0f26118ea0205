"""Separation: what common and salient vectors tell of a label of both sets and of one of the target set alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import InputError, did_you_mean
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.probe import linear_probe
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.task import Part, Reference, Scores, Task, first_role, register
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

CODES = ("common", "salient")


@register
class SeparationTask(Task):
    """Four linear probes on target rows (SepCLR): the shared and the salient label, each from the common and from the
    salient vectors. Ideal are the shared label from the common vectors alone and the salient label from the salient
    ones alone; the score is how far the four lie from it in all. A model that gives one vector gives it for both, and
    lies as far from the ideal as chance, whatever it knows.

    Args:
        shared_label: column of the label that both sets have; default the first other one.
        salient_label: column of the label that the target set alone has; default the first that some rows lack.
    """

    primary = "deviation"
    metrics = {"deviation": Metric("deviation from the ideal", "error", higher_is_better=False),
               "shared from common": Metric("shared from common"),
               "shared from salient": Metric("shared from salient", higher_is_better=False),
               "salient from common": Metric("salient from common", higher_is_better=False),
               "salient from salient": Metric("salient from salient"),
               "accuracy": Metric("accuracy"), "balanced": Metric("balanced accuracy")}  # fmt: skip
    beside = "salient from salient"
    part = Part("probe", "probes", "What a linear probe reads from the vectors of the target rows.")
    chance_words = "always the commonest label"
    needs = "It needs two columns of labels (--label SHARED,SALIENT), of which the background rows lack the second."

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None, shared_label: str | None = None,
                 salient_label: str | None = None):  # fmt: skip
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles = (self.role,)
        self.salient = self._column("salient", salient_label, lambda: first_lacking(data.labels))
        self.shared = self._column("shared", shared_label, lambda: next(c for c in data.labels if c != self.salient))
        if self.shared == self.salient:
            raise InputError(f"The shared and the salient label are both '{self.shared}'.", "Name two columns.")

    def _column(self, option: str, given: str | None, usual: Any) -> str:
        if given is not None and given not in self.data.labels:
            raise InputError(f"--{option}-label {given}: there is no column of labels '{given}'."
                             f"{did_you_mean(given, list(self.data.labels))}",
                             f"Columns of labels: {', '.join(self.data.labels)} (--label).")  # fmt: skip
        return usual() if given is None else given

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return len(data.labels) > 1 and first_role(data, modalities) is not None

    def target_rows(self, split: str) -> np.ndarray:
        """Rows of the split that have both labels."""
        rows = self.rows(split)
        rows = rows[(self.labels("shared")[rows] >= 0) & (self.labels("salient")[rows] >= 0)]
        if not len(rows):
            raise InputError(f"No row of the {split} split has a value in both '{self.shared}' and '{self.salient}'.")
        return self.draw(rows)

    def labels(self, which: str) -> np.ndarray:
        return np.asarray(self.data.labels[self.shared if which == "shared" else self.salient])

    def probe_rows(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to fit on, to choose the strength on, and to score: never one in two of them."""
        train, test = self.target_rows("train"), self.target_rows(split)
        for which in ("shared", "salient"):
            if len(np.unique(self.labels(which)[train])) < 2:
                raise InputError(f"The {which} label has one value only among the target's training rows.",
                                 f"Name another column with --{which}-label.")  # fmt: skip
        if split != "val" and len(self.data.splits.get("val", ())):
            return train, self.target_rows("val"), test
        order = np.random.default_rng(0).permutation(train)
        return np.sort(order[len(order) // 5 :]), np.sort(order[: max(1, len(order) // 5)]), test

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        parts = self.probe_rows(split)
        read = {}
        for code in CODES:
            vectors = embed.of_variant(code)
            z = [vectors.raw(self.role, rows) for rows in parts]
            for which in ("shared", "salient"):
                y = [self.labels(which)[rows] for rows in parts]
                probe = linear_probe(z[0], y[0], z[1], y[1], z[2], y[2])
                read[f"{which} from {code}"] = probe.accuracy, probe.balanced
        return self.scored(read, parts, split)

    def scored(self, read: dict[str, tuple[float, float]], parts: Sequence[np.ndarray], split: str) -> Scores:
        metrics = {name: accuracy for name, (accuracy, _) in read.items()}
        off = sum(abs(metrics[name] - ideal) for name, ideal in self.ideal(parts).items())
        directions = {name: {"accuracy": accuracy, "balanced": balanced}
                      for name, (accuracy, balanced) in read.items()}  # fmt: skip
        counts = {"target rows": {"queries": len(parts[2]), "skipped": len(self.rows(split)) - len(parts[2]),
                                  "gallery": len(parts[0])}}  # fmt: skip
        return Scores("deviation", off, {"deviation": off, **metrics}, directions, counts=counts, split=split)

    def ideal(self, parts: Sequence[np.ndarray]) -> dict[str, float]:
        """What the four probes should read: all of the own label, of the other one what knowing nothing gives."""
        share = {which: self.commonest(which, parts)[0] for which in ("shared", "salient")}
        return {"shared from common": 1.0, "shared from salient": share["shared"],
                "salient from common": share["salient"], "salient from salient": 1.0}  # fmt: skip

    def commonest(self, which: str, parts: Sequence[np.ndarray]) -> tuple[float, float]:
        """Accuracy and balanced accuracy of always saying the commonest label of the training rows."""
        train, truth = self.labels(which)[parts[0]], self.labels(which)[parts[2]]
        guess = np.bincount(train).argmax()
        return float((truth == guess).mean()), 1 / len(np.unique(truth)) if guess in truth else 0.0

    def chance(self, split: str) -> Scores:
        parts = self.probe_rows(split)
        read = {f"{which} from {code}": self.commonest(which, parts)
                for which in ("shared", "salient") for code in CODES}  # fmt: skip
        return self.scored(read, parts, split)

    def references(self, *, size: int = 32) -> list[Reference]:
        return [Reference("chance", "chance", "chance", lambda split, examples=0: self.chance(split)),
                *by_kind(self, size)]  # fmt: skip

    def describe(self) -> str:
        return (f"Linear probes on target rows for '{self.shared}' (which both sets have) and '{self.salient}' (which "
                "the target set alone has), each from the common and from the salient vectors: how far the four "
                "accuracies lie in all from the ideal, 100 % from the own vectors and chance from the others (0 is "
                "ideal, lower is better).")  # fmt: skip


def first_lacking(labels: Any) -> str:
    """The first column of labels that some rows have no value in, else the last one."""
    return next((name for name, values in labels.items() if (np.asarray(values) < 0).any()), list(labels)[-1])
