"""The built-in data set `descriptions`: descriptions of Debian packages and their translations.

Source: the lists that apt keeps on the user's machine (`nearfar.sources.debian`); each description under the terms of
    its package. Nothing is shipped and nothing is fetched: a message names the command that does.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nearfar.errors import InputError
from nearfar.progress import track
from nearfar.sources import debian
from nearfar.sources.made import stored_rows
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.words import first_of_equal, normal

LEAST_WORDS = 4  # of the English text
_VERSION = "1"


@dataclass(frozen=True)
class Translated:
    """A short line or a first paragraph in English and in another language."""

    id: str
    text: str
    text_b: str
    language: str
    package: str
    source: str


@register
def open_descriptions(cache: Path, limit: int | None = None) -> Raw:
    """One row a translated text: text = English, text_b = the translation; the short line and the first paragraph of
    each package are rows of their own.

    Left out: English texts under four words, what is not translated, and repeats of a text in one language. Rows of
    one source package stay together. With `limit` at most so many rows of each language.
    """
    lists = debian.lists(cache)
    files = [*lists.packages, *(path for name in sorted(lists.translations) for path in lists.translations[name])]
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr((_VERSION, state, limit)).encode()).hexdigest()[:32]
    nothing = InputError(
        f"The descriptions in {lists.folder} have no translation of four words or more.",
        f"Fetch more languages: {debian.command(lists.folder)}",
    )
    table = stored_rows(cache / "descriptions" / f"{key}.arrow", lambda: _rows(lists, limit), Translated, nothing)
    languages = sorted(set(lists.translations) - {"en"})
    return Raw(
        name="descriptions",
        path=None,
        kind="built-in pairs of languages",
        table=table,
        fingerprint=key,
        roles={"text": "text", "text_b": "text_b", "domain": "language", "unit": "source", "id": "id"},
        reasons={
            "text": "the English description",
            "text_b": "its translation",
            "domain": "the language of the translation",
            "unit": "the source package",
        },
        notes=[f"from the lists of apt in {lists.folder}: {', '.join(languages)}"],
        meta={"licences": "each description under the terms of its package"},
    )


def _rows(lists: debian.Lists, limit: int | None) -> list[Translated]:
    sources = {found["Package"]: found.get("Source", "").split(" ")[0]
               for path in lists.packages for found in debian.stanzas(path) if "Package" in found}  # fmt: skip
    english = _described(lists, "en")
    rows = []
    languages = sorted(set(lists.translations) - {"en"})
    with track("reading descriptions", len(languages), least=1) as advance:
        for language in languages:
            other = _described(lists, language)
            both = [(key, sources.get(key[0]) or key[0]) for key in sorted(set(other) & set(english))]
            found = [row for key, source in both for row in pairs(key, source, english[key], other[key], language)]
            rows += first_of_equal(found, lambda row: normal(row.text))[:limit]
            advance(1)
    return rows


def _described(lists: debian.Lists, language: str) -> dict[tuple[str, str], str]:
    """(package, digest of the English text) -> description."""
    wanted = {"Package", "Description-md5", f"Description-{language}"}
    return {
        (found["Package"], found["Description-md5"]): found[f"Description-{language}"]
        for path in lists.translations[language]
        for found in debian.stanzas(path)
        if wanted <= set(found)
    }


def pairs(key: tuple[str, str], source: str, english: str, other: str, language: str) -> list[Translated]:
    """The short line, and the first paragraph where both sides have as many. key: of `_described`."""
    a, b = debian.paragraphs(english), debian.paragraphs(other)
    kept = 2 if len(a) == len(b) else 1
    name = f"{key[0]}:{key[1][:8]}"
    return [
        Translated(f"{name}/{place}/{language}", one, two, language, key[0], source)
        for place, one, two in zip(("short", "long"), a[:kept], b[:kept])
        if len(one.split()) >= LEAST_WORDS and two and normal(one) != normal(two)
    ]
