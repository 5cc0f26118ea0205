"""`open_data`: from a name, a path or an object in memory to checked rows with roles."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import modalities
from nearfar.checks import PositiveInt, Seed, checked, one_of
from nearfar.errors import InputError, did_you_mean
from nearfar.sources import judgements, sets, trees
from nearfar.sources.class_attributes import META, read_class_attributes
from nearfar.sources.class_attributes import class_attributes as class_attributes_of
from nearfar.sources.cleaning import AlignRules, dropped, rules_of
from nearfar.sources.compositions import ROLES, compositions, has_compositions
from nearfar.sources.data import Data, label_words
from nearfar.sources.folders import read_path
from nearfar.sources.leaks import refuse
from nearfar.sources.listing import is_pattern
from nearfar.sources.masks import check_classes
from nearfar.sources.raw import Raw, filled
from nearfar.sources.roles import Roles, listed, questions, resolve, second_side
from nearfar.sources.scan import Fault, Scan, cells, problem, scan
from nearfar.sources.storage import cache_dir
from nearfar.sources.tested import excused, only_tested
from nearfar.stores import fetched, is_url


@checked
def open_data(
    spec: Any,
    roles: Mapping[str, Any] | None = None,
    split: str | None = None,
    seed: Seed = 0,
    unreadable: str = "error",
    limit: PositiveInt | None = None,
    cache: str | Path | None = None,
    strict: bool = False,
    clean: str | None = None,
    score_range: tuple[float, float] | str | None = None,
    titles: str | Path | None = None,
    window: PositiveInt | None = None,
    class_attributes: str | Path | None = None,
) -> Data:
    """Opens a built-in data set or the user's own, checks every row, and says what each column is for.

    Args:
        spec: the name of a built-in set ("emoji", "digits", those of other packages), or a path: a folder
            of images (folders of classes become labels; images/ and masks/ become images with masks), a csv, tsv,
            parquet or jsonl table, a .tar of WebDataset or a folder of them, a .txt file (one passage a line), a folder
            of text files or man pages, a BEIR folder, a `datasets` folder saved to disk. Relative image paths are taken
            from the table's folder. A pattern ("photos/**/*.jpg", "logs/2024-*.csv") names the files that match it,
            read as a folder of them alone. URLs of object stores (s3://...) are read by way of a copy in the cache.
            Or an object in memory: a Dataset, DatasetDict or stream of `datasets`, a DataFrame of pandas or polars, a
            Table of pyarrow, a dict of columns, a list of texts, records or images, an array of rows of numbers
            (`nearfar.sources.objects`).
        roles: role -> column, for roles that should not be guessed ("label" and "negative" also take lists; None
            takes a role away). split: None; the name of a column of train/val/test; for emoji also "unseen-hand".
            seed: of the splits. unreadable: "error" raises at the first bad row; "skip" leaves bad rows out and lists
            them in `problems`. limit: at most about so many rows, whole groups, spread over the input; of a stream
            the first ones, and no more are read. cache: folder of derived data; default NEARFAR_CACHE or
            ~/.cache/nearfar. strict: refuse data of which two splits share
            a content, a group or a unit. clean: rules that drop rows ("align", see `sources.cleaning`).
            score_range: the ends of the scale of the scores, (0, 5) or "0,5": one beyond them is a fault of its row.
            titles: a table of ids and titles of the items of interactions; RecBole's .item file beside its .inter is
            found.
            window: cut long series into runs of so many steps, in order of time.
            class_attributes: a table (csv, tsv) or JSON of the attributes of each class.

    Raises InputError, with the file, the row and the mend, for whatever is wrong with the input.
    """
    one_of("unreadable", unreadable, ("error", "skip"))
    rules = None if clean is None else rules_of(clean)
    _check_asked(spec, roles)
    folder = cache_dir(cache)
    raw = _read(spec, split, unreadable == "skip", limit, folder, seed)
    if not len(raw.table):
        raise InputError(f"{raw.path or raw.name} holds no rows.", "Check that this is the right file or folder.")
    wanted = dict(roles or {})
    division = next((kind for kind in modalities.everyone() if split in kind.divisions), None)
    if split is not None and split not in raw.splits and division is None:
        _check_split(split, raw)
        wanted.setdefault("split", split)
    raw, wanted, why = _gathered(raw, wanted, window, unreadable == "skip")
    resolved, reasons = _resolved(raw, wanted, split, division)
    reasons |= why
    raw.roles = resolved
    if titles is not None:
        _name_items(raw, Path(titles), folder)
    if limit is not None:
        _limit(raw, limit)
    if class_attributes is not None:
        _describe_classes(raw, class_attributes)
    raw.only_tested = only_tested(raw)
    found = _checked(raw, resolved, unreadable, folder, _scale(raw, resolved, score_range))
    if rules is not None:
        found = _cleaned(raw, resolved, found, rules)
    data = Data(raw, resolved, reasons, found, seed=seed, split=split, cache=folder)
    _check_opened(data, wanted)
    if strict:
        refuse(data)
    return data


def _check_asked(spec: Any, roles: Any) -> None:
    if isinstance(spec, Data):
        raise InputError("These data are opened already.", "Take them as they are.")
    if isinstance(spec, str) and not spec.strip():
        raise InputError("No data were named: the path is empty.", "Give a file, a folder, or a built-in set.")
    if roles is not None and not isinstance(roles, Mapping):
        raise InputError(f"roles is a table of roles and columns. Got {roles!r}.", "Write roles={'text': 'COLUMN'}.")


def _resolved(raw: Raw, wanted: Mapping[str, Any], split: str | None, division: Any) -> tuple[Roles, dict[str, str]]:
    """Role -> column, and why; an item that its content names is its own id. division: the kind of data that the split
    divides."""
    resolved, reasons = resolve(raw.table, wanted, raw.roles, raw.reasons, str(raw.path or raw.name))
    for kind in modalities.everyone():
        if kind.identifies and kind.roles[0] in resolved and "id" not in wanted and "id" not in resolved:
            resolved["id"], reasons["id"] = resolved[kind.roles[0]], f"{kind.words} have names"
    if division is not None and division.roles[0] not in resolved:
        raise InputError(
            f"--split {split} divides {division.words}; {raw.path or raw.name} has {', '.join(resolved)}.",
            f"Name their columns ({', '.join(f'--{role} COLUMN' for role in division.roles)}), or leave it out.",
        )
    return resolved, reasons


def _scale(raw: Raw, resolved: Mapping[str, Any], asked: tuple[float, float] | str | None) -> Any:
    """The ends of the scale of the scores."""
    if asked is None:
        return None
    scale = judgements.scale(asked)
    if "score" not in resolved:
        raise InputError(
            f"{raw.path or raw.name} has no scores for --score-range.", "Name their column: --score COLUMN."
        )
    return scale


def _check_opened(data: Data, wanted: Mapping[str, Any]) -> None:
    """What holds of whole data, and what the reader should know of them."""
    _check_ids(data, wanted)
    _check_pairs(data)
    _check_labels(data, wanted)
    _tell_of_pairs(data)
    _tell_of_words_for_nothing(data)
    _check_compositions(data)
    for role in data.content_roles:
        data.notes += data.modality(role).remarks(data, role)
    if "mask" in data.roles:
        check_classes(data.mask_values, str(data.path or data.name))
        _ = data.mask_names  # a wrong classes.txt is told now


def _gathered(
    raw: Raw, wanted: dict[str, Any], window: int | None, skip: bool
) -> tuple[Raw, dict[str, Any], dict[str, str]]:
    """The table as items, where its rows are parts of items or hold several, its roles, and the reasons for those that
    the user did not name."""
    for kind in modalities.everyone():
        found = kind.gathered(raw, wanted, window, skip)
        if found is not None:
            return found
    if window is not None:
        raise InputError(
            f"{raw.path or raw.name} holds no series that --series-window could cut.", "Leave out --series-window."
        )
    return raw, wanted, {}


def _check_ids(data: Data, wanted: Mapping[str, Any]) -> None:
    """An id that the user named must tell the rows apart; one that was guessed from a name and does not is none."""
    if not wanted.get("id") and data.reasons.get("id") != "by the name of the column":
        return
    first: dict[str, int] = {}
    twice = next((row for row, key in enumerate(data.keys) if first.setdefault(key, row) != row), None)
    if twice is None:
        return
    column, key = data.column("id"), data.keys[twice]
    if wanted.get("id"):
        raise InputError(
            f"{data.path or data.name}: the id column '{column}' holds '{key}' more than once (rows {first[key]} and "
            f"{twice}).",
            "Name a column whose values tell the rows apart, or take the role away: --id none.",
        )
    data.notes.append(f"the column '{column}' repeats values ('{key}'): it does not serve as the id of a row")
    del data.roles["id"], data.reasons["id"]
    data.__dict__.pop("keys", None)


def _read(spec: Any, split: str | None, skip: bool, limit: int | None, cache: Path, seed: int) -> Raw:
    if not isinstance(spec, str | os.PathLike):
        from nearfar.sources.objects import read_object

        raw = read_object(spec, cache, limit)
        indices = raw.table._indices
        raw.order = None if indices is None else indices.column(0).to_numpy().astype(np.int64)
        return raw
    if str(spec) in sets.names():
        return sets.open_set(str(spec), split=split, seed=seed, limit=limit, cache=cache)
    path = fetched(str(spec)) if is_url(spec) else Path(spec).expanduser()
    try:
        exists = path.exists()
    except PermissionError as error:
        raise InputError(
            f"{path} cannot be reached: permission denied.", "Change the permissions of its folder."
        ) from error
    except OSError as error:
        raise InputError(f"{str(path)[:200]} is not a path: {error.strerror}.", "Give a file or a folder.") from error
    if not exists and not is_pattern(path):
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        known = sets.names()
        near = did_you_mean(str(spec), known) or did_you_mean(path.name, siblings)
        raise InputError(f"There is no file or folder '{spec}'.{near}", f"Built-in data sets: {', '.join(known)}.")
    return read_path(path, cache, skip)


def _name_items(raw: Raw, path: Path, cache: Path) -> None:
    """Titles of the items, from a table of them."""
    from nearfar.sources.interactions import read_titles

    if not any(kind.titled in raw.roles for kind in modalities.everyone()):
        raise InputError(f"--titles names the items of interactions; {raw.path or raw.name} has none.",
                         "Name their columns: --user COLUMN --item COLUMN, or leave it out.")  # fmt: skip
    raw.meta["titles"] = read_titles(path.expanduser(), cache)


def _describe_classes(raw: Raw, path: str | Path) -> None:
    """The attributes of each class, from a file."""
    if not {"target", "label"} & set(raw.roles):
        raise InputError(f"--class-attributes describes classes; {raw.path or raw.name} has no column of classes.",
                         "Name it: --target COLUMN, or leave the file out.")  # fmt: skip
    found = read_class_attributes(path)
    raw.meta[META] = found
    raw.fingerprint += hashlib.sha256(repr(found).encode()).hexdigest()


def _check_compositions(data: Data) -> None:
    """An attribute without an object is none; both are read, and the classes of a file of attributes, now, so that
    faults are told before anything is trained."""
    for role, other in (ROLES, ROLES[::-1]):
        if role in data.roles and other not in data.roles:
            raise InputError(f"{data.path or data.name}: an {role} needs the {other} beside it.",
                             f"Name the column: --{other} COLUMN.")  # fmt: skip
    if has_compositions(data):
        compositions(data)
    if META in data.meta:
        if data.targets is None:
            raise InputError(f"{data.path or data.name}: no row has a class that attributes could describe.",
                             "Name the column of classes: --target COLUMN.")  # fmt: skip
        class_attributes_of(data)


def _check_split(split: str, raw: Raw) -> None:
    divided = [kind for kind in modalities.everyone() if kind.divisions]
    options = [*raw.splits, *raw.table.column_names, *(name for kind in divided for name in kind.divisions)]
    if split not in raw.table.column_names:
        known = f"Splits of {raw.name}: {', '.join(raw.splits)}. " if raw.splits else ""
        raise InputError(
            f"{raw.path or raw.name} has no split or column '{split}'.{did_you_mean(split, options)}",
            f"{known}Leave it out for 70/15/15 by unit and content, or name a column of train/val/test"
            + "".join(f"; of {kind.words} {' or '.join(kind.divisions)}" for kind in divided)
            + ".",
        )


def _columns(roles: Roles) -> dict[str, dict[str, list[str]]]:
    """Name of a kind of data -> role -> columns, each once, of all that is looked at."""
    found: dict[str, dict[str, list[str]]] = {}
    beside = modalities.companions()
    for role in [*modalities.roles(), *beside]:
        if role in roles:
            name = modalities.of(beside.get(role, role)).name
            found.setdefault(name, {})[role] = listed(roles[role])
    negatives, kind = listed(roles.get("negative", [])), second_side(roles)
    if negatives and kind is not None:
        found.setdefault(kind.name, {})["negative"] = negatives
    return found


def _limit(raw: Raw, limit: int) -> None:
    """Whole groups (or rows) at even distances, until the limit is reached."""
    rows = len(raw.table)
    if rows <= limit:
        return
    whole = (kind.whole for kind in modalities.everyone() if kind.whole)
    role = next((raw.roles[role] for role in ("group", *whole) if role in raw.roles), None)
    if role is None:
        keep = np.unique(np.linspace(0, rows - 1, limit).round().astype(int))
    else:
        values = [value for block in cells(raw.table, str(role)) for value in block]
        named = [f"={v}" if (v := filled(value)) else f"row {row}" for row, value in enumerate(values)]
        codes = np.unique(named, return_inverse=True)[1]
        count = codes.max() + 1
        chosen = np.linspace(0, count - 1, max(1, round(count * limit / rows))).round().astype(int)
        keep = np.flatnonzero(np.isin(codes, chosen))
    raw.table = raw.table.select(keep)
    raw.fingerprint += f":limit{limit}"
    raw.notes.append(f"limited to {len(keep)} of {rows} rows")


def _checked(raw: Raw, roles: Roles, unreadable: str, cache: Path, scale: tuple[float, float] | None) -> Scan:
    found = scan(raw, _columns(roles), cache)
    found.bad = sorted(excused(raw, [*found.bad, *_misjudged(raw, roles, scale)]), key=lambda fault: fault.row)
    if not found.bad:
        return found
    if unreadable == "error":
        more = f" ({len(found.bad) - 1} more like this)" if len(found.bad) > 1 else ""
        raise InputError(
            f"{problem(raw, found.bad[0])}{more}.", "Mend or remove it, or leave such rows out with --unreadable skip."
        )
    bad = {fault.row for fault in found.bad}
    keep = np.array([row for row in range(len(raw.table)) if row not in bad], np.int64)
    raw.problems += [problem(raw, fault) for fault in found.bad]
    if not len(keep):
        raise InputError(f"No row of {raw.path or raw.name} is usable: {raw.problems[0]}.", "Mend the input.")
    raw.table = raw.table.select(keep)
    return found.take(keep)


def _cleaned(raw: Raw, roles: Roles, found: Scan, rules: AlignRules) -> Scan:
    """Only the rows that pass the rules; the notes say how many each dropped."""
    if not {"image", "text"} <= set(roles):
        raise InputError("--clean align is for images with texts.",
                         "Name the columns: --image COLUMN --text COLUMN.")  # fmt: skip
    image, text = str(roles["image"]), str(roles["text"])
    texts = [filled(value) for block in cells(raw.table, text) for value in block]
    by_rule = dropped(rules, found.sizes[image], found.digests[image], texts)
    keep = np.flatnonzero(~np.any(list(by_rule.values()), axis=0))
    counts = "; ".join(f"{rule}: {int(rows.sum()):,}" for rule, rows in by_rule.items() if rows.any())
    if not len(keep):
        raise InputError(f"The rules leave no row of {raw.path or raw.name} ({counts}).",
                         'Relax them, for example --clean "align --short-side 32 --shortest 1".')  # fmt: skip
    raw.notes.append(f"cleaned: {len(keep):,} of {len(raw.table):,} rows are left" + (f" ({counts})" if counts else ""))
    raw.table = raw.table.select(keep)
    raw.fingerprint += f":{rules}"
    return found.take(keep)


def _check_pairs(data: Data) -> None:
    """Labels and scores of pairs need pairs, and scores differ."""
    where = data.path or data.name
    for role in ("pair_label", "score"):
        if role in data.roles and not any({a, b} <= set(data.roles) for a, b in modalities.pairs()):
            raise InputError(
                f"{where}: the {role} '{data.roles[role]}' needs two columns that it speaks of.",
                "Name them, for example --text COLUMN --text-b COLUMN.",
            )
    if data.scores is not None and np.nanmin(data.scores) == np.nanmax(data.scores):
        raise InputError(
            f"{where}: the score '{data.roles['score']}' is {np.nanmin(data.scores):g} in every row.",
            "A score tells pairs apart; take the role away with --score none.",
        )
    if data.pair_labels is not None and not (data.pair_labels == 1).any():
        raise InputError(
            f"{where}: no row of '{data.roles['pair_label']}' is labelled 1.",
            "At least one pair must belong together; take the role away with --pair-label none.",
        )


def _misjudged(raw: Raw, roles: Roles, scale: tuple[float, float] | None) -> list[Fault]:
    """Rows whose pair label or score is none, or lies beyond the scale, or whose tree is none."""
    found = []
    checks = {}
    if "pair_label" in roles:
        names, numbered = label_words(raw.table, roles)
        checks["pair_label"] = (
            lambda v: judgements.pair_label(v, names, numbered),
            "not the label of a pair: 1 or 0, true or false, or a word such as entailment",
        )
    if "score" in roles:
        checks["score"] = judgements.score, "not a finite number"
    for role, (read, wanted) in checks.items():
        column = str(roles[role])
        values = (value for block in cells(raw.table, column) for value in block)
        counts: Counter[str] = Counter()
        wrong = []
        for row, value in enumerate(values):
            number = read(value)
            counts[filled(value)] += role == "pair_label"
            if number is None:
                fault = "the cell is empty" if value in (None, "") else f"{value!r} is {wanted}"
                wrong.append(Fault(row, column, fault))
            elif role == "score" and scale is not None and not scale[0] <= number <= scale[1]:
                wrong.append(Fault(row, column, f"{number:g} is not within {scale[0]:g} to {scale[1]:g}"))
        if wrong and role == "pair_label":
            wrong[0] = replace(wrong[0], message=f"{wrong[0].message} ({_counted(counts)})")
        found += wrong
    if "tree" in roles:
        column = str(roles["tree"])
        values = (value for block in cells(raw.table, column) for value in block)
        found += [Fault(row, column, wrong) for row, value in enumerate(values) if (wrong := trees.fault(value))]
    return found


def _counted(counts: Counter[str]) -> str:
    """The most frequent values of a column in words."""
    told = ", ".join(f"'{value[:20]}' {count:,}" for value, count in counts.most_common(MOST_VALUES))
    return f"it holds {told}" + (f" and {len(counts) - MOST_VALUES} more" if len(counts) > MOST_VALUES else "")


MOST_VALUES = 5  # values of a column of labels that a message counts
_PERHAPS_NONE = {"none", "null", "na", "n/a", "#n/a"}


def _tell_of_words_for_nothing(data: Data) -> None:
    """Rows that share a word such as None or NA would all belong together: asked about, as it may be a name."""
    for role in ("group", "unit"):
        values = [filled(v).strip() for v in data.values(role)] if role in data.roles else []
        found = [v for v in values if v.casefold() in _PERHAPS_NONE]
        if len(found) > 1:
            data.notes.append(
                f"{len(found):,} rows have '{found[0]}' in the column '{data.column(role)}': they count as one {role}; "
                "where it means that there is none, leave the cells empty"
            )


def _tell_of_pairs(data: Data) -> None:
    """What the labels or scores of pairs mean for training and measuring."""
    data.notes += questions(data.table, data.roles)
    if data.only_tested:
        columns = ", ".join(f"'{data.roles[role]}'" for role in data.roles if role in data.only_tested)
        data.notes.append(f"{columns}: empty in all training rows, so it only measures")
    labels, column = data.pair_labels, data.roles.get("pair_label")
    if labels is not None:
        together, apart, unknown = (int((labels == value).sum()) for value in (1, 0, -1))
        data.notes.append(
            f"'{column}' is read as the label of the pair ({together:,} belong together, {apart:,} do not"
            + (f", {unknown:,} without a label are left out" if unknown else "")
            + "): rows labelled 0 are hard negatives of a training pair with the same first side, others are left out "
            f"of training (if '{column}' names classes: --label {column})"
        )
    if data.scores is not None:
        column = data.roles["score"]
        read = (
            f"'{column}' is read as the score of the pair ({np.nanmin(data.scores):g} to {np.nanmax(data.scores):g}): "
            "measured is Spearman's correlation; "
        )
        if "score" in data.only_tested:
            data.notes.append(f"{read}training rows have none")
            return
        many = int(data.scores.size) if data.positives is None else int(data.positives.sum())
        data.notes.append(
            f"{read}train on it with --loss cosent or cosine-regression. Losses that know no score take the {many:,} "
            f"pairs {'labelled 1' if labels is not None else 'in the upper fifth of the range'} as positives"
        )


def _check_labels(data: Data, wanted: Mapping[str, Any]) -> None:
    """A label with one value tells nothing: an error where the user asked for it, a note where it was guessed."""
    for column, names in data.label_names.items():
        if len(names) >= 2:
            continue
        found = f"one class only ('{names[0]}')" if names else "no value at all"
        if "label" in wanted:
            raise InputError(
                f"{data.path or data.name}: the label column '{column}' holds {found}.",
                "Labels need two classes or more.",
            )
        data.notes.append(f"the label column '{column}' holds {found}: it is not used as a label")
        data.drop_label(column)
