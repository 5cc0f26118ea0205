"""Kinds of words in source code, and which of them each token of a tokenizer belongs to."""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Sequence

import numpy as np

KINDS = ("keyword", "identifier", "operator", "separator", "number", "string", "comment")
_WORDS = (
    "abstract as async await begin bool boolean break byte case catch char class const continue def default defer do "
    "double echo else elsif end enum export extends false final finally float for foreach from func function go goto "
    "if implements import in instanceof int interface let long map module namespace new nil not null or package pass "
    "private protected public range require return select self short static string struct super switch this throw "
    "throws true try type typeof unless until use var void while with yield"
)
_KEYWORDS = frozenset(_WORDS.split())
_LEXEME = re.compile(
    r"(?P<comment>//[^\n]*|\#[^\n]*|/\*.*?\*/)"
    r"|(?P<string>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)"
    r"|(?P<number>\d(?:[\w.]|(?<=[eE])[+-])*)"
    r"|(?P<identifier>[^\W\d]\w*)"
    r"|(?P<separator>[()\[\]{},;:.])"
    r"|(?P<operator>[^\s\w]+?)",
    re.DOTALL,
)
_OF_PYTHON = {tokenize.STRING: "string", tokenize.NUMBER: "number", tokenize.COMMENT: "comment"}
_SEPARATORS = frozenset("()[]{},;:.")


def lexemes(code: str, language: str = "python") -> list[tuple[int, int, str]]:
    """Start, end and kind (`KINDS`) of each word of the code, in order. Python is read by its own tokenizer; other
    languages, and Python that it refuses, by a lexer of what most languages share."""
    if language.lower() in ("python", "py", ""):
        try:
            return list(_of_python(code))
        except (tokenize.TokenError, SyntaxError, ValueError):
            pass
    return list(_of_any(code))


def _of_python(code: str) -> Iterator[tuple[int, int, str]]:
    starts = np.cumsum([0, *(len(line) for line in code.splitlines(keepends=True))])
    for token in tokenize.generate_tokens(io.StringIO(code, newline="").readline):
        if token.string.strip():
            (a, left), (b, right) = token.start, token.end
            kind = _OF_PYTHON.get(token.type)
            if token.type == tokenize.NAME:
                kind = "keyword" if keyword.iskeyword(token.string) else "identifier"
            elif kind is None:
                kind = "separator" if token.string in _SEPARATORS else "operator"
            yield int(starts[a - 1]) + left, int(starts[b - 1]) + right, kind


def _of_any(code: str) -> Iterator[tuple[int, int, str]]:
    for match in _LEXEME.finditer(code):
        kind = str(match.lastgroup)
        yield match.start(), match.end(), "keyword" if kind == "identifier" and match[0] in _KEYWORDS else kind


def kinds_of(spans: Sequence[tuple[int, int]], code: str, language: str = "python") -> list[int]:
    """The kind of each token (place in `KINDS`, -1 for none) by the characters (from, to) of the code that it covers:
    that of the first word in it, so that parts of a word have the kind of the whole."""
    where = np.full(len(code) + 1, -1)
    for start, end, kind in lexemes(code, language):
        where[start:end] = KINDS.index(kind)
    return [int(next((k for k in where[a:b] if k >= 0), -1)) for a, b in spans]
