"""Time series: .ts files, lists in columns, columns of steps, arrays in .npz, and long tables with a row a step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nearfar.checks import NonNegativeInt, PositiveInt, Width
from nearfar.errors import InputError
from nearfar.modalities.vector import MOST, cell_numbers, inner, no_number
from nearfar.modality import Modality, Reader, register

if TYPE_CHECKING:
    import numpy as np

    from nearfar.encoders import Encoder
    from nearfar.evaluation.embedding import DataEmbed
    from nearfar.evaluation.task import Reference, Task
    from nearfar.sources.data import Data
    from nearfar.sources.raw import Raw
    from nearfar.sources.scan import Scan

SPARKS = "▁▂▃▄▅▆▇█"
SHORTEST = 8  # mean length of lists of unlike lengths that are taken for series unasked


@dataclass
class Options:
    """The encoder of time series.

    Args:
        series_dim: length of the vector of a series, and of each of its steps.
        series_width: width of the dilated convolutions.
        series_depth: how often their distance doubles, so that a step sees 2^(depth + 3) steps around it. auto: as far
            as the median series reaches, 3 to 10 (TS2Vec and AutoTCL: 10).
        series_scales: further causal convolutions of kernels 1, 2, 4, ..., whose mean is taken (AutoTCL: 8).
        series_pool: what makes one vector of the vectors of all steps: max, mean, or last (the last step's). auto:
            last for windows of long series, else max.
    """

    series_dim: Width = 128
    series_width: Width = 64
    series_depth: PositiveInt | Literal["auto"] = "auto"
    series_scales: NonNegativeInt = 0
    series_pool: Literal["auto", "max", "mean", "last"] = "auto"


@register
class Series(Modality):
    """Items are float32 (T, C), NaN where a value is missing; the encoder standardises each channel by the training
    rows."""

    word, words = "series", "series"
    roles = ("series",)
    columns = {"series": ("series", "time_series", "timeseries")}
    described = {
        "series": "columns of time series: lists of numbers (a channel each), numbers of a long table with --series-id "
        "or --series-window (a channel each), or numbers of a row (a step each, step_* means all whose names begin so)",
        "series_id": "column that says which series each row of a long table belongs to",
    }
    companions = {"series_id": "series"}
    several = True
    rank, certainty = 1.9, 60
    looks_words = "lists of numbers of unlike lengths"
    endings = frozenset({".ts"})
    tables = frozenset({".ts", ".npz"})
    options = Options
    by_rows = True
    plans = {"distort": "nearfar.views.series:Distort"}
    default_plan = "distort"
    why = "there are series without pairs: two distorted copies of a series are positives"
    by_svm = True
    example = "digit-series"
    usage = "embed([series])  # each (steps, channels)"
    cell = None
    unit = "steps"

    # -- the way in

    def looks_like(self, values: Sequence[Any]) -> bool:
        """Lists of numbers of unlike lengths; lists of one length may be vectors, so they are asked for."""
        lengths = [len(v) for v in values if isinstance(v, list)]
        if len(lengths) < 2 or sum(lengths) < SHORTEST * len(lengths) or not self.fits("series", values):
            return False
        return 2 * max(map(lengths.count, lengths)) <= len(lengths)

    def fits(self, role: str, values: Sequence[Any]) -> bool:
        if role != self.roles[0]:
            return True
        found = [v for v in values if not no_number(v) and v != []]
        lists = [v for v in found if cell_numbers(v) is not None and (isinstance(v, list) or "[" in str(v))]
        return len(lists) > MOST * len(found)

    def read_files(self, path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
        from nearfar.sources.ts_files import read_ts_folder

        return read_ts_folder(path, files, cache, skip)

    def read_file(self, path: Path, cache: Path, skip: bool) -> Raw | None:
        from nearfar.sources.series import read_array
        from nearfar.sources.ts_files import read_ts

        return read_ts(path, cache, skip) if path.suffix.casefold() == ".ts" else read_array(path, cache)

    def gathered(
        self, raw: Raw, wanted: Mapping[str, Any], window: int | None, skip: bool
    ) -> tuple[Raw, dict[str, Any], dict[str, str]] | None:
        from nearfar.sources.stamped import gathered

        return gathered(raw, wanted, window, skip)

    def scan(self, raw: Raw, columns: Mapping[str, Sequence[str]], found: Scan) -> None:
        from nearfar.sources.scan import key_of
        from nearfar.sources.series import scan_series

        for role, names in columns.items():
            if role in self.roles:
                scan_series(raw, names, key_of(names), found)

    def content(self, value: Any) -> bytes:
        """The numbers in single precision and their shape; of missing ones there is one kind, and zero has no sign."""
        import numpy as np

        found = np.asarray(value, np.float32) + np.float32(0)
        found = np.where(np.isnan(found), np.float32(np.nan), found).astype(np.float32)
        return repr(found.shape).encode() + found.tobytes()

    def sizes_in_words(self, sizes: Mapping[str, Any]) -> str:
        parts = [f"{sizes[name]:,}" for name in ("least", "median", "most")]
        return f"{parts[0]} steps" if len(set(parts)) == 1 else f"{' / '.join(parts)} steps"

    def samples(self, data: Data, role: str, rows: np.ndarray) -> list[str]:
        """The first channels as lines of small blocks, with the numbers of steps and channels."""
        shown = []
        for item in self.items(data, role, rows):
            lines = [spark(item[:, i]) for i in range(min(3, item.shape[1]))]
            shown.append(f"{' '.join(lines)} ({len(item)} steps x {item.shape[1]})")
        return shown

    def remarks(self, data: Data, role: str) -> list[str]:
        """Steps in another order than their names say, missing values, and series and channels that tell nothing."""
        import numpy as np

        items, names = self.items(data, role), self.names(data, role)
        notes = disordered(data.roles.get(role, role)) if names == ["value"] else []
        holes = np.array([int(np.isnan(item).sum()) for item in items])
        if holes.any():
            total = sum(item.size for item in items)
            many = int((holes > 0).sum())
            notes.append(f"{holes.sum():,} of {total:,} values are missing, in {many:,} series: they count as the "
                         "mean of their channel over the training rows")  # fmt: skip
        still = sum(bool((ranges(item) == 0).all()) for item in items)
        if still:
            notes.append(f"{still:,} of {len(items):,} series never change")
        train = np.concatenate([items[row] for row in data.splits["train"]])
        flat = [name for name, spread in zip(names, ranges(train), strict=True) if spread == 0]
        if flat:
            notes.append(f"{len(flat)} of {len(names)} channels are the same in all training rows and tell nothing: "
                         f"{', '.join(flat[:5])}")  # fmt: skip
        return notes

    def names(self, data: Data, role: str) -> list[str]:
        """The name of each channel."""
        columns = data.roles.get(role, role)
        columns = [columns] if isinstance(columns, str) else list(columns)
        return columns if data.facts("values", role).shape[2] == len(columns) else ["value"]

    # -- items

    def items(self, data: Data, role: str, rows: Any = None, size: int | None = None) -> Any:
        values, lengths = data.facts("values", role), data.facts("sizes", role)
        chosen = range(len(values)) if rows is None else [int(row) for row in rows]
        return [values[row, : lengths[row]] for row in chosen]

    def other_look(self, items: Any, rows: np.ndarray) -> Any:
        """A fifth of the steps empty, the others changed by up to a fifth of the item's spread; the same row gives the
        same look."""
        import numpy as np

        looks = []
        for item, row in zip(items, rows, strict=True):
            rng, out = np.random.default_rng([20_243, int(row)]), np.array(item, np.float32)
            spread = np.nanstd(out) if np.isfinite(out).any() else 0.0
            out += np.float32(0.2 * spread) * rng.uniform(-1, 1, out.shape).astype(np.float32)
            away = rng.random(len(out)) < 0.2
            away[int(np.isfinite(out).any(1).argmax())] = False
            out[away] = np.nan
            looks.append(out)
        return looks

    def show(self, data: Data, role: str, items: Any, size: int = 48) -> list[dict[str, str]]:
        """Lines, a channel each, between the smallest and the largest value of the series."""
        from nearfar.reporting.cells import lines

        return [{"image": lines(item, size)} for item in items]

    def stamp(self, data: Data, role: str, rows: np.ndarray, size: int | None = None) -> list[bytes]:
        return [self.content(item) for item in self.items(data, role, rows)]

    def references(self, task: Task, size: int) -> list[Reference]:
        from nearfar.evaluation.series import by_series

        return by_series(task)

    def raw_features(self, data: Data, role: str) -> DataEmbed | None:
        from nearfar.evaluation.series import raw_values

        return raw_values(data, role)

    # -- training

    def resolve(self, options: Any, data: Data) -> Any:
        import numpy as np

        if options.series_depth == "auto":
            median = float(np.median(data.facts("sizes", self.roles[0])))
            depth = math.ceil(math.log2(max(median, 2))) - 2  # a step sees 2^(depth + 3) steps
            options = replace(options, series_depth=min(10, max(3, depth)))
        if options.series_pool == "auto":
            options = replace(options, series_pool="last" if "window" in data.meta else "max")
        return options

    def resolved(self, options: Any) -> dict[str, Any]:
        return {"series_depth": options.series_depth, "series_pool": options.series_pool}

    def described_encoder(self, options: Any) -> str:
        return "dilated convolutions"

    def encoder(self, options: Any, data: Data, seed: int) -> Encoder:
        """Standardised by the training rows alone."""
        from nearfar.encoders.series import SeriesEncoder

        made = SeriesEncoder(self.names(data, self.roles[0]), options.series_dim, options.series_width,
                             options.series_depth, options.series_scales, options.series_pool)  # fmt: skip
        return made.standardise(self.items(data, self.roles[0], data.splits["train"]))

    def reader(self, data: Data, role: str, encoder: Any, length: int | None = None) -> Reader:
        order = inner(encoder).order_of(self.names(data, role), str(data.path or data.name))
        return self._reader(self.items(data, role), encoder, order)

    def reader_of(self, items: Any, encoder: Any) -> Reader:
        encoder = inner(encoder)
        return self._reader([encoder.one(item, place) for place, item in enumerate(items)], encoder, None)

    def _reader(self, items: Sequence[np.ndarray], encoder: Any, order: Any) -> Reader:
        import numpy as np
        import torch

        from nearfar.encoders.series import padded

        def raw(rows: np.ndarray, rng: Any = None) -> Any:
            found = padded([items[int(row)] for row in rows])
            return torch.from_numpy(found if order is None else found[..., order])

        return Reader(raw, lambda rows: raw(rows), np.array([len(item) for item in items], np.int64))

    # -- a model and its use

    def restore(self, config: Mapping[str, Any], folder: Path) -> Encoder:
        from nearfar.encoders.series import SeriesEncoder

        names = ("channels", "dim", "width", "depth", "scales", "pool")
        return SeriesEncoder(**{name: config[name] for name in names})

    def accepts(self, item: Any) -> bool:
        shape = getattr(item, "shape", None)
        return isinstance(item, list | tuple) if shape is None else len(shape) in (1, 2)

    def lengths(self, items: Any) -> Sequence[int] | None:
        return [len(item) for item in items]

    def preprocessing(self, encoder: Any) -> dict[str, Any]:
        encoder = inner(encoder)
        return {"channels": encoder.channels, "standardised": "by the training rows; a missing value is the mean",
                "mean": encoder.mean.tolist(), "std": encoder.std.tolist()}  # fmt: skip

    def examples(self, encoder: Any) -> list[Any]:
        import numpy as np

        encoder, rng = inner(encoder), np.random.default_rng(0)
        drawn = [rng.normal(size=(20 + 3 * k, len(encoder.channels))) for k in range(6)]
        return [(one * encoder.std.cpu().numpy() + encoder.mean.cpu().numpy()).astype(np.float32) for one in drawn]

    def kept(self, data: Data, role: str, rows: np.ndarray, encoder: Any) -> list[Any]:
        order = inner(encoder).order_of(self.names(data, role), str(data.path or data.name))
        items = self.items(data, role, rows)
        return items if order is None else [item[:, order] for item in items]

    def write(self, items: Sequence[Any], encoder: Any) -> list[Any]:
        rows = (inner(encoder).one(item, place).tolist() for place, item in enumerate(items))
        return [[[None if math.isnan(value) else value for value in step] for step in row] for row in rows]

    def read(self, coded: Sequence[Any], encoder: Any) -> list[Any]:
        import numpy as np

        return [np.array([[math.nan if v is None else v for v in step] for step in row], np.float32) for row in coded]

    def query(self, words: str, alone: bool) -> Any:
        """Numbers separated by commas or blanks, channels by semicolons; an empty place or ? is a missing value."""
        import numpy as np

        parts = [part.strip() for part in words.strip().strip("[]()").split(";")]
        read = [[word.strip() for word in (part.split(",") if "," in part else part.split())] for part in parts]
        wrong = next((w for one in read for w in one if not no_number(w) and cell_numbers(w) is None), None)
        lengths = {len(one) for one in read}
        if wrong is None and len(lengths) == 1 and lengths != {0}:
            cells = [[math.nan if no_number(w) else cell_numbers(w)[0] for w in one] for one in read]  # pyright: ignore
            return np.array(cells, np.float32).T
        if not alone:
            return None
        why = f", where '{wrong:.30}' is not a number" if wrong else ", whose channels have unlike lengths"
        raise InputError(
            f"This model embeds time series. Got '{words:.60}'{why}.",
            'Write numbers separated by commas, channels by semicolons, "1,2,3;4,5,6", or key:KEY for an item of the '
            "index.",
        )


def disordered(columns: Sequence[str] | str) -> list[str]:
    """What to tell of columns of steps whose names end in numbers that do not rise (step_1, step_10, step_2)."""
    ends = [re.search(r"\d+$", name) for name in ([columns] if isinstance(columns, str) else columns)]
    numbers = [int(end[0]) for end in ends if end]
    if len(numbers) < len(ends) or numbers == sorted(numbers):
        return []
    return [f"the steps are read in the order of the file, where their numbers do not rise ({', '.join(columns[:4])}, "
            "...): sort the columns if it is not the order of time"]  # fmt: skip


def ranges(values: Any) -> Any:
    """The largest less the smallest value of each channel (T, C) -> (C,), 0 where there is none."""
    import numpy as np

    there = np.isfinite(values)
    high = np.where(there, values, -np.inf).max(0, initial=-np.inf)
    low = np.where(there, values, np.inf).min(0, initial=np.inf)
    return np.where(there.any(0), high - low, 0.0)


def spark(values: Any, width: int = 24) -> str:
    """Numbers (T,) as a line of small blocks, from the lowest to the highest; a blank where none is there."""
    import numpy as np

    runs = np.array_split(np.asarray(values, np.float64), min(width, max(1, len(values))))
    means = [float(run[np.isfinite(run)].mean()) if np.isfinite(run).any() else math.nan for run in runs]
    known = [mean for mean in means if not math.isnan(mean)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if math.isnan(mean) else SPARKS[round((mean - low) * scale)] for mean in means)
