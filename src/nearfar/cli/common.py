"""What commands share: reading their words, printing."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nearfar import options, terminal
from nearfar.cli import help as helping
from nearfar.errors import InputError


@dataclass
class Output:
    """What is printed.

    Args:
        json: print one JSON document and nothing else on standard output.
    """

    json: bool = False


def parse(
    words: Sequence[str], targets: Sequence[Any], counts: Sequence[int], usage: str
) -> tuple[list[str], dict[str, Any]]:
    """Positional words and options given; shows help; raises where the number of positional words is wrong."""
    if wants_help(words):
        show_help(usage, targets)
    places: list[str] = []
    given = options.from_command_line(targets, words, places)
    if len(places) not in counts:
        got = f"Got {len(places)} argument{'s' * (len(places) != 1)}{': ' + ' '.join(places[:4]) if places else ''}"
        of_shell = len(places) > max(counts) and all(Path(place).exists() for place in places[-2:])
        quoted = " Where the shell made files of a pattern, put it in quotes: 'photos/*.jpg'." if of_shell else ""
        raise InputError(f"Expected: {usage}.", f"{got}{' ...' * (len(places) > 4)}.{quoted}")
    return places, given


def read(words: Sequence[str], targets: Sequence[Any], counts: Sequence[int], usage: str) -> tuple[list[str], Any]:
    """`parse`, with the options checked, defaults among them."""
    places, given = parse(words, targets, counts, usage)
    return places, options.checked(targets, given)


def wants_help(words: Sequence[str]) -> bool:
    return "--help" in words or "-h" in words


def show_help(usage: str, targets: Sequence[Any], further: str = "") -> NoReturn:
    sys.stdout.write(helping.text(usage, targets) + further)
    raise SystemExit(0)


def emit(value: Any, indent: int | None = 2) -> None:
    """One JSON document; on one line without an indent."""
    sys.stdout.write(json.dumps(value, indent=indent, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def speaker(quiet: bool) -> Any:
    """Where remarks go: standard output, or standard error where that holds a JSON document."""
    stream = sys.stderr if quiet else sys.stdout

    def say(text: str) -> None:
        terminal.say(text, stream)

    return say


def written(command: str, words: Sequence[str]) -> str:
    return shlex.join(["nearfar", command, *words])
