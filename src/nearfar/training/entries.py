"""What a comparison trains: the methods that were asked for, those that suit the data, or all that fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nearfar import methods, modalities, options
from nearfar.errors import InputError
from nearfar.methods import registry
from nearfar.methods.suited import SUITED
from nearfar.progress import Say
from nearfar.training import building
from nearfar.training.settings import TrainSettings

if TYPE_CHECKING:
    from nearfar.evaluation.task import Task
    from nearfar.sources.data import Data

ALL = "all"
MOST = 4  # methods of a comparison that names none


@dataclass(frozen=True)
class Entry:
    """One row that is trained: a method with options of its own, as written ("dcl --views members")."""

    label: str
    slug: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """For folders and tables of results."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


def entry(spec: str) -> Entry:
    """ "slug --option value" -> Entry; options are checked."""
    words = options.words_of("methods", spec)
    if not words:
        raise InputError("An empty method.", "Write for example --methods simclr,dcl.")
    slug, rest = words[0], words[1:]
    targets = building.targets_of(slug)
    given = options.from_command_line(targets, rest)
    options.checked(targets, given)
    return Entry(spec.strip(), slug, given)


def split_specs(text: str) -> list[str]:
    """ "a, b --x 1,2; c" -> specs. Commas divide only before a method's name."""
    pieces = re.split(r"[;,]\s*(?=[a-z])", text)
    known = set(methods.slugs())
    specs: list[str] = []
    for piece in pieces:
        if specs and piece.split(" ")[0] not in known and "--" in specs[-1] and ";" not in text:
            specs[-1] += "," + piece
        else:
            specs.append(piece)
    return [s.strip() for s in specs if s.strip()]


def named(data: Data, wanted: Sequence[str] | str) -> list[Entry]:
    """The entries that were asked for."""
    specs = split_specs(wanted) if isinstance(wanted, str) else [str(one) for one in wanted]
    if not specs:
        raise InputError(f"--methods names no method. Got '{wanted}'.", "Write for example --methods simclr,dcl.")
    found = [entry(s) for s in specs]
    for one in found:
        building.check_needs(one.slug, data)
    if len({e.name for e in found}) < len(found):
        raise InputError("Two of the methods are the same.", "Give each its own options.")
    return found


def chosen(
    data: Data, task: Task, settings: TrainSettings, wanted: Sequence[str] | str | None, say: Say
) -> list[Entry]:
    """The entries: those asked for; "all": every method whose needs fit and that embeds what is measured, the others
    with the reason; None: the few of them that suit the data (`SUITED`).

    Raises InputError where nothing fits.
    """
    if wanted is not None and wanted != ALL:
        return named(data, wanted)
    found, left_out = [], {}
    for slug in methods.slugs():
        if reason := left_out_for(slug, data, task, settings):
            left_out[slug] = reason
        else:
            found.append(Entry(slug, slug, {}))
    if not found:
        raise InputError(f"No method fits {data.name}.", "Name the columns: `nearfar data` shows what was understood.")
    if wanted == ALL:
        for slug in methods.slugs():
            say(f"{slug}: " + (f"left out ({left_out[slug]})" if slug in left_out else "in"))
        return found
    return few(data, found, say)


def few(data: Data, found: Sequence[Entry], say: Say) -> list[Entry]:
    """At most `MOST` of the methods that fit, by the table of what suits the data; says which and how many others fit.
    Where the table knows none of them, the first ones."""
    fitting = {one.slug for one in found}
    begin, roles = building.choose(data)[0], building.roles_of(data)
    wanted = next((specs for first, held, specs in SUITED if first == begin and held <= roles), ())
    kept = [one for one in map(entry, wanted) if one.slug in fitting][:MOST] or list(found[:MOST])
    others = sorted(fitting - {one.slug for one in kept})
    say(f"methods: {', '.join(one.label for one in kept)} (they suit the data)")
    if others:
        say(f"{len(others)} more fit: {', '.join(others)}. --methods all takes all, --auto all and halves them.")
    return kept


def left_out_for(slug: str, data: Data, task: Task, settings: TrainSettings) -> str:
    """Why a method takes no part in a comparison of all: "" where it does."""
    kinds = building.kinds_of(methods.get(slug), data, settings) if building.fits(slug, data) else []
    asked = set(modalities.kinds(task.roles))
    if not kinds:
        return f"needs {modalities.needs_in_words(registry.get(slug).needs)}"
    if not asked <= set(kinds):
        return f"embeds {', '.join(kinds)}; measured are {', '.join(sorted(asked))}"
    if lacking := methods.get(slug).lacks(data):
        return lacking
    if building.suited(settings, slug) != building.suited(settings):
        return "looks into layers, which the encoder for all methods lacks; name it with --methods"
    return ""
