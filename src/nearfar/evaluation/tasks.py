"""What "better" means on given data: pairs, else groups, else labels, else a proxy - chosen once, the same for all.

A task turns a split into `Search`es (queries, gallery, who is relevant, who is hidden) and scores anything that can
rank: vectors (`evaluate`) or a function of scores (`evaluate_scores`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.dense import (
    IGNORE,
    bootstrap_miou,
    class_counts,
    ious,
    mean_iou_of,
    pixel_accuracy,
    segmentation_probe,
)
from nearfar.evaluation.embedding import Embed, is_image
from nearfar.evaluation.fewshot import few_shot
from nearfar.evaluation.neighbours import VectorScorer
from nearfar.evaluation.pairwise import (
    accuracy_at,
    average_precision,
    best_threshold,
    bootstrap_spearman,
    f1_at,
    paired_scores,
    pearson,
    spearman,
)
from nearfar.evaluation.probe import Accuracy, knn_scores, linear_probe
from nearfar.evaluation.relevance import listed, same, union
from nearfar.evaluation.retrieval import Retrieval, rank
from nearfar.evaluation.searches import Example, Search, Side, embed_side, pick_examples
from nearfar.evaluation.statistics import Interval, bootstrap, interval
from nearfar.similarity import Source, Sparse

METRIC_LABELS = {"hit@1": "hit@1", "hit@5": "hit@5", "hit@10": "hit@10", "recall@1": "recall@1",
                 "recall@10": "recall@10", "mrr": "MRR", "ndcg@10": "nDCG@10", "map": "MAP", "knn": "kNN accuracy",
                 "probe": "probe accuracy", "miou": "mIoU", "pixel accuracy": "pixel accuracy", "spearman": "Spearman",
                 "pearson": "Pearson", "pair ap": "pair AP", "pair accuracy": "pair accuracy", "pair f1": "pair F1"}
COLUMNS = ("image", "image_b", "text", "text_b")
PAIRS = (("image", "text"), ("text", "text_b"), ("image", "image_b"))
KINDS = ("dense", "sts", "pairs", "groups", "labels", "few-shot", "proxy")


@dataclass(frozen=True)
class Scores:
    """What one model reached. primary: 0..1 (of a correlation -1..1), higher is better; metrics: means over the
    directions (and "hard/..." without directions of shared outlines); directions: name -> metrics; per_query and
    clusters: direction -> the primary's values and the ids of dependent ones; counts: queries, skipped, gallery by
    direction."""

    primary_name: str
    primary: float
    metrics: dict[str, float]
    directions: dict[str, dict[str, float]]
    per_query: dict[str, np.ndarray]
    clusters: dict[str, np.ndarray]
    counts: dict[str, dict[str, int]]
    split: str
    examples: list[Example] = field(default_factory=list)

    def bootstrap(self, *, draws: int = 2000, seed: int = 0) -> Interval:
        """95 % interval over test items (units), all directions of one item together."""
        names = list(self.per_query)
        return bootstrap(np.concatenate([self.per_query[name] for name in names]),
                         np.concatenate([self.clusters[name] for name in names]), draws=draws, seed=seed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the per-query values."""
        return {"split": self.split, "primary_name": self.primary_name, "primary": self.primary,
                "metrics": self.metrics, "directions": self.directions, "counts": self.counts,
                "bootstrap": self.bootstrap().bounds}


@dataclass(frozen=True)
class Segmented:
    """A test picture with its true and its found mask, uint8 (s, s), and the mIoU of the two."""

    row: int
    truth: np.ndarray
    found: np.ndarray
    miou: float


@dataclass(frozen=True)
class MaskScores(Scores):
    """Scores of masks. pixels: `class_counts` of each test picture, (n, 3, k); units: (n,), pictures of one unit are
    drawn together. A mIoU is no mean over pictures, so the bootstrap counts all pixels of the drawn pictures anew."""

    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 1), np.int64))
    units: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    masks: list[Segmented] = field(default_factory=list)

    def bootstrap(self, *, draws: int = 2000, seed: int = 0) -> Interval:
        return bootstrap_miou(self.pixels, self.units, draws=draws, seed=seed)


class Task:
    """One way of measuring on one data set. Use `task_for` to get the right one."""

    kind = ""
    primary = "hit@1"
    unit = "%"  # of the primary value times 100
    proxy = False
    ks: Sequence[int] = (1, 5, 10)

    def __init__(self, data: Any, *, max_queries: int = 5000):
        self.data, self.max_queries = data, max_queries
        self.roles: tuple[str, ...] = ()

    def searches(self, split: str) -> list[Search]:
        raise NotImplementedError

    def describe(self) -> str:
        """What is measured, in a sentence or two."""
        raise NotImplementedError

    def summary(self, split: str = "test") -> dict[str, Any]:
        """The task as it stands in results.json."""
        searches = self.searches(split)
        label = METRIC_LABELS.get(self.primary, f"{self.primary} accuracy")
        return {"kind": self.kind, "primary": self.primary, "label": label,
                "unit": self.unit, "description": self.describe(), "proxy": self.proxy, "higher_is_better": True,
                "directions": [search.name for search in searches],
                "hard": [search.name for search in hard(searches)]}

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        """Scores of vectors; with `examples` > 0 as many queries with their nearest items, hits and misses."""
        cache: dict[Any, np.ndarray] = {}

        def vectors(side: Side) -> np.ndarray:
            key = side.role, side.rows.tobytes(), side.transformed, side.corpus
            if key not in cache:
                cache[key] = embed_side(self.data, embed, side)
            return cache[key]

        return self.evaluate_scores(lambda search: VectorScorer(vectors(search.query), vectors(search.gallery)),
                                    split, examples=examples)

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *,
                        examples: int = 0) -> Scores:
        """Scores of anything that ranks: `scorer(search)` gives the scores of its queries x its gallery."""
        searches = self.searches(split)
        scorers = {search.name: scorer(search) for search in searches}
        found = {search.name: rank(scorers[search.name], search.relevant, search.hidden, ks=self.ks)
                 for search in searches}
        chosen = spaced(self.asked(searches), min(4, examples)) if examples else []
        shown = [example for search in chosen for example in pick_examples(
            search, scorers[search.name], found[search.name], -(-examples // len(chosen)))]
        return self.collect(searches, found, split, shown[:examples])

    def asked(self, searches: list[Search]) -> list[Search]:
        """The directions whose mean is the score; the others are only listed."""
        return searches

    def collect(self, searches: list[Search], found: dict[str, Retrieval], split: str,
                examples: list[Example]) -> Scores:
        """Means over the asked directions, all of equal weight."""
        asked = self.asked(searches)
        metrics = average([found[search.name].metrics for search in asked])
        demanding = hard(asked)
        if len(demanding) < len(asked):
            apart = average([found[search.name].metrics for search in demanding])
            metrics |= {f"hard/{name}": value for name, value in apart.items()}
        counts = {name: {"queries": result.n, "skipped": result.skipped, "gallery": result.gallery}
                  for name, result in found.items()}
        return Scores(self.primary, metrics[self.primary], metrics,
                      {name: result.metrics for name, result in found.items()},
                      {search.name: found[search.name].per_query[self.primary] for search in asked},
                      {search.name: search.clusters[found[search.name].answered] for search in asked},
                      counts, split, examples)

    def rows(self, split: str) -> np.ndarray:
        if split not in self.data.splits or not len(self.data.splits[split]):
            raise InputError(f"The split '{split}' of {self.data.name} is empty.",
                             f"Splits with rows: {', '.join(k for k, v in self.data.splits.items() if len(v))}.")
        return np.sort(np.asarray(self.data.splits[split]))

    def draw(self, rows: np.ndarray) -> np.ndarray:
        """At most max_queries of the rows, the same ones each time."""
        if len(rows) <= self.max_queries:
            return rows
        return np.sort(np.random.default_rng(0).choice(rows, self.max_queries, replace=False))

    def units(self, rows: np.ndarray) -> np.ndarray:
        units = self.data.units
        return rows if units is None else np.asarray(units)[rows]


class PairTask(Task):
    """Find the other half of a pair, both ways; relevance by content, so a text with several pictures has several.

    The gallery holds every different item of the split, or the whole corpus where there is one. What equals the query
    is hidden from it. Pairs labelled 0 (and those of a low score) are relevant to nobody; where pairs are labelled, the
    labels are told from the similarities as well ("pair ap", "pair accuracy", "pair f1").
    """

    kind = "pairs"

    def __init__(self, data: Any, roles: tuple[str, str], *, max_queries: int = 5000):
        super().__init__(data, max_queries=max_queries)
        self.roles = roles
        self.primary = "hit@1" if any(map(is_image, roles)) else "ndcg@10"

    def searches(self, split: str) -> list[Search]:
        rows = self.rows(split)
        return [self._search(rows, split, *self.roles), self._search(rows, split, *reversed(self.roles))]

    def asked(self, searches: list[Search]) -> list[Search]:
        """Texts are asked one way, the first column for the second; pictures both ways."""
        return searches if self.primary == "hit@1" else searches[:1]

    def describe(self) -> str:
        a, b = self.roles
        if self.primary == "hit@1":
            text = (f"Retrieval between {a} and {b}: hit@1, mean of both directions. The gallery holds every different "
                    f"item of the split.")
        else:
            what = "the whole corpus" if self.corpus(b) else f"every different {b} of the split"
            text = f"Retrieval of {b} by {a}: nDCG@10. The gallery holds {what}."
        if self.told_apart():
            text += (" Beside it, how well the cosine tells pairs labelled 1 from pairs labelled 0: average precision, "
                     "and accuracy and F1 at the threshold that validation pairs chose.")
        return text

    def corpus(self, role: str) -> Sequence[str]:
        return (self.data.corpus or {}).get(role, ())

    def positive(self, rows: np.ndarray, split: str) -> np.ndarray:
        """Those of the rows whose two sides belong together."""
        positives = self.data.positives
        found = rows if positives is None else rows[positives[rows]]
        if not len(found):
            raise InputError(f"No pair of the {split} split belongs together: all are labelled 0 or score low.",
                             "Check the columns of --pair-label and --score.")
        return found

    def _search(self, rows: np.ndarray, split: str, query: str, gallery: str) -> Search:
        rows_in, judged = self.positive(rows, split), query == "text" and self.data.query_keys is not None
        asked_ids = np.asarray(self.data.query_keys if judged else self.data.content(query))[rows_in]
        first, code = np.unique(asked_ids, return_index=True, return_inverse=True)[1:]
        asked = self.draw(np.arange(len(first)))
        place = np.full(len(first), -1)
        place[asked] = np.arange(len(asked))
        side, contents = self._gallery(rows, gallery)
        row, column = same(np.asarray(self.data.content(gallery))[rows_in], contents).pairs(slice(0, len(rows_in)))
        pairs = np.stack([place[code.reshape(-1)[row]], column], 1)
        drawn = pairs[:, 0] >= 0
        grades = self.data.grades[rows_in][row][drawn] if judged and self.data.grades is not None else None
        relevant = listed(pairs[drawn], len(asked), len(contents), grades)
        query_rows = rows_in[first[asked]]
        hidden = self._itself(query_rows, query, gallery, contents, relevant if judged else None)
        return Search(f"{query} → {gallery}", Side(query, query_rows), side, len(contents), relevant, hidden,
                      self.units(query_rows))

    def _gallery(self, rows: np.ndarray, role: str) -> tuple[Side, np.ndarray]:
        """What is searched, and the content id of each of its items."""
        if self.corpus(role):
            return Side(role, rows[:0], corpus=True), self.data.corpus_content(role)
        contents, first = np.unique(np.asarray(self.data.content(role))[rows], return_index=True)
        return Side(role, rows[first]), contents

    def _itself(self, query_rows: np.ndarray, query: str, gallery: str, contents: np.ndarray,
                judged: Sparse | None) -> Sparse | None:
        """Gallery items that are the query: equal ones, unless they were judged relevant, and those of its id."""
        copies = union([same(np.asarray(self.data.content(query))[query_rows], contents)], less=judged)
        if judged is None or not self.corpus(gallery):
            return copies
        place = {key: number for number, key in enumerate(self.data.corpus_keys[gallery])}
        keys = [self.data.query_keys[row] for row in query_rows]
        pairs = [(number, place[key]) for number, key in enumerate(keys) if key in place]
        return union([copies, listed(pairs, len(keys), len(contents))])

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *,
                        examples: int = 0) -> Scores:
        scores = super().evaluate_scores(scorer, split, examples=examples)
        if self.told_apart():
            found = self.classified(scorer, split)
            scores.metrics.update(found)
            scores.directions["pairs labelled 1 or 0"] = found
        return scores

    def told_apart(self) -> bool:
        """Whether there are pairs of both labels."""
        labels = self.data.pair_labels
        return labels is not None and bool((labels == 1).any() and (labels == 0).any())

    def labelled(self, split: str) -> np.ndarray:
        """Rows of a split whose pair has a label, the same ones each time."""
        rows = np.sort(np.asarray(self.data.splits.get(split, ()), np.int64))
        return self.draw(rows[self.data.pair_labels[rows] >= 0])

    def classified(self, scorer: Callable[[Search], Source], split: str) -> dict[str, float]:
        """How well scores tell the labelled pairs of a split apart. The threshold comes from the validation pairs, that
        of the validation pairs from training pairs."""
        rows, chosen = self.labelled(split), self.labelled("train" if split == "val" else "val")
        labels, known = self.data.pair_labels[rows], self.data.pair_labels[chosen]
        if not (labels == 1).any():
            return {}
        scores = paired_scores(scorer(paired_search(rows, self.roles, self.units(rows))))
        found = {"pair ap": average_precision(scores, labels)}
        if len(np.unique(known)) < 2:
            return found
        ahead = paired_scores(scorer(paired_search(chosen, self.roles, self.units(chosen))))
        return found | {"pair accuracy": accuracy_at(scores, labels, best_threshold(ahead, known)),
                        "pair f1": f1_at(scores, labels, best_threshold(ahead, known, "f1"))}

    def chance_of_pairs(self, split: str) -> dict[str, float]:
        """`classified` of scores that say nothing: the commoner label for all, all pairs for F1."""
        labels = self.data.pair_labels[self.labelled(split)]
        share = float((labels == 1).mean()) if len(labels) else 0.0
        return {"pair ap": share, "pair accuracy": max(share, 1 - share), "pair f1": 2 * share / (1 + share)}


def paired_search(rows: np.ndarray, roles: Sequence[str], clusters: np.ndarray) -> Search:
    """Rows whose two sides are compared with each other alone."""
    own, (query, gallery) = np.arange(len(rows)), roles
    return Search(f"{query} ~ {gallery}", Side(query, rows), Side(gallery, rows), len(rows), same(own, own), None,
                  clusters)


@dataclass(frozen=True)
class GradedScores(Scores):
    """Scores of graded pairs; -1..1. A correlation is no mean over pairs, so the bootstrap draws the pairs anew.
    similarities, grades, units: (n,)."""

    similarities: np.ndarray = field(default_factory=lambda: np.zeros(0))
    grades: np.ndarray = field(default_factory=lambda: np.zeros(0))
    units: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def bootstrap(self, *, draws: int = 1000, seed: int = 0) -> Interval:
        if not len(self.grades):
            return Interval(self.primary, None, None, 0)
        return bootstrap_spearman(self.similarities, self.grades, self.units, draws=draws, seed=seed)


class GradedTask(Task):
    """Whether the similarity of two columns follows the score of their pairs (semantic textual similarity)."""

    kind, primary, unit = "sts", "spearman", "x 100"

    def __init__(self, data: Any, roles: tuple[str, str], *, max_queries: int = 5000):
        super().__init__(data, max_queries=max_queries)
        self.roles = roles

    def searches(self, split: str) -> list[Search]:
        rows = self.draw(self.rows(split))
        return [paired_search(rows, self.roles, self.units(rows))]

    def describe(self) -> str:
        a, b = self.roles
        return (f"How well the cosine of {a} and {b} follows '{self.data.roles['score']}': Spearman's rank correlation "
                "(times 100; 0 is chance, below 0 is the wrong way round), with Pearson's beside it.")

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *,
                        examples: int = 0) -> GradedScores:
        search = self.searches(split)[0]
        return self.scored(paired_scores(scorer(search)), search, split)

    def scored(self, similarities: np.ndarray, search: Search, split: str) -> GradedScores:
        """Scores from the similarity of each pair."""
        grades = self.data.scores[search.query.rows]
        metrics = {"spearman": spearman(similarities, grades), "pearson": pearson(similarities, grades)}
        counts = {"pairs": {"queries": len(grades), "skipped": 0, "gallery": len(grades)}}
        return GradedScores("spearman", metrics["spearman"], metrics, {search.name: metrics},
                            {"spearman": np.zeros(0)}, {"spearman": search.clusters}, counts, split, [],
                            similarities, grades, search.clusters)

    def chance(self, split: str) -> GradedScores:
        search = self.searches(split)[0]
        metrics = {"spearman": 0.0, "pearson": 0.0}
        counts = {"pairs": {"queries": len(search.query.rows), "skipped": 0, "gallery": len(search.query.rows)}}
        return GradedScores("spearman", 0.0, metrics, {search.name: metrics}, {"spearman": np.zeros(0)},
                            {"spearman": search.clusters}, counts, split)


class GroupTask(Task):
    """Find another member of the group; where rows have a domain, in another domain: every ordered pair of them, or
    those that `data.meta["directions"][split]` lists."""

    kind = "groups"

    def __init__(self, data: Any, role: str, *, max_queries: int = 5000):
        super().__init__(data, max_queries=max_queries)
        self.role, self.roles = role, (role,)

    def searches(self, split: str) -> list[Search]:
        rows = self.one_group_a_unit(self.rows(split))
        domains = None if self.data.domains is None else np.asarray(self.data.domains)[rows]
        present = [] if domains is None else [int(domain) for domain in np.unique(domains) if domain >= 0]
        if domains is None or len(present) < 2:
            return [self._within(rows)]
        names = self.data.domain_names
        outlines = [set(pair) for pair in self.data.meta.get("shared_outline", [])]
        wanted = (self.data.meta.get("directions") or {}).get(split)
        found = [self._across(rows[domains == a], rows[domains == b], f"{names[a]} → {names[b]}",
                              {names[a], names[b]} in outlines)
                 for a in present for b in present
                 if a != b and (wanted is None or [names[a], names[b]] in wanted)]
        found = [search for search in found if search.relevant.counts.any()]
        if not found:
            raise InputError(f"No group of the {split} split has members in two domains.",
                             "Check the group and domain columns.")
        return found

    def describe(self) -> str:
        if self.data.domains is None:
            return (f"Retrieval of another {self.role} of the same group: hit@1 (is the nearest other item of the "
                    "group?). Copies of the query are hidden.")
        pairs = "chosen pairs" if self.data.meta.get("directions") else "every ordered pair"
        return (f"Retrieval of the same thing in another domain, for things never trained on: hit@1 by {self.role}, "
                f"mean over {pairs} of {', '.join(self.data.domain_names)}. Of the groups that form one unit (variants "
                "of one another), the first stands for all.")

    def one_group_a_unit(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the first group (by row order) of each unit: near-copies of one unit would make misses unfair."""
        groups, units = np.asarray(self.data.groups)[rows], self.units(rows)
        rows, units, groups = rows[groups >= 0], units[groups >= 0], groups[groups >= 0]
        first = np.unique(units, return_index=True)[1]
        return rows[np.isin(groups, groups[first])]

    def _within(self, rows: np.ndarray) -> Search:
        groups, contents = np.asarray(self.data.groups), np.asarray(self.data.content(self.role))
        asked = self.draw(rows)
        return Search(f"{self.role} → {self.role}", Side(self.role, asked), Side(self.role, rows), len(rows),
                      same(groups[asked], groups[rows]), same(contents[asked], contents[rows]), groups[asked])

    def _across(self, query: np.ndarray, gallery: np.ndarray, name: str, shared: bool) -> Search:
        groups, query = np.asarray(self.data.groups), self.draw(query)
        contents = np.asarray(self.data.content(self.role))
        return Search(name, Side(self.role, query), Side(self.role, gallery), len(gallery),
                      same(groups[query], groups[gallery]), union([same(contents[query], contents[gallery])]),
                      self.units(query), shared)


class LabelTask(Task):
    """kNN accuracy against the training part; beside it a linear probe and retrieval of the same label."""

    kind, primary = "labels", "knn"

    def __init__(self, data: Any, role: str, column: str, *, k: int = 20, max_queries: int = 5000,
                 max_train: int = 50_000):
        super().__init__(data, max_queries=max_queries)
        self.role, self.roles = role, (role,)
        self.column, self.k, self.max_train = column, k, max_train

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.data.labels[self.column])

    def labelled(self, split: str) -> np.ndarray:
        rows = self.rows(split)
        rows = rows[self.labels[rows] >= 0]
        if not len(rows):
            raise InputError(f"No row of the {split} split has a value in '{self.column}'.")
        return rows

    def searches(self, split: str) -> list[Search]:
        """First the training part as the gallery (kNN), then the split itself (retrieval)."""
        labels, contents = self.labels, np.asarray(self.data.content(self.role))
        gallery, rows = self.labelled("train"), self.labelled(split)
        if len(np.unique(labels[gallery])) < 2:
            raise InputError(f"'{self.column}' has one value only in the training part, so accuracy says nothing.",
                             "Give another label column, or leave it out for a proxy measure.")
        if len(gallery) > self.max_train:
            gallery = np.sort(np.random.default_rng(0).choice(gallery, self.max_train, replace=False))
        asked = self.draw(rows)
        sides = [("kNN", gallery), (f"same {self.column}", rows)]
        return [Search(name, Side(self.role, asked), Side(self.role, side), len(side),
                       same(labels[asked], labels[side]), same(contents[asked], contents[side]), self.units(asked))
                for name, side in sides]

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        scores = super().evaluate(embed, split, examples=examples)
        parts = self.probe_rows(split)
        arguments = [part for rows in parts for part in (embed(self.role, rows), self.labels[rows])]
        probe = linear_probe(*arguments)
        scores.metrics["probe"] = probe.accuracy
        scores.directions["probe"] = {"probe": probe.accuracy, "balanced": probe.balanced}
        return scores

    def probe_rows(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to fit on, to choose the strength on, and to score: never one in two of them."""
        train, test = self.labelled("train"), self.draw(self.labelled(split))
        if split != "val":
            return self.draw(train), self.draw(self.labelled("val")), test
        train = np.random.default_rng(0).permutation(self.draw(train))
        return train[len(train) // 5:], train[: len(train) // 5], test

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *,
                        examples: int = 0) -> Scores:
        near, alike = self.searches(split)
        votes = self.vote(near, scorer(near))
        ranked = scorer(alike)
        found = rank(ranked, alike.relevant, alike.hidden, ks=self.ks)
        shown = pick_examples(alike, ranked, found, examples) if examples else []
        metrics = {"knn": votes.accuracy, "knn_balanced": votes.balanced, **found.metrics}
        counts = {"queries": votes.n, "skipped": 0, "gallery": len(near.gallery.rows)}
        return Scores("knn", votes.accuracy, metrics,
                      {"kNN": {"knn": votes.accuracy, "balanced": votes.balanced}, alike.name: found.metrics},
                      {"kNN": votes.correct.astype(np.float64)}, {"kNN": near.clusters}, {"kNN": counts}, split, shown)

    def vote(self, near: Search, scorer: Source) -> Accuracy:
        return knn_scores(scorer, self.labels[near.gallery.rows], self.labels[near.query.rows],
                          np.arange(len(near.query.rows)), k=self.k, hidden=near.hidden)

    def describe(self) -> str:
        return (f"Accuracy of a weighted vote of the {self.k} nearest training items on '{self.column}' (kNN); beside "
                "it a linear probe and retrieval of items with the same label.")


class FewShotTask(Task):
    """Episodes over classes of the split: tell `ways` of them apart after seeing `shots` items of each.

    The main score is the accuracy with one shot, without transport; transport sees all queries of an episode at once
    and stands beside it ("1-shot+opta"). Meant for splits by class (--unit with the label column).
    """

    kind, primary = "few-shot", "1-shot"

    def __init__(self, data: Any, role: str, column: str, *, ways: int | None = None, shots: Sequence[int] = (1, 5),
                 queries: int = 15, count: int = 600, max_queries: int = 5000):
        super().__init__(data, max_queries=max_queries)
        self.role, self.roles, self.column = role, (role,), column
        self.shots, self.queries, self.count = tuple(shots), queries, count
        self.ways = self.auto_ways() if ways is None else ways
        self.primary = f"{self.shots[0]}-shot"

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
                "--task; `nearfar evaluate` also takes fewer --shots and --queries.")
        return 5 if poor is None else min(5, rich[poor])

    def searches(self, split: str) -> list[Search]:
        return []

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
        z = embed(self.role, rows)
        found = {k: few_shot(z, labels, ways=self.ways, shots=k, queries=self.queries, count=self.count)
                 for k in self.shots}
        scores = self.scored({f"{k}-shot": one.plain for k, one in found.items()}
                             | {f"{k}-shot+opta": one.aligned for k, one in found.items()}, split)
        for k, one in found.items():
            gain = one.gain
            scores.directions[f"{self.ways}-way {k}-shot, what opta adds"] = {
                "gain": gain.mean, "low": gain.mean if gain.low is None else gain.low,
                "high": gain.mean if gain.high is None else gain.high}
        return scores

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *,
                        examples: int = 0) -> Scores:
        raise InputError("Few-shot episodes need vectors.", "Choose another --task.")

    def scored(self, values: dict[str, np.ndarray], split: str) -> Scores:
        """Scores from the accuracy of each episode, by setting."""
        metrics = {name: float(one.mean()) for name, one in values.items()}
        ends = {name: interval(one).bounds or (metrics[name],) * 2 for name, one in values.items()}
        directions = {f"{self.ways}-way {name}": {"accuracy": metrics[name], "low": ends[name][0],
                                                  "high": ends[name][1]} for name in values}
        counts = {"episodes": {"queries": self.count * self.ways * self.queries, "skipped": 0,
                               "gallery": len(np.unique(self.items(split)[1]))}}
        return Scores(self.primary, metrics[self.primary], metrics, directions,
                      {self.primary: values[self.primary]}, {self.primary: np.arange(self.count)}, counts, split)

    def chance(self, split: str) -> Scores:
        names = [f"{k}-shot{more}" for k in self.shots for more in ("", "+opta")]
        return self.scored({name: np.full(self.count, 1 / self.ways) for name in names}, split)

    def unseen(self, split: str) -> tuple[int, int]:
        """How many classes of the split are in no training row, and how many there are."""
        labels = np.asarray(self.data.labels[self.column])
        here, trained = np.unique(self.items(split)[1]), labels[np.asarray(self.data.splits["train"])]
        return int((~np.isin(here, trained)).sum()), len(here)

    def describe(self) -> str:
        split = next((name for name in ("test", "val") if len(self.data.splits.get(name, ()))), "train")
        new, all_of_them = self.unseen(split)
        held = (f"none of the {all_of_them} classes was trained on" if new == all_of_them else
                f"{new} of the {all_of_them} classes were never trained on; --unit with the label column keeps all out")
        return (f"{self.ways}-way episodes on '{self.column}': accuracy after {' and '.join(map(str, self.shots))} "
                f"labelled items a class, {self.queries} unlabelled ones, mean of {self.count} episodes ({held}). "
                "+opta: prototypes moved by optimal transport onto the queries, which sees them all at once.")


class DenseTask(Task):
    """The class of every pixel, read by a linear probe from the encoder's map: mIoU on test pictures.

    The probe is fitted on pixels of the training pictures that have a mask, its penalty chosen on validation pictures
    (while a run validates, on a fifth of the training pictures).
    """

    kind, primary = "dense", "miou"

    def __init__(self, data: Any, role: str = "image", *, layer: int | None = None, side: int = 128,
                 max_train: int = 2000, max_queries: int = 5000):
        super().__init__(data, max_queries=max_queries)
        self.role, self.roles, self.layer, self.max_train = role, (role,), layer, max_train
        self.classes = list(data.mask_names)
        self.side = min(side, data.side(role))
        for split in ("train", "val"):                                            # told before anything is trained
            self.masked(split)

    def searches(self, split: str) -> list[Search]:
        return []

    def masked(self, split: str) -> np.ndarray:
        """Rows of a split that have a mask."""
        rows = self.rows(split)
        rows = rows[self.data.masked[rows]]
        if not len(rows):
            raise InputError(f"No picture of the {split} split of {self.data.name} has a mask.",
                             "Add masks, or choose another --task.")
        return rows

    def parts(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to fit on, to choose the penalty on, and to score: never one in two of them."""
        train, test = self.masked("train"), self.draw(self.masked(split))
        train = np.random.default_rng(0).permutation(train)[: self.max_train]
        if split != "val":
            return np.sort(train), self.draw(self.masked("val")), test
        return np.sort(train[len(train) // 5:]), np.sort(train[: len(train) // 5]), test

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> MaskScores:
        def batches(rows: np.ndarray) -> Any:
            start = 0
            for maps in embed.maps(self.role, rows, self.layer):
                yield maps, self.data.masks(self.side, rows[start: start + len(maps)])
                start += len(maps)

        train, val, test = self.parts(split)
        found = segmentation_probe(batches(train), batches(val), batches(test), self.classes,
                                   each=min(100, max(8, -(-12_000 // len(train)))))
        shown = np.array(spaced(test.tolist(), examples) if examples else [], np.int64)
        drawn = [mask for maps in embed.maps(self.role, shown, self.layer) for mask in found.probe(maps, self.side)]
        return self.scored(found.counts, split, test, self.segmented(shown, drawn))

    def segmented(self, rows: np.ndarray, drawn: Sequence[np.ndarray]) -> list[Segmented]:
        truth = self.data.masks(self.side, rows)
        each = mean_iou_of(class_counts(drawn, truth, self.classes)) if len(rows) else []
        return [Segmented(int(row), one, mask, float(value))
                for row, one, mask, value in zip(rows, truth, drawn, each, strict=True)]

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *,
                        examples: int = 0) -> Scores:
        raise InputError("Masks need feature maps.", "Choose another --task.")

    def scored(self, pixels: np.ndarray, split: str, rows: np.ndarray,
               shown: Sequence[Segmented] = ()) -> MaskScores:
        """Scores from the `class_counts` of each picture."""
        total = pixels.sum(0)
        metrics = {"miou": float(mean_iou_of(total)), "pixel accuracy": pixel_accuracy(total)}
        directions = {self.data.mask_names[value]: {"miou": float(one)}
                      for value, one in zip(self.classes, ious(total)) if np.isfinite(one)}
        counts = {"pictures": {"queries": len(rows), "skipped": 0, "gallery": len(self.classes)}}
        each = mean_iou_of(pixels)
        return MaskScores("miou", metrics["miou"], metrics, directions, {"miou": each}, {"miou": self.units(rows)},
                           counts, split, [], pixels, self.units(rows), list(shown))

    def majority(self, split: str) -> MaskScores:
        """Every pixel takes the commonest class of the training masks."""
        train, _, test = self.parts(split)
        seen = np.bincount(self.data.masks(self.side, train).reshape(-1), minlength=256)
        seen[IGNORE] = 0
        truth = self.data.masks(self.side, test)
        return self.scored(class_counts(np.full_like(truth, seen.argmax()), truth, self.classes), split, test)

    def summary(self, split: str = "test") -> dict[str, Any]:
        names = {str(value): name for value, name in self.data.mask_names.items()}
        return super().summary(split) | {"classes": names, "parts": "class", "directions": list(names.values()),
                                         "chance": "the commonest class at every pixel"}

    def describe(self) -> str:
        where = "the encoder's last map" if self.layer is None else f"the map after layer {self.layer}"
        return (f"The class of every pixel ({len(self.classes)} classes, {self.side} x {self.side} pixels a picture), "
                f"read from {where} by a linear probe that sees one place at a time: mIoU, the mean over the classes "
                "of what true and found mask share, as a part of what either covers.")


class ProxyTask(Task):
    """Nothing is known about who belongs together: find an item by another look of itself. Names no winner."""

    kind, proxy = "proxy", True

    def __init__(self, data: Any, role: str, *, max_queries: int = 5000):
        super().__init__(data, max_queries=max_queries)
        self.role, self.roles = role, (role,)

    def searches(self, split: str) -> list[Search]:
        rows = self.rows(split)
        contents = np.asarray(self.data.content(self.role))
        rows = np.sort(rows[np.unique(contents[rows], return_index=True)[1]])
        asked = self.draw(rows)
        return [Search("another look → itself", Side(self.role, asked, transformed=True), Side(self.role, rows),
                       len(rows), same(asked, rows), None, asked)]

    def describe(self) -> str:
        return (f"PROXY: the data hold no labels, groups or pairs, so each {self.role} is searched by a transformed "
                "look of itself (hit@1). It shows what an encoder ignores, not what it understands; no winner "
                "is named.")


def task_for(data: Any, kind: str | None = None, *, max_queries: int = 5000,
             modalities: Sequence[str] = ("image", "text"), few_shot: Mapping[str, Any] | None = None,
             layer: int | None = None) -> Task:
    """The task that the data allow: masks, else scores of pairs, else pairs, else groups, else labels, else a proxy.
    Groups go before pairs where rows carry a domain (the question is then who finds the same thing elsewhere). `kind`
    asks for another one; `modalities`: the kinds of data that the models at hand embed. `few_shot`: ways (None: 5, or
    fewer where fewer classes are held out), shots, queries, count of episodes; `layer`: whose map dense measurement
    reads, by default the last.

    Raises InputError for an unknown kind or one that the data lack the roles for.
    """
    roles = [role for role in data.roles if role not in COLUMNS or role.split("_")[0] in modalities]
    pair = next((pair for pair in PAIRS if all(role in roles for role in pair)), None)
    role = next((role for role in ("image", "text") if role in roles), None)
    if role is None:
        raise InputError(f"{data.name} has neither an image nor a text column.", "Name one with a role.")
    possible: dict[str, Callable[[], Task]] = {}
    if "mask" in data.roles and "image" in roles:
        possible["dense"] = lambda: DenseTask(data, layer=layer, max_queries=max_queries)
    if pair and "score" in data.roles:
        possible["sts"] = lambda: GradedTask(data, pair, max_queries=max_queries)
    if pair:
        possible["pairs"] = lambda: PairTask(data, pair, max_queries=max_queries)
    if data.groups is not None and differ_within(data.groups, data.content(role)):
        possible["groups"] = lambda: GroupTask(data, role, max_queries=max_queries)
    if data.labels:
        possible["labels"] = lambda: LabelTask(data, role, next(iter(data.labels)), max_queries=max_queries)
        column = list(data.labels)[-1]
        possible["few-shot"] = lambda: FewShotTask(data, role, column, max_queries=max_queries, **few_shot or {})
    possible["proxy"] = lambda: ProxyTask(data, role, max_queries=max_queries)
    if kind is None:
        first = next(iter(possible))
        kind = "groups" if first == "pairs" and "groups" in possible and data.domains is not None else first
    if kind not in possible:
        hint = {"dense": "It needs masks: --mask COLUMN, or folders images/ and masks/. ",
                "sts": "It needs two columns and the score of each pair: --score COLUMN. "}.get(kind or "", "")
        raise InputError(f"{data.name} cannot be measured by '{kind}'.", f"{hint}Possible here: {', '.join(possible)}.")
    return possible[kind]()


def differ_within(groups: np.ndarray, contents: np.ndarray) -> bool:
    """Whether any group has two different contents: copies of one text find each other without any learning."""
    groups, contents = np.asarray(groups), np.asarray(contents)
    return len(np.unique(np.stack([groups, contents], 1), axis=0)) > len(np.unique(groups))


def hard(searches: Sequence[Search]) -> list[Search]:
    """The directions whose two domains do not share outlines; all of them where none would be left."""
    return [search for search in searches if not search.shared_outline] or list(searches)


def average(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in metrics])) for name in metrics[0]}


def spaced(items: Sequence[Any], count: int) -> list[Any]:
    """About `count` of the items, evenly spread, the first among them."""
    return [items[place] for place in np.unique(np.linspace(0, len(items) - 1, max(1, count)).round().astype(int))]
