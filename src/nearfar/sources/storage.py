"""Where derived data lie, and how they are written: whole or not at all, readable by their owner alone, within a bound.

Every entry of the cache ends with a checksum of what stands before it, so that a damaged one is found and made anew.
"""

import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar.errors import InputError, NearfarError
from nearfar.sources.listing import identity

BOUND = "20GB"
KINDS = {
    "tables": "tables and texts as they were read",
    "scans": "what was found of each image and text",
    "pixels": "decoded images and masks",
    "features": "vectors of frozen encoders",
    "functions": "the built-in set functions",
    "imports": "the built-in set imports",
    "sentences": "the built-in set sentences",
    "docstrings": "the built-in set docstrings",
    "descriptions": "the built-in set descriptions",
    "catalogues": "the built-in set catalogues",
    "scenes": "the built-in set scenes",
    "answers": "what language models wrote",
    "packaged": "files of built-in sets out of other packages",
    "help": "the help of methods",
    "objects": "copies of what lies on object stores",
    "given": "data that were given in memory",
    "streams": "streams of data, and what they were read from",
}
ABANDONED = 3600  # seconds without a write after which a temporary file is taken for a leftover
_SEAL = b"nearfar\x01"
_SUMMED = len(_SEAL) + hashlib.sha256().digest_size
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_whole: dict[Path, tuple[int, ...]] = {}  # entries whose checksum this process has seen to be right


def cache_dir(cache: str | Path | None = None) -> Path:
    """The folder of derived data: `cache`, else the variable NEARFAR_CACHE, else ~/.cache/nearfar. It is created, for
    its owner alone (mode 0700).

    Raises InputError where it cannot be created or written.
    """
    own = Path.home() / ".cache" / "nearfar"
    path = Path(cache or os.environ.get("NEARFAR_CACHE") or own).expanduser()
    hint = "Set NEARFAR_CACHE to a folder that you may write."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(f"The cache folder {path} cannot be created: {error.strerror}.", hint) from error
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(f"The cache folder {path} cannot be written: permission denied.", hint)
    for folder in [path] * (path == own) + [path / kind for kind in KINDS]:
        _close(folder)
    return path


def _close(folder: Path) -> None:
    """Takes a folder of ours from everybody else."""
    with suppress(OSError):
        found = folder.stat()
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            folder.chmod(0o700)


def cache_bound() -> int:
    """The most bytes that the cache may hold: NEARFAR_CACHE_SIZE ("500MB", "20GB", "1.5T"), default 20 GB."""
    text = os.environ.get("NEARFAR_CACHE_SIZE") or BOUND
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if not match:
        raise InputError(f"NEARFAR_CACHE_SIZE is '{text}'.", "Write a number of bytes with a unit: 500MB, 20GB, 1.5TB.")
    return int(float(match.group(1)) * _UNITS[match.group(2)])


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Gives a fresh path beside `target` to write a file or a folder to; it takes the target's place only after the
    block ends well.

    Two processes may write the same target: one of them wins, and both contents are whole.
    Raises NearfarError where the disk is full or the folder cannot be written.
    """
    with temporary(target) as fresh:
        yield fresh
        _move(fresh, target)


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """A fresh path beside `target`, in a folder that is made where there is none; what still lies there at the end of
    the block goes. Raises NearfarError where the disk is full or the folder cannot be written."""
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NearfarError(
                f"No space left on the disk for {target}.", "Free some, or set NEARFAR_CACHE."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NearfarError(f"{target.parent} cannot be written: {error.strerror}.", "Set NEARFAR_CACHE.") from error
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:  # a folder that another process finished first
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


@contextmanager
def new_entry(path: Path) -> Iterator[Path]:
    """As `whole`, for a file CACHE/KIND/NAME of the cache: it gets its checksum, and what was not used for longest goes
    where the cache has grown over its bound."""
    bound = cache_bound()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close(path.parent)
    with whole(path) as fresh:
        yield fresh
        with open(fresh, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        with open(fresh, "ab") as file:
            file.write(_SEAL + digest)
    _whole[path] = identity(path)
    trim(path.parent.parent, bound, keep=path)


def entry(path: Path) -> bool:
    """Whether a whole entry of the cache stands at `path`. Its time of use is set; a damaged one is removed."""
    try:
        if _whole.get(path) != identity(path) and not _sealed(path):
            path.unlink(missing_ok=True)
            return False
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        _whole[path] = identity(path)
    except OSError:
        return False
    return True


def _sealed(path: Path) -> bool:
    state, left = hashlib.sha256(), path.stat().st_size - _SUMMED
    with open(path, "rb") as file:
        while left > 0:
            block = file.read(min(left, 1 << 20))
            if not block:
                return False
            state.update(block)
            left -= len(block)
        return left == 0 and file.read() == _SEAL + state.digest()


def entry_bytes(path: Path) -> bytes:
    """What stands in an entry, without its checksum."""
    return path.read_bytes()[:-_SUMMED]


@dataclass(frozen=True)
class Kept:
    """A file of the cache: its kind (of `KINDS`), size in bytes and time of its last use."""

    path: Path
    kind: str
    size: int
    used: float


def kept(cache: Path) -> list[Kept]:
    """Everything in the cache that nearfar put there, what was not used for longest first; leftovers of writers that
    were stopped are removed."""
    found = []
    for kind in KINDS:
        paths = [*(cache / kind).glob("*"), *(cache / kind).glob(".*.tmp")]
        for path in [*paths, *cache.glob("features-*")] if kind == "features" else paths:
            with suppress(OSError):
                facts = path.lstat()
                used = max(facts.st_mtime, facts.st_atime)
                if path.suffix != ".tmp":
                    found.append(Kept(path, kind, _size(path), used))
                elif time.time() - _last_write(path) > ABANDONED:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return sorted(found, key=lambda one: one.used)


def trim(cache: Path, bound: int, keep: Path | None = None) -> int:
    """Removes what was not used for longest until the cache holds at most `bound` bytes, but never `keep`. Returns
    the bytes that were freed. What another process has mapped stays readable there."""
    there = kept(cache)
    total, freed = sum(one.size for one in there), 0
    for one in there:
        if total - freed <= bound:
            break
        if one.path != keep:
            freed += _remove(one)
    return freed


def clear(cache: Path, kind: str | None = None, unused: float = 0.0) -> tuple[int, int]:
    """Removes entries, all or of one kind, that were not used for `unused` seconds: how many, and their bytes."""
    chosen = [one for one in kept(cache) if kind in (None, one.kind) and time.time() - one.used >= unused]
    sizes = [size for one in chosen if (size := _remove(one))]
    return len(sizes), sum(sizes)


def summary(cache: Path, kind: str | None = None, unused: float = 0.0) -> dict[str, Any]:
    """What the cache holds: its path, bytes, bound and, kind by kind, entries, bytes and the day of the last use."""
    there = [one for one in kept(cache) if kind in (None, one.kind) and time.time() - one.used >= unused]
    kinds = []
    for name, what in KINDS.items():
        own = [one for one in there if one.kind == name]
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(one.used for one in own))) if own else None
        if kind in (None, name):
            size = sum(one.size for one in own)
            kinds.append({"kind": name, "entries": len(own), "bytes": size, "last_used": last, "what": what})
    return {"path": str(cache), "bytes": sum(k["bytes"] for k in kinds), "bound": cache_bound(), "kinds": kinds}


def seconds(text: str) -> float:
    """ "90m", "12h", "30d" -> seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text.lower())
    if not match:
        raise InputError(f"'{text}' is not a time.", "Write for example 90m, 12h or 30d.")
    return float(match.group(1)) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match.group(2)]


def _last_write(path: Path) -> float:
    """When an entry, or a file in its folder, was last written."""
    return max(one.lstat().st_mtime for one in (path, *path.rglob("*")))


def _size(path: Path) -> int:
    """Bytes of an entry; of a folder, those of its files."""
    inside = path.rglob("*") if path.is_dir() else [path]
    return sum(one.lstat().st_size for one in inside if not one.is_dir())


def _remove(one: Kept) -> int:
    with suppress(OSError):
        shutil.rmtree(one.path) if one.path.is_dir() else one.path.unlink()
        _whole.pop(one.path, None)
        return one.size
    return 0
