"""How evenly vectors are spread over the sphere (Wang and Isola, ICML 2020): log E exp(-2 ||z_i - z_j||^2)."""

import numpy as np

from nearfar.evaluation import Metric, Reference, Scores, Task
from nearfar.evaluation.task import first_role


class Uniformity(Task):
    """The lower, the more evenly the vectors are spread; all in one place gives 0.

    Args:
        t: sharpness.
    """

    primary = "uniformity"
    metrics = {"uniformity": Metric("uniformity", unit="value", higher_is_better=False)}
    chance_words = "all vectors in one place"

    def __init__(self, data, *, modalities=None, t: float = 2.0):
        super().__init__(data)
        self.roles, self.t = (first_role(data, modalities),), t

    @classmethod
    def possible(cls, data, modalities=None):
        return first_role(data, modalities) is not None

    def describe(self):
        return f"How evenly the vectors are spread over the sphere: log E exp(-{self.t:g} d^2), lower is better."

    def evaluate(self, embed, split="val", *, examples=0):
        z = np.asarray(embed(self.roles[0], self.draw(self.rows(split))), np.float64)
        return self.scored(z / np.linalg.norm(z, axis=1, keepdims=True), split)

    def scored(self, z, split):
        i, j = np.triu_indices(len(z), 1)
        value = float(np.log(np.mean(np.exp(-self.t * ((z[i] - z[j]) ** 2).sum(1)))))
        return Scores("uniformity", value, {"uniformity": value}, split=split)

    def references(self, *, size=32):
        def one_place(split, examples=0):
            return self.scored(np.ones((2, 1)), split)

        return [Reference("chance", "one place", "chance", one_place)]
