"""Bags: which bags are positive, and which of their instances make them so, from labels of bags alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import InputError, did_you_mean
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.pairwise import accuracy_at, auc, best_threshold, placements
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.searches import Example, Hit
from nearfar.evaluation.task import Part, Reference, Scores, Table, Task, first_role, register
from nearfar.sources.bags import Bags, bags_of, mixed, places_of, positive_class
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

SHOWN = 5  # instances of a bag in the report
STRENGTHS = (0.01, 0.1, 1.0)


@register
class BagTask(Task):
    """Area under the ROC curve of instances (where their labels are known) and of bags.

    A model that tells bags is asked; other vectors get a logistic regression on the label of the bag of each training
    row, and a bag the mean of its instances' probabilities.

    Args:
        positive: the class that makes a bag positive. auto: of two, the last by name.
        instance_positive: the label of an instance that makes it positive. auto: the class of the bags, if instances
            have that too, else of two the last by name.
    """

    metrics = {
        "instance_auc": Metric("instance AUC"),
        "bag_auc": Metric("bag AUC"),
        "bag_accuracy": Metric("bag accuracy"),
    }
    part = Part("what is told", "what is told", "All instances, and those of positive bags among each other.")
    chance_words = "scores that say nothing"
    needs = (
        "It needs bags with one label each: --bag COLUMN --target COLUMN (and --label COLUMN for labels of single "
        "instances, which only measure)."
    )
    max_train = 10_000

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        positive: str = "auto",
        instance_positive: str = "auto",
    ):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles = (self.role,)
        self.positive = positive_class(data, None if positive == "auto" else positive)
        self.column = self._instance_column()
        self.instance_class = self._instance_class(instance_positive)
        self.primary = "instance_auc" if self.column is not None else "bag_auc"
        self.beside = "bag_auc" if self.column is not None else "bag_accuracy"

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return (
            "bag" in data.roles
            and data.targets is not None
            and first_role(data, modalities) is not None
            and not mixed(data).any()
        )

    @classmethod
    def priority(cls, data: Data) -> int | None:
        """Before labels, where bags of two classes were named."""
        return 65 if len(data.target_names) == 2 else None

    def _instance_column(self) -> str | None:
        """The first column of labels that is not the one of the bags."""
        own = self.data.roles.get("target") or next(iter(self.data.labels), None)
        return next((name for name in self.data.labels if name != own), None)

    def _instance_class(self, wanted: str) -> int:
        if self.column is None:
            return -1
        names, same = self.data.label_names[self.column], self.data.target_names[self.positive]
        found = wanted if wanted != "auto" else same if same in names else names[1] if len(names) == 2 else None
        if found not in names:
            told = "" if found is None else f"No instance is '{found}'.{did_you_mean(found, names)} "
            raise InputError(
                f"{told}Which of the labels in '{self.column}' makes an instance positive is not known: "
                f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}.",
                "Name it: --task 'bags --instance-positive NAME'.",
            )
        return names.index(str(found))

    def bags(self, split: str) -> Bags:
        """The bags of a split that have a label."""
        found = bags_of(self.data, self.rows(split))
        kept = found.rows[found.labels[found.of] >= 0]
        if not len(kept):
            raise InputError(f"No bag of the {split} split has a label.", "Check the columns of --target and --split.")
        return bags_of(self.data, kept)

    def truth(self, bags: Bags) -> np.ndarray:
        return bags.labels == self.positive

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        bags = self.bags(split)
        self.both_kinds(bags, split)
        instance, whole, limit = self.scores_of(embed, bags, split)
        return self.scored(bags, instance, whole, limit, split, examples)

    def scores_of(self, embed: Any, bags: Bags, split: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Scores of instances (n,) and bags (k,), and the bag score from which on a bag is called positive, which
        validation bags chose (those of training, where validation bags are scored)."""
        chosen, answer = self.bags("train" if split == "val" else "val"), getattr(embed, "inference", None)
        if answer is None or (found := self.answers(embed, answer, bags)) is None:
            fit = self.probe(embed)
            found, known = ((p := fit(one.rows), mean_of(p, one)) for one in (bags, chosen))
        else:
            known = self.answers(embed, answer, chosen)
        assert known is not None
        return found[0], found[1], best_threshold(known[1], self.truth(chosen))

    def answers(self, embed: Any, answer: Any, bags: Bags) -> tuple[np.ndarray, np.ndarray] | None:
        """What a model that tells bags says of them; None for one that does not."""
        import torch

        vectors = np.array(embed.raw(self.role, bags.rows))
        with torch.inference_mode():
            told = answer.of_bags(torch.from_numpy(vectors), torch.from_numpy(bags.of))
        return None if told is None else (told[0].double().cpu().numpy(), told[1].double().cpu().numpy())

    def probe(self, embed: Embed) -> Any:
        """rows -> probability of the positive class, by a logistic regression on the training rows' bag labels. Its
        strength is chosen by the AUC of bags that it was not fitted to: a fifth of the training bags."""
        from nearfar.evaluation.probe import fit_probe

        train = self.bags("train")
        self.both_kinds(train, "train")
        held = np.random.default_rng(0).permutation(len(train)) < max(1, len(train) // 5)
        rows = self.draw(train.rows, self.max_train)
        place = np.searchsorted(train.rows, rows)
        z, y, inside = np.asarray(embed(self.role, rows)), self.truth(train)[train.of[place]], held[train.of[place]]
        best = STRENGTHS[-1]
        if all(len(np.unique(part)) == 2 for part in (y[inside], y[~inside])):
            tried = [fit_probe(z[~inside], y[~inside], c).predict_proba(z[inside])[:, 1] for c in STRENGTHS]
            best = STRENGTHS[int(np.argmax([auc(p, y[inside]) for p in tried]))]
        fitted = fit_probe(z, y, best)
        return lambda asked: fitted.predict_proba(np.asarray(embed(self.role, asked)))[:, 1]

    def scored(
        self, bags: Bags, instance: np.ndarray, whole: np.ndarray, limit: float, split: str, examples: int = 0
    ) -> Scores:
        assert self.data.bags is not None
        truth = self.truth(bags)
        metrics = {"bag_auc": auc(whole, truth), "bag_accuracy": accuracy_at(whole, truth, limit)}
        values, clusters = placements(whole, truth), np.flatnonzero(truth)
        every = len(np.unique(self.data.bags[self.rows(split)]))
        counts = {"bags": {"queries": len(bags), "skipped": every - len(bags), "gallery": int(truth.sum())}}
        parts = {"bags": dict(metrics)}
        if self.column is not None:
            labels = self.data.labels[self.column][bags.rows]
            known, hot = labels >= 0, labels == self.instance_class
            metrics = {"instance_auc": auc(instance[known], hot[known])} | metrics
            values, clusters = placements(instance[known], hot[known]), bags.of[known & hot]
            parts["instances"] = {"instance_auc": metrics["instance_auc"]}
            inside = known & truth[bags.of]
            if 0 < hot[inside].sum() < inside.sum():
                parts["instances of positive bags"] = {"instance_auc": auc(instance[inside], hot[inside])}
            counts["instances"] = {
                "queries": int(known.sum()),
                "skipped": int((~known).sum()),
                "gallery": int(hot.sum()),
            }
        return Scores(
            self.primary,
            metrics[self.primary],
            metrics,
            parts,
            {self.primary: values},
            {self.primary: clusters},
            counts,
            split,
            *self.shown(bags, instance, whole, examples),
        )

    def check(self) -> None:
        for split in dict.fromkeys(("train", "val", *self.held_out)):  # validation bags choose the threshold
            self.both_kinds(self.bags(split), split)

    def both_kinds(self, bags: Bags, split: str) -> None:
        """Raises where all bags or instances of a split are of one kind."""
        kinds = {"bag": (self.truth(bags), "--target")}
        if self.column is not None and split != "train":
            labels = self.data.labels[self.column][bags.rows]
            kinds["instance"] = labels[labels >= 0] == self.instance_class, "--label"
        for what, (truth, option) in kinds.items():
            if not 0 < truth.sum() < len(truth):
                many = f"{'All' if truth.any() else 'None'} of the {len(truth):,} {what}s of the {split} split"
                raise InputError(
                    f"{many} {'are' if truth.any() else 'is'} positive: there is nothing to tell apart.",
                    f"Check the column of {option}, or divide the bags otherwise: a column of splits "
                    "(--split), another --split-seed, more bags.",
                )

    def shown(
        self, bags: Bags, instance: np.ndarray, whole: np.ndarray, count: int
    ) -> tuple[list[Example], list[Table]]:
        """The highest instances of the highest and the lowest bags, as images or texts and as a table."""
        if not count:
            return [], []
        order, members = np.argsort(-whole, kind="stable"), places_of(bags.of)
        chosen = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
        labels = None if self.column is None else self.data.labels[self.column][bags.rows]
        examples, rows = [], []
        for bag in order[chosen]:
            own = members[bag][np.argsort(-instance[members[bag]], kind="stable")][:SHOWN]
            kind = self.data.target_names[bags.labels[bag]]
            right = self.truth(bags)[[bag] * len(own)] if labels is None else labels[own] == self.instance_class
            hits = [
                Hit(self.role, int(bags.rows[i]), -1, float(instance[i]), bool(ok))
                for i, ok in zip(own, right, strict=True)
            ]
            rank = int(np.argmax(right)) + 1 if right.any() else 0
            examples.append(
                Example(
                    f"bag {bags.names[bag]} ({kind}), score {whole[bag]:.2f}: its highest instances",
                    self.role,
                    int(bags.rows[own[0]]),
                    None,
                    rank,
                    hits,
                )
            )
            rows += [
                [bags.names[bag], kind, f"{whole[bag]:.3f}", str(self.data.keys[bags.rows[i]]), f"{instance[i]:.3f}"]
                for i in own
            ]
        return examples, [Table("Highest instances of bags", ["bag", "label", "bag score", "instance", "score"], rows)]

    def chance(self, split: str) -> Scores:
        """Equal scores for all: the commoner kind of bag."""
        bags = self.bags(split)
        return self.scored(
            bags, np.zeros(len(bags.rows)), np.zeros(len(bags)), -1.0 if self.truth(bags).mean() > 0.5 else 1.0, split
        )

    def references(self, *, size: int = 32) -> list[Reference]:
        return [
            Reference("chance", "chance", "chance", lambda split, examples=0: self.chance(split)),
            *by_kind(self, size),
        ]

    def describe(self) -> str:
        name = self.data.target_names[self.positive]
        head = (
            f"Area under the ROC curve of instances ('{self.column}'), chance 50; beside it that of bags "
            if self.column is not None
            else "Area under the ROC curve of bags, chance 50 "
        )
        return (
            f"{head}(positive: '{name}'), and their accuracy at the threshold that validation bags chose. A model "
            "that tells bags is asked; other vectors are read by a logistic regression on the label of each "
            "training row's bag, whose mean is the bag's score. The interval is over positive items, by bag."
        )


def mean_of(p: np.ndarray, bags: Bags) -> np.ndarray:
    """The mean over each bag's instances, (k,)."""
    return np.bincount(bags.of, p, minlength=len(bags)) / bags.sizes
