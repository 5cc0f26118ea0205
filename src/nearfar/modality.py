"""The contract of a kind of data: one kind is one class in one file, `modalities/<name>.py`.

    columns -> looks_like -> scan (content ids, sizes, bad rows)        the way in
            -> encoder, reader, plans                                   training
            -> items, other_look, references, show                      measuring and showing
            -> restore, write, read, query                              a model and its use

A file imports what it trains with inside its functions: its roles, names and options are known without torch.
Everything has a default that suits items which are one cell of a column; a kind of its own writes `encoder`,
`restore` and `reader`, and what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from nearfar.errors import InputError
from nearfar.options import NoOptions
from nearfar.registry import MODALITIES, name_of

if TYPE_CHECKING:
    import numpy as np

    from nearfar.encoders import Encoder
    from nearfar.evaluation.embedding import DataEmbed
    from nearfar.evaluation.task import Reference, Task
    from nearfar.sources.data import Data
    from nearfar.sources.raw import Raw
    from nearfar.sources.scan import Scan

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Reader:
    """The items of a column as training and embedding read them.

    raw: row numbers and random numbers (or None) -> what views take; ready: row numbers -> what the encoder takes;
    lengths: of each item, where a batch of like lengths is cheaper; together: how many items one pass takes, where the
    cost of a pass hardly depends on it; None: as the caller likes.
    """

    raw: Callable[[np.ndarray, np.random.Generator | None], Any]
    ready: Callable[[np.ndarray], Any]
    lengths: np.ndarray | None = None
    together: int | None = None


class Modality:
    """One kind of data.

    Attributes:
        name: that of its file.
        word, words: what one item, and several, are called.
        roles: its columns; the second one is the other side of a pair.
        columns: role -> names of columns that are taken for it.
        described: role -> what its column holds, for the help.
        companions: further roles that mean something only beside its own (masks).
        several: its roles take several columns, which make one item together.
        listed: companions that take several columns.
        identifies: its first column names the rows, where no other does.
        transductive: its items are seen through each other, so what learns without labels is trained on all rows.
        certainty: kinds with more of it look at the columns first, since their items are not taken for another's.
        looks_words, may_be_words: what `looks_like` and `may_be` found, in words.
        rank: order among kinds, of roles and of what is trained and embedded first.
        named_with: roles of which a column must be found by its name each, for the names of its columns to count; then
            the table is of this kind alone.
        divisions: names of the ways (`--split NAME`) in which `splits` divides its rows, the default first.
        whole: the role whose rows `--limit` keeps together.
        titled: the role whose ids a table of items (`--titles`) gives titles.
        endings: of files that hold one item each; a folder of them is a data set.
        tables: endings of files that hold many items and are no ordinary tables; see `read_file`.
        options: dataclass of the options of its encoder; its fields become options of `fit` and `compare`.
        plans: name -> "module:Class" of its views; default_plan: the one that is taken unasked; pair_plan: name and
            options of the mild views of pairs, or None for items as they are.
        why: what makes positives of a column without pairs, in words.
        metric: what ranks the retrieval of pairs, "hit@1" (both ways) or "ndcg@10" (the first asks for the second).
        by_svm: labels are also told by a support vector machine, as papers on this kind of data do.
        example: a built-in data set that holds it.
        tag, usage: for the card of a model: its pipeline tag, and a call.
    """

    name: ClassVar[str] = ""
    word: ClassVar[str] = "item"
    words: ClassVar[str] = "items"
    roles: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, Sequence[str]]] = {}
    described: ClassVar[Mapping[str, str]] = {}
    companions: ClassVar[Mapping[str, str]] = {}
    several: ClassVar[bool] = False
    listed: ClassVar[frozenset[str]] = frozenset()
    identifies: ClassVar[bool] = False
    transductive: ClassVar[bool] = False
    rank: ClassVar[float] = 10
    certainty: ClassVar[float] = 10
    looks_words: ClassVar[str] = ""
    may_be_words: ClassVar[str] = ""
    named_with: ClassVar[tuple[str, ...]] = ()
    divisions: ClassVar[tuple[str, ...]] = ()
    whole: ClassVar[str | None] = None
    titled: ClassVar[str | None] = None
    endings: ClassVar[frozenset[str]] = frozenset()
    tables: ClassVar[frozenset[str]] = frozenset()
    by_rows: ClassVar[bool] = False
    """Whether `reader` prepares no more than the rows that are asked for."""
    options: ClassVar[type] = NoOptions
    plans: ClassVar[Mapping[str, str]] = {}
    default_plan: ClassVar[str | None] = None
    pair_plan: ClassVar[tuple[str, Mapping[str, Any]] | None] = None
    why: ClassVar[str] = "two views of one item are its positives"
    metric: ClassVar[str] = "hit@1"
    by_svm: ClassVar[bool] = False
    example: ClassVar[str | None] = None
    tag: ClassVar[str] = "feature-extraction"
    usage: ClassVar[str] = "embed(items)"

    # -- the way in ------------------------------------------------------------------------------------------------

    def looks_like(self, values: Sequence[Any]) -> bool:
        """Whether some cells of a column are of this kind beyond doubt: then the column needs no name."""
        return False

    def may_be(self, values: Sequence[Any]) -> bool:
        """Whether cells are taken for this kind where no column is of any kind beyond doubt."""
        return False

    def fits(self, role: str, values: Sequence[Any]) -> bool:
        """Whether a column whose name says this role may have it."""
        return all(v is None or isinstance(v, str) for v in values)

    def holds(self, path: Path, files: Sequence[str]) -> bool:
        """Whether a folder with these files is as a whole of this kind; `read_files` then reads it."""
        return False

    def read_files(self, path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
        """A folder whose `files` have one of the `endings`; others: all its files."""
        raise NotImplementedError

    def read_file(self, path: Path, cache: Path, skip: bool) -> Raw | None:
        """A file with one of the endings in `tables`; None where it is of another kind."""
        raise NotImplementedError

    def gathered(
        self, raw: Raw, wanted: Mapping[str, Any], window: int | None, skip: bool
    ) -> tuple[Raw, dict[str, Any], dict[str, str]] | None:
        """A table whose rows are parts of items (steps of a series), or hold what is cut into several items, as a table
        of one item a row, the roles of that, and of those that the user did not name the reason; None, the default, for
        a table that is none.

        wanted: role -> columns, as the user named them. window: how long a piece is, where the user said so. skip: rows
        with a fault are left out and told in `problems`.
        """
        return None

    def state(self, raw: Raw, columns: Mapping[str, Sequence[str]]) -> Mapping[str, np.ndarray]:
        """Column -> int64 (N,) that changes with what lies outside of the table (files), so that a stored scan is not
        taken for another state of them."""
        return {}

    def scan(self, raw: Raw, columns: Mapping[str, Sequence[str]], found: Scan) -> None:
        """Looks at every item once: content ids, sizes and bad rows go to `found`.

        columns: role -> columns; those of the role "negative" may hold empty cells.
        """
        from nearfar.sources.scan import scan_cells

        for role, names in columns.items():
            for column in names:
                scan_cells(self, raw, column, found, optional=role == "negative")

    cell: ClassVar[type | None] = str
    """What the cells of a column must be; None: anything."""

    def fault(self, value: Any) -> str | None:
        """What is wrong with a cell that holds something, in words; None for nothing."""
        return None

    def content(self, value: Any) -> bytes:
        """What makes two items equal."""
        return str(value).strip().encode("utf-8", "surrogatepass")

    def size(self, value: Any) -> int:
        """How large an item is, counted in `unit`."""
        return len(str(value))

    unit: ClassVar[str] = "characters"

    def sizes_in_words(self, sizes: Mapping[str, Any]) -> str:
        """The smallest, median and largest size, for people."""
        return f"{sizes['least']} / {sizes['median']} / {sizes['most']} {self.unit}"

    def near_copies(self, data: Data, role: str, rows: np.ndarray) -> list[tuple[int, int]]:
        """Pairs of (distinct) rows whose items are nearly the same."""
        return []

    @property
    def has_near_copies(self) -> bool:
        return type(self).near_copies is not Modality.near_copies

    def samples(self, data: Data, role: str, rows: np.ndarray) -> list[str]:
        """Some items as one line of text each."""
        return [" ".join(str(value).split())[:300] for value in self.items(data, role, rows)]

    def splits(self, data: Data) -> dict[str, np.ndarray]:
        """ "train", "val" and "test": sorted row numbers, of a kind with `divisions`. What its splits share is no leak:
        it says itself what a row may see of the others."""
        raise NotImplementedError

    def remarks(self, data: Data, role: str) -> list[str]:
        """What a user should know of a column: what was filled, what tells nothing."""
        return []

    # -- items -----------------------------------------------------------------------------------------------------

    def items(self, data: Data, role: str, rows: Any = None, size: int | None = None) -> Any:
        """The items of some rows (None: all), as references and `embed` take them; images at `size`."""
        return data.values(role, rows)

    def other_look(self, items: Any, rows: np.ndarray) -> Any:
        """Each item changed in a fixed way that no method trains on: what remains when nothing is known of it."""
        raise NotImplementedError

    @property
    def has_other_look(self) -> bool:
        return type(self).other_look is not Modality.other_look

    def show(self, data: Data, role: str, items: Any, size: int = 48) -> list[dict[str, str]]:
        """A cell of the report for each item: {"text": words} or {"image": data-URI}."""
        from nearfar.reporting.cells import clip

        return [{"text": clip(str(item))} for item in items]

    def caption(self, item: Any) -> str:
        """A few words that name an item beside its key, or nothing."""
        return ""

    @property
    def has_caption(self) -> bool:
        return type(self).caption is not Modality.caption

    def stamp(self, data: Data, role: str, rows: np.ndarray, size: int | None = None) -> list[bytes]:
        """Bytes that change with the item of each row."""
        return [self.content(value) for value in self.items(data, role, rows, size)]

    def references(self, task: Task, size: int) -> list[Reference]:
        """Rows that need no training, for a task on this kind of data."""
        return []

    def raw_features(self, data: Data, role: str) -> DataEmbed | None:
        """Vectors of the items that need no training, for what is odd about rows; None where there are none."""
        return None

    # -- training ----------------------------------------------------------------------------------------------------

    def check(self, options: Any) -> None:
        """Raises InputError for options that would fail on any data."""

    def suited(self, options: Any, layers: bool) -> Any:
        """The options with an encoder that is "auto" chosen for methods. layers: whether one looks into its layers."""
        return options

    def resolve(self, options: Any, data: Data) -> Any:
        """The options with each "auto" replaced by what suits the data."""
        return options

    def resolved(self, options: Any) -> dict[str, Any]:
        """What each "auto" became, by the name of the option."""
        return {}

    def pretrained(self, options: Any) -> bool:
        """Whether the encoder comes with weights."""
        return False

    def weights(self, options: Any) -> str | None:
        """Where the weights come from that may have seen rows of the data."""
        return None

    def described_encoder(self, options: Any) -> str:
        """The encoder in a word, for the report."""
        return "small"

    def learning_rate(self, options: Any) -> float:
        """The peak for an encoder that is trained from scratch."""
        return 1e-3

    def usual_batch(self, items: int) -> int:
        """How many items a batch has unasked: 128, or a quarter of the items if that is less."""
        return max(2, min(128, items // 4))

    def encoder(self, options: Any, data: Data, seed: int) -> Encoder:
        """A fresh encoder; torch's random numbers are seeded."""
        raise NotImplementedError

    def reader(self, data: Data, role: str, encoder: Any, length: int | None = None) -> Reader:
        """The items of a column, for training and embedding; length: most tokens that are read, where there are
        tokens."""
        return self.reader_of(self.items(data, role, None, getattr(encoder, "size", None)), encoder)

    def reader_of(self, items: Any, encoder: Any) -> Reader:
        """Items that are in no table."""

        def raw(rows: np.ndarray, rng: Any = None) -> Any:
            return encoder.prepare([items[int(row)] for row in rows])

        return Reader(raw, lambda rows: self.ready(raw(rows), encoder))

    def reader_at(self, data: Data, role: str, rows: np.ndarray, encoder: Any) -> Reader:
        """The items of a few rows of many, read by their places among these: of the other rows nothing is prepared."""
        return self.reader_of(self.items(data, role, rows), encoder)

    def ready(self, inputs: Any, encoder: Any) -> Any:
        """What views take, unchanged -> what the encoder takes."""
        return inputs

    # -- a model and its use -----------------------------------------------------------------------------------------

    def restore(self, config: Mapping[str, Any], folder: Path) -> Encoder:
        """The encoder that its `config()` describes, without its weights; `folder` holds what `save_files` wrote."""
        raise NotImplementedError

    def accepts(self, item: Any) -> bool:
        """Whether something that is to be embedded is an item of this kind."""
        return isinstance(item, str)

    def check_items(self, items: Any) -> None:
        """Raises InputError that names the first of the items which is not one."""

    def check_whole(self, items: Any, encoder: Any) -> None:
        """Raises InputError that names the first of the items of which the encoder would read a part alone."""

    def lengths(self, items: Any) -> Sequence[int] | None:
        """Of each item, where batches of like lengths are cheaper."""
        return None

    def preprocessing(self, encoder: Any) -> dict[str, Any]:
        """What the configuration of a model says of it."""
        return {}

    def examples(self, encoder: Any) -> list[Any]:
        """Items with which a saved model checks itself where none were given."""
        raise InputError(f"A model of {self.words} needs examples to be saved.", "Give examples={role: items}.")

    def kept(self, data: Data, role: str, rows: np.ndarray, encoder: Any) -> list[Any]:
        """Items of the data with which a saved model checks itself."""
        return list(self.items(data, role, rows, getattr(encoder, "size", None)))

    def write(self, items: Sequence[Any], encoder: Any) -> list[Any]:
        """Items as JSON values."""
        return [str(item) for item in items]

    def read(self, coded: Sequence[Any], encoder: Any) -> list[Any]:
        """The items that `write` wrote."""
        return list(coded)

    def search(self, model: Any, query: Any, k: int) -> list[dict[str, Any]] | None:
        """What a model finds by itself, where it needs no index: dicts with key, score and further facts, best first.
        None, the default: it needs one. Raises InputError for a query that is wrong."""
        return None

    def query(self, words: str, alone: bool) -> Any:
        """The item that a query on the command line means, or None for one of another kind. alone: the model embeds
        nothing else. Raises InputError for a query that is of this kind and wrong."""
        return words if words.strip() else None


def holder(encoder: Any, attribute: str) -> Any:
    """The encoder with that attribute within one that is frozen, or the first of several side by side."""
    while not hasattr(encoder, attribute):
        encoder = encoder.encoder if hasattr(encoder, "encoder") else encoder.parts[0]
    return encoder


def digest(content: bytes) -> int:
    """A signed 64-bit digest, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def register(cls: T) -> T:
    """Class decorator: a kind of data is known by the name of its file (`modalities/vector.py`: vector)."""
    made: Any = cls
    made.name = name_of(cls)
    MODALITIES.add(made.name, cls)
    return cls


def field_names(options: type) -> list[str]:
    """Names of the options of a kind's encoder."""
    return [one.name for one in fields(options)]
