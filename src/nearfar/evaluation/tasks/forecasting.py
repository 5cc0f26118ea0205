"""Forecasting: how well the next steps of a series are read from the vector of the steps before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.forecasting import SPLITS, Piece, anchors, pieces, ridge_forecast, seasonal
from nearfar.evaluation.task import Part, Reference, Scores, Table, Task, counts_in, register
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

USUAL = (24, 48, 168, 336, 720)  # horizons of the papers
CONTEXT = 200
FEWEST = 10  # places in a split at which a horizon is measured


@register
class ForecastTask(Task):
    """Squared and absolute error of forecasts by a ridge regression on the vector of the steps before, each channel in
    deviations of its training steps, as the mean over horizons.

    Args:
        horizons: how many steps are told, separated by commas. auto: those of 24, 48, 168, 336, 720 for which each
            split has room, else the longest that it has room for.
        context: how many steps the vector is made of. auto: 200, or a third of the steps of the shortest split.
        places: at most so many places of each split, evenly spread, are measured.
    """

    primary = "mse"
    metrics = {
        "mse": Metric("mean squared error", "error", higher_is_better=False),
        "mae": Metric("mean absolute error", "error", higher_is_better=False),
    }
    beside = "mae"
    part = Part("horizon", "horizons", "The error by how many steps are told.")
    chance_words = "always the mean of the training steps"
    needs = "It needs time series: long ones are cut with --series-window 128."

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        horizons: str | Sequence[int] = "auto",
        context: PositiveInt | Literal["auto"] = "auto",
        places: PositiveInt = 1000,
    ):
        super().__init__(data)
        self.role, self.roles, self.places = "series", ("series",), places
        self.pieces = self.cut()
        room = {name: self.room(k) for k, name in enumerate(SPLITS)}
        self.context = max(1, min(CONTEXT, min(room.values()) // 3)) if context == "auto" else context
        self.horizons = self.fitting() if horizons == "auto" else counts_in("horizons", horizons)
        train = np.concatenate([piece.values[piece.split == 0] for piece in self.pieces])
        known = np.isfinite(train)
        self.mean = np.where(known, train, 0).sum(0) / np.maximum(known.sum(0), 1)
        spread = np.sqrt((np.where(known, train - self.mean, 0) ** 2).sum(0) / np.maximum(known.sum(0), 1))
        self.std = np.where(spread > 1e-9 * np.maximum(1, np.abs(self.mean)), spread, 1.0)

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return "series" in data.roles and (modalities is None or "series" in modalities)

    @classmethod
    def priority(cls, data: Data) -> int | None:
        """Of windows of long series, behind what their labels allow; else only where it is asked for."""
        return 15 if "window" in data.meta else None

    def cut(self) -> list[Piece]:
        """The data as runs of steps."""
        from nearfar.sources.series import SOURCE, START

        data, rows = self.data, np.arange(len(self.data))
        split = np.full(len(rows), -1)
        for place, name in enumerate(SPLITS):
            split[data.splits[name]] = place
        lengths, values = data.facts("sizes", "series").astype(np.int64), data.facts("values", "series")
        source, start, steps = rows, np.zeros(len(rows), np.int64), lengths
        if "window" in data.meta:
            source, start = (np.array(data.values(name)) for name in (SOURCE, START))
            steps = np.full(len(rows), data.meta["window"])
        return pieces([values[row, :n] for row, n in enumerate(lengths)], steps, source, start, split)

    def room(self, part: int) -> int:
        """The most steps of a split that follow each other."""
        return max((int((piece.split == part).sum()) for piece in self.pieces), default=0)

    def fitting(self) -> tuple[int, ...]:
        def fits(horizon: int) -> bool:
            return all(len(self.where(k, horizon)) >= FEWEST for k in range(3))

        found = tuple(h for h in USUAL if fits(h))
        return found or (next((h for h in range(USUAL[0] - 1, 0, -1) if fits(h)), 1),)

    def where(self, part: int, horizon: int) -> np.ndarray:
        """(n, 2), piece and step, of all places of a split with a value before them and none missing behind them."""
        steps = [anchors(one.split, part, self.context, horizon, one.values) for one in self.pieces]
        pieces = np.repeat(np.arange(len(steps)), [len(one) for one in steps])
        return np.stack([pieces, np.concatenate(steps)], 1)

    def check(self) -> None:
        for split in ("train", *self.held_out):
            for horizon in self.horizons:
                if len(self.where(SPLITS.index(split), horizon)) < 2:
                    raise self.no_room(split, horizon)

    def no_room(self, split: str, horizon: int) -> InputError:
        """The error for a split in which so many steps cannot be told."""
        part = SPLITS.index(split)
        steps = self.room(part)
        if sum(len(anchors(piece.split, part, self.context, horizon)) for piece in self.pieces) >= 2:
            most = next((h for h in range(horizon - 1, 0, -1) if len(self.where(part, h)) >= 2), None)
            fewer = "" if most is None else f' or tell fewer steps: --task "forecasting --horizons {most}"'
            return InputError(
                f"No two places of the {split} split have {horizon} steps without a missing value behind them and a "
                f"value in the {self.context} steps before.",
                f"Fill missing values in{fewer}.",
            )
        return InputError(
            f"The {split} split has at most {steps} steps in a row: with {self.context} steps before, no {horizon} "
            "steps can be told.",
            f'Use --task "forecasting --horizons {max(1, steps // 4)} --context {max(1, steps // 4)}", or longer '
            "series.",
        )

    def spread(self, split: str, horizon: int) -> np.ndarray:
        """(n, 2) of at most `places` places of a split, evenly spread."""
        found = self.where(SPLITS.index(split), horizon)
        if not len(found):
            raise self.no_room(split, horizon)
        return found[np.unique(np.linspace(0, len(found) - 1, min(len(found), self.places)).round().astype(int))]

    def parts(self, split: str, horizon: int) -> list[np.ndarray]:
        """Places to fit on, to choose the penalty on, and to score. For validation the last fifth of the training
        places stands for the second, and no step told to fit on is told there."""
        train, scored = self.spread("train", horizon), self.spread(split, horizon)
        if split != "val":
            return [train, self.spread("val", horizon), scored]
        held = train[len(train) - max(1, len(train) // 5) :]
        first = held[0]
        before = (train[:, 0] < first[0]) | ((train[:, 0] == first[0]) & (train[:, 1] + horizon <= first[1]))
        return [train[before] if before.any() else train[: -len(held)], held, scored]

    def future(self, places: np.ndarray, horizon: int) -> np.ndarray:
        """(n, horizon * C) of the steps to be told, in deviations."""
        found = [self.pieces[k].values[t + 1 : t + 1 + horizon] for k, t in places]
        return ((np.stack(found) - self.mean) / self.std).reshape(len(places), -1)

    def past(self, places: np.ndarray) -> list[np.ndarray]:
        """float32 (context, C) of the steps before, as they stand in the data."""
        return [self.pieces[k].values[t + 1 - self.context : t + 1].astype(np.float32) for k, t in places]

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        known: dict[tuple[int, int], np.ndarray] = {}

        def vectors(places: np.ndarray) -> np.ndarray:
            fresh = [(int(k), int(t)) for k, t in places if (int(k), int(t)) not in known]
            if fresh:
                known.update(zip(fresh, embed.items(self.role, self.past(np.array(fresh))), strict=True))
            return np.stack([known[int(k), int(t)] for k, t in places])

        return self.by_ridge(vectors, split, examples)

    def by_ridge(self, vectors: Callable[[np.ndarray], np.ndarray], split: str, examples: int = 0) -> Scores:
        """The scores of a ridge regression on vectors (n, d) of places (n, 2)."""

        def forecast(horizon: int, parts: list[np.ndarray]) -> np.ndarray:
            z, y = [vectors(part) for part in parts], [self.future(part, horizon) for part in parts[:2]]
            return ridge_forecast(z[0], y[0], z[1], y[1], z[2])

        return self.scored(forecast, split, examples)

    def scored(
        self, forecast: Callable[[int, list[np.ndarray]], np.ndarray], split: str, examples: int = 0
    ) -> Scores:  # fmt: skip
        found: dict[str, dict[str, float]] = {}
        errors, clusters, places = {}, {}, 0
        for horizon in self.horizons:
            parts = self.parts(split, horizon)
            wrong = forecast(horizon, parts) - self.future(parts[2], horizon)
            name = f"{horizon} steps"
            errors[name] = np.square(wrong).mean(1)
            clusters[name] = np.array([self.pieces[k].row[t] for k, t in parts[2]])
            found[name] = {"mse": float(errors[name].mean()), "mae": float(np.abs(wrong).mean())}
            places = max(places, len(wrong))
        metrics = {metric: float(np.mean([one[metric] for one in found.values()])) for metric in ("mse", "mae")}
        return Scores(
            "mse",
            metrics["mse"],
            metrics,
            found,
            errors,
            clusters,
            {"places": {"queries": places, "skipped": 0, "gallery": 0}},
            split,
            tables=[self.by_horizon(found)] if examples else [],
        )

    def by_horizon(self, found: dict[str, dict[str, float]]) -> Table:
        rows: list[Sequence[Any]] = [[name, f"{one['mse']:.4g}", f"{one['mae']:.4g}"] for name, one in found.items()]
        return Table("Forecasts, in deviations of the training steps", ["told", "squared error", "error"], rows)

    def references(self, *, size: int = 32) -> list[Reference]:
        def mean(split: str, examples: int = 0) -> Scores:
            channels = len(self.mean)
            return self.scored(lambda h, parts: np.zeros((len(parts[2]), h * channels)), split, examples)

        def raw(split: str, examples: int = 0) -> Scores:
            return self.by_ridge(self.values, split, examples)

        return [
            Reference("chance", "mean of the training steps", "chance", mean),
            Reference("raw", "ridge on raw values", "reference", raw),
            Reference("seasonal", "seasonal naive", "reference", self.naive),
        ]

    def values(self, places: np.ndarray) -> np.ndarray:
        """(n, context * C): the steps before themselves, in deviations, a missing one 0."""
        found = [(item - self.mean) / self.std for item in self.past(places)]
        return np.nan_to_num(np.stack(found)).reshape(len(places), -1)

    def naive(self, split: str, examples: int = 0) -> Scores:
        """What stood there one period ago (the last value where the training steps have no period)."""
        train = max((piece.values[piece.split == 0] for piece in self.pieces), key=len)
        period = seasonal(train, self.context)

        def forecast(horizon: int, parts: list[np.ndarray]) -> np.ndarray:
            past = np.stack([self.last_known(item)[-period:] for item in self.past(parts[2])])
            back = np.arange(horizon) % period
            return ((past[:, back] - self.mean) / self.std).reshape(len(past), -1)

        return self.scored(forecast, split, examples)

    def last_known(self, item: np.ndarray) -> np.ndarray:
        """Each missing value replaced by the one before it, the mean where there is none."""
        out = np.array(item, np.float64)
        for step in range(len(out)):
            out[step] = np.where(np.isfinite(out[step]), out[step], out[step - 1] if step else self.mean)
        return out

    def describe(self) -> str:
        told = ", ".join(map(str, self.horizons))
        return (
            f"Mean squared error (lower is better), in deviations of the training steps, of a ridge regression that "
            f"tells the next steps ({told}; the mean over these) from the vector of the {self.context} steps before "
            "them; its penalty is chosen on validation steps. Training steps come first, so nothing looks ahead."
        )
