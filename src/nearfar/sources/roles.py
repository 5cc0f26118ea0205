"""Roles: what each column is for. The user's word counts; the rest is guessed from names and content, with a reason."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from nearfar.errors import InputError, did_you_mean
from nearfar.sources import judgements
from nearfar.sources.pictures import ENDINGS
from nearfar.sources.raw import column_of, plain_values

ROLES = (
    "image", "image_b", "text", "text_b", "mask", "negative", "pair_label", "score", "label", "group", "unit", "domain",
    "split", "time", "id", "target", "bag",
)  # fmt: skip
PAIRS = (("image", "text"), ("text", "text_b"), ("image", "image_b"))
CONTENT = ("image", "image_b", "text", "text_b")
LISTS = ("negative", "label")
MOST = 0.8  # share of a column's values that must be what its name says; the other rows are told
Roles = dict[str, str | list[str]]
_NEGATIVE = re.compile(r"(hard_)?negatives?[_.]?\d+")

_NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "img", "picture", "photo", "image_path", "image_file", "file_name", "filename", "filepath",
              "image_a", "image1", "image_1", "path", "file"),
    "image_b": ("image_b", "image2", "image_2", "img2", "img_b", "picture_b", "positive_image"),
    "text": ("text", "caption", "anchor", "query", "question", "sentence1", "sentence_1", "sentence_a", "text_a",
             "text1", "text_1", "question1", "question_1", "sentence", "premise", "summary", "title", "source",
             "description", "content"),
    "text_b": ("text_b", "positive", "answer", "passage", "document", "sentence2", "sentence_2", "sentence_b", "text2",
               "text_2", "question2", "question_2", "body", "response", "translation", "hypothesis", "code", "target"),
    "mask": ("mask", "masks", "mask_path", "mask_file", "segmentation", "segmentation_mask", "label_map"),
    "negative": ("negative", "negatives", "hard_negative", "hard_negatives"),
    "label": ("label", "labels", "class", "category", "class_name", "label_name"),
    "group": ("group", "group_id"),
    "unit": ("unit", "unit_id"),
    "domain": ("domain", "style"),
    "split": ("split", "subset", "partition"),
    "time": ("time", "timestamp", "date", "datetime"),
    "id": ("id", "key", "uuid", "_id", "sample_id"),
}  # fmt: skip


_PAIR_LABELS = ("pair_label", "is_duplicate", "duplicate", "is_paraphrase", "paraphrase", "is_match", "gold_label")
_PAIR_SCORES = ("similarity_score", "relatedness_score", "sts_score", "relatedness", "similarity", "gold_score")
_EITHER = ("label", "labels", "score")  # a class, or a word about the pair: its values decide
_PARTS = ("title", "summary", "caption", "description", "source")  # texts that belong to their row's other text


def resolve(
    table: Dataset, wanted: Mapping[str, Any] | None, fixed: Roles, fixed_reasons: Mapping[str, str], where: str
) -> tuple[Roles, dict[str, str]]:
    """The roles and, for each, the reason in words.

    `wanted` is the user's (None or "none" takes a role away); `fixed` comes with the format. Raises InputError for an
    unknown role or column, or where no column holds pictures or texts.
    """
    wanted = dict(wanted or {})
    columns = visible(table)
    given = {role: _checked(role, value, columns, where) for role, value in wanted.items()}
    roles: Roles = {role: value for role, value in fixed.items() if role not in given}
    reasons = {role: fixed_reasons.get(role, "the format says so") for role in roles}
    for role, value in given.items():
        if value:
            roles[role], reasons[role] = value, "you named it"
    named = any(given.get(role) for role in CONTENT)
    if not any(role in fixed for role in CONTENT):
        taken = {name for value in roles.values() for name in _listed(value)}
        _by_name(table, roles, reasons, set(given), taken)
        if not named:
            _by_content(table, roles, reasons, set(given), taken)
        _by_pair(table, roles, reasons, set(given))
    if not any(role in roles for role in CONTENT):
        raise InputError(
            f"{where}: no column looks like pictures or texts (columns: {', '.join(columns)}).",
            "Name one, for example --text COLUMN or roles={'text': 'COLUMN'}.",
        )
    _one_kind(table, roles, where)
    if "mask" in roles and "image" not in roles:
        if given.get("mask"):
            raise InputError(f"{where}: a mask needs its picture.", "Name the column of pictures: --image COLUMN.")
        del roles["mask"]
    return {role: roles[role] for role in ROLES if role in roles}, reasons


def _one_kind(table: Dataset, roles: Roles, where: str) -> None:
    """A column is read as pictures or as texts, not as both, and is one side of a pair alone."""
    first: dict[str, str] = {}
    for role in ("image", "image_b", "text", "text_b", "negative"):
        for column in _listed(roles.get(role, [])):
            other = first.setdefault(column, role)
            if other != role and (other.split("_")[0] == role.split("_")[0] or role == "negative"):
                raise InputError(
                    f"{where}: the column '{column}' is both '{other}' and '{role}': what stands on two sides is "
                    "found without any learning.",
                    f"Name another column for '{role}', or take the role away (--{role.replace('_', '-')} none).",
                )
    pictures = {str(roles[role]) for role in ("image", "image_b", "mask") if role in roles}
    for role in ("text", "text_b", "negative"):
        for column in _listed(roles.get(role, [])):
            if role != "negative" and column in pictures:
                raise InputError(
                    f"{where}: the column '{column}' holds pictures (it is read as such); it cannot be '{role}' too.",
                    "Name a column of texts, or take the role of pictures away (--image none).",
                )


def visible(table: Dataset) -> list[str]:
    """The user's columns; names with two underscores in front are bookkeeping."""
    return [name for name in table.column_names if not name.startswith("__")]


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _checked(role: str, value: Any, columns: list[str], where: str) -> str | list[str] | None:
    if role not in ROLES:
        raise InputError(f"There is no role '{role}'.{did_you_mean(str(role), ROLES)}", f"Roles: {', '.join(ROLES)}.")
    if value is None or value == "none" or value == []:
        return None
    if not all(isinstance(v, str) for v in (value if isinstance(value, list | tuple) else [value])):
        raise InputError(
            f"{where}: the role '{role}' takes the name of a column. Got {value!r}.", f"Columns: {', '.join(columns)}."
        )
    names = _listed(value)
    for name in names:
        if name not in columns:
            raise InputError(
                f"{where}: there is no column '{name}' for the role '{role}'.{did_you_mean(str(name), columns)}",
                f"Columns: {', '.join(columns)}.",
            )
    if role in LISTS:
        return list(dict.fromkeys(names))
    if len(names) != 1:
        raise InputError(f"The role '{role}' takes one column, not {len(names)}.")
    return names[0]


def _by_name(table: Dataset, roles: Roles, reasons: dict[str, str], given: set[str], taken: set[str]) -> None:
    lower = {name.casefold().replace("-", "_").replace(" ", "_"): name for name in reversed(visible(table))}
    for role, candidates in _NAMES.items():
        if role in roles or role in given:
            continue
        found = [lower[c] for c in candidates if c in lower and lower[c] not in taken and _fits(table, role, lower[c])]
        if role == "negative":
            found += [n for low, n in sorted(lower.items()) if _NEGATIVE.fullmatch(low) and n not in taken]
        if found:
            roles[role] = found if role == "negative" else found[:1] if role == "label" else found[0]
            taken.update(_listed(roles[role]))
            reasons[role] = f"by the name of the column{'s' if len(_listed(roles[role])) > 1 else ''}"


def _by_pair(table: Dataset, roles: Roles, reasons: dict[str, str], given: set[str]) -> None:
    """A column that says whether, or how far, the two sides of a row belong together."""
    if not any({a, b} <= set(roles) for a, b in PAIRS) or given & {"pair_label", "score"}:
        return
    for role, names in (("pair_label", _PAIR_LABELS), ("score", _PAIR_SCORES)):
        for column in _free(table, roles, given):
            if _plain(column) in names and _speaks(table, role, column, roles):
                _give(role, column, "by the name of the column", roles, reasons)
                return
    if not {"text", "text_b"} <= set(roles) or _plain(str(roles["text"])) in _PARTS:
        return
    for column in _free(table, roles, given):
        role = _told(table, column, roles) if _plain(column) in _EITHER else None
        if role is not None:
            _give(role, column, "its values, beside two columns of texts", roles, reasons)
            return


def _free(table: Dataset, roles: Roles, given: set[str]) -> list[str]:
    """Columns without a role, and those that were only guessed to be a label."""
    taken = {c for role, v in roles.items() if role != "label" or "label" in given for c in _listed(v)}
    return [name for name in visible(table) if name not in taken]


def _give(role: str, column: str, reason: str, roles: Roles, reasons: dict[str, str]) -> None:
    roles[role], reasons[role] = column, reason
    if roles.get("label") == [column]:
        del roles["label"]


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")


def _speaks(table: Dataset, role: str, column: str, roles: Roles) -> bool:
    """Whether a column's values are labels of pairs (0 and 1, words of inference), or scores on a bounded scale."""
    values, feature = _sample(table, column, 512), table.features[column]
    names = feature.names if isinstance(feature, ClassLabel) else None
    found = {judgements.word(v, names) for v in values} - judgements.NONE
    if role == "pair_label":
        numbered = judgements.inference_numbers(found, str(roles.get("text")), str(roles.get("text_b")))
        known = np.mean([judgements.pair_label(v, names, numbered) is not None for v in values])
        return bool(found and (known > MOST if _plain(column) not in _EITHER else known == 1 and len(found) > 1))
    numbers = [judgements.score(v) for v in values if judgements.word(v) not in judgements.NONE]
    known = [n for n in numbers if n is not None]
    if names is not None or not known or len(known) <= MOST * len(numbers):
        return False
    if _plain(column) in _PAIR_SCORES:
        return True
    graded = _plain(column) == "score" or any(n != int(n) for n in known)
    return graded and len(set(known)) > 2 and min(known) >= -1 and max(known) <= 10


def _told(table: Dataset, column: str, roles: Roles) -> str | None:
    """What a column's values are, of the roles that speak of pairs."""
    return next((role for role in ("pair_label", "score") if _speaks(table, role, column, roles)), None)


def questions(table: Dataset, roles: Roles) -> list[str]:
    """What to ask the user of a table of pairs: columns that may be about the pair and are not read so."""
    if not any({a, b} <= set(roles) for a, b in PAIRS) or {"pair_label", "score"} & set(roles):
        return []
    asked = []
    for column in visible(table):
        name = _plain(column)
        if name not in _EITHER or column in {c for r, v in roles.items() if r not in ("label",) for c in _listed(v)}:
            continue
        role = _told(table, column, roles)
        if role is not None:
            option = role.replace("_", "-")
            asked.append(f"every row counts as a pair that belongs together; if '{column}' says whether or how far it "
                         f"does: --{option} {column}")
    return asked


def _sample(table: Dataset, column: str, count: int = 64) -> list[Any]:
    rows = np.arange(0, len(table), max(1, len(table) // count))[:count]
    return plain_values(column_of(table, column, rows))


def _is_picture(values: list[Any]) -> bool:
    filled = [v for v in values if v not in (None, "", b"")]
    return bool(filled) and all(
        isinstance(v, bytes) or (isinstance(v, dict) and "bytes" in v) or (isinstance(v, str) and _ends_like_picture(v))
        for v in filled
    )


def _ends_like_picture(value: str) -> bool:
    return "." + value.rsplit(".", 1)[-1].casefold() in ENDINGS


def _fits(table: Dataset, role: str, column: str) -> bool:
    """A column called `path` or `text` still has to hold what its name says."""
    values = _sample(table, column)
    if role in ("image", "image_b", "mask"):
        return _is_picture(values)
    if role in ("text", "text_b", "negative"):
        return all(v is None or isinstance(v, str) for v in values) and not _is_picture(values)
    if role == "label":
        return not _is_picture(values)
    return True


def _by_content(table: Dataset, roles: Roles, reasons: dict[str, str], given: set[str], taken: set[str]) -> None:
    free = [name for name in visible(table) if name not in taken]
    samples = {name: _sample(table, name) for name in free}
    images = [name for name in free if _is_picture(samples[name])]
    texts = [name for name in free if name not in images and _is_text(samples[name])]
    if not any(role in roles for role in ("image", "image_b")):
        _fill(("image", "image_b"), images, "its values are pictures", roles, reasons, given)
    # Where a name told what the text is, another column of words may be anything: authors, comments.
    if not any(role in roles for role in ("text", "text_b")):
        places = ("text",) if "image" in roles else ("text", "text_b")
        _fill(places, texts, "its values are texts of several words", roles, reasons, given)
    if not any(role in roles for role in CONTENT):
        short = [
            n for n in free if samples[n] and all(isinstance(v, str) for v in samples[n]) and not _numbers(samples[n])
        ]
        _fill(("text", "text_b"), short, "its values are short texts", roles, reasons, given)


def _fill(
    places: Sequence[str], names: list[str], reason: str, roles: Roles, reasons: dict[str, str], given: set[str]
) -> None:
    open_places = [role for role in places if role not in roles and role not in given]
    for role, name in zip(open_places, names, strict=False):
        roles[role], reasons[role] = name, reason


def _numbers(values: list[Any]) -> bool:
    return all(str(v).strip().lstrip("-+").replace(".", "", 1).isdigit() for v in values if v not in (None, ""))


def _is_text(values: list[Any]) -> bool:
    filled = [v for v in values if v not in (None, "")]
    if not filled or not all(isinstance(v, str) for v in filled):
        return False
    return sum(len(v.split()) for v in filled) / len(filled) >= 2 and len(set(filled)) > 0.3 * len(filled)
