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
    """The `name: description` entries of an Args section: one a line, whose continuations are indented deeper, or
    `;`-separated, but within brackets."""
    text = inspect.cleandoc(text)
    match = re.search(r"^Args:[ ]*(.*?)(?=^\S[^\n]*:(?:\s|$)|\n\n|\Z)", text, re.S | re.M)
    if not match:
        return {}
    body, entries, name = match.group(1), {}, ""
    indent = re.match(r"\n( *)", body)  # None: the first entry stands behind "Args:"

    def ended(end: re.Match[str]) -> str:
        before = body[: end.start()]
        open_still = sum(before.count(mark) for mark in "([{") > sum(before.count(mark) for mark in ")]}")
        return end.group() if open_still else "\n" + (indent.group(1) if indent else "")

    for line in re.sub(r";\s+(?=[a-z_]\w*: )", ended, body).splitlines():
        start = re.match(r"( *)([a-z_]\w*(?:, [a-z_]\w*)*): (.*)", line)
        if start and (indent is None or len(start.group(1)) <= len(indent.group(1))):
            name = start.group(2)
            entries.update({part: start.group(3).strip() for part in name.split(", ")})
        elif line.strip() and name:
            for part in name.split(", "):
                entries[part] += " " + line.strip()
    return {k: v.rstrip(".;") for k, v in entries.items()}


def summary(cls: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
