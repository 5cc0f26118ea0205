"""What needs no training on time series: their values at even places, the nearest by dynamic time warping, and, where
aeon is installed, the features of MiniRocket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import processes
from nearfar.evaluation.embedding import DataEmbed
from nearfar.evaluation.neighbours import FunctionScorer
from nearfar.evaluation.references import main_components, score_row, vector_row
from nearfar.evaluation.search_task import SearchTask
from nearfar.evaluation.searches import Search, side_items
from nearfar.evaluation.task import Reference, Task
from nearfar.similarity import Source

if TYPE_CHECKING:
    from nearfar.sources.data import Data

MOST_STEPS = 256  # of a series among the raw values, and in warping
CELLS = 4e8  # of all matrices of one search that are filled in warping
AT_ONCE = 1 << 22  # cells of such matrices in memory
ROCKET_FEATURES = 2016  # 24 of each of its 84 kernels
ROCKET_LEAST = 9  # steps: the length of a kernel
NEAREST = 1e4  # makes the nearest item outweigh all others in a vote


def by_series(task: Task) -> list[Reference]:
    """Raw values, their main components, MiniRocket where aeon is there, and, for searches, the nearest by dynamic time
    warping."""
    data, role = task.data, task.roles[0]
    found = [vector_row("raw", "raw values", task, lambda: raw_values(data, role)),
             vector_row("pca", "PCA", task, lambda: raw_values(data, role, components=True))]  # fmt: skip
    if find_spec("aeon") is not None:
        found.append(vector_row("minirocket", "MiniRocket", task, lambda: minirocket(data, role)))
    if isinstance(task, SearchTask):
        found.append(score_row("dtw", "1-NN DTW", task, lambda search: dtw_scorer(data, search)))
    return found


def raw_values(data: Data, role: str, *, components: bool = False) -> DataEmbed:
    """The values of each series at so many even places as the median training series has steps, each channel by mean
    and deviation over the training rows, or their main components."""
    even, train = evened(data, role)

    def flat(items: Any) -> np.ndarray:
        return even(items).reshape(len(items), -1)

    if not components:
        return DataEmbed(data, lambda _, items: flat(items))
    project = main_components(flat(train))
    return DataEmbed(data, lambda _, items: project(flat(items)))


def evened(data: Data, role: str, least: int = 1) -> tuple[Callable[[Any], np.ndarray], list[np.ndarray]]:
    """What brings series to as many even places as the median training series has steps (`least` or more), each channel
    by mean and deviation over the training rows: float32 (n, T, C); and the training series."""
    from nearfar.encoders.numeric import moments

    train = data.splits["train"]
    values, lengths = data.facts("values", role), data.facts("sizes", role)
    mean, std = moments(values[train].reshape(-1, values.shape[2]))
    steps = int(max(least, min(MOST_STEPS, np.median(lengths[train]))))

    def even(items: Any) -> np.ndarray:
        return np.stack([resampled((item - mean) / std, steps) for item in items]).astype(np.float32)

    return even, [values[row, : lengths[row]] for row in train]


def minirocket(data: Data, role: str) -> DataEmbed:
    """How often each of 84 fixed kernels of two weights, at several distances, answers above a bias taken from training
    series: 2,016 shares (9,996 in the paper), by aeon. Series as in `raw_values`; the draw is the same each time.

    Source: Dempster, Schmidt and Webb, "MiniRocket", KDD 2021.
    """
    from aeon.transformations.collection.convolution_based import (  # pyright: ignore[reportMissingImports]
        MiniRocket,
    )

    even, train = evened(data, role, ROCKET_LEAST)

    def channels(items: Any) -> np.ndarray:
        return even(items).transpose(0, 2, 1)

    def answers(_: str, items: Any) -> np.ndarray:
        with processes.same_threads():
            return np.asarray(found.transform(channels(items)), np.float32)

    with processes.same_threads():
        found = MiniRocket(n_kernels=ROCKET_FEATURES, random_state=0).fit(channels(train))
    return DataEmbed(data, answers)


def filled_in(series: np.ndarray) -> np.ndarray:
    """A series (T, C) with each missing value on the line between its neighbours, 0 where a channel holds none."""
    out, steps = np.array(series, np.float64), np.arange(len(series))
    for channel in out.T:
        known = np.isfinite(channel)
        channel[:] = np.interp(steps, steps[known], channel[known]) if known.any() else 0.0
    return out


def resampled(series: np.ndarray, steps: int) -> np.ndarray:
    """A series (T, C) at so many even places from its first to its last step, by lines between steps."""
    whole = filled_in(series)
    places = np.linspace(0, len(whole) - 1, steps)
    return np.stack([np.interp(places, np.arange(len(whole)), channel) for channel in whole.T], 1)


def dtw(series: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Dynamic time warping of one series (T, C) with others (T_i, C), float64 (n,): the least sum of squared distances
    of steps over all monotone ways from the first steps to the last, and its root.

    Source: Sakoe and Chiba, IEEE Transactions on Acoustics, Speech and Signal Processing 1978. O(sum T T_i), by
    diagonals. Series that hold no missing value.
    """
    longest = max(map(len, others), default=1)
    if (most := max(1, AT_ONCE // (len(series) * longest))) < len(others):
        parts = [others[start : start + most] for start in range(0, len(others), most)]
        return np.concatenate([dtw(series, part) for part in parts])
    lengths, rows = np.array([len(one) for one in others]), len(series)
    padded = np.zeros((len(others), int(lengths.max()), series.shape[1]))
    for place, one in enumerate(others):
        padded[place, : len(one)] = one
    width = padded.shape[1]
    cost = np.square(series[None, :, None] - padded[:, None]).sum(3)  # (n, T, width)
    whole = np.full((len(others), rows + 1, width + 1), np.inf)
    whole[:, 0, 0] = 0
    for diagonal in range(rows + width - 1):
        i = np.arange(max(0, diagonal - width + 1), min(rows, diagonal + 1))
        j = diagonal - i
        least = np.minimum(np.minimum(whole[:, i, j + 1], whole[:, i + 1, j]), whole[:, i, j])
        whole[:, i + 1, j + 1] = cost[:, i, j] + least
    return np.sqrt(whole[np.arange(len(others)), rows, lengths])


def dtw_scorer(data: Data, search: Search) -> Source:
    """Items by dynamic time warping, each channel in deviations of the training rows; longer series than 256 steps are
    resampled. Of a gallery that would take too long an even choice is looked at."""
    from nearfar.encoders.numeric import moments

    role = search.query.role
    values = data.facts("values", role)[data.splits["train"]]
    mean, std = moments(values.reshape(-1, values.shape[2]))

    def ready(items: Any) -> list[np.ndarray]:
        scaled = [(np.asarray(item, np.float64) - mean) / std for item in items]
        return [resampled(one, MOST_STEPS) if len(one) > MOST_STEPS else filled_in(one) for one in scaled]

    queries, gallery = ready(side_items(data, search.query)), ready(side_items(data, search.gallery))
    usual = float(np.mean([len(one) for one in gallery]))
    most = int(max(1, min(len(gallery), CELLS / (len(queries) * usual**2))))
    looked = np.unique(np.linspace(0, len(gallery) - 1, most).round().astype(int))
    others = [gallery[place] for place in looked]

    def score(rows: np.ndarray) -> np.ndarray:
        out = np.full((len(rows), len(gallery)), -np.inf)
        for place, row in enumerate(rows):
            out[place, looked] = -NEAREST * dtw(queries[int(row)], others)
        return np.where(np.isinf(out), out[np.isfinite(out)].min() * 2 - 1, out)

    return FunctionScorer(score, len(queries), len(gallery))
