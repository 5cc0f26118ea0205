"""Roles: what each column is for. The user's word counts; the rest is guessed from names and content, with a reason."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from nearfar import modalities
from nearfar.errors import InputError, did_you_mean
from nearfar.sources import judgements, trees
from nearfar.sources.raw import column_of, plain_values

MOST = 0.8  # share of a column's values that must be what its name says; the other rows are told
Roles = dict[str, str | list[str]]
_NEGATIVE = re.compile(r"(hard_)?negatives?[_.]?\d+")

_BESIDE: dict[str, tuple[str, ...]] = {
    "negative": ("negative", "negatives", "hard_negative", "hard_negatives"),
    "pair_label": (),
    "score": (),
    "label": ("label", "labels", "class", "category", "class_name", "label_name", "target", "y"),
    "group": ("group", "group_id"),
    "unit": ("unit", "unit_id"),
    "domain": ("domain", "style", "language", "lang"),
    "split": ("split", "subset", "partition", "split_name"),
    "time": ("time", "timestamp", "date", "datetime"),
    "id": ("id", "key", "uuid", "_id", "sample_id"),
    "target": (),
    "bag": (),
    "tree": ("tree",),
    "attribute": (),
    "object": (),
}
"""Roles that are no items, and the names of their columns."""


def known_roles() -> list[str]:
    """All roles: items of each kind of data, what stands beside them, and what is said of the rows."""
    return [*modalities.roles(), *modalities.companions(), *_BESIDE]


def takes_several(role: str) -> bool:
    """Whether a role takes a list of columns."""
    return role in ("negative", "label", "attribute") or role in modalities.listed()


def second_side(roles: Mapping[str, Any]) -> modalities.Modality | None:
    """The kind of the last column of items, of which hard negatives are too."""
    held = [role for role in modalities.roles() if role in roles]
    return modalities.of(held[-1]) if held else None


_PAIR_LABELS = ("pair_label", "is_duplicate", "duplicate", "is_paraphrase", "paraphrase", "is_match", "gold_label")
_PAIR_SCORES = ("similarity_score", "relatedness_score", "sts_score", "relatedness", "similarity", "gold_score")
_EITHER = ("label", "labels", "score")  # a class, or a word about the pair: its values decide
_ALSO_ITEMS = {"unit", "id"}  # roles whose column may hold the items themselves
_PAIR_OF_WORDS = ("attribute", "object")
_PARTS = ("title", "summary", "caption", "description", "source")  # texts that belong to their row's other text
_TOLD = ("label", "target", "score", "pair_label", "split")  # what is to be found, or divides the rows


def resolve(
    table: Dataset, wanted: Mapping[str, Any] | None, fixed: Roles, fixed_reasons: Mapping[str, str], where: str
) -> tuple[Roles, dict[str, str]]:
    """The roles and, for each, the reason in words.

    `wanted` is the user's (None or "none" takes a role away); `fixed` comes with the format. Raises InputError for an
    unknown role or column, or where no column holds items of a kind that is known.
    """
    wanted, content = dict(wanted or {}), modalities.roles()
    columns = visible(table)
    given = {role: checked_role(role, value, columns, where) for role, value in wanted.items()}
    roles: Roles = {role: value for role, value in fixed.items() if role not in given}
    reasons = {role: fixed_reasons.get(role, "the format says so") for role in roles}
    for role, value in given.items():
        if value:
            roles[role], reasons[role] = value, "you named it"
    _unseen(roles, reasons, given, where)
    named = any(given.get(role) for role in content)
    if not any(role in fixed for role in content):
        taken = {name for value in roles.values() for name in listed(value)}
        _by_name(table, roles, reasons, set(given), taken)
        if not _together(roles, reasons, set(given), taken) and not named:
            _by_content(table, roles, reasons, set(given), taken)
        _by_pair(table, roles, reasons, set(given))
        _by_composition(table, roles, reasons, set(given))
    if not any(role in roles for role in content):
        raise InputError(
            f"{where}: no column looks like {modalities.words()} (columns: {', '.join(columns)}).",
            "Name one, for example --text COLUMN or roles={'text': 'COLUMN'}.",
        )
    _one_kind(roles, where)
    _beside(roles, given, where)
    return {role: roles[role] for role in known_roles() if role in roles}, reasons


def _unseen(roles: Roles, reasons: dict[str, str], given: Mapping[str, Any], where: str) -> None:
    """What is to be found is not shown beside the items (a class among the features of a node): of two roles of a
    column, the one that the user named stays. Raises InputError where the user named both."""
    beside = [role for role in modalities.companions() if role in roles]
    for told, role in ((a, b) for a in _TOLD for b in beside if a in roles and b in roles):
        both = [column for column in listed(roles[role]) if column in listed(roles[told])]
        if both and given.get(told) and given.get(role):
            raise InputError(f"{where}: the column '{both[0]}' is both '{told}' and '{role}': what is to be found "
                             "would be seen.", f"Leave it out of --{role.replace('_', '-')}.")  # fmt: skip
        loser = told if given.get(role) else role
        left = [column for column in listed(roles[loser]) if column not in both]
        if not left:
            del roles[loser], reasons[loser]
        elif both:
            roles[loser] = left


def _beside(roles: Roles, given: Mapping[str, Any], where: str) -> None:
    """What stands beside items (masks) needs them."""
    for role, item in modalities.companions().items():
        if role in roles and item not in roles:
            if given.get(role):
                words = modalities.of(item)
                raise InputError(
                    f"{where}: a {role} needs its {words.word}.", f"Name the column of {words.words}: --{item} COLUMN."
                )
            del roles[role]


def _one_kind(roles: Roles, where: str) -> None:
    """A column is read as one kind of data, and is one side of a pair alone."""
    first: dict[str, str] = {}
    content, beside = modalities.roles(), modalities.companions()
    for role in (*content, "negative"):
        for column in listed(roles.get(role, [])):
            other = first.setdefault(column, role)
            if other != role and (role == "negative" or modalities.of(other) is modalities.of(role)):
                raise InputError(
                    f"{where}: the column '{column}' is both '{other}' and '{role}': what stands on two sides is "
                    "found without any learning.",
                    f"Name another column for '{role}', or take the role away (--{role.replace('_', '-')} none).",
                )
    taken = {column: beside[role] for role in beside for column in listed(roles.get(role, []))}
    for role in content:
        kind = modalities.of(role)
        for column in listed(roles.get(role, [])):
            other = modalities.of(taken.setdefault(column, role))
            if other is not kind:
                raise InputError(
                    f"{where}: the column '{column}' holds {other.words} (it is read as such); it cannot be '{role}' "
                    "too.",
                    f"Name a column of {kind.words}, or take the role of {other.words} away (--{other.roles[0]} none).",
                )


def visible(table: Dataset) -> list[str]:
    """The user's columns; names with two underscores in front are bookkeeping."""
    return [name for name in table.column_names if not name.startswith("__")]


def listed(value: str | Sequence[str]) -> list[str]:
    """The columns of a role."""
    return [value] if isinstance(value, str) else list(value)


def checked_role(role: str, value: Any, columns: list[str], where: str) -> str | list[str] | None:
    """The column of a role, or its columns where it takes several; None where it is taken away. Raises InputError for
    what is no column."""
    known = known_roles()
    if role not in known:
        raise InputError(f"There is no role '{role}'.{did_you_mean(str(role), known)}", f"Roles: {', '.join(known)}.")
    if value is None or value == "none" or value == []:
        return None
    if not all(isinstance(v, str) for v in (value if isinstance(value, list | tuple) else [value])):
        raise InputError(
            f"{where}: the role '{role}' takes the name of a column. Got {value!r}.", f"Columns: {', '.join(columns)}."
        )
    names = listed(value)
    if takes_several(role):
        names = [name for one in names for name in meant(one, columns)]
    for name in names:
        if name not in columns:
            raise InputError(
                f"{where}: there is no column '{name}' for the role '{role}'.{did_you_mean(str(name), columns)}",
                f"Columns: {', '.join(columns)}.",
            )
    if takes_several(role):
        return list(dict.fromkeys(names))
    if len(names) != 1:
        raise InputError(f"The role '{role}' takes one column, not {len(names)}.")
    return names[0]


def meant(name: str, columns: list[str]) -> list[str]:
    """The columns of a pattern such as pixel_*, or those into which a list was taken apart (links.0, links.1); a name
    that is none stays itself."""
    apart = [column for column in columns if re.fullmatch(re.escape(name) + r"\.\d+", column)]
    return [name] if name in columns else fnmatch.filter(columns, name) or apart or [name]


def _by_name(table: Dataset, roles: Roles, reasons: dict[str, str], given: set[str], taken: set[str]) -> None:
    """What a column is called. The items of a row may be its unit or its id as well: --unit image keeps the rows of
    one image together, and they stay images."""
    also = {name for role in _ALSO_ITEMS & given for name in listed(roles.get(role, []))}
    lower = {plain_name(name): name for name in reversed(visible(table))}
    for role, candidates in _names().items():
        if role in roles or role in given:
            continue
        shared = also if role in modalities.roles() and not modalities.of(role).several else set()
        free = [lower[c] for c in candidates if c in lower and lower[c] not in taken - shared]
        found = [name for name in free if _fits(table, role, name, roles)]
        if role == "negative":
            found += [n for low, n in sorted(lower.items()) if _NEGATIVE.fullmatch(low) and n not in taken]
        if found:
            roles[role] = found if role == "negative" else found[:1] if takes_several(role) else found[0]
            taken.update(listed(roles[role]))
            also -= set(listed(roles[role]))
            reasons[role] = f"by the name of the column{'s' if len(listed(roles[role])) > 1 else ''}"


def named_beside(table: Dataset, columns: Sequence[str]) -> Roles:
    """The roles beside items (labels, splits, times...) that some columns have by their names."""
    lower = {plain_name(name): name for name in reversed(columns)}
    found: Roles = {}
    for role, candidates in _BESIDE.items():
        name = next((lower[c] for c in candidates if c in lower and _fits(table, role, lower[c], found)), None)
        if name is not None and role != "negative" and name not in {x for v in found.values() for x in listed(v)}:
            found[role] = [name] if takes_several(role) else name
    return found


def _together(roles: Roles, reasons: dict[str, str], given: set[str], taken: set[str]) -> bool:
    """A kind whose columns are told by their names only all together: if they are, the table is of this kind; if not,
    or where the user named a column of another kind, none of them counts. Returns whether they are."""
    content, found = set(modalities.roles()), False
    for kind in modalities.everyone():
        if not kind.named_with or given & set(kind.roles):
            continue
        whole = set(kind.named_with) <= set(roles) and not given & content
        found |= whole
        for role in sorted((content - set(kind.roles) if whole else set(kind.roles)) & set(roles) - given):
            taken.difference_update(listed(roles.pop(role)))
            del reasons[role]
    return found


def _names() -> dict[str, Sequence[str]]:
    """Role -> names of columns that are taken for it, the surest kinds of data first."""
    kinds = modalities.everyone()
    own = {role: kind.columns.get(role, ()) for kind in kinds for role in kind.roles}
    return own | {role: kind.columns.get(role, ()) for kind in kinds for role in kind.companions} | _BESIDE


def _by_pair(table: Dataset, roles: Roles, reasons: dict[str, str], given: set[str]) -> None:
    """A column that says whether, or how far, the two sides of a row belong together."""
    if not any({a, b} <= set(roles) for a, b in modalities.pairs()) or given & {"pair_label", "score"}:
        return
    alike = any({a, b} <= set(roles) and modalities.of(a) is modalities.of(b) for a, b in modalities.pairs())
    # of an image and a text, "similarity" is a model's cosine by which crawled pairs were chosen, no judgement
    scores = _PAIR_SCORES if alike else ()
    for role, names in (("pair_label", _PAIR_LABELS), ("score", scores)):
        for column in _free(table, roles, given):
            if plain_name(column) in names and _speaks(table, role, column, roles):
                _give(role, column, "by the name of the column", roles, reasons)
                return
    if not {"text", "text_b"} <= set(roles) or plain_name(str(roles["text"])) in _PARTS:
        return
    for column in _free(table, roles, given):
        role = _told(table, column, roles) if plain_name(column) in _EITHER else None
        if role is not None:
            _give(role, column, "its values, beside two columns of texts", roles, reasons)
            return


def _by_composition(table: Dataset, roles: Roles, reasons: dict[str, str], given: set[str]) -> None:
    """Columns that tell an item by an attribute and an object, where both are called so (or the user named the other)
    and images are there."""
    columns = {plain_name(name): name for name in reversed(_free(table, roles, given))}
    open_places = [role for role in _PAIR_OF_WORDS if role not in roles]
    found = [next((columns[name] for name in (role, f"{role}s") if name in columns), None) for role in open_places]
    if "image" in roles and all(found) and not set(open_places) & given:
        for role, column in zip(open_places, found, strict=True):
            _give(role, str(column), "by the name of the column, beside the other", roles, reasons)
            roles[role] = listed(str(column)) if takes_several(role) else str(column)


def _free(table: Dataset, roles: Roles, given: set[str]) -> list[str]:
    """Columns without a role, and those that were only guessed to be a label."""
    taken = {c for role, v in roles.items() if role != "label" or "label" in given for c in listed(v)}
    return [name for name in visible(table) if name not in taken]


def _give(role: str, column: str, reason: str, roles: Roles, reasons: dict[str, str]) -> None:
    roles[role], reasons[role] = column, reason
    if roles.get("label") == [column]:
        del roles["label"]


def plain_name(name: str) -> str:
    """The name of a column as names are compared."""
    return name.casefold().replace("-", "_").replace(" ", "_")


def _speaks(table: Dataset, role: str, column: str, roles: Roles) -> bool:
    """Whether a column's values are labels of pairs (0 and 1, words of inference), or scores on a bounded scale."""
    values, feature = _sample(table, column, 512), table.features[column]
    names = feature.names if isinstance(feature, ClassLabel) else None
    found = {judgements.word(v, names) for v in values} - judgements.NONE
    if role == "pair_label":
        numbered = judgements.inference_numbers(found, str(roles.get("text")), str(roles.get("text_b")))
        known = np.mean([judgements.pair_label(v, names, numbered) is not None for v in values])
        return bool(found and (known > MOST if plain_name(column) not in _EITHER else known == 1 and len(found) > 1))
    numbers = [judgements.score(v) for v in values if judgements.word(v) not in judgements.NONE]
    known = [n for n in numbers if n is not None]
    if names is not None or not known or len(known) <= MOST * len(numbers):
        return False
    if plain_name(column) in _PAIR_SCORES:
        return True
    graded = plain_name(column) == "score" or any(n != int(n) for n in known)
    return graded and len(set(known)) > 2 and min(known) >= -1 and max(known) <= 10


def _told(table: Dataset, column: str, roles: Roles) -> str | None:
    """What a column's values are, of the roles that speak of pairs."""
    return next((role for role in ("pair_label", "score") if _speaks(table, role, column, roles)), None)


def questions(table: Dataset, roles: Roles) -> list[str]:
    """What to ask the user of a table of pairs: columns that may be about the pair and are not read so."""
    if not any({a, b} <= set(roles) for a, b in modalities.pairs()) or {"pair_label", "score"} & set(roles):
        return []
    asked = []
    for column in visible(table):
        name = plain_name(column)
        if name not in _EITHER or column in {c for r, v in roles.items() if r not in ("label",) for c in listed(v)}:
            continue
        role = _told(table, column, roles)
        if role is not None:
            option = role.replace("_", "-")
            asked.append(
                f"every row counts as a pair that belongs together; if '{column}' says whether or how far it "
                f"does: --{option} {column}"
            )
    return asked


def _sample(table: Dataset, column: str, count: int = 64) -> list[Any]:
    rows = np.arange(0, len(table), max(1, len(table) // count))[:count]
    return plain_values(column_of(table, column, rows))


def _fits(table: Dataset, role: str, column: str, roles: Roles) -> bool:
    """A column called `path` or `text` still has to hold what its name says."""
    values = _sample(table, column)
    beside = modalities.companions()
    if role in beside:
        return modalities.of(beside[role]).fits(role, values)
    if role == "negative":
        kind = second_side(roles) or modalities.get("text")
        return kind.fits(kind.roles[-1], values)
    if role in modalities.roles():
        kind = modalities.of(role)
        alone = role != kind.roles[0] and kind.roles[0] not in roles  # a second side alone may be what a row counts as
        return kind.fits(role, values) and not (alone and not kind.several and _all_numbers(values))
    if role == "tree":
        return any(map(_holds_tree, values)) and sum(trees.fault(v) is None for v in values) >= MOST * len(values)
    return role != "label" or _names_classes(values)


def _holds_tree(value: Any) -> bool:
    return trees.fault(value) is None and bool(trees.paths_of(value))


def _all_numbers(values: Sequence[Any]) -> bool:
    return modalities.get("vector").may_be([v for v in values if not isinstance(v, list)])


def _names_classes(values: Sequence[Any]) -> bool:
    """Whether values may be classes: no images, and no measures (2.75, 3.1) that hardly repeat."""
    if modalities.get("image").looks_like(values):
        return False
    filled = [str(v) for v in values if v not in (None, "")]
    measures = bool(filled) and all("." in v for v in filled) and _all_numbers(filled)
    return not (measures and 2 * len(set(filled)) > len(filled))


def _by_content(table: Dataset, roles: Roles, reasons: dict[str, str], given: set[str], taken: set[str]) -> None:
    """Columns whose values speak for themselves. A kind that a name has given a column gets no further one, since that
    may be anything: authors, comments."""
    samples = {name: _sample(table, name) for name in visible(table) if name not in taken}
    for kind in modalities.surest():
        if not any(role in roles for role in kind.roles):
            found = [name for name in samples if name not in _used(roles) and kind.looks_like(samples[name])]
            alone = not any(role in roles for role in modalities.roles())
            reason = f"its values are {kind.looks_words or kind.words}"
            _fill(kind, kind.roles if alone else kind.roles[:1], found, reason, roles, reasons, given)
    if any(role in roles for role in modalities.roles()):
        return
    claims = [(kind, [name for name in samples if kind.may_be(samples[name])]) for kind in modalities.everyone()]
    kind, found = max(claims, key=lambda claim: len(claim[1]))
    _fill(kind, kind.roles, found, f"its values are {kind.may_be_words or kind.words}", roles, reasons, given)


def _used(roles: Roles) -> set[str]:
    return {name for value in roles.values() for name in listed(value)}


def _fill(
    kind: modalities.Modality, places: Sequence[str], names: list[str], reason: str, roles: Roles,
    reasons: dict[str, str], given: set[str],
) -> None:  # fmt: skip
    open_places = [role for role in places if role not in roles and role not in given]
    if kind.several and names and open_places:
        roles[open_places[0]], reasons[open_places[0]] = names, reason
        return
    for role, name in zip(open_places, names, strict=False):
        roles[role], reasons[role] = name, reason
