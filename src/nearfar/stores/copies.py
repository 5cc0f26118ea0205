"""Copies of what lies on object stores, which follow it, in the cache.

CACHE/objects/ID/NAME     the copy of an object, or of all below it
CACHE/objects/ID/.state.json   its URL, what was there when the two were last equal, and the files here that are so
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nearfar import files
from nearfar.errors import InputError, NearfarError
from nearfar.sources.storage import cache_dir
from nearfar.stores.access import Listed, Store, is_url

KIND, STATE, UNSENT = "objects", ".state.json", ".unsent"
TRIES = 3  # readings of what somebody changes meanwhile
DAMAGED = "Delete it: it is fetched anew."

Wanted = Callable[[str], bool]
"""Whether what has this name below a URL is needed here."""


def everything(name: str) -> bool:
    return True


@dataclass
class State:
    """What is known of a copy. `files`: what was at the URL when the two were last equal; `here`: name -> size and time
    (ns) of the file that is equal to it; `sending`: what was on its way there."""

    url: str
    files: Listed = field(default_factory=dict)
    here: dict[str, list[int]] = field(default_factory=dict)
    sending: str | None = None

    @classmethod
    def read(cls, copy: Path) -> State | None:
        """Of a copy; None where there is no whole one."""
        path = copy.with_name(STATE)
        if not path.exists():
            return None
        try:
            found = files.read_json(path, {"url": str, "files": dict}, DAMAGED)
            return cls(found["url"], found["files"], dict(found.get("here", {})), found.get("sending"))
        except InputError:
            return None

    def write(self, copy: Path) -> None:
        files.write_json(copy.with_name(STATE), asdict(self), indent=None)

    def changed_there(self, there: Listed) -> list[str]:
        """What somebody else has written there since; what was taken away does not count."""
        return [name for name, seen in self.files.items() if name != self.sending and there.get(name, seen) != seen]

    def equal_here(self, name: str, path: Path) -> bool:
        """Whether a file here is what was at the URL."""
        return name in self.files and path.is_file() and facts_of(path) == self.here.get(name)


def facts_of(path: Path) -> list[int]:
    """What changes with a file: its size and its time (ns)."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def copy_of(url: str, use: str = "") -> Path:
    """Where the copy of a URL lies. use: of copies that are written to, which readers never meet."""
    url = url.rstrip("/")
    known = hashlib.sha256((use + url).encode()).hexdigest()[:32]
    return cache_dir() / KIND / known / url.rpartition("/")[2]


def linked(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy of it where the file system has no links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)


def brought(store: Store, copy: Path, there: Listed, before: State | None) -> State:
    """Makes the copy what is there, whole or not at all; files that are equal already are not read again."""
    files.remove(copy.with_name(STATE))
    with files.writing(copy), files.whole(copy) as fresh:
        for name in there:
            target, own = (fresh / name, copy / name) if name else (fresh, copy)
            if not target.resolve().is_relative_to(fresh.parent.resolve()):
                raise InputError(f"'{store.url}' holds an object whose name leads out of it: {name!r}.", "Rename it.")
            target.parent.mkdir(parents=True, exist_ok=True)
            if before is not None and before.files.get(name) == there[name] and before.equal_here(name, own):
                linked(own, target)
            else:
                store.get(name, target)
    state = State(store.url, there, {name: facts_of(copy / name if name else copy) for name in there})
    state.write(copy)
    return state


def fetched(url: str, wanted: Wanted = everything) -> Path:
    """The copy of an object, or of what is wanted of all below a prefix. What has not changed is not read again.

    Raises InputError where there is nothing, where access is refused, the store is out of reach, or the package that
    knows the protocol is not installed.
    """
    store, copy = Store(url), copy_of(url)
    if copy.with_name(UNSENT).exists():
        raise InputError(f"'{url}' was not sent whole.", "Repeat the command that wrote it: it goes on there.")
    copy.parent.mkdir(parents=True, exist_ok=True)
    with files.waiting_lock(copy.with_name(".reading"), f"'{url}'"):
        known, there = State.read(copy), store.listed()
        for _ in range(TRIES):
            needed = {name: facts for name, facts in there.items() if wanted(name)}
            if not needed:
                raise InputError(f"There is nothing at '{url}'.", "Is the name right?")
            if known is None or not needed.keys() <= _equal(copy, known, there):
                kept = set() if known is None else _equal(copy, known, there)
                known = brought(store, copy, {k: v for k, v in there.items() if k in needed or k in kept}, known)
            os.utime(copy.parent)  # what was not used for longest leaves the cache first
            there = store.listed()
            if {name: facts for name, facts in there.items() if wanted(name)} == needed:
                return copy
    raise NearfarError(f"'{url}' changes while it is read.", "Wait until its writer is done.")


def _equal(copy: Path, state: State, there: Listed) -> set[str]:
    """The names of a copy that are what is there."""
    return {name for name, facts in state.files.items()
            if there.get(name) == facts and state.equal_here(name, copy / name if name else copy)}  # fmt: skip


def local(place: str | Path, wanted: Wanted = everything) -> Path:
    """The path itself, or that of the copy of what a URL names."""
    return fetched(str(place), wanted) if is_url(place) else Path(place)


def origin(path: Path) -> str:
    """Where a file or folder lies for everybody: its absolute path, or the URL of which it is (part of) the copy."""
    return _url_of(path) or str(path.resolve())


def named(path: Path) -> str | Path:
    """What a user calls a file or folder: the path as it is, or the URL of which it is (part of) the copy."""
    return _url_of(path) or path


def _url_of(path: Path) -> str | None:
    path = path.resolve()
    for folder in path.parents:
        if folder.parent.name == KIND and (folder / STATE).exists():
            url = str(files.read_json(folder / STATE, {"url": str}, DAMAGED)["url"])
            return "/".join([url, *path.relative_to(folder).parts[1:]])
    return None


def on_disk(out: str | Path, why: str) -> Path:
    """The path of what is written to a disk alone. Raises InputError, with the reason, for a URL, of which a path would
    make a folder."""
    if is_url(out):
        raise InputError(f"'{out}' is on an object store; {why}.", "Write to a folder of this machine.")
    return Path(out)
