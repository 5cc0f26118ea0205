"""Slug -> method. Others add theirs by the entry point group "nearfar.methods"."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from nearfar import checks
from nearfar.checks import checked
from nearfar.errors import InputError, did_you_mean
from nearfar.options import complete, read

# Family and module of the built-in methods: known without importing any of them.
BUILT_IN = {
    "simclr": ("image", "nearfar.methods.image.simclr"),
    "dcl": ("image", "nearfar.methods.image.dcl"),
    "swav": ("image", "nearfar.methods.image.swav"),
    "cacr": ("image", "nearfar.methods.image.cacr"),
    "contrastive-behaviour": ("image", "nearfar.methods.image.contrastive_behaviour"),
    "nnclr": ("image", "nearfar.methods.image.nnclr"),
    "mochi": ("image", "nearfar.methods.image.mochi"),
    "mcl": ("image", "nearfar.methods.image.mcl"),
    "pairs": ("pairs", "nearfar.methods.pairs.pairs"),
    "align": ("multimodal", "nearfar.methods.multimodal.align"),
    "cwcl": ("multimodal", "nearfar.methods.multimodal.cwcl"),
    "contriever": ("text", "nearfar.methods.text.contriever"),
    "pixpro": ("image", "nearfar.methods.image.pixpro"),
    "beclr": ("fewshot", "nearfar.methods.fewshot.beclr"),
}
_registered: dict[str, type] = {}


def register(slug: str, family: str) -> Callable[[type], type]:
    """Class decorator: makes a method known by its slug."""

    def add(cls: type) -> type:
        cls.slug, cls.family = slug, family  # type: ignore[attr-defined]
        _registered[slug] = complete(cls)
        return cls

    return add


def slugs() -> list[str]:
    """All known slugs, built-in ones first."""
    others = [e.name for e in entry_points(group="nearfar.methods") if e.name not in BUILT_IN]
    more = [s for s in _registered if s not in BUILT_IN and s not in others]
    return [*BUILT_IN, *others, *more]


@checked
def get(slug: str) -> Any:
    """The class of a method. Raises InputError, with the nearest name, for an unknown slug."""
    if slug not in _registered:
        if slug in BUILT_IN:
            importlib.import_module(BUILT_IN[slug][1])
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
    """Slug, family, paper, needs and options of a method, ready for JSON."""
    cls = get(slug)
    paper = cls.paper
    return {
        "slug": slug,
        "family": cls.family,
        "paper": {
            "title": paper.title,
            "venue": paper.venue,
            "link": paper.link,
            "idea": paper.idea,
            "differs": paper.differs,
        },
        "needs": [sorted(n) for n in cls.needs],
        "options": options(cls),
    }


def list_methods() -> list[dict[str, Any]]:
    """What `nearfar methods` shows: one dict a method, as `describe` gives it."""
    return [describe(s) for s in slugs()]
