"""Reads the Args of docstrings, so that one text serves Python's help, the command line and the gallery."""

from __future__ import annotations

import inspect
import re
from typing import Any

from nearfar.reading import ClassSource


def arguments(cls: Any) -> dict[str, str]:
    """name -> description from the `Args:` of a class and of its bases; the nearest class wins."""
    found: dict[str, str] = {}
    line = cls.line if isinstance(cls, ClassSource) else inspect.getmro(cls)
    for base in reversed(line):
        found.update(parse(base.__dict__.get("__doc__") or ""))
    return found


def parse(text: str) -> dict[str, str]:
    """The `name: description` entries of an Args section: one a line with indented continuations, or `;`-separated."""
    text = inspect.cleandoc(text)
    match = re.search(r"^Args:[ ]*(.*?)(?=^\S[^\n]*:(?:\s|$)|\n\n|\Z)", text, re.S | re.M)
    if not match:
        return {}
    entries: dict[str, str] = {}
    body = re.sub(r";\s+(?=[a-z_]\w*: )", "\n", match.group(1))
    name = ""
    for line in body.splitlines():
        start = re.match(r"\s*([a-z_]\w*(?:, [a-z_]\w*)*): (.*)", line)
        if start:
            name = start.group(1)
            entries.update({part: start.group(2).strip() for part in name.split(", ")})
        elif line.strip() and name:
            for part in name.split(", "):
                entries[part] += " " + line.strip()
    return {k: v.rstrip(".;") for k, v in entries.items()}


def summary(cls: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
