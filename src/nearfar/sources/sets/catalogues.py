"""The built-in data set `catalogues`: messages of the programs installed here and their translations.

Source: the compiled catalogues (.mo) of gettext on the user's machine, each under the licence of its program; nothing
    is shipped.
"""

import gettext
import hashlib
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nearfar.errors import InputError
from nearfar.progress import track
from nearfar.sources.made import stored_rows
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.words import first_of_equal, normal

LEAST_WORDS = 4  # of a message
MOST, LEAST = 3000, 100  # messages of a language that are taken; that it must have
LANGUAGES = 24  # those with the most messages
_VERSION = "1"


@dataclass(frozen=True)
class Message:
    """A message and its translation; placeholders (%s) and marks of shortcuts (_File) are kept."""

    id: str
    text: str
    text_b: str
    language: str
    program: str


@register
def open_catalogues(cache: Path, limit: int | None = None) -> Raw:
    """One row a translated message: text = as it stands in the program (English), text_b = its translation.

    Left out: messages under four words, plural forms, those that are not translated, repeats of a message in one
    language, and varieties of English. Taken are the 24 languages with the most messages, where they have a hundred,
    and of each at most 3,000 messages (`limit`: so many), the same ones each time. Rows of one message stay together.
    """
    roots = folders()
    files = sorted(path for root in roots for path in root.glob("*/LC_MESSAGES/*.mo"))
    state = [(str(path), path.stat().st_size) for path in files if path.is_file()]
    key = hashlib.sha256(repr((_VERSION, state, limit)).encode()).hexdigest()[:32]
    nothing = InputError(
        f"There are no catalogues of messages (LANGUAGE/LC_MESSAGES/*.mo) in {' or '.join(map(str, roots))} with "
        f"{LEAST} translated messages of {LEAST_WORDS} words.",
        "Install some (apt-get install iso-codes gettext), or name their folder: NEARFAR_CATALOGUES=FOLDER.",
    )
    table = stored_rows(cache / "catalogues" / f"{key}.arrow", lambda: _rows(files, limit), Message, nothing)
    return Raw(
        name="catalogues",
        path=None,
        kind="built-in pairs of languages",
        table=table,
        fingerprint=key,
        roles={"text": "text", "text_b": "text_b", "domain": "language", "unit": "text", "id": "id"},
        reasons={
            "text": "the message as it stands in the program",
            "text_b": "its translation",
            "domain": "the language of the translation",
            "unit": "one message in all languages",
        },
        notes=[f"from {len(state):,} catalogues in {', '.join(map(str, roots))}"],
        meta={"licences": "each message under its program's licence"},
    )


def folders() -> list[Path]:
    """NEARFAR_CATALOGUES, else where this system keeps its catalogues."""
    named = os.environ.get("NEARFAR_CATALOGUES")
    if named:
        return [Path(named).expanduser()]
    known = ["/usr/share/locale", "/usr/share/locale-langpack", f"{sys.base_prefix}/share/locale"]
    return [Path(name) for name in dict.fromkeys(known)]


def _rows(files: list[Path], limit: int | None) -> list[Message]:
    languages: dict[str, list[Path]] = {}
    for path in files:
        name = path.parts[-3]
        if name.partition("_")[0].partition("@")[0] != "en":
            languages.setdefault(name, []).append(path)
    known: dict[str, list[Message]] = {}
    with track("reading catalogues", len(languages), least=1) as advance:
        for name, paths in languages.items():
            found = first_of_equal((one for path in paths for one in messages(path)), lambda one: normal(one.text))
            if len(found) >= LEAST:
                known[name] = found
            advance(1)
    largest = sorted(sorted(known, key=lambda name: (-len(known[name]), name))[:LANGUAGES])
    return [one for name in largest for one in sorted(known[name], key=_mark)[: limit or MOST]]


def _mark(message: Message) -> bytes:
    """Orders messages alike in all languages, so that the same ones are taken."""
    return hashlib.blake2b(normal(message.text).encode("utf-8", "replace"), digest_size=8).digest()


def messages(path: Path) -> Iterator[Message]:
    """The usable messages of one catalogue; none of a damaged one."""
    language, program = path.parts[-3], path.stem
    try:
        with open(path, "rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog  # pyright: ignore[reportAttributeAccessIssue]
    except (OSError, ValueError, LookupError, struct.error):
        return
    for number, (message, translation) in enumerate(catalogue.items()):
        if isinstance(message, str):
            text, other = message.rpartition("\x04")[2].strip(), translation.strip()
            if len(text.split()) >= LEAST_WORDS and other and normal(text) != normal(other):
                yield Message(f"{program}:{number}/{language}", text, other, language, program)
