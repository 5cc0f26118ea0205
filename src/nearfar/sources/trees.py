"""Annotation trees of dialogues: domain, intent, slot and value, as paths, and the ten sets that two are compared by.

    {"hotel": {"book": {"area": "north"}}}     [["hotel", "book", "area", "north"]]     (as JSON in a cell, or objects)
    [{"domain": "hotel", "intent": "book", "slot": "area", "value": "north"}]

Source: SPACE-2 (COLING 2022), semantic tree structure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from nearfar.sources.raw import missing

LEVELS = ("domain", "intent", "slot", "value")
VIEWS = ("D", "I", "S", "V", "DI", "IS", "SV", "DIS", "ISV", "DISV")
"""Nodes, edges and paths of a tree, by the first letters of their levels."""
_NONE = {"", "default_domain", "default_intent"}
Path = tuple[str, str, str, str]
Elements = tuple[frozenset[tuple[str, ...]], ...]


def paths_of(tree: Any) -> tuple[Path, ...]:
    """The paths of a tree, each (domain, intent, slot, value) in lower case, "" where a level is missing; () for none.

    tree: nested objects {domain: {intent: {slot: value or list of values}}}, in which a null is a name that is not
    there and {} has nothing below; a path by the names of its levels; a list of paths of either form; or any of them as
    JSON. Raises ValueError that says what is wrong: another kind of object, more levels than four, a value without its
    slot.
    """
    if isinstance(tree, str) and not missing(tree):
        try:
            tree = json.loads(tree)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the tree is not JSON ({str(error)[:80]})") from error
    if missing(tree):
        return ()
    if isinstance(tree, dict):
        named = tree and tree.keys() <= set(LEVELS)
        found = [_path(tree)] if named else [_path(names) for names in _nested(tree, ()) if names]
    elif isinstance(tree, list):
        found = [_path(names) for names in tree]
    else:
        raise ValueError(f"a tree is an object or a list of paths, not {type(tree).__name__}")
    return tuple(dict.fromkeys(path for path in found if any(path)))


def _nested(tree: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The paths of nested objects. A list holds values, or names of the next level without anything below."""
    if isinstance(tree, dict) and tree and len(above) == len(LEVELS) - 1:
        raise ValueError(f"the tree has more levels than {', '.join(LEVELS)} below '{above[-1]}'")
    if isinstance(tree, dict) and tree:
        for name, below in tree.items():
            if below is not None:  # a table fills what a row's object lacks with null
                yield from _nested(below, (*above, name))
    elif isinstance(tree, list) and tree:
        yield from ((*above, name) for name in tree)
    else:
        yield above if missing(tree) or tree in ({}, []) else (*above, tree)


def _path(names: Any) -> Path:
    if isinstance(names, dict) and names.keys() <= set(LEVELS):
        names = [names.get(level) for level in LEVELS]
    if not isinstance(names, list | tuple) or not 1 <= len(names) <= len(LEVELS):
        raise ValueError(
            f"a path of a tree is a list of one to four names ({', '.join(LEVELS)}), not {str(names)[:60]}"
        )
    wrong = [one for one in names if isinstance(one, dict | list | tuple)]
    if wrong:
        raise ValueError(f"the tree holds {str(wrong[0])[:60]} where a name should be")
    plain = ["" if missing(one) else str(one).strip().lower() for one in names]
    plain = ["" if one in _NONE else one for one in (*plain, *[""] * (len(LEVELS) - len(plain)))]
    if plain[3] and not plain[2]:
        raise ValueError(f"the value '{plain[3][:40]}' stands without its slot")
    return plain[0], plain[1], plain[2], plain[3]


def tree_elements(paths: Sequence[Path]) -> Elements:
    """The ten sets of a tree, as `VIEWS` names them: nodes, edges and paths as tuples of names. What holds a missing
    domain, intent, slot or value is in none, so that no two trees agree in it."""
    places = [tuple("DISV".index(letter) for letter in view) for view in VIEWS]
    cut = [{tuple(path[k] for k in place) for path in paths} for place in places]
    return tuple(frozenset(one for one in found if all(one)) for found in cut)


def written(paths: Sequence[Path]) -> str | None:
    """A tree as the JSON of a cell; None for an empty one."""
    return json.dumps([list(path) for path in paths], ensure_ascii=False) if paths else None


def fault(value: Any) -> str | None:
    """What is wrong with a cell that should hold a tree; None for nothing."""
    try:
        paths_of(value)
    except ValueError as error:
        return str(error)
    return None


__all__ = ["LEVELS", "VIEWS", "Elements", "Path", "fault", "paths_of", "tree_elements", "written"]
