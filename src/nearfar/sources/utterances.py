"""A dialogue as a text: one utterance a line, behind who says it.

user: a room in the north
system: the Alpha is free
user: take it
"""

from __future__ import annotations

import re

USER, SYSTEM = "user", "system"
ROLES = (USER, SYSTEM)
_NAMES = {USER: {"user", "usr", "customer", "client", "human"},
          SYSTEM: {"system", "sys", "agent", "assistant", "bot", "wizard"}}  # fmt: skip
_LINE = re.compile(r"\s*(\w+)\s*:\s*(.*)", re.DOTALL)


def role_of(name: str) -> str | None:
    """user or system, for what a speaker is called; None for anything else."""
    return next((role for role, names in _NAMES.items() if name.strip().casefold() in names), None)


def utterance_line(role: str, words: str) -> str:
    """An utterance as a line of a dialogue's text."""
    return f"{role}: {' '.join(words.split())}"


def utterances(text: str) -> list[tuple[str, str]]:
    """Role and words of each utterance of a text. A line without a role goes on with the one above it; a text whose
    first line has none is one utterance of the user."""
    found: list[tuple[str, str]] = []
    for line in text.split("\n"):
        one = _LINE.fullmatch(line)
        role = None if one is None else role_of(one[1])
        if one is not None and role is not None:
            found.append((role, one[2]))
        elif found and line.strip():
            found[-1] = found[-1][0], f"{found[-1][1]} {line.strip()}"
        elif line.strip():
            return [(USER, text)]
    return found or [(USER, text)]
