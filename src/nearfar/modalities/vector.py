"""Rows of numbers: columns of a table, lists in a column, or a matrix in a .npy or .npz file."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nearfar.checks import NonNegativeInt, Width
from nearfar.errors import InputError
from nearfar.modality import Modality, Reader, holder, register

if TYPE_CHECKING:
    import numpy as np

    from nearfar.encoders import Encoder
    from nearfar.evaluation.embedding import DataEmbed
    from nearfar.evaluation.task import Reference, Task
    from nearfar.sources.data import Data
    from nearfar.sources.raw import Raw
    from nearfar.sources.scan import Scan

MOST = 0.8  # share of a column's filled cells that must be numbers for the column to be taken unasked


@dataclass
class Options:
    """The encoder of rows of numbers.

    Args:
        vector_width: width of each layer of the encoder of numbers, and of its vectors.
        vector_layers: hidden layers of the encoder of numbers (SCARF: 3); 0 for a single linear map.
        vector_scale: each number is brought to mean 0 and deviation 1 over the training rows (standard), or to 0..1
            (min-max). auto: as the method's paper does, else standard.
    """

    vector_width: Width = 256
    vector_layers: NonNegativeInt = 3
    vector_scale: Literal["auto", "standard", "min-max"] = "auto"


@register
class Vector(Modality):
    """Items are float32 (n, d) as they stand in the table, NaN where a cell is empty; the encoder standardises them by
    the training rows, which puts an empty cell at the mean of its column."""

    word, words = "vector", "vectors"
    roles = ("vector", "vector_b")
    described = {
        "vector": "columns of numbers, separated by commas (pixel_* means all whose names begin so)",
        "vector_b": "second columns of numbers",
    }
    several = True
    rank, certainty = 2, 50
    may_be_words = "numbers, which make one vector a row"
    tables = frozenset({".npy", ".npz"})
    options = Options
    by_rows = True
    plans = {"corrupt": "nearfar.views.vector:Corrupt", "noise": "nearfar.views.vector:Noise"}
    default_plan = "corrupt"
    why = "there are vectors without pairs: a vector and a corrupted copy of it are positives"
    example = "digits"
    usage = "embed([[0.1, 0.2, ...]])"
    cell = None
    unit = "numbers"

    # -- the way in

    def may_be(self, values: Sequence[Any]) -> bool:
        """Numbers, or lists of them; a few cells may be empty or wrong, which is told with their row. What only counts
        the rows is no number of theirs."""
        return mostly_numbers(values) and not _counts([v for v in values if not no_number(v)])

    def fits(self, role: str, values: Sequence[Any]) -> bool:
        return self.may_be(values)

    def read_file(self, path: Path, cache: Path, skip: bool) -> Raw:
        from nearfar.sources.matrices import read_matrix

        return read_matrix(path, cache)

    def scan(self, raw: Raw, columns: Mapping[str, Sequence[str]], found: Scan) -> None:
        from nearfar.sources.matrices import scan_numbers
        from nearfar.sources.scan import key_of

        for role, names in columns.items():
            if role == "negative":
                for column in names:
                    scan_numbers(raw, [column], column, found, optional=True)
            else:
                scan_numbers(raw, names, key_of(names), found)

    def content(self, value: Any) -> bytes:
        """The numbers in single precision; of the empty ones there is one kind, and zero has no sign."""
        import numpy as np

        row = np.asarray(value, np.float32) + np.float32(0)
        return np.where(np.isnan(row), np.float32(np.nan), row).astype(np.float32).tobytes()

    def sizes_in_words(self, sizes: Mapping[str, Any]) -> str:
        return f"{sizes['most']} numbers"

    def samples(self, data: Data, role: str, rows: np.ndarray) -> list[str]:
        return [_line(row) for row in self.items(data, role, rows)]

    def remarks(self, data: Data, role: str) -> list[str]:
        """Empty cells, columns that tell nothing, and columns of words that were left out."""
        import numpy as np

        values, names = self.items(data, role), self.names(data, role)
        notes, empty = [], np.isnan(values)
        if empty.any():
            columns = np.flatnonzero(empty.any(0))
            parts = [f"'{names[i]}' {empty[:, i].sum():,}" for i in columns]
            notes.append(f"{empty.sum():,} empty cells ({_some(parts, 3)}) count as the mean of their column over the "
                        "training rows")  # fmt: skip
        train = values[data.splits["train"]]
        still = [name for name, column in zip(names, train.T, strict=True) if len(set(column[~np.isnan(column)])) < 2]
        if still:
            parts = [f"'{name}'" for name in still]
            notes.append(f"{len(still)} of {len(names)} numbers are the same in all training rows and tell nothing: "
                        f"{_some(parts, 5)}")  # fmt: skip
        return notes + self._left(data, role)

    def _left(self, data: Data, role: str) -> list[str]:
        """Where the columns were found and not named: those of words, which no encoder of numbers reads."""
        if role != self.roles[0] or data.reasons.get(role) != f"its values are {self.may_be_words}":
            return []
        used = {name for value in data.roles.values() for name in ([value] if isinstance(value, str) else value)}
        left = [f"'{n}'" for n in data.table.column_names if n not in used and not n.startswith("__")]
        mend = "what holds classes: --label COLUMN; words that matter: as numbers in columns of their own"
        return [f"columns that are not numbers are left out: {_some(left, 5)} ({mend})"] if left else []

    def names(self, data: Data, role: str) -> list[str]:
        """The name of each number: its column, or its place in the list of a column."""
        columns = data.roles.get(role, role)
        columns = [columns] if isinstance(columns, str) else list(columns)
        widths = data.facts("widths", role)[0].tolist()
        return [name if width == 1 else f"{name}[{i}]"
                for name, width in zip(columns, widths, strict=True) for i in range(width)]  # fmt: skip

    # -- items

    def items(self, data: Data, role: str, rows: Any = None, size: int | None = None) -> Any:
        values = data.facts("values", role)
        return values if rows is None else values[rows]

    def other_look(self, items: Any, rows: np.ndarray) -> Any:
        """Three tenths of the numbers empty, the others changed by up to a tenth of the item's spread; the same row
        gives the same look."""
        import numpy as np

        out = np.array(items, np.float32)
        for place, row in enumerate(rows):
            rng = np.random.default_rng([20_241, int(row)])
            spread = np.nanstd(out[place]) if np.isfinite(out[place]).any() else 0.0
            out[place] += np.float32(0.1 * spread) * rng.uniform(-1, 1, out.shape[1]).astype(np.float32)
            out[place, rng.random(out.shape[1]) < 0.3] = np.nan
        return out

    def show(self, data: Data, role: str, items: Any, size: int = 48) -> list[dict[str, str]]:
        """Bars, each number by how far it lies from its mean over the training rows."""
        from nearfar.evaluation.references import standardised
        from nearfar.reporting.cells import bars

        return [{"image": bars(row, size)} for row in standardised(data, role, self.items(data, role))(items)]

    def stamp(self, data: Data, role: str, rows: np.ndarray, size: int | None = None) -> list[bytes]:
        return [self.content(row) for row in self.items(data, role, rows)]

    def references(self, task: Task, size: int) -> list[Reference]:
        from nearfar.evaluation.references import by_numbers

        return by_numbers(task)

    def raw_features(self, data: Data, role: str) -> DataEmbed | None:
        from nearfar.evaluation.references import raw_numbers

        return raw_numbers(data, role)

    # -- training

    def described_encoder(self, options: Any) -> str:
        return f"MLP of {options.vector_layers + 1} layers"

    def encoder(self, options: Any, data: Data, seed: int) -> Encoder:
        """Standardised by the training rows of the first side; the second side, where there is one, has as many."""
        from nearfar.encoders.numeric import VectorEncoder

        roles = [role for role in self.roles if data.roles.get(role)]
        names = self.names(data, roles[0])
        for role in roles[1:]:
            if len(self.names(data, role)) != len(names):
                raise InputError(
                    f"{data.path or data.name}: '{roles[0]}' has {len(names)} numbers and '{role}' "
                    f"{len(self.names(data, role))}: both sides pass one encoder.",
                    "Name as many columns for each.",
                )
        train = self.items(data, roles[0], data.splits["train"])
        scale = "standard" if options.vector_scale == "auto" else options.vector_scale
        return VectorEncoder(names, options.vector_width, options.vector_layers, scale).standardise(train)

    def reader(self, data: Data, role: str, encoder: Any, length: int | None = None) -> Reader:
        order = None
        if role == self.roles[0]:  # the second side has names of its own
            order = inner(encoder).order_of(self.names(data, role), str(data.path or data.name))
        return self._reader(self.items(data, role), encoder, order)

    def reader_of(self, items: Any, encoder: Any) -> Reader:
        import numpy as np

        return self._reader(np.asarray(items, np.float32), encoder, None)

    def _reader(self, values: np.ndarray, encoder: Any, order: Any) -> Reader:
        import torch

        if order is None and values.shape[1] != inner(encoder).inputs:
            raise inner(encoder).wrong_width(values.shape[1])

        def raw(rows: np.ndarray, rng: Any = None) -> Any:
            found = values[rows]
            return torch.from_numpy(found if order is None else found[:, order])

        return Reader(raw, lambda rows: raw(rows))

    # -- a model and its use

    def restore(self, config: Mapping[str, Any], folder: Path) -> Encoder:
        from nearfar.encoders.numeric import GroupedVectors, VectorEncoder

        shape = config["dim"], config["layers"], config.get("scale", "standard")
        if "groups" in config:
            return GroupedVectors(config["columns"], config["groups"], *shape, config["join"], config["outputs"])
        return VectorEncoder(config["columns"], *shape)

    def accepts(self, item: Any) -> bool:
        shape = getattr(item, "shape", None)
        return isinstance(item, list | tuple) if shape is None else len(shape) == 1

    def preprocessing(self, encoder: Any) -> dict[str, Any]:
        encoder = inner(encoder)
        told = {"columns": encoder.columns, "standardised": "by the training rows; an empty cell is the mean",
                "mean": encoder.mean.tolist(), "std": encoder.std.tolist()}  # fmt: skip
        if encoder.scale == "standard":
            return told
        rest = {"scaled": "to 0..1 over the training rows; an empty cell is the mean", "low": encoder.low.tolist(),
                "span": encoder.span.tolist(), "mean": encoder.mean.tolist()}  # fmt: skip
        return {"columns": encoder.columns, **rest}

    def examples(self, encoder: Any) -> list[Any]:
        import numpy as np

        encoder = inner(encoder)
        drawn = np.random.default_rng(0).normal(size=(6, encoder.inputs))
        return list((drawn * encoder.std.cpu().numpy() + encoder.mean.cpu().numpy()).astype(np.float32))

    def kept(self, data: Data, role: str, rows: np.ndarray, encoder: Any) -> list[Any]:
        return list(self.reader(data, role, encoder).raw(rows, None).numpy())

    def write(self, items: Sequence[Any], encoder: Any) -> list[Any]:
        return [[None if math.isnan(value) else float(value) for value in row] for row in items]

    def read(self, coded: Sequence[Any], encoder: Any) -> list[Any]:
        return [[math.nan if value is None else value for value in row] for row in coded]

    def query(self, words: str, alone: bool) -> Any:
        """Numbers separated by commas or blanks; an empty place, or a word such as ? or NA, is an empty cell."""
        text = words.strip().strip("[]()")
        parts = [part.strip() for part in (text.split(",") if "," in text else text.split())]
        found = [math.nan if no_number(part) else _number(part) for part in parts]
        if parts and None not in found:
            return found
        if not alone:
            return None
        wrong = next((part for part, value in zip(parts, found, strict=True) if value is None), "")
        where = f", where '{wrong:.30}' is not a number" if wrong else ""
        raise InputError(
            f"This model embeds rows of numbers. Got '{words:.60}'{where}.",
            'Write numbers separated by commas, "5.1,3.5,1.4,0.2", or key:KEY for an item of the index.',
        )  # fmt: skip


def inner(encoder: Any) -> Any:
    """The encoder of numbers within one that is frozen, or the first of several side by side."""
    return holder(encoder, "order_of")


_WORDS_FOR_NONE = {"na", "n/a", "#n/a", "null", "none", "?"}  # R, spreadsheets, databases, Python, ARFF
_BRACKETS = re.compile(r"\s*\[(.*)\]\s*", re.S)
_COMMA = re.compile(r"\s*[+-]?(\d+|\d{1,3}([. ]\d{3})+),\d+(e[+-]?\d+)?\s*|\s*[+-]?\d{1,3}(,\d{3})+(\.\d*)?\s*", re.I)


def no_number(value: Any) -> bool:
    """Whether a cell of a column of numbers says that there is none: empty, or a word that programs write for it."""
    from nearfar.sources.raw import missing

    return missing(value) or (isinstance(value, str) and value.strip().casefold() in _WORDS_FOR_NONE)


def _number(value: Any) -> float | None:
    """A finite number, or None for what is none; true and false are 1 and 0."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def cell_numbers(value: Any) -> list[float] | None:
    """The numbers of a cell: one, or those of a list (also written as [1, 2]); NaN for an empty place; None for what
    holds no numbers."""
    if isinstance(value, str) and (inside := _BRACKETS.fullmatch(value)):
        value = inside.group(1).replace(",", " ").split()
    if not isinstance(value, list | tuple):
        one = _number(value)
        return None if one is None else [one]
    found = [math.nan if no_number(part) else _number(part) for part in value]
    return None if not found or None in found else [float(part) for part in found if part is not None]


def with_comma(value: Any) -> bool:
    """Whether a cell is a number with a comma in it, for decimals (0,75) or for thousands (1,234.5): which of the two
    it is, nobody can tell, so it is asked for rather than read."""
    return isinstance(value, str) and _COMMA.fullmatch(value) is not None


def no_finite_number(value: Any) -> str:
    """What is wrong with a cell among numbers that holds none, in words."""
    comma = " (it has a comma: write 1234.5, with a point before the decimals and nothing else)"
    return f"{str(value)[:60]!r} is not a finite number" + (comma if with_comma(value) else "")


def mostly_numbers(values: Sequence[Any]) -> bool:
    """Whether nearly all cells that are filled are numbers or lists of numbers, those with a comma too: these are no
    texts, and reading them says how to mend them."""
    filled = [v for v in values if not no_number(v)]
    return bool(filled) and sum(cell_numbers(v) is not None or with_comma(v) for v in filled) > MOST * len(filled)


def _counts(values: Sequence[Any]) -> bool:
    """Whether values that stand at even distances rise evenly, as the numbers of rows do."""
    found = [_number(value) for value in values]
    if len(found) < 8 or None in found:
        return False
    steps = {b - a for a, b in itertools.pairwise([value for value in found if value is not None])}
    return len(steps) == 1 and steps.pop() > 0


def _some(parts: Sequence[str], count: int) -> str:
    """The first of a list, with dots for the rest."""
    return ", ".join(parts[:count]) + (", ..." if len(parts) > count else "")


def _line(row: Any) -> str:
    """The first numbers of a row."""
    shown = ", ".join("empty" if math.isnan(value) else f"{value:.4g}" for value in row[:8])
    return shown + (f", ... ({len(row)} numbers)" if len(row) > 8 else "")
