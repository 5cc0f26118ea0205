"""Files and folders of the user: which file it is, regular files alone, and what lies below a folder."""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from nearfar.errors import InputError

SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir", "lost+found"}
_NOT_REGULAR = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


class NotRegular(InputError):
    """A pipe, socket, device or folder where a file should be; `kind` says which."""

    def __init__(self, path: str | Path, kind: str):
        super().__init__(f"{path} is {kind}, not a file.", "Save its content to a file first.")
        self.kind = kind


def identity(path: str | Path) -> tuple[int, ...]:
    """Which file it is, and in which state: device, inode, size, times of writing and of change in nanoseconds.

    The time of change cannot be set by hand, so another content has another identity.
    """
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_regular(path: str | Path) -> BufferedReader:
    """A regular file, to be read. Raises NotRegular for everything else, which reading could wait for without end."""
    _check(os.stat(path).st_mode, path)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    file = os.fdopen(handle, "rb")
    try:
        _check(os.fstat(handle).st_mode, path)
    except NotRegular:
        file.close()
        raise
    return file


def check_regular(path: str | Path) -> None:
    """Raises NotRegular for a pipe, socket, device or folder."""
    _check(os.stat(path).st_mode, path)


def _check(mode: int, path: str | Path) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _NOT_REGULAR.items() if test(mode)), "a special file")
        raise NotRegular(path, kind)


def shown(name: str | Path) -> str:
    """A file's name as valid text: bytes that are not UTF-8 become \\xe9 and the like."""
    return os.fsencode(str(name)).decode("utf-8", "backslashreplace")


@dataclass
class Listing:
    """The regular files below a folder, relative and sorted, and what was left out: reason -> names."""

    files: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, names: Iterable[str]) -> None:
        self.left.setdefault(reason, []).extend(names)

    def notes(self) -> list[str]:
        return [left_out(names, reason) for reason, names in self.left.items() if names]


def left_out(names: list[str], reason: str) -> str:
    """ "3 hidden or system files left out (a, b, c)": reason is a noun in the plural."""
    examples = ", ".join(shown(n) for n in sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {reason} left out ({examples})"


def listing(path: Path) -> Listing:
    """All regular files below a folder. Links to folders are followed, each folder once. Hidden and system files, what
    nearfar wrote itself, pipes, sockets and devices are left out."""
    found, seen = Listing(), set()
    links = _walk(path, path, found, seen)
    while links:
        link = links.pop(0)
        try:
            known = identity(link)[:2] in seen
        except OSError:
            found.leave("links to folders that are not there", [os.path.relpath(link, path)])
            continue
        if known:
            found.leave("links to folders that are read already", [os.path.relpath(link, path)])
        else:
            links += _walk(link, path, found, seen)
    found.files.sort()
    return found


def is_pattern(path: str | Path) -> bool:
    """Whether it holds a *, a ? or a [, as patterns of paths do."""
    return any(sign in str(path) for sign in "*?[")


def matching(pattern: Path) -> tuple[Path, Listing]:
    """The folder above the first * of a pattern (** is any number of folders), and the regular files below it that
    match or lie in a folder that does. What `listing` leaves out is left out."""
    at = next(i for i, part in enumerate(pattern.parts) if is_pattern(part))
    top, found = Path(*pattern.parts[:at]), Listing()
    for match in sorted(top.glob(str(Path(*pattern.parts[at:])))):
        name = match.relative_to(top)
        if any(map(_hidden, name.parts)):
            found.leave("hidden or system files and folders", [str(name)])
        elif match.is_dir() and not _own_folder(match):
            inside = listing(match)
            found.files += [str(name / file) for file in inside.files]
            for reason, names in inside.left.items():
                found.leave(reason, [str(name / file) for file in names])
        elif match.is_dir() or _own_file(match):
            found.leave("outputs of nearfar", [str(name)])
        else:
            _add_files(top, [str(name)], found)
    found.files = sorted(set(found.files))
    return top, found


def _walk(start: Path, top: Path, found: Listing, seen: set[tuple[int, ...]]) -> list[Path]:
    """Adds what lies below `start` to `found`; the links to folders that were met."""

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # what went away meanwhile is not there
            raise error

    links: list[Path] = []
    for folder, folders, names in os.walk(start, onerror=stop):
        seen.add(identity(folder)[:2])
        here = Path(folder).relative_to(top)
        hidden = [name for name in [*folders, *names] if _hidden(name)]
        found.leave("hidden or system files and folders", [str(here / name) for name in hidden])
        own = [n for n in folders if _own_folder(top / here / n)] + [n for n in names if _own_file(top / here / n)]
        found.leave("outputs of nearfar", [str(here / name) for name in own])
        inner = sorted(set(folders) - {*hidden, *own})
        linked = {name for name in inner if os.path.islink(os.path.join(folder, name))}
        links += [top / here / name for name in sorted(linked)]
        folders[:] = [name for name in inner if name not in linked]
        _add_files(top, [str(here / name) for name in set(names) - {*hidden, *own}], found)
    return links


def _add_files(top: Path, names: list[str], found: Listing) -> None:
    for name in names:
        try:
            regular = stat.S_ISREG(os.stat(top / name).st_mode)
        except OSError:  # a link that leads nowhere, or no permission: told with the row
            regular = True
        if regular:
            found.files.append(name)
        else:
            found.leave("pipes, sockets and devices", [name])


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM


_OUTPUTS = {
    "config.json": ("data_hash", "split_hash"),
    "plan.json": ("data_hash", "split_hash"),
    "index.json": ("model_hash", "dim"),
    "verify.json": ("hash", "files", "examples"),
}


def _own_folder(path: Path) -> bool:
    """Whether nearfar wrote it: a run, a comparison, a model or an index."""
    return any(set(keys) <= set(_json_keys(path / name)) for name, keys in _OUTPUTS.items())


def _own_file(path: Path) -> bool:
    """Whether nearfar wrote it: vectors, their keys, or a report."""
    if path.name.endswith(".keys.json"):
        return path.with_name(path.name.removesuffix(".keys.json") + ".npy").exists()
    if path.suffix == ".parquet":
        return _written_vectors(path)
    return path.suffix == ".html" and _report(path)


def _json_keys(path: Path) -> Iterable[str]:
    if not path.is_file():
        return ()
    try:
        with open_regular(path) as file:
            value: Any = json.loads(file.read(64 << 20))
        return value if isinstance(value, dict) else ()
    except (OSError, ValueError, RecursionError, InputError):
        return ()


def _written_vectors(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_regular(path) as file:
            return b"nearfar" in (pq.read_schema(file).metadata or {})
    except (OSError, pa.ArrowException, ValueError, InputError):
        return False


def _report(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return b'<meta name="generator" content="nearfar' in file.read(4096)
    except (OSError, InputError):
        return False


def endings(files: Iterable[str], count: int = 5) -> str:
    """ "3 .pdf, 1 without ending": the most frequent endings of files."""
    counted = Counter(Path(f).suffix or "without ending" for f in files)
    return ", ".join(f"{n} {shown(kind)}" for kind, n in counted.most_common(count))
