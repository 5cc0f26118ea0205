"""What reaches a terminal: texts and names of other people's files, made harmless and kept on their line."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from typing import IO, Any

_NAMES = {0x7F: "␡", 0x85: "␤", 0x2028: "␤", 0x2029: "␤"}


def visible(text: object, keep: str = "") -> str:
    """The text with control characters (escape sequences, newlines, tabs), marks of direction and halves of
    characters replaced by signs that can be seen: nothing in it moves the cursor, changes colours or forges a line.

    keep: characters that stay as they are.
    """
    return "".join(c if c in keep or not _hidden(c) else _sign(c) for c in str(text))


def _hidden(character: str) -> bool:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs", "Zl", "Zp") or character in _MARKS:
        return True
    return unicodedata.bidirectional(character) in _DIRECTIONS


_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_MARKS = "\u061c\u200e\u200f"  # of direction too, without a kind of their own


def _sign(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the Unicode images of control characters
    return _NAMES.get(code, f"<U+{code:04X}>")


def visible_all(value: Any) -> Any:
    """The same lists and dicts with every text in them `visible`, keys too; for tables of what files hold."""
    if isinstance(value, dict):
        return {visible(k) if isinstance(k, str) else k: visible_all(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(visible_all(v) for v in value)
    return visible(value) if isinstance(value, str) else value


class _Safe:
    """A renderable whose text is `visible`."""

    def __init__(self, renderable: Any):
        self.renderable = renderable

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        from rich.segment import Segment

        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, "\n"), segment.style)


class _Hook:
    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        from rich.control import Control

        return [one if isinstance(one, Control) else _Safe(one) for one in renderables]


def console(stderr: bool = False, **options: Any) -> Any:
    """A rich console that shows texts of any origin safely."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, **options)
    made.push_render_hook(_Hook())  # pyright: ignore[reportArgumentType]
    return made


def say(message: object, stream: IO[str] | None = None) -> None:
    """One line on a stream (standard error)."""
    out: Any = stream or sys.stderr
    encoding = getattr(out, "encoding", None) or "utf-8"
    out.write(visible(message).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    out.flush()
