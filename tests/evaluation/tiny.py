"""A small object with the attributes of Data that tasks ask for."""

from dataclasses import dataclass, field

import numpy as np


def ids(values):
    """Numbers of equal values, in order of first appearance; None = -1."""
    seen = {}
    return np.array([-1 if value is None else seen.setdefault(value, len(seen)) for value in values])


@dataclass
class Tiny:
    """columns: role -> texts, or uint8 images (n, 3, h, w)."""

    columns: dict
    groups: np.ndarray | None = None
    units: np.ndarray | None = None
    domains: np.ndarray | None = None
    domain_names: list | None = None
    targets: np.ndarray | None = None
    labels: dict = field(default_factory=dict)
    corpus: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    splits: dict | None = None
    name: str = "tiny"
    pair_labels: np.ndarray | None = None
    scores: np.ndarray | None = None
    query_keys: list | None = None
    grades: np.ndarray | None = None
    corpus_keys: dict | None = None

    @property
    def positives(self):
        return None if self.pair_labels is None else self.pair_labels == 1

    def __post_init__(self):
        n = len(next(iter(self.columns.values())))
        self.roles = {role: role for role in self.columns}
        self.keys = [f"item {row}" for row in range(n)]
        self.splits = self.splits or {name: np.arange(n) for name in ("train", "val", "test")}

    def names(self, role, rows):
        return [self.keys[row] for row in rows]

    def _all(self):
        columns = [*self.columns.items(), *((("corpus", role), texts) for role, texts in self.corpus.items())]
        found = ids([item if isinstance(item, str) else item.tobytes() for _, column in columns for item in column])
        ends = np.cumsum([len(column) for _, column in columns])[:-1]
        return dict(zip([name for name, _ in columns], np.split(found, ends), strict=True))

    def few_units(self):
        return "", ""

    def content(self, role):
        return self._all()[role]

    def corpus_content(self, role):
        return self._all()["corpus", role]

    def texts(self, role, rows=None):
        return [self.columns[role][row] for row in (range(len(self.keys)) if rows is None else rows)]

    def images(self, role, size, rows=None):
        return self.columns[role] if rows is None else self.columns[role][rows]


class Vectors:
    """An embed contract over stored vectors, role -> (n, d)."""

    def __init__(self, vectors, corpus=None):
        self.vectors, self._corpus, self.asked = vectors, corpus, 0

    def __call__(self, role, rows):
        self.asked += len(rows)
        return self.vectors[role][rows]

    def raw(self, role, rows):
        return self(role, rows)

    def corpus(self, role):
        return self._corpus[role]


def some_images(n, seed=0, size=32):
    """Blocky random images, all different."""
    small = np.random.default_rng(seed).integers(0, 256, (n, 3, size // 8, size // 8), dtype=np.uint8)
    return small.repeat(8, axis=2).repeat(8, axis=3)
