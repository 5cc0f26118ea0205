"""The contract of a task: one way of measuring is one class in one file, `tasks/<name>.py`.

    possible(data)  ->  priority(data)  ->  Task(data, options)  ->  evaluate(embed, split)  ->  Scores
                                                 references()    ->  rows that need no training

A task names its metrics, their units and which direction is better; whoever ranks or shows scores asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nearfar import modalities as kinds
from nearfar.checks import PositiveInt, check, checked_init
from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.statistics import Interval, bootstrap
from nearfar.registry import TASKS, name_of
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Table:
    """Numbers or words that a task shows in the report beside its metrics: rows are as wide as columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Part:
    """What a score consists of: word for one and for many; note: what the report says above their table."""

    one: str = "part"
    many: str = "parts"
    note: str = ""


@dataclass(frozen=True)
class Scores:
    """What one model reached.

    primary: the number that ranks; metrics: name -> number ("hard/..." of the parts that stand apart); directions:
    name of a part -> its metrics; per_query and clusters: name -> values of single items, whose mean (of several names
    the mean of their means) is the primary, and ids of items that depend on each other; counts: queries, skipped,
    gallery by direction; examples, tables: what a report shows; domains: name of a domain -> "rows" and the
    metrics of these; chosen: what validation rows chose, which the finished model keeps (`Inference.keep`).
    """

    primary_name: str
    primary: float
    metrics: dict[str, float]
    directions: dict[str, dict[str, float]] = field(default_factory=dict)
    per_query: dict[str, np.ndarray] = field(default_factory=dict)
    clusters: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    split: str = "test"
    examples: list[Any] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    domains: dict[str, dict[str, float]] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)

    def bootstrap(self, *, draws: int = 2000, seed: int = 0) -> Interval:
        """95 % interval over test items (units), all directions of one item together; without bounds where the task
        gives no values of single items."""
        names = list(self.per_query)
        if not names:
            return Interval(self.primary, None, None, 0)
        count = sum(len(self.per_query[name]) for name in names)
        equal = [self.per_query[name] * (count / len(names) / max(1, len(self.per_query[name]))) for name in names]
        return bootstrap(
            np.concatenate(equal),
            np.concatenate([self.clusters[name] for name in names]),
            draws=draws,
            seed=seed,
        )

    def shown(self) -> dict[str, list[Any]]:
        """What a report shows, by the name of its section."""
        return {"examples": self.examples, "tables": self.tables}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the per-query values."""
        return {
            "split": self.split,
            "primary_name": self.primary_name,
            "primary": self.primary,
            "metrics": self.metrics,
            "directions": self.directions,
            "domains": self.domains,
            "counts": self.counts,
            "bootstrap": self.bootstrap().bounds,
        }


@dataclass(frozen=True)
class Reference:
    """slug, label and kind ("chance" or "reference") of a row of the leaderboard; evaluate(split) -> Scores."""

    slug: str
    label: str
    kind: str
    evaluate: Callable[..., Scores]


class Task:
    """One way of measuring on one data set. A subclass is a file: its keyword arguments are its options, typed and with
    defaults, described under Args.

    Attributes:
        primary: the metric that ranks.
        metrics: name -> Metric, in the order in which tables show them.
        beside: a second metric for the leaderboard.
        proxy: a stand-in, which names no winner.
        part: what a score consists of.
        chance_words: what the row "chance" does.
        needs: what the data must hold, and how to say so.
        roles: content roles whose vectors are asked for; set by the constructor.
        also: further roles, which are asked of models that embed them.
    """

    kind = ""
    primary = ""
    metrics: Mapping[str, Metric] = {}
    beside: str | None = None
    proxy = False
    part = Part()
    chance_words = "nothing known"
    needs = ""
    max_queries = 5000
    roles: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None):
        self.data = data

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        """Whether the data hold what is asked for, in the kinds of data that the models at hand embed (None: all)."""
        raise NotImplementedError

    @classmethod
    def priority(cls, data: Data) -> int | None:
        """For the choice by data alone: the possible task of the highest priority. None: only where asked for."""
        return None

    def describe(self) -> str:
        """What is measured, in a sentence or two."""
        raise NotImplementedError

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        """Scores of a model; with `examples` > 0 so many of them for the report, where the task has some."""
        raise NotImplementedError

    @property
    def target_labels(self) -> np.ndarray | None:
        """int64 (N,): the labels that the task tells from those of the training part, -1 where a row has none; None
        where it tells none."""
        return None

    @property
    def held_out_edges(self) -> tuple[float, int]:
        """The share of the edges of a graph that models of this task do not see, and the seed that draws them."""
        return 0.0, 0

    def check(self) -> None:
        """Raises InputError, before anything is trained, where a split that will be scored cannot be."""

    @property
    def held_out(self) -> list[str]:
        """The splits that are scored after training."""
        return [split for split in ("val", "test") if len(self.data.splits.get(split, ()))]

    def references(self, *, size: int = 32) -> list[Reference]:
        """Rows that need no training, computed only when `.evaluate(split, examples=0)` is called; images are looked
        at with `size` pixels a side."""
        return []

    def metric(self, name: str | None = None) -> Metric:
        """A metric by name, by default the primary one; one without a name has the unit of that one."""
        name = (name or self.primary).removeprefix("hard/")
        known = self.metrics.get(name)
        if known is None and name != self.primary and self.primary in self.metrics:
            main = self.metrics[self.primary]
            return Metric(name, main.unit, main.higher_is_better)
        return known or Metric(name)

    def summary(self, split: str = "test") -> dict[str, Any]:
        """The task as it stands in results.json."""
        main = self.metric()
        return {
            "kind": self.kind,
            "primary": self.primary,
            "label": main.label,
            "unit": main.unit,
            "higher_is_better": main.higher_is_better,
            "description": self.describe(),
            "proxy": self.proxy,
            "metrics": {name: one.to_dict() for name, one in self.metrics.items()},
            "beside": self.beside,
            "chance": self.chance_words,
            "parts": asdict(self.part),
        }

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split. Raises InputError where it is empty."""
        if split not in self.data.splits or not len(self.data.splits[split]):
            held = f"Splits with rows: {', '.join(k for k, v in self.data.splits.items() if len(v))}."
            why, mend = self.data.few_units()
            raise InputError(f"The split '{split}' of {self.data.name} is empty{why}.", f"{mend}{held}")
        return np.sort(np.asarray(self.data.splits[split]))

    def draw(self, rows: np.ndarray, most: int | None = None) -> np.ndarray:
        """At most so many of the rows (None: max_queries), the same ones each time."""
        most = self.max_queries if most is None else most
        if len(rows) <= most:
            return rows
        return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))

    def by_domain(
        self, rows: np.ndarray, measure: Callable[[np.ndarray], dict[str, float]], least: int = 1
    ) -> dict[str, dict[str, float]]:
        """Name of a domain -> "rows", their number, and `measure(places)` of their places among the rows (n,), for
        domains of `least` rows or more; empty where fewer than two domains have as many."""
        if self.data.domains is None:
            return {}
        codes = np.asarray(self.data.domains)[rows]
        parts = {name: np.flatnonzero(codes == code) for code, name in enumerate(self.data.domain_names)}
        parts = {name: part for name, part in parts.items() if len(part) >= least}
        if len(parts) < 2:
            return {}
        return {name: {"rows": len(part), **measure(part)} for name, part in parts.items()}

    def units(self, rows: np.ndarray) -> np.ndarray:
        """Ids of rows that depend on each other."""
        units = self.data.units
        return rows if units is None else np.asarray(units)[rows]


def register(cls: T) -> T:
    """Class decorator: a task is known by the name of its file (`few_shot.py`: few-shot)."""
    cls.kind = name_of(cls)  # pyright: ignore[reportAttributeAccessIssue]
    TASKS.add(name_of(cls), checked_init(cls))
    return cls


def content_roles(data: Data, modalities: Sequence[str] | None = None) -> list[str]:
    """The data's columns of items, of the kinds at hand (None: all)."""
    return [
        role
        for kind in kinds.everyone()
        for role in kind.roles
        if role in data.roles and (modalities is None or kind.name in modalities)
    ]


def first_roles(data: Data, modalities: Sequence[str] | None = None) -> list[str]:
    """The columns of items that are not the second of a pair."""
    return [role for role in content_roles(data, modalities) if kinds.of(role).roles[0] == role]


def first_role(data: Data, modalities: Sequence[str] | None = None) -> str | None:
    """The first column of items that is not the second of a pair."""
    return next(iter(first_roles(data, modalities)), None)


def pair_of(data: Data, modalities: Sequence[str] | None = None) -> tuple[str, str] | None:
    """The two columns whose items belong together."""
    known = content_roles(data, modalities)
    return next((pair for pair in kinds.pairs() if set(pair) <= set(known)), None)


def spaced(items: Sequence[Any], count: int) -> list[Any]:
    """About `count` of the items, evenly spread, the first among them."""
    return [items[place] for place in np.unique(np.linspace(0, len(items) - 1, max(1, count)).round().astype(int))]


def counts_in(name: str, words: str | Sequence[int]) -> tuple[int, ...]:
    """ "1,5" -> (1, 5), of the option of that name. Raises InputError for what is not a list of positive numbers."""
    parts = words.split(",") if isinstance(words, str) else list(words)
    try:
        found = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        found = ()
    if not found:
        raise InputError(f"--{name} takes numbers divided by commas. Got '{words}'.")
    for count in found:
        check(name, count, PositiveInt)
    return found
