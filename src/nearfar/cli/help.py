"""Help of a command, from the same signatures and docstrings that check its options."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from typing import Any

from nearfar import options
from nearfar.methods.documentation import arguments, summary

TITLES = {
    "Output": "output",
    "TrainSettings": "training",
    "DataSettings": "data",
    "FitOptions": "the run",
    "CompareOptions": "the comparison",
    "MeasureOptions": "what is measured",
}


def text(usage: str, targets: Sequence[Any]) -> str:
    """Usage, then the options of each target with their defaults."""
    lines = [f"usage: {usage} [--option VALUE ...]", ""]
    for target in targets:
        slug = getattr(target, "slug", "")
        title = TITLES.get(target.__name__, f"options of {slug or getattr(target, 'kind', '')}".removesuffix(" of "))
        if slug:
            lines += [f"{slug}: {summary(target)}", ""]
        shown = _options(target)
        lines += [f"{title}:", *shown, ""] if shown else []
    if "fit" in usage and not any(getattr(t, "slug", "") for t in targets):
        lines += ["`nearfar fit METHOD --help` shows a method's own options as well.", ""]
    return "\n".join(lines)


def _options(target: Any) -> list[str]:
    described = arguments(target)
    lines = []
    for name, (_, default) in options.signature(target).items():
        head = f"  --{name.replace('_', '-')}"
        shown = described.get(name, "")
        if default is not inspect.Parameter.empty and default is not None and default is not False:
            shown += f" [{default}]"
        lines.append(f"{head:<24}" + textwrap.fill(shown, 92, subsequent_indent=" " * 24))
    return lines
