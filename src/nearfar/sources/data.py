"""`Data`: rows with roles, content ids, groups, labels and honest splits, whatever they were read from."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import ClassLabel, Dataset

from nearfar import modalities
from nearfar.errors import InputError, NearfarError, did_you_mean
from nearfar.limits import MOST_SIDE
from nearfar.modality import digest as digest_of
from nearfar.progress import track
from nearfar.sources import images as image_files
from nearfar.sources import judgements, masks, trees
from nearfar.sources import leaks as leaking
from nearfar.sources.captions import ITEM, numbered
from nearfar.sources.class_attributes import divide as divide_classes
from nearfar.sources.class_attributes import has_class_attributes
from nearfar.sources.compositions import divide as divide_compositions
from nearfar.sources.compositions import has_compositions
from nearfar.sources.looking import image_source, in_chunks, stamp
from nearfar.sources.raw import Problem, Raw, column_of, filled, plain_values, whole_numbers
from nearfar.sources.roles import Roles
from nearfar.sources.scan import BATCH, Scan, cells, key_of, place
from nearfar.sources.splits import SHARES, UNUSED, assign, components, digest, hang_together, standard_name
from nearfar.sources.storage import entry, new_entry

Rows = Sequence[int] | np.ndarray | None
T = TypeVar("T")


class Data:
    """N rows in a memory-mapped Arrow table, and what each column is for. Made by `open_data`.

    Attributes:
        name, path: what was opened; `kind` says as what ("image folder", "csv table"...).
        hash: hex digest of content, roles and row order; any change of the input changes it.
        roles: role -> column ("negative" and "label": a list of columns); `reasons`: role -> why.
        table: `datasets.Dataset` of all N rows; image columns hold paths or bytes.
        problems: rows that were skipped (only with unreadable="skip"); `notes`: what a user should know.
        corpus: role -> all documents of the gallery (BEIR), empty without one; `corpus_keys` their ids.
        only_tested: roles that no training row has; `training_roles` are the others.
        meta: facts of the built-in sets (licences, styles that share outlines, which rows ask at test time).
        given: of data that were given in memory, what they were: object, rows, features, fingerprint; else None.

    Wherever a method takes a role it takes a column name as well (hard negatives: one call for each of
    `roles["negative"]`).
    """

    def __init__(
        self, raw: Raw, roles: Roles, reasons: dict[str, str], scan: Scan, *, seed: int, split: str | None, cache: Path
    ):
        self.name, self.path, self.kind, self.base = raw.name, raw.path, raw.kind, raw.base
        self.table: Dataset = raw.table
        self.roles, self.reasons, self.seed = roles, reasons, seed
        self.problems: list[Problem] = list(raw.problems)
        self.notes: list[str] = list(raw.notes)
        self.corpus: dict[str, list[str]] = raw.corpus or {}
        self.corpus_keys: dict[str, list[str]] = raw.corpus_keys
        self.meta = dict(raw.meta)
        self.given = raw.given
        self.only_tested = raw.only_tested
        self.split_name, self.fit = split or "default", raw.fit
        self._raw, self._scan, self._cache = raw, scan, cache
        self._mapped: dict[tuple[str, int, str], np.memmap] = {}
        self._derived: dict[Callable[..., Any], Any] = {}

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}, "_derived": {}}  # made again; a pickled map would copy all pixels

    @property
    def short_name(self) -> str:
        """The name as a part of the name of a folder."""
        return self.name if self.given is None else self.given["object"].lower()

    def __repr__(self) -> str:
        return f"Data({self.name!r}, {self.kind}, {len(self)} rows, roles {self.roles})"

    @cached_property
    def hash(self) -> str:
        state = hashlib.sha256(repr(sorted(self.roles.items())).encode())
        state.update(self._raw.fingerprint.encode())
        for column in sorted(self._scan.digests):
            state.update(column.encode())
            state.update(self._scan.digests[column].tobytes())
        state.update(np.ascontiguousarray(self._row_marks).tobytes())
        return state.hexdigest()[:32]

    @cached_property
    def _row_marks(self) -> np.ndarray:
        """Which rows of the input these are: they differ where rows were skipped or a limit was set."""
        indices = self.table._indices
        if indices is None:
            return np.arange(len(self))
        rows, order = indices.column(0).to_numpy().astype(np.int64), self._raw.order
        if order is None:
            return rows
        places = np.argsort(order, kind="stable")
        return places[np.searchsorted(order, rows, sorter=places)]

    @cached_property
    def ids(self) -> np.ndarray:
        """int64 (N,): the sample ids 0..N-1."""
        return np.arange(len(self), dtype=np.int64)

    @cached_property
    def keys(self) -> list[str]:
        """A readable, stable id of each row: the id column, else the path of its file, else its line or row number
        (behind the name of its table, where there are several). A row whose id is missing has "row 17"."""
        column, items = self.roles.get("id") or self._raw.row_column, self.alternatives
        if column is None:
            return [str(i) for i in range(len(self))] if items is None else numbered(list(map(str, items)), items)
        names = [filled(v) or f"row {i}" for i, v in enumerate(self.values(str(column)))]
        names = names if items is None else numbered(names, items)
        if self._raw.shard_column is None or "id" in self.roles:
            return names
        return [f"{file}:{name}" for file, name in zip(self.values(self._raw.shard_column), names, strict=True)]

    def names(self, role: str, rows: Rows = None) -> list[str]:
        """What a reader knows the items of a role by: the path of an image where no column is the id, else the key."""
        places = range(len(self)) if rows is None else self._numbers(rows).tolist()
        keys = [str(self.keys[row]) for row in places]
        if "id" in self.roles or self.modality(role).name != "image":
            return keys
        return [v if isinstance(v, str) else key for key, v in zip(keys, self.values(role, rows), strict=True)]

    @cached_property
    def alternatives(self) -> np.ndarray | None:
        """int64 (N,): rows of one number tell one item in several ways (captions of an image), of which training
        draws one at a time; None where each row is an item of its own."""
        return np.array(self.values(ITEM), np.int64) if ITEM in self.table.column_names else None

    def column(self, role: str) -> str:
        """The column of a role (a column's own name is taken as well). Raises InputError where there is none, and
        where a role has several of which none has its name."""
        value = self.roles.get(role, role)
        if isinstance(value, list) and (len(value) == 1 or role in value):
            value = value[0] if len(value) == 1 else role
        if isinstance(value, str) and value in self.table.column_names:
            return value
        if isinstance(value, list):
            raise InputError(
                f"The role '{role}' of {self.name} has {len(value)} columns.", f"Name one of {', '.join(value)}."
            )
        options = [*self.roles, *self.table.column_names]
        raise InputError(
            f"{self.name} has no role or column '{role}'.{did_you_mean(str(role), options)}",
            f"Roles: {', '.join(self.roles)}.",
        )

    def values(self, role: str, rows: Rows = None) -> list[Any]:
        """Raw cells of a column, all or those of some rows."""
        return self.cells_of(self.column(role), rows)

    def cells_of(self, column: str, rows: Rows = None) -> list[Any]:
        """Raw cells of the column of this very name, which may be that of a role too."""
        if rows is None:
            return [value for block in cells(self.table, column, 16 * BATCH) for value in block]
        return plain_values(column_of(self.table, column, self._numbers(rows)))

    def _numbers(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Row numbers int64 (n,). Raises InputError for what is no number of a row."""
        found = np.asarray(rows)
        if found.size == 0:
            return np.zeros(0, np.int64)
        if found.ndim != 1 or found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= len(self):
            raise InputError(
                f"Rows of {self.name} are whole numbers from 0 to {len(self) - 1}. Got {str(rows)[:80]}.",
                "Leave them out for all rows.",
            )
        return found.astype(np.int64)

    def texts(self, role: str, rows: Rows = None) -> list[str]:
        """The texts of a role; an empty cell is ""."""
        return ["" if value is None else str(value) for value in self.values(role, rows)]

    def content(self, role: str) -> np.ndarray:
        """int64 (N,) from 0 on: equal exactly where the decoded pixels, or the normalised texts, are equal, across all
        columns and the corpus; -1 for an empty cell (of a column of hard negatives, or of a role that is only
        tested).

        Ids of this opening alone: other rows, other ids. `digests` are the same in every opening.
        """
        return self._contents[self._checked_column(role)]

    def corpus_content(self, role: str) -> np.ndarray:
        """int64 (C,): `content` of the documents of `corpus[role]`."""
        return self._contents[("corpus", role)]

    def digests(self, role: str, rows: Rows = None) -> np.ndarray:
        """int64 (n,) of any sign: a hash of the decoded pixels or the normalised text, the same in every data set and
        on every machine."""
        found = self._scan.digests[self._checked_column(role)]
        return found if rows is None else found[self._numbers(rows)]

    def _checked_column(self, role: str) -> str:
        column = self.key(role)
        if column not in self._scan.digests:
            raise InputError(f"The column '{column}' of {self.name} holds no checked items.", "Give it a role.")
        return column

    def key(self, role: str) -> str:
        """The name under which facts about a role (or a column) are kept: its column, or its columns together."""
        columns = self.roles.get(role)
        together = isinstance(columns, list) and key_of(columns) in self._scan.digests
        return key_of(columns) if columns and together else self.column(role)

    def facts(self, part: str, role: str) -> np.ndarray:
        """(N, ...): what the scan kept of a role or a column: "sizes", and parts of its kind of data."""
        return self._scan.part(part)[self.key(role)]

    def modality(self, role: str) -> modalities.Modality:
        """The kind of data of a role or a column of items."""
        return modalities.get(self._scan.kinds[self._checked_column(role)])

    @cached_property
    def _contents(self) -> dict[str | tuple[str, str], np.ndarray]:
        """Ids of all that can be compared: of each column, and of the corpus of each role."""
        parts: dict[str | tuple[str, str], np.ndarray] = {**self._scan.digests}
        for role, texts in self.corpus.items():
            kind = modalities.of(role)
            parts["corpus", role] = np.fromiter((digest_of(kind.content(text)) for text in texts), np.int64, len(texts))
        ids = np.unique(np.concatenate(list(parts.values())), return_inverse=True)[1].reshape(-1).astype(np.int64)
        ends = np.cumsum([len(part) for part in parts.values()])
        found = dict(zip(parts, np.split(ids, ends[:-1]), strict=True))
        sparse = [*self.roles.get("negative", []), *(self.roles[role] for role in self.only_tested)]
        for column in sparse:
            if column in self._scan.sizes:
                filled_cells = self._scan.sizes[column].reshape(len(self), -1).any(1)
                found[column] = np.where(filled_cells, found[column], -1)
        return found

    @property
    def content_roles(self) -> list[str]:
        """The roles of items that the data hold, in the order of the kinds of data."""
        return [role for role in modalities.roles() if role in self.roles]

    @property
    def training_roles(self) -> Roles:
        """The roles that training rows have: without those that are only tested."""
        return {role: columns for role, columns in self.roles.items() if role not in self.only_tested}

    def _codes(self, role: str) -> tuple[np.ndarray, list[str]]:
        """Codes by sorted names; -1 where the cell is empty. The numbers of a ClassLabel column become its names."""
        feature = self.table.features[self.column(role)]
        if isinstance(feature, ClassLabel):
            return self._class_codes(role, feature.names)
        values = np.array(whole_numbers([filled(v) for v in self.values(role)]), dtype=object)
        names = sorted({v for v in values if v != ""}, key=natural)
        number = {name: i for i, name in enumerate(names)}
        return np.array([number.get(v, -1) for v in values], np.int64), names

    def _class_codes(self, role: str, given: list[str]) -> tuple[np.ndarray, list[str]]:
        found = np.array([-1 if v is None else int(v) for v in self.values(role)], np.int64)
        found[(found < 0) | (found >= len(given))] = -1
        names = sorted({given[i] for i in np.unique(found) if i >= 0}, key=natural)
        place = np.array([names.index(n) if n in names else -1 for n in given] + [-1], np.int64)
        return place[found], names

    @cached_property
    def pair_labels(self) -> np.ndarray | None:
        """int8 (N,): 1 where the two sides of a row belong together, 0 where they do not, -1 where nobody said; or
        None without such a role."""
        if "pair_label" not in self.roles:
            return None
        names, numbered = self._label_words()
        return np.array([judgements.pair_label(v, names, numbered) for v in self.values("pair_label")], np.int8)

    def _label_words(self) -> tuple[list[str] | None, bool]:
        """Names of the numbers of the pair labels, and whether they are those of natural language inference."""
        return label_words(self.table, self.roles)

    @cached_property
    def scores(self) -> np.ndarray | None:
        """float64 (N,): how far the two sides of a row belong together, on the scale of the data, NaN where a training
        row has no second side; or None."""
        if "score" not in self.roles:
            return None
        return np.array([np.nan if (known := judgements.score(v)) is None else known for v in self.values("score")])

    @cached_property
    def positives(self) -> np.ndarray | None:
        """bool (N,): rows whose two sides belong together: those labelled 1, else those with a score in the upper fifth
        of the range; None where every row is such a pair."""
        if self.pair_labels is not None:
            return self.pair_labels == 1
        return None if self.scores is None else judgements.high(self.scores)

    @cached_property
    def query_keys(self) -> list[str] | None:
        """The id of each row's query where the pairs are judged ones (BEIR), else None."""
        column = self._raw.query_column
        return None if column is None else [str(value) for value in self.values(column)]

    @cached_property
    def grades(self) -> np.ndarray | None:
        """float32 (N,): how relevant each row's document is to its query (BEIR), or None."""
        column = self._raw.grade_column
        return None if column is None else np.array([float(value) for value in self.values(column)], np.float32)

    @cached_property
    def groups(self) -> np.ndarray | None:
        """int64 (N,): rows of one group are positives of each other; a row without a group is a group of its own."""
        return self._together("group") if "group" in self.roles else None

    @cached_property
    def bags(self) -> np.ndarray | None:
        """int64 (N,): rows of one bag are its members; a row without a bag is a bag of its own; None without such a
        role."""
        return self._together("bag") if "bag" in self.roles else None

    @cached_property
    def trees(self) -> list[tuple[trees.Path, ...]] | None:
        """The annotation tree of each row, its paths (domain, intent, slot, value), () where a row has none; None
        without such a role."""
        return [trees.paths_of(value) for value in self.values("tree")] if "tree" in self.roles else None

    @cached_property
    def _target(self) -> tuple[np.ndarray, list[str]] | None:
        if "target" in self.roles:
            return self._codes("target")
        return next(iter(self._labels.values()), None)

    @property
    def targets(self) -> np.ndarray | None:
        """int64 (N,) into `target_names`: the class to be learned, -1 where a row has none. Where no target is named,
        the first column of labels; None without either."""
        return self._target[0] if self._target else None

    @property
    def target_names(self) -> list[str]:
        return self._target[1] if self._target else []

    @cached_property
    def target_values(self) -> np.ndarray | None:
        """float64 (N,): the number to be learned, NaN where a row has none; None where no target is named, or one of
        its cells is not a number."""
        if "target" not in self.roles or self.not_a_number():
            return None
        return np.array([judgements.score(v) if filled(v) else np.nan for v in self.values("target")], np.float64)

    def not_a_number(self) -> str:
        """Where the first target stands that is not a number, in words; "" where all are, or are missing."""
        if isinstance(self.table.features[self.column("target")], ClassLabel):
            return f"The column '{self.column('target')}' holds classes."
        for row, value in enumerate(self.values("target")):
            if filled(value) and judgements.score(value) is None:
                return f"{self._place(row)}: the target '{str(value)[:40]}' is not a number."
        return ""

    def _together(self, role: str) -> np.ndarray:
        """Codes of a role's values; a row without one has a code of its own."""
        codes, names = self._codes(role)
        alone = np.flatnonzero(codes < 0)
        codes[alone] = len(names) + np.arange(len(alone))
        return codes

    @cached_property
    def units(self) -> np.ndarray | None:
        """int64 (N,): what splitting keeps together: the unit column, else the group and the bag, else the first
        content."""
        if "unit" in self.roles:
            return self._together("unit")
        together = [codes for codes in (self.groups, self.bags) if codes is not None]
        if together:
            return together[0] if len(together) == 1 else components(together)
        return np.unique(self.content(self.content_roles[0]), return_inverse=True)[1].reshape(-1).astype(np.int64)

    @cached_property
    def _domains(self) -> tuple[np.ndarray, list[str]] | None:
        return self._codes("domain") if "domain" in self.roles else None

    @property
    def domains(self) -> np.ndarray | None:
        """int64 (N,) into `domain_names` (drawing styles, cameras, languages...), or None."""
        return self._domains[0] if self._domains else None

    @property
    def domain_names(self) -> list[str]:
        return self._domains[1] if self._domains else []

    @cached_property
    def _labels(self) -> dict[str, tuple[np.ndarray, list[str]]]:
        return {column: self._codes(column) for column in self.roles.get("label", [])}

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Label column -> int64 (N,) into `label_names[column]`; -1 where a row has none."""
        return {column: codes for column, (codes, _) in self._labels.items()}

    @property
    def label_names(self) -> dict[str, list[str]]:
        return {column: names for column, (_, names) in self._labels.items()}

    def drop_label(self, column: str) -> None:
        """Takes a column out of the labels."""
        left = [name for name in self.roles.get("label", []) if name != column]
        self.roles = {k: v for k, v in self.roles.items() if k != "label"} | ({"label": left} if left else {})
        self.__dict__.pop("_labels", None)

    @cached_property
    def splits(self) -> dict[str, np.ndarray]:
        """ "train", "val" and "test": sorted row numbers.

        A split column decides where there is one; a part that it lacks is cut from its training rows. Otherwise
        70/15/15 of the units, drawn with the seed, where rows that share a unit or any content stay together. Some
        kinds of data divide their rows themselves. Of data with compositions (an attribute and an object), or with
        classes that attributes describe, some of these are held out of training.
        """
        if (kind := self.dividing) is not None:
            return kind.splits(self)
        if "split" in self.roles:
            return self._given_splits()
        for holds, divide in ((has_compositions, divide_compositions), (has_class_attributes, divide_classes)):
            if holds(self):
                return divide(self)
        split = assign(self._components, self._unit_marks, self.seed, SHARES)
        hand = self._raw.splits.get(self.split_name)
        return self._without_domains(split, hand) if hand else split

    @property
    def dividing(self) -> modalities.Modality | None:
        """The kind of data that divides the rows itself, or None."""
        return modalities.dividing(self.content_roles)

    def derived(self, make: Callable[["Data"], T]) -> T:
        """What `make` works out of these data, once."""
        if make not in self._derived:
            self._derived[make] = make(self)
        return self._derived[make]

    def few_units(self) -> tuple[str, str]:
        """Why a part of the splits is empty, and the mend, where a column divides the rows into too few units, or equal
        contents join them to too few parts; else twice ""."""
        role = next((name for name in ("unit", "group", "bag") if name in self.roles), None)
        if role is not None and (units := len({filled(v) for v in self.values(role)} - {""})) < len(SHARES):
            how = f" ({self.reasons[role]})" if role in self.reasons else ""
            return (
                f": '{self.roles[role]}' is read as the {role}{how}, no split divides a {role}, and there are {units}",
                f"Take the role away (--{role} none), or name a column of splits (--split COLUMN). ",
            )
        parts = len(np.unique(self._components))
        if parts >= len(SHARES):
            return "", ""
        what = " or ".join(role for role in self.content_roles if role not in self.only_tested)
        return (
            f": rows that share a content (the same {what}) stay together, and the {len(self):,} rows hang together in "
            f"{parts} part{'s' * (parts > 1)}",
            "Give more rows that share nothing, or name a column of splits (--split COLUMN). ",
        )

    @cached_property
    def split_hash(self) -> str:
        """Hex digest of the splits; two scores compare only where it is equal."""
        return digest(self.splits)

    def _without_domains(self, split: dict[str, np.ndarray], hidden: list[str]) -> dict[str, np.ndarray]:
        """Train and val lose the rows of the hidden domains; test keeps all of its own."""
        assert self.domains is not None
        away = np.isin(self.domains, [self.domain_names.index(name) for name in hidden])
        return {name: rows if name == "test" else rows[~away[rows]] for name, rows in split.items()}

    @cached_property
    def _unit_marks(self) -> np.ndarray:
        return self.unit_marks(self._divided[1])

    def unit_marks(self, content: str) -> np.ndarray:
        """int64 hashes of the units that do not depend on which other units there are; of rows without one, those of
        the contents of a role."""
        role = next((name for name in ("unit", "group", "bag") if name in self.roles), None)
        own = self.digests(content)
        if role is None:
            return own
        values = [filled(v) for v in self.values(role)]
        known = {
            v: int.from_bytes(hashlib.blake2b(v.encode(), digest_size=8).digest(), "little", signed=True)
            for v in set(values)
        }
        return np.array([known[v] if v else alone for v, alone in zip(values, own.tolist(), strict=True)], np.int64)

    @property
    def _components(self) -> np.ndarray:
        return self._divided[0]

    @cached_property
    def _divided(self) -> tuple[np.ndarray, str]:
        """Rows that hang together by unit or content, and the role whose contents name them. Contents that many rows
        share (the answers of a catalogue, captions that are class names) may stand on both sides, with a note; those
        with the most values never do."""
        assert self.units is not None
        contents = {role: self.content(role) for role in self.content_roles if role not in self.only_tested}
        given = [self.units] if any(role in self.roles for role in leaking.TOGETHER) else []
        joined = components([*given, *contents.values()])
        kept = max(contents, key=lambda role: len(np.unique(contents[role])))
        others = [role for role in contents if role != kept]
        if not others or not hang_together(joined, fewer := components([*given, contents[kept]])):
            return joined, next(iter(contents))
        several = " and ".join(f"'{self.roles[role]}'" for role in others)
        self.notes.append(
            f"many rows share values of {several}: the splits keep each value of '{self.roles[kept]}' on one side, but "
            f"those of {several} may stand on both sides; name such a column as the unit (--unit) to keep them apart"
        )
        return fewer, kept

    def given_splits(self) -> np.ndarray:
        """(N,) texts: the split that the column of splits names for each row, "" for one of none of them."""
        values = [filled(v) for v in self.values("split")]
        names = {v: "" if v == UNUSED else standard_name(v) for v in set(values)}
        unknown = sorted(v for v, name in names.items() if name is None)
        if unknown:
            row = next(i for i, v in enumerate(values) if names[v] is None)
            shown = f"'{unknown[0]}'" if unknown[0] else "an empty value"
            raise InputError(
                f"{self._place(row)}: {shown} in the split column '{self.roles['split']}' is no split.",
                f"Use train, val and test ({UNUSED}: none of them), or take the role away: roles={{'split': None}}.",
            )
        return np.array([names[v] for v in values], dtype=object)

    def _given_splits(self) -> dict[str, np.ndarray]:
        given = self.given_splits()
        split = {name: np.flatnonzero(given == name) for name in SHARES}
        return self._filled(split)

    def _filled(self, split: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Parts that the column lacks, cut from the training rows by unit and content."""
        if not len(split["train"]):
            raise InputError(
                f"The split column of {self.path or self.name} names no training rows.", "Use train, val and test."
            )
        missing = [name for name in ("val", "test") if not len(split[name])]
        if missing:
            rows = split["train"]
            shares = {"train": 1 - sum(SHARES[m] for m in missing)} | {m: SHARES[m] for m in missing}
            part = np.unique(self._components[rows], return_inverse=True)[1].reshape(-1)
            cut = assign(part, self._unit_marks[rows], self.seed, shares)
            split = split | {name: rows[chosen] for name, chosen in cut.items()}
        return {name: split[name] for name in SHARES}

    def _place(self, row: int) -> str:
        """The file and the line (or row) in it, for messages."""
        file, number, unit = place(self._raw, row)
        return f"{file}, {unit} {number}"

    def leaks(self) -> int:
        """How many test rows share a content, a group or a unit with a training row (0 unless a split column says
        so)."""
        return leaking.tested_twice(self)

    def shared(self) -> list[leaking.Shared]:
        """What two splits have in common: contents, groups and units, each with its counts; str() words it."""
        return leaking.shared(self)

    def side(self, role: str) -> int:
        """The median short side of a role's images, in pixels."""
        return int(np.median(self.facts("sizes", role).min(axis=1)))

    def images(self, role: str, size: int, rows: Rows = None, fit: str | None = None) -> np.ndarray:
        """uint8 (n, 3, size, size), RGB, alpha on white; see `image_memmap`."""
        mapped = self.image_memmap(role, size, fit)
        return np.array(mapped if rows is None else mapped[self._numbers(rows)])

    def image_memmap(self, role: str, size: int, fit: str | None = None) -> np.memmap:
        """uint8 (N, 3, size, size) on disk, decoded once and kept in the cache folder.

        fit "crop" (default): the short side becomes `size` and the middle is cut out; "pad": the long side does, on
        white.
        """
        kind = self.modality(role)
        if kind.name != "image":
            raise InputError(f"The role '{role}' of {self.name} holds {kind.words}, not images.")
        return self._map(role, size, fit or self.fit)

    def _map(self, role: str, size: int, fit: str, mask: bool = False) -> np.memmap:
        """Images (N, 3, size, size) or masks (N, size, size), decoded at the first call."""
        column = self.column(role)
        if fit not in ("crop", "pad") or not (isinstance(size, int | np.integer) and 1 <= size <= MOST_SIDE):
            raise InputError(
                f"fit must be 'crop' or 'pad' and size a whole number from 1 to {MOST_SIDE}; got {fit!r} and {size!r}."
            )
        key = (column, size, fit)
        if key not in self._mapped:
            state = self._scan.digests[column].tobytes() + f"{column}:{size}:{fit}".encode()
            if mask:
                state += self._scan.part("classes")[column].tobytes()
            path = self._cache / "pixels" / f"{hashlib.sha256(state).hexdigest()[:32]}.u8"
            if not entry(path):
                self._decode(column, size, fit, path, self._mask_square if mask else self._image_square)
            shape = (len(self), size, size) if mask else (len(self), 3, size, size)
            self._mapped[key] = np.memmap(path, np.uint8, mode="r", shape=shape)
        return self._mapped[key]

    @property
    def masked(self) -> np.ndarray:
        """bool (N,): which rows have a mask."""
        return np.any(self._scan.part("classes")[self.column("mask")], axis=1)

    @cached_property
    def mask_values(self) -> np.ndarray:
        """uint8 (k,): the values that the masks hold, 255 among them where it occurs; sorted."""
        return np.flatnonzero(masks.unpack(self._scan.part("classes")[self.column("mask")]).any(0)).astype(np.uint8)

    @cached_property
    def mask_names(self) -> dict[int, str]:
        """Class -> name, for each class that occurs: from the data set or classes.txt, else "class 3"."""
        values = self.mask_values[self.mask_values != masks.IGNORE]
        names = masks.class_names(self.base, self.meta.get("classes"), values)
        return dict(zip(values.tolist(), names, strict=True))

    def mask_counts(self, rows: Rows = None) -> dict[int, int]:
        """Class -> in how many images (of the rows) it occurs."""
        bits = self._scan.part("classes")[self.column("mask")]
        there = masks.unpack(bits if rows is None else bits[self._numbers(rows)]).sum(0)
        return {value: int(there[value]) for value in self.mask_names}

    def masks(self, size: int, rows: Rows = None, fit: str | None = None) -> np.ndarray:
        """uint8 (n, size, size): the class of each pixel of `images` at that size; 255 where there is none."""
        mapped = self._map("mask", size, fit or self.fit, mask=True)
        return np.array(mapped if rows is None else mapped[self._numbers(rows)])

    def _image_square(self, value: Any, size: int, fit: str, span: image_files.Span | None) -> np.ndarray:
        return image_files.square(image_files.decode(image_source(value, self.base), span), size, fit)

    def _mask_square(self, value: Any, size: int, fit: str, span: image_files.Span | None) -> np.ndarray:
        if value is None or value in ("", b""):
            return np.full((size, size), masks.IGNORE, np.uint8)
        return masks.square(masks.decode(image_source(value, self.base)), size, fit)

    def _decode(self, column: str, size: int, fit: str, path: Path, square: Callable[..., np.ndarray]) -> None:
        stamps = self._scan.part("stamps")[column]
        spans = self._scan.part("spans").get(column, np.full((len(self), 2), np.nan))
        _check_room(path, len(self) * size * size * (1 if square == self._mask_square else 3))

        def one(cell: tuple[Any, int, list[float]]) -> bytes:
            value, known, span = cell
            if stamp(value, self.base) != known:
                raise image_files.Unreadable(str(image_source(value, self.base)))
            return square(value, size, fit, None if np.isnan(span[0]) else (span[0], span[1])).tobytes()

        with (
            new_entry(path) as temporary,
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
            track(f"decoding {column} at {size} px", len(self)) as advance,
            open(temporary, "wb") as file,
        ):
            row = 0
            for block in cells(self.table, column):
                try:
                    here = slice(row, row + len(block))
                    found = list(zip(block, stamps[here].tolist(), spans[here].tolist(), strict=True))
                    file.writelines(in_chunks(pool, one, found))
                except image_files.Unreadable as error:
                    raise InputError(
                        f"An image changed since {self.name} was opened: {error}.", "Open it again."
                    ) from error
                row += len(block)
                advance(len(block))

    def describe(self, samples: int = 3) -> dict[str, Any]:
        """What was understood, as plain values that JSON takes; `show` prints it."""
        from nearfar.sources.describing import describe

        return describe(self, samples)


def label_words(table: Dataset, roles: Roles) -> tuple[list[str] | None, bool]:
    """Names of the numbers in the column of pair labels, and whether plain numbers are those of natural language
    inference."""
    column = str(roles["pair_label"])
    feature = table.features[column]
    if isinstance(feature, ClassLabel):
        return feature.names, False
    found = {judgements.word(value) for block in cells(table, column) for value in block}
    return None, judgements.inference_numbers(found, str(roles.get("text", "")), str(roles.get("text_b", "")))


def _check_room(path: Path, needed: int) -> None:
    """Raises before hours of decoding where the disk cannot hold the result."""
    folder = next(p for p in path.parents if p.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NearfarError(
            f"The decoded images need {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left.",
            "Choose a smaller --image-size, free some space, or set NEARFAR_CACHE.",
        )


def natural(name: str) -> tuple:
    """Numbers sort as numbers."""
    return (
        (0, float(name), name) if name.lstrip("-").replace(".", "", 1).isdigit() and name.isascii() else (1, 0.0, name)
    )
