"""Files and folders on object stores, by the URLs of fsspec (s3://bucket/table.parquet, gs://, memory://...): read by
way of a copy in the cache, which is made anew where they have changed, and written when all of it is there.

CACHE/objects/ID/NAME     the copy of an object, or of all below it       .state.json   its URL and what was there
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import InputError, NearfarError, did_you_mean, install
from nearfar.sources.storage import cache_dir

KIND, STATE, UNSENT = "objects", ".state.json", ".unsent"
LAST = "index.json"  # what says that a folder is complete: written last, taken away first
TRIES = 3  # readings of what somebody changes meanwhile
DAMAGED = "Delete it: it is fetched anew."
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> the extra of nearfar that knows it
_ACCESS = {
    "s3": "Access and server are those of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE and AWS_ENDPOINT_URL.",
}

Listed = dict[str, list[Any]]
"""Name below the place ("" for an object itself) -> its size in bytes and a mark that changes with it."""


def is_url(place: Any) -> bool:
    """Whether a place is named by a URL."""
    return isinstance(place, str) and _URL.fullmatch(place) is not None


def local(place: str | Path) -> Path:
    """The path itself, or that of the copy of what a URL names."""
    return fetched(str(place)) if is_url(place) else Path(place)


def on_disk(out: str | Path) -> Path:
    """The path of what is written to a disk alone. Raises InputError for a URL, of which a path would make a folder."""
    if is_url(out):
        raise InputError(f"This is written to a disk, and '{out}' is on an object store.",
                         "Write to a folder and copy it; outputs of `embed` may be URLs.")  # fmt: skip
    return Path(out)


def origin(path: Path) -> str:
    """Where a file or folder lies for everybody: its absolute path, or the URL of which it is (part of) the copy."""
    path = path.resolve()
    for folder in path.parents:
        if folder.parent.name == KIND and (folder / STATE).exists():
            url = str(files.read_json(folder / STATE, {"url": str}, DAMAGED)["url"])
            return "/".join([url, *path.relative_to(folder).parts[1:]])
    return str(path)


def fetched(url: str) -> Path:
    """The copy of an object, or of all below a prefix. What has not changed since is not read again.

    Raises InputError where there is nothing, where access is refused, the store is out of reach, or the package that
    knows the protocol is not installed.
    """
    store, place = _opened(url)
    copy = _copy_of(url)
    if copy.with_name(UNSENT).exists():
        raise InputError(f"'{url}' was not sent whole.", "Repeat the command that wrote it: it goes on there.")
    there = _listed(store, place, url)
    for _ in range(TRIES):
        if not there:
            raise InputError(f"There is nothing at '{url}'.", "Is the name right?")
        if _known(copy) != there:
            _fetch(store, place, url, copy, there)
        os.utime(copy.parent)  # what was not used for longest leaves the cache first
        before, there = there, _listed(store, place, url)
        if there == before:
            return copy
    raise NearfarError(f"'{url}' changes while it is read.", "Wait until its writer is done.")


@contextmanager
def staged(out: str | Path, append: bool) -> Iterator[tuple[Path, bool]]:
    """Gives the path to write an output to, and whether it is appended to: `out` as it is, or the copy of what is at a
    URL, which is sent there when the block ends well. A sending that failed is made up for by the next call.

    Raises InputError, before anything is computed, where the URL cannot be written, or holds something and append is
    false.
    """
    if not is_url(out):
        yield Path(out), append
        return
    url = str(out)
    store, place = _opened(url)
    copy = _copy_of(url)
    _check_writable(store, place, url)
    unsent = copy.with_name(UNSENT)
    if unsent.exists() and copy.exists():
        append = True  # what was finished, and did not get there
    elif _listed(store, place, url):
        if not append:
            raise InputError(f"'{url}' exists already.", "Add new rows with --append, or choose another --out.")
        fetched(url)
    else:
        files.remove(copy)
    yield copy, append
    unsent.touch()
    _send(store, place, url, copy)
    unsent.unlink()


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the place in it."""
    from fsspec.core import url_to_fs

    with _told(url):
        store, place = url_to_fs(url)
    if not str(place).strip("/"):
        raise InputError(f"'{url}' names no object.", "Write for example s3://BUCKET/NAME.")
    return store, str(place)


@contextmanager
def _told(url: str, verb: str = "read") -> Iterator[None]:
    """Whatever a store says becomes an InputError with the URL and the mend."""
    protocol = url.partition("://")[0]
    try:
        yield
    except NearfarError:
        raise
    except ImportError as error:
        needed = _EXTRAS.get(protocol)
        hint = install(needed) if needed else f"{str(error).splitlines()[0]}."
        raise InputError(f"'{url}' needs a package for {protocol}:// that is not installed.", hint) from error
    except ValueError as error:
        if "rotocol not known" not in str(error):
            raise InputError(f"'{url}' cannot be {verb}: {_first(error)}.", "Mend the URL.") from error
        from fsspec import available_protocols

        near = did_you_mean(protocol, available_protocols())
        raise InputError(f"Nothing is known of {protocol}://.{near}", "Paths have no ://.") from error
    except Exception as error:  # stores have errors of their own, which have nothing in common
        raise InputError(f"'{url}' cannot be {verb}: {_first(error)}.", _ACCESS.get(protocol, "")) from error


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _copy_of(url: str) -> Path:
    known = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:32]
    return cache_dir() / KIND / known / url.rstrip("/").rpartition("/")[2]


def _listed(store: Any, place: str, url: str) -> Listed:
    with _told(url):
        store.invalidate_cache()
        try:
            found = store.find(place, detail=True)
        except FileNotFoundError:
            return {}
    root = store._strip_protocol(place).rstrip("/")
    return {name.removeprefix(root).lstrip("/"): [facts.get("size"), _mark(facts)] for name, facts in found.items()
            if facts.get("type") != "directory"}  # fmt: skip


def _mark(facts: dict[str, Any]) -> str:
    """What tells a state of an object from others, as far as its store says it."""
    return str(next((facts[name] for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")
                     if facts.get(name)), ""))  # fmt: skip


def _known(copy: Path) -> Listed | None:
    """What was at the URL when the copy was made; None where there is no whole copy."""
    state = copy.with_name(STATE)
    if not (state.exists() and copy.exists()):
        return None
    with contextlib.suppress(InputError):
        return files.read_json(state, {"files": dict}, DAMAGED)["files"]
    return None


def _fetch(store: Any, place: str, url: str, copy: Path, there: Listed) -> None:
    files.remove(copy.with_name(STATE))
    with files.writing(copy), files.whole(copy) as fresh:
        for name in there:
            target = fresh / name if name else fresh
            if not target.resolve().is_relative_to(fresh.parent.resolve()):
                raise InputError(f"'{url}' holds an object whose name leads out of it: {name!r}.", "Rename it.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with _told(url):
                store.get_file(f"{place.rstrip('/')}/{name}" if name else place, str(target))
    files.write_json(copy.with_name(STATE), {"url": url.rstrip("/"), "files": there})


def _check_writable(store: Any, place: str, url: str) -> None:
    above, _, name = place.rstrip("/").rpartition("/")
    probe = f"{above}/.{name}.nearfar" if above else f"{place}.nearfar"
    with _told(url, "written"):
        store.pipe_file(probe, b"")
        with contextlib.suppress(Exception):  # who may write need not be allowed to delete
            store.rm_file(probe)


def _send(store: Any, place: str, url: str, copy: Path) -> None:
    """Writes the copy to its URL; what it does not hold is taken away there."""
    files.remove(copy.with_name(STATE))
    place = place.rstrip("/")
    if copy.is_file():
        with _told(url, "written"):
            store.put_file(str(copy), place)
    else:
        held = {path.relative_to(copy).as_posix(): path for path in copy.rglob("*") if path.is_file()}
        before = _listed(store, place, url)
        with _told(url, "written"):
            if LAST in before:
                store.rm_file(f"{place}/{LAST}")
            for name in sorted(held, key=lambda name: (name == LAST, name)):
                store.put_file(str(held[name]), f"{place}/{name}")
            for name in before.keys() - held.keys():
                store.rm_file(f"{place}/{name}")
    files.write_json(copy.with_name(STATE), {"url": url.rstrip("/"), "files": _listed(store, place, url)})
