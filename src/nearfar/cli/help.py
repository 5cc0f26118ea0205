"""Help of a command, from the same signatures and docstrings that check its options."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from nearfar import options, reading
from nearfar.errors import InputError, NearfarError
from nearfar.methods.documentation import arguments, summary
from nearfar.registry import TASKS
from nearfar.sources.storage import cache_dir, whole

WIDTH = 80  # of a terminal: what is longer would be cut within words there
TITLES = {
    "Output": "output",
    "TrainSettings": "training",
    "DataSettings": "data (a role says what a column is; roles are guessed where none is named)",
    "FitOptions": "the run",
    "CompareOptions": "the comparison",
    "MeasureOptions": "what is measured",
}


def text(usage: str, targets: Sequence[Any]) -> str:
    """Usage, then the options of each target with their defaults."""
    lines = [f"usage: {usage} [--option VALUE ...]", ""]
    for target in targets:
        lines += [f"{TITLES.get(target.__name__, 'options')}:", *_options(target), ""]
    return "\n".join(lines)


def method(slug: str | None) -> str:
    """The options of a method. They are kept in the cache folder as long as no source file changes, since reading the
    signature imports what the method trains with."""
    if slug is None:
        return "\n`nearfar fit METHOD --help` shows a method's own options as well.\n"
    try:
        path = cache_dir() / "help" / f"{slug}-{_state()}.txt"
        if path.exists():
            return path.read_text(encoding="utf-8")
    except (InputError, OSError):
        path = None
    found = _method(slug)
    with contextlib.suppress(NearfarError, OSError):
        if path is not None:
            for old in path.parent.glob(f"{slug}-{'?' * 32}.txt"):
                old.unlink(missing_ok=True)
            with whole(path) as fresh:
                fresh.write_text(found, encoding="utf-8")
    return found


def paragraph(words: str) -> str:
    return textwrap.fill(words, WIDTH, break_on_hyphens=False, break_long_words=False)


def _method(slug: str) -> str:
    from nearfar import methods

    cls = methods.get(slug)
    return "\n".join(["", paragraph(f"{slug}: {summary(cls)}"), "", f"options of {slug}:", *_options(cls), ""])


def _state() -> str:
    """A digest of nearfar's source files and of what other packages add to its methods."""
    root = Path(__file__).parents[1]
    facts = [
        (str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*.py"))
    ]
    others = [
        (entry.name, entry.value, entry.dist.version if entry.dist else "")
        for entry in entry_points(group="nearfar.methods")
    ]
    return hashlib.sha256(repr((sys.version, facts, others)).encode()).hexdigest()[:32]


def tasks() -> str:
    """The options of each task that has some, read from its file: nothing is imported."""
    lines = []
    for name in TASKS.names():
        source = task_source(name)
        described, found = arguments(source), source.options()
        shown = [_line(key, described.get(key, ""), default) for key, default in found.items() if key != "modalities"]
        lines += [f"options of the task {name}:", *shown, ""] if shown else []
    return "\n".join(["", *lines])


def task_source(name: str) -> Any:
    """The class of a task as its file has it."""
    if name in TASKS.own():
        return reading.decorated(f"{TASKS.package}.{name.replace('-', '_')}", "register")
    return reading.of_entry(next(entry.value for entry in entry_points(group=TASKS.group) if entry.name == name))


def _options(target: Any) -> list[str]:
    described = arguments(target)
    unsaid = (inspect.Parameter.empty, None, False)
    return [
        _line(name, described.get(name, ""), "" if any(default is one for one in unsaid) else str(default))
        for name, (_, default) in options.signature(target).items()
    ]


def _line(name: str, meaning: str, default: str) -> str:
    head = f"  --{name.replace('_', '-')}"
    shown = meaning + (f" [{default}]" if default else "")
    begin = f"{head:<24}" if len(head) < 24 else head + "\n" + " " * 24
    wrapped = textwrap.wrap(shown, WIDTH - 24, break_on_hyphens=False, break_long_words=False)
    return begin + ("\n" + " " * 24).join(wrapped)
