"""The lists of packages that apt keeps: descriptions and their translations, from a folder of its files.

    lists(cache) -> Lists(folder, translations, packages) -> stanzas(file): field -> value

No network is used. Fields that name people (Maintainer and the like) are not read.
"""

import bz2
import gzip
import lzma
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from nearfar.errors import InputError

SYSTEM = Path("/var/lib/apt/lists")
HELPER = Path("/usr/lib/apt/apt-helper")
LANGUAGES = ("de", "fr", "it", "da", "ja", "pt_BR", "pl", "ru", "es", "zh_CN", "nl")
READ = ("Package", "Source", "Description-md5")
_TRANSLATION = re.compile(r".*_i18n_Translation-([A-Za-z]{2,3}(?:_[A-Za-z]+)?)(?:\.(?:gz|xz|bz2|lz4|zst))?")
_PACKAGES = re.compile(r".*_Packages(?:\.(?:gz|xz|bz2|lz4|zst))?")
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


@dataclass(frozen=True)
class Lists:
    """Files of one folder: of each language the translations (English among them), and of packages."""

    folder: Path
    translations: dict[str, list[Path]]
    packages: list[Path]


def command(folder: Path) -> str:
    """What fetches the lists into a folder."""
    return (
        f"mkdir -p {folder}/partial && apt-get -o Dir::State::lists={folder} -o Acquire::GzipIndexes=false "
        f"-o Acquire::Languages=en,{','.join(LANGUAGES)} update"
    )


def lists(cache: Path) -> Lists:
    """The folder in NEARFAR_APT_LISTS, else that of the cache ("apt"), else the system's, the first with English
    descriptions and a translation. Raises InputError that names the command where none has them."""
    named = os.environ.get("NEARFAR_APT_LISTS")
    folders = [Path(named).expanduser()] if named else [cache / "apt", SYSTEM]
    for folder in folders:
        found = _of(folder)
        if "en" in found.translations and len(found.translations) > 1:
            return found
    raise InputError(
        f"There are no translated package descriptions of apt in {' or '.join(map(str, folders))}.",
        f"On Debian or Ubuntu this fetches them (about 34 MB): {command(folders[0])}",
    )


def _of(folder: Path) -> Lists:
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        files = []
    translations: dict[str, list[Path]] = {}
    for path in files:
        if match := _TRANSLATION.fullmatch(unquote(path.name)):
            translations.setdefault(match.group(1), []).append(path)
    return Lists(folder, translations, [path for path in files if _PACKAGES.fullmatch(path.name)])


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """An index as text; those packed by lz4 or zstd are unpacked by apt itself."""
    if path.suffix in (".lz4", ".zst"):
        if not HELPER.is_file():
            raise InputError(f"{path} is packed by {path.suffix[1:]}.", f"Unpack it, or fetch plain ones: "
                             f"{command(path.parent)}")  # fmt: skip
        with subprocess.Popen([HELPER, "cat-file", path], stdout=subprocess.PIPE, encoding="utf-8") as process:
            assert process.stdout is not None
            yield process.stdout
        if process.returncode:
            raise InputError(
                f"{path} cannot be unpacked (apt-helper ended with {process.returncode}).", "Fetch it again."
            )
        return
    with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        yield file


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """Field -> value of each stanza, for the fields of `READ` and descriptions; lines that go on are joined by line
    breaks. Raises InputError for a file that is damaged or no such index."""
    try:
        with opened(path) as file:
            yield from _stanzas(file)
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an index of apt: {error}.", "Fetch it again.") from error


def _stanzas(lines: IO[str]) -> Iterator[dict[str, str]]:
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            if found:
                yield found
            found, name = {}, ""
        elif line[0] in " \t":
            if name:
                found[name] += "\n" + line
        else:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"there is no field in {line[:60]!r}")
            if name in READ or re.fullmatch(r"Description-[a-z]{2,3}(_[A-Za-z]+)?", name):
                found[name] = value.strip()
            else:
                name = ""
    if found:
        yield found


def paragraphs(description: str) -> list[str]:
    """The short line, then the paragraphs of the long text, each in one line; lists and examples (lines set in deeper)
    end the text."""
    short, *rest = description.split("\n")
    found, block = [" ".join(short.split())], []
    for line in [*rest, " ."]:
        if line.startswith(("  ", "\t")):
            break
        if line.strip() == ".":
            found += [" ".join(block)] if block else []
            block = []
        else:
            block.append(line.strip())
    return found
