"""Slug -> method. A method is known by its file, `<family>/<slug>.py`; others add theirs by the entry point group
"nearfar.methods"."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from nearfar import checks, reading
from nearfar.checks import checked
from nearfar.errors import InputError, did_you_mean
from nearfar.options import complete, read

_registered: dict[str, type] = {}


@cache
def built_in() -> dict[str, tuple[str, str]]:
    """Slug -> family and module of nearfar's own methods, by their files; nothing is imported."""
    folder = Path(__file__).parent
    files = sorted(path for path in folder.glob("*/*.py") if "\n@register(" in path.read_text(encoding="utf-8"))
    return {
        path.stem.replace("_", "-"): (path.parent.name, f"nearfar.methods.{path.parent.name}.{path.stem}")
        for path in files
    }


def register(slug: str, family: str) -> Callable[[type], type]:
    """Class decorator: makes a method known by its slug."""

    def add(cls: type) -> type:
        module = cls.__module__
        if module.startswith("nearfar.methods.") and built_in().get(slug) != (family, module):
            raise TypeError(
                f"The method '{slug}' of the family '{family}' belongs into nearfar/methods/{family}/"
                f"{slug.replace('-', '_')}.py, not into {module}."
            )
        cls.slug, cls.family = slug, family  # type: ignore[attr-defined]
        _registered[slug] = complete(cls)
        return cls

    return add


def slugs() -> list[str]:
    """All known slugs, built-in ones first."""
    own = built_in()
    others = [e.name for e in entry_points(group="nearfar.methods") if e.name not in own]
    more = [s for s in _registered if s not in own and s not in others]
    return [*own, *others, *more]


@checked
def get(slug: str) -> Any:
    """The class of a method. Raises InputError, with the nearest name, for an unknown slug."""
    if slug not in _registered:
        if slug in built_in():
            importlib.import_module(built_in()[slug][1])
        else:
            for entry in entry_points(group="nearfar.methods"):
                if entry.name == slug:
                    _registered.setdefault(slug, entry.load())
    if slug not in _registered:
        raise InputError(
            f"Unknown method '{slug}'.{did_you_mean(slug, slugs())}", "`nearfar methods` lists all of them."
        )
    return _registered[slug]


def options(cls: Any) -> list[dict[str, Any]]:
    """The options of a method or part, from its signature and the Args of its docstring."""
    from nearfar.methods.documentation import arguments

    described = arguments(cls)
    paper = getattr(cls, "preset_paper", {})
    found = []
    for option in read(cls).values():
        entry = {
            "name": option.name,
            "type": _type_name(option.written),
            "default": None if option.default is inspect.Parameter.empty else option.default,
            "help": described.get(option.name, ""),
        }
        if option.name in paper:
            entry["paper"] = paper[option.name]
        found.append(entry)
    return found


def _type_name(annotation: Any) -> str:
    """A type as its source writes it, also where its module does not postpone annotations."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return annotation if isinstance(annotation, str) else ""
    alias = next((name for name, kind in vars(checks).items() if kind == annotation and name[0].isupper()), "")
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if alias or annotation in (None, type(None), ...):
        return alias or ("..." if annotation is ... else "None")
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, inner))
    if origin is typing.Annotated:
        return _type_name(inner[0])
    if origin is typing.Literal or origin is None:
        return getattr(annotation, "__name__", "") if origin is None else f"Literal[{', '.join(map(repr, inner))}]"
    return f"{origin.__name__}[{', '.join(map(_type_name, inner))}]"


def describe(slug: str) -> dict[str, Any]:
    """Slug, family, paper, needs, options and the paper's optimiser of a method, ready for JSON."""
    cls = get(slug)
    return {
        "slug": slug,
        "family": cls.family,
        "paper": _paper(cls.paper),
        "needs": [sorted(n) for n in cls.needs],
        "options": options(cls),
        "training": dict(cls.paper_training),
    }


def list_methods() -> list[dict[str, Any]]:
    """What `nearfar methods` shows: one dict a method, as `describe` gives it."""
    return [describe(s) for s in slugs()]


def overview() -> list[dict[str, Any]]:
    """Slug, family, paper and needs of every method, read from the sources: what cannot be read is imported."""
    return [_overview(slug) for slug in slugs()]


def _overview(slug: str) -> dict[str, Any]:
    from nearfar.methods.paper import Paper

    try:
        family, module = built_in().get(slug, ("", ""))
        source = reading.decorated(module, "register") if module else None
        if source is None:
            raise reading.Unread(slug)
        known = {"Paper": Paper, "frozenset": frozenset, "map": map}
        paper, needs = source.attribute("paper", known), source.attribute("needs", known)
    except reading.Unread:
        return {name: value for name, value in describe(slug).items() if name not in ("options", "training")}
    return {"slug": slug, "family": family, "paper": _paper(paper), "needs": [sorted(n) for n in needs]}


def _paper(paper: Any) -> dict[str, str]:
    return {name: getattr(paper, name) for name in ("title", "venue", "link", "idea", "differs")}
