"""Kinds of data, one file each, found by file (`nearfar.modality.Modality`). Other packages name theirs as entry points
of the group "nearfar.modalities".

    of("image_b").name          # "image"
    everyone()                  # all kinds, in order
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from nearfar.errors import InputError
from nearfar.modality import Modality
from nearfar.registry import MODALITIES

ANY, PAIR = "any", "pair"
"""What data hold beside named roles: a column of any kind; two columns that belong together."""


@cache
def _made(cls: type) -> Modality:
    return cls()


def get(name: str) -> Modality:
    """A kind of data by name. Raises InputError, with the nearest name, for an unknown one."""
    cls = MODALITIES.get(name)
    cls.name = name
    return _made(cls)


def everyone() -> list[Modality]:
    """All kinds, in their order."""
    return sorted((get(name) for name in MODALITIES.names()), key=lambda kind: kind.rank)


def surest() -> list[Modality]:
    """All kinds, those first whose items are not easily taken for another's."""
    return sorted(everyone(), key=lambda kind: -kind.certainty)


def of(role: str) -> Modality:
    """The kind of a role, or of a variant of its vectors ("image/salient"). Raises InputError for a role that holds no
    items."""
    found = next((kind for kind in everyone() if role.partition("/")[0] in kind.roles), None)
    if found is None:
        raise InputError(f"The role '{role}' holds no items.", f"Roles of items: {', '.join(roles())}.")
    return found


def of_item(item: Any, names: Sequence[str]) -> Modality | None:
    """Which of some kinds an item is of."""
    return next((kind for kind in surest() if kind.name in names and kind.accepts(item)), None)


def roles() -> list[str]:
    """The roles of items of all kinds, in order."""
    return [role for kind in everyone() for role in kind.roles]


def companions() -> dict[str, str]:
    """Roles that stand beside items -> the role that they need."""
    return {role: beside for kind in everyone() for role, beside in kind.companions.items()}


def listed() -> list[str]:
    """The roles, companions among them, that take several columns."""
    return [role for kind in everyone() for role in ([*kind.roles] if kind.several else []) + sorted(kind.listed)]


def dividing(held: Iterable[str]) -> Modality | None:
    """The kind that divides the rows itself, of those that the roles are of."""
    return next((kind for kind in map(of, held) if kind.divisions), None)


def kinds(asked: Iterable[str]) -> list[str]:
    """The names of the kinds of some roles, each once."""
    return list(dict.fromkeys(of(role).name for role in asked))


def first(holds: Iterable[str]) -> str | None:
    """The first kind of which there is a first column among the roles."""
    held = set(holds)
    return next((kind.name for kind in everyone() if kind.roles and kind.roles[0] in held), None)


def pairs() -> list[tuple[str, str]]:
    """Pairs of roles that may belong together: two kinds, then two columns of one kind."""
    heads = [kind.roles[0] for kind in everyone() if kind.roles]
    across = [(a, b) for i, a in enumerate(heads) for b in heads[i + 1 :]]
    return across + [(kind.roles[0], kind.roles[1]) for kind in everyone() if len(kind.roles) > 1]


def holding(held: Iterable[str]) -> set[str]:
    """The roles with `ANY` and `PAIR` where these are there."""
    found = set(held)
    more = set() if first(found) is None else {ANY}
    return found | more | ({PAIR} if any({a, b} <= found for a, b in pairs()) else set())


def needs_in_words(needs: Iterable[Iterable[str]]) -> str:
    """What a method needs: alternatives, each some roles."""
    known = {ANY: "a column of any kind", PAIR: "two columns that belong together"}
    return " or ".join(" + ".join(known.get(role, role) for role in sorted(need)) for need in needs)


def words(names: Sequence[str] | None = None) -> str:
    """ "images, texts or vectors", of the kinds named (None: all)."""
    found = [kind.words for kind in everyone() if names is None or kind.name in names]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


__all__ = [
    "ANY",
    "PAIR",
    "Modality",
    "companions",
    "dividing",
    "everyone",
    "first",
    "get",
    "holding",
    "kinds",
    "listed",
    "needs_in_words",
    "of",
    "of_item",
    "pairs",
    "roles",
    "surest",
    "words",
]
