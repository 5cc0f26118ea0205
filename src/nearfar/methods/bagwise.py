"""What methods of bags share: which training rows lie in positive bags, and answers for instances and bags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from nearfar.errors import InputError
from nearfar.losses.bags import bag_probabilities
from nearfar.methods.inference import Inference, Request
from nearfar.sources.bags import Bags, bags_of, places_of, positive_class

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@dataclass(frozen=True)
class LabelledBags:
    """The labelled bags of the training rows. positive: of each bag (k,); name: the class that makes a bag positive."""

    bags: Bags
    positive: np.ndarray
    name: str

    @property
    def positive_rows(self) -> np.ndarray:
        """bool (n,): which training rows lie in a positive bag."""
        return self.positive[self.bags.of]


def labelled_bags(data: Data, rows: np.ndarray, positive: str) -> LabelledBags:
    """The bags of training rows that all have a label; positive: the class, or "auto".

    Raises InputError for a bag with two labels, classes of which none is named positive, and training bags of one kind
    alone."""
    bags = bags_of(data, rows)
    name = data.target_names[positive_class(data, None if positive == "auto" else positive)]
    made = LabelledBags(bags, bags.labels == data.target_names.index(name), name)
    many = int(made.positive.sum())
    if many in (0, len(bags)):
        raise InputError(
            f"{'None' if not many else 'All'} of the {len(bags):,} training bags {'is' if not many else 'are'} "
            f"'{name}': there is nothing to tell apart.",
            "Both kinds of bags are needed in the training part: check the columns of --target, --bag and --split.",
        )
    return made


class BagInference(Inference):
    """Scores instances and bags; a subclass writes `of_bags`. positive: the class whose score it is."""

    whole = True

    def __init__(self, positive: str):
        super().__init__()
        self.positive = positive

    def scores(self, vectors: Tensor, bags: Tensor, options: Any) -> tuple[Tensor, Tensor]:
        """`of_bags` under the options of a call."""
        found = self.of_bags(vectors, bags)
        assert found is not None
        return found

    def predict(self, request: Request, options: Any) -> Mapping[str, Any]:
        """bag; bag_score and instance_score: how surely they are of the positive class; rank: of an instance in its
        bag, 1 for the highest. Without a column of bags an instance is told alone."""
        data, rows = request.data, request.rows
        codes = np.arange(len(rows)) if data.bags is None else np.asarray(data.bags)[rows]
        of = np.unique(codes, return_inverse=True)[1].reshape(-1)
        vectors = torch.from_numpy(np.array(request.embed.raw(request.role, rows)))
        instance, bag = (x.cpu().numpy() for x in self.scores(vectors, torch.from_numpy(of), options))
        if data.bags is None:
            return {"instance_score": instance}
        names = ["" if v is None else str(v) for v in data.values("bag", rows)]
        rank = np.zeros(len(rows), np.int64)
        for own in places_of(of):
            rank[own] = rankdata(-instance[own], method="min")
        return {"bag": names, "bag_score": bag[of], "instance_score": instance, "rank": rank}


@dataclass
class PoolOptions:
    """How a bag is told from its instances.

    Args:
        pool: mean (the paper's), max, or lse (log of the mean exponential) of the instances' probabilities.
    """

    pool: Literal["mean", "max", "lse"] = "mean"


class InstanceClassifier(BagInference):
    """The probability of an instance by the linear classifier; a bag has the mean of its instances'."""

    options = PoolOptions

    def __init__(self, classifier: nn.Linear, positive: str):
        super().__init__(positive)
        self.classifier = classifier

    def config(self) -> dict[str, Any]:
        return {"dim": self.classifier.in_features, "positive": self.positive}

    def scores(self, vectors: Tensor, bags: Tensor, options: PoolOptions) -> tuple[Tensor, Tensor]:
        p = self.classifier(vectors.to(self.classifier.weight.device)).softmax(1)[:, 1]
        return p, bag_probabilities(p, bags.to(p.device), options.pool)

    def of_bags(self, vectors: Tensor, bags: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(vectors, bags, PoolOptions())


__all__ = ["BagInference", "InstanceClassifier", "LabelledBags", "PoolOptions", "labelled_bags"]
