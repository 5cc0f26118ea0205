"""Kinds of words in source code, and which of them each token of a tokenizer belongs to."""

from __future__ import annotations

import importlib
import io
import keyword
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

Reading = Literal["Python's tokenizer", "tree-sitter", "a general lexer"]
Lexeme = tuple[int, int, str]
Place = tuple[int, int]
PythonWord = tuple[str, str, Place, Place]
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
_OF_PYTHON = {"STRING": "string", "NUMBER": "number", "COMMENT": "comment"}
_SEPARATORS = frozenset("()[]{},;:.")
_ALIASES = {"py": "python", "": "python", "js": "javascript", "jsx": "javascript", "ts": "typescript", "golang": "go",
            "rb": "ruby", "rs": "rust", "c++": "cpp", "cc": "cpp", "h": "c"}  # fmt: skip
_GRAMMARS = {"c": "language", "cpp": "language", "go": "language", "java": "language", "javascript": "language",
             "php": "language_php_only", "ruby": "language", "rust": "language",
             "typescript": "language_typescript"}  # fmt: skip
_STRINGS = frozenset({"char_literal", "character_literal", "rune_literal", "regex"})


def words_of(code: str, language: str = "python") -> tuple[list[Lexeme], Reading]:
    """Start, end and kind (`KINDS`) of each word of the code, in order, and what read it. Python is read by its own
    tokenizer; C, C++, Go, Java, JavaScript, PHP, Ruby, Rust and TypeScript by tree-sitter where nearfar[code] is
    installed; other languages, and Python that its tokenizer refuses, by a lexer of what most languages share."""
    name = language_of(language)
    if name == "python":
        try:
            return list(_of_python(code)), "Python's tokenizer"
        except (tokenize.TokenError, SyntaxError, ValueError):
            pass
    elif (parser := _parser(name)) is not None:
        return list(_of_tree(code, parser)), "tree-sitter"
    return list(_of_any(code)), "a general lexer"


def language_of(name: str) -> str:
    """A language by the name that it has here ("py": "python"); nothing is Python."""
    return _ALIASES.get(name.lower(), name.lower())


@cache
def _parser(language: str) -> Parser | None:
    module = f"tree_sitter_{language}"
    if language not in _GRAMMARS or find_spec("tree_sitter") is None or find_spec(module) is None:
        return None
    from tree_sitter import Language, Parser

    return Parser(Language(getattr(importlib.import_module(module), _GRAMMARS[language])()))


def _of_tree(code: str, parser: Parser) -> Iterator[Lexeme]:
    """A string or a comment is one word, whatever its parts. tree-sitter counts bytes, and reads on after errors."""
    data = code.encode("utf-8", "surrogatepass")
    place = np.cumsum([0, *((byte & 0xC0) != 0x80 for byte in data)])
    left = [parser.parse(data).root_node]
    while left:
        node = left.pop()
        whole = node.is_named and ("comment" in node.type or "string" in node.type or node.type in _STRINGS)
        if node.child_count and not whole:
            left.extend(reversed(node.children))
        elif node.end_byte > node.start_byte:
            text = data[node.start_byte : node.end_byte].decode("utf-8", "replace")
            yield int(place[node.start_byte]), int(place[node.end_byte]), _kind_in_tree(node, text)


def _kind_in_tree(node: Node, text: str) -> str:
    if node.is_named and "comment" in node.type:
        return "comment"
    if node.is_named and ("string" in node.type or node.type in _STRINGS):
        return "string"
    if text.lstrip(".")[:1].isdigit():
        return "number"
    if not any(c.isalnum() or c == "_" for c in text):
        return "separator" if text in _SEPARATORS else "operator"
    reserved = not node.is_named or text == node.type or text in _KEYWORDS or node.type.endswith("_type")
    return "keyword" if reserved else "identifier"


def _of_python(code: str) -> Iterator[Lexeme]:
    lines = io.StringIO(code, newline="").readlines()  # cut where `tokenize` cuts; str.splitlines cuts at more
    starts, found = np.cumsum([0, *map(len, lines)]), tokenize.generate_tokens(iter([*lines, ""]).__next__)
    words = whole_strings((tokenize.tok_name[t.type], t.string, t.start, t.end) for t in found)
    for name, text, (a, left), (b, right) in words:
        if text.strip():
            yield int(starts[a - 1]) + left, int(starts[b - 1]) + right, _kind_in_python(name, text)


def whole_strings(words: Iterable[PythonWord]) -> Iterator[PythonWord]:
    """Words of Python's tokenizer (name of the kind, text, start, end), each formatted string one STRING: since Python
    3.12 it comes in pieces, from FSTRING_START (of a template TSTRING_START) to FSTRING_END, with words between."""
    depth, first = 0, ("", (0, 0))
    for name, text, start, end in words:
        if name.endswith("STRING_START"):
            first = first if depth else (text, start)
            depth += 1
        elif name.endswith("STRING_END"):
            depth -= 1
            if not depth:
                yield "STRING", first[0] + text, first[1], end
        elif not depth:
            yield name, text, start, end


def _kind_in_python(name: str, text: str) -> str:
    if name == "NAME":
        return "keyword" if keyword.iskeyword(text) else "identifier"
    return _OF_PYTHON.get(name) or ("separator" if text in _SEPARATORS else "operator")


def _of_any(code: str) -> Iterator[Lexeme]:
    for match in _LEXEME.finditer(code):
        kind = str(match.lastgroup)
        yield match.start(), match.end(), "keyword" if kind == "identifier" and match[0] in _KEYWORDS else kind


def kinds_of(spans: Sequence[tuple[int, int]], words: Sequence[Lexeme]) -> list[int]:
    """The kind of each token (place in `KINDS`, -1 for none) by the characters (from, to) of the code that it covers:
    that of the first word in it, so that parts of a word have the kind of the whole."""
    where = np.full(max([0, *(end for _, end, _ in words), *(end for _, end in spans)]) + 1, -1)
    for start, end, kind in words:
        where[start:end] = KINDS.index(kind)
    return [int(next((k for k in where[a:b] if k >= 0), -1)) for a, b in spans]
