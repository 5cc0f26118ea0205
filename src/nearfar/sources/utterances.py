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
_LINE = re.compile(rf"\s*({'|'.join(ROLES)})\s*:\s*(.*)", re.IGNORECASE | re.DOTALL)


def role_of(name: str) -> str | None:
    """user or system, for what a speaker is called; None for anything else."""
    return next((role for role, names in _NAMES.items() if name.strip().casefold() in names), None)


def utterance_line(role: str, words: str) -> str:
    """An utterance as a line of a dialogue's text."""
    return f"{role}: {' '.join(words.split())}"


def utterances(text: str) -> list[tuple[str, str]]:
    """Role and words of each utterance of a text. A text of which any line does not begin with a role is one utterance
    of the user."""
    found = [_LINE.fullmatch(line) for line in text.split("\n") if line.strip()]
    if not found or not all(found):
        return [(USER, text)]
    return [(one[1].lower(), one[2]) for one in found if one]
