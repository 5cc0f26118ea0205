"""What is wrong with a filter over the columns of an index, in words of its columns."""

import itertools
import re
from collections.abc import Sequence

import pyarrow as pa

from nearfar.errors import InputError, did_you_mean

WORDS = """and or not in is null like ilike between true false cast as int bigint smallint float double string date
timestamp boolean case when then else end escape any all interval"""
_TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*')|(?P<quoted>"[^"]*"|`[^`]*`)|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)"""
    r"""|(?P<call>[^\W\d]\w*(?=\s*\())|(?P<name>[^\W\d]\w*)|(?P<other>\S)"""
)
_COMPARED = ("=", "<", ">", "!")


def wrong_filter(where: str, columns: Sequence[pa.Field]) -> InputError:
    """The error for a filter that the engine refused: the first fault that is found, what columns there are, and an
    example."""
    names = [field.name for field in columns]
    shown = next((f for f in columns if f.name != "key"), columns[0])
    example = f"{shown.name} = {'1' if _is_number(shown.type) else repr('a value')}"
    fault = _fault(where, columns)
    return InputError(
        f'The filter "{where}" does not work: {fault}', f"Columns: {', '.join(names)}. Example: {example}"
    )


def _fault(where: str, columns: Sequence[pa.Field]) -> str:
    if not where.strip():
        return "it is empty."
    if where.replace("''", "").count("'") % 2:
        return "a quote is not closed."
    tokens = [(str(m.lastgroup), m.group()) for m in _TOKEN.finditer(where)]
    return _unknown(tokens, columns) or _mismatch(tokens, columns) or "it is not a condition."


def _unknown(tokens: list[tuple[str, str]], columns: Sequence[pa.Field]) -> str:
    names = [field.name for field in columns]
    for kind, word in tokens:
        bare = word[1:-1] if kind == "quoted" else word
        if kind in ("name", "quoted") and bare not in names and bare.lower() not in WORDS.split():
            return f"there is no column '{bare}'.{did_you_mean(bare, names)} A text stands in single quotes: '{bare}'."
    return ""


def _mismatch(tokens: list[tuple[str, str]], columns: Sequence[pa.Field]) -> str:
    """A column that is compared with a value of another kind."""
    types = {field.name: field.type for field in columns}
    solid = [(kind, word) for kind, word in tokens if word not in _COMPARED]
    for (kind, word), (other, value) in itertools.pairwise(solid):
        name = word[1:-1] if kind == "quoted" else word
        if name not in types or other not in ("text", "number"):
            continue
        if _is_number(types[name]) and other == "text":
            return f"'{name}' holds numbers, {value} is a text."
        if pa.types.is_string(types[name]) and other == "number":
            return f"'{name}' holds texts; write '{value}' in single quotes."
    return ""


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
