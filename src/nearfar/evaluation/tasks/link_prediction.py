"""Link prediction: whether vectors tell edges that no training saw from pairs of nodes that nothing joins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.checks import ShareBelowOne
from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.task import Reference, Scores, Task, first_role, register
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def no_edges(pairs: np.ndarray, types: np.ndarray, like: np.ndarray, seed: int) -> np.ndarray:
    """int64 (2, k): pairs of different nodes that are none of `pairs` (2, p), each once, as many of any two types as
    the edges `like` (2, k) join, drawn evenly: where types alone say which nodes may be joined, they would tell edges
    from pairs of any types. types: int64 (n,), of each node.

    Raises InputError where there are too few.
    """
    nodes, rng = len(types), np.random.default_rng([seed, 78])
    low, high = np.sort(pairs, 0)
    known = set((low * nodes + high).tolist())
    joined, wanted = (Counter(zip(*np.sort(types[ends], 0).tolist(), strict=True)) for ends in (pairs, like))
    found: list[tuple[int, int]] = []
    for (s, t), count in sorted(wanted.items()):
        first, second = np.flatnonzero(types == s), np.flatnonzero(types == t)
        every = len(first) * (len(first) - 1) // 2 if s == t else len(first) * len(second)
        if every - joined[s, t] < count:
            raise InputError("The graph has too few pairs of nodes without an edge to tell edges from.",
                             "Measure another task.")  # fmt: skip
        whole = len(found) + count
        while len(found) < whole:
            i, j = rng.integers(len(first), size=2) if s == t else rng.integers([len(first), len(second)])
            a, b = sorted((int(first[i]), int(second[j])))
            code = a * nodes + b
            if a != b and code not in known:
                known.add(code)
                found.append((a, b))
    return np.array(found, np.int64).reshape(-1, 2).T


@register
class LinkTask(Task):
    """AUC and average precision of the cosine of two nodes, over edges that were held out before training and as many
    pairs without an edge, of the same types of nodes.

    Args:
        share: of the edges that are held out, half for validation, half for testing; that of --graph-held-out.
    """

    primary = "auc"
    metrics = {"auc": Metric("AUC"), "ap": Metric("average precision")}
    beside = "ap"
    chance_words = "one score for all"
    needs = "It needs a graph: rows that are nodes, with edges."

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None, share: ShareBelowOne = 0.1):
        super().__init__(data)
        self.roles, self.share = ("node",), share

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return first_role(data, modalities) == "node"

    @property
    def held_out_edges(self) -> tuple[float, int]:
        return self.share, self.data.seed

    @property
    def held_out(self) -> list[str]:
        return ["val", "test"]

    def pairs(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Held-out edges of a split and as many pairs of the same types without one, int64 (2, k) each. Edges of
        validation are edges to the test too, so they are no negatives there."""
        from nearfar import graphs
        from nearfar.modalities.node import graph_of

        graph = graph_of(self.data)
        parts = dict(zip(("val", "test"), graphs.held_out(graph, self.share, self.data.seed), strict=True))
        if split not in parts:
            raise InputError(f"Edges are held out for val and test; '{split}' has none.", "Measure val or test.")
        edges = parts[split]
        if edges.shape[1] < 1:
            raise InputError(f"No edge can be held out at a share of {self.share:g}.", "Use a larger --task.share.")
        seed = self.data.seed + (split == "test")
        return edges, no_edges(graphs.pairs_of(graph), graph.types.numpy(), edges, seed)

    def check(self) -> None:
        for split in self.held_out:
            self.pairs(split)

    def describe(self) -> str:
        return (
            "AUC and average precision of the cosine of two nodes over edges that were held out before training "
            f"({self.share:.0%} of all, half for validation, half for testing) and as many pairs of the same types "
            "without an edge."
        )

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        self.refuse_seen(embed)
        edges, others = self.pairs(split)
        nodes, place = np.unique(np.concatenate([edges, others], 1), return_inverse=True)
        z = np.asarray(embed("node", nodes), np.float64)
        z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        a, b = place.reshape(2, -1)
        return self.scored((z[a] * z[b]).sum(1), edges.shape[1], split)

    def refuse_seen(self, embed: Any) -> None:
        """Raises InputError for a model that has seen the edges which it is to tell."""
        towers = getattr(embed, "towers", None)
        if towers is None:
            return
        from nearfar.modalities.node import inner

        encoder = inner(embed.tower("node").encoder)
        if (encoder.held_out, encoder.held_seed) != (self.share, self.data.seed):
            seen = f"{encoder.held_out:g} (seed {encoder.held_seed})" if encoder.held_out else "none"
            raise InputError(
                f"The task holds {self.share:g} of the edges out (seed {self.data.seed}); the model was trained "
                f"without {seen}.",
                f"Train with --graph-held-out {self.share:g}, or measure another task.",
            )

    def scored(self, scores: np.ndarray, edges: int, split: str) -> Scores:
        """scores: of the edges, then of the pairs without one."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        truth = np.arange(len(scores)) < edges
        metrics = {"auc": float(roc_auc_score(truth, scores)), "ap": float(average_precision_score(truth, scores))}
        counts = {"pairs": {"queries": len(scores), "skipped": 0, "gallery": 0}}
        return Scores("auc", metrics["auc"], metrics, counts=counts, split=split)

    def references(self, *, size: int = 32) -> list[Reference]:
        def by(make: Any) -> Any:
            def row(split: str, examples: int = 0) -> Scores:
                edges, others = self.pairs(split)
                return self.scored(make(np.concatenate([edges, others], 1)), edges.shape[1], split)

            return row

        return [
            Reference("chance", "one score for all", "chance", by(lambda pairs: np.zeros(pairs.shape[1]))),
            Reference("adamic-adar", "shared neighbours (Adamic-Adar)", "reference", by(self.shared_neighbours)),
            *by_kind(self, size),
        ]

    def shared_neighbours(self, pairs: np.ndarray) -> np.ndarray:
        """float (k,): sum of 1 / log(degree) over the neighbours that both nodes have in the graph of training
        (Adamic and Adar, 2003)."""
        from nearfar.evaluation.graph_references import adjacency
        from nearfar.modalities.node import graph_of

        a = adjacency(graph_of(self.data, None, *self.held_out_edges))
        degree = np.asarray(a.sum(1)).reshape(-1)
        weight = 1 / np.log(np.maximum(degree, 2))
        return np.asarray(a[pairs[0]].multiply(a[pairs[1]]) @ weight).reshape(-1)
