"""Files and folders that are whole or not there, owned by one process at a time, and read with a clear answer where
they are damaged.

What is written stands beside its place first, as .NAME.HOST-PID-MARK.tmp, and is moved there at once; a folder that is
replaced waits as .NAME.HOST-PID-MARK.old meanwhile. What a killed process leaves is cleaned, or put back, when the
same place is next opened for writing or reading; what belongs to a living process is never touched.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.errors import InputError, NearfarError

CHECKSUM = "checksum"
FULL = (errno.ENOSPC, errno.EDQUOT)
LOCK = ".lock"  # of a folder that stays where it is, inside it

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_PROCESS = secrets.token_hex(4)
_NAME = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<mark>[0-9a-f]{16})\.(?P<kind>tmp|old)")
_A_DAY = 86_400  # seconds after which what another machine left counts as left
_TRAILER = b"nearfar1"
_WORDS: dict[Any, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
}


# -- whole or not at all ----------------------------------------------------------------------------------------------
def temporary(target: Path, kind: str = "tmp") -> Path:
    """A fresh path beside `target` that tells whose it is."""
    return target.with_name(f".{target.name}.{_HOST}-{os.getpid()}-{_PROCESS}{secrets.token_hex(4)}.{kind}")


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Gives a path beside `target` to write a file or a folder to; it takes the target's place only after the block
    ends well. The folder of the target is made where there is none.

    Raises OSError where that is not possible; what stood there before is then unchanged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    tidy(target)
    fresh = temporary(target)
    try:
        yield fresh
        _put(fresh, target)
    finally:
        remove(fresh)


def _put(fresh: Path, target: Path) -> None:
    if not (fresh.is_dir() and target.is_dir()):
        os.replace(fresh, target)
        return
    aside = temporary(target, "old")
    os.rename(target, aside)
    try:
        os.rename(fresh, target)
    except OSError:
        os.rename(aside, target)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Takes a file or a folder away, if it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def tidy(target: Path) -> None:
    """Takes away what killed processes left of `target`. A folder whose replacement was cut off is put back."""
    _tidy(target.parent, target.name)


def tidy_inside(folder: Path) -> None:
    """`tidy` for everything in a folder."""
    _tidy(folder, None)


def _tidy(folder: Path, name: str | None) -> None:
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith("."))
    except OSError:
        return
    for entry in entries:
        found = _NAME.fullmatch(entry)
        if found is None or name not in (None, found["name"]) or _alive(found, folder / entry):
            continue
        target = folder / found["name"]
        if found["kind"] == "old" and not target.exists():
            with contextlib.suppress(OSError):
                os.rename(folder / entry, target)
                continue
        remove(folder / entry)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one of ours on its way (or left by a killed process)."""
    return _NAME.fullmatch(name) is not None


def _alive(found: re.Match[str], path: Path) -> bool:
    """Whether the owner of a temporary still runs."""
    if found["host"] != _HOST:
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < _A_DAY
        return True
    pid = int(found["pid"])
    return found["mark"].startswith(_PROCESS) if pid == os.getpid() else running(pid)


def running(pid: int) -> bool:
    """Whether a process of this machine runs; one that ended and that nobody asked after does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return True


def make_folders(folder: Path) -> list[Path]:
    """Makes a folder and those above it. Returns the ones that were not there, the innermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Takes folders away (the innermost first) as far as they are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextmanager
def writing(path: Path, kept: str = "What was there before is unchanged.") -> Iterator[None]:
    """A failure to write within the block is told with the path and the mend: NearfarError."""
    try:
        yield
    except OSError as error:
        mend = "Free some space" if error.errno in FULL else "Check the path and its permissions"
        raise NearfarError(f"{path} cannot be written: {error.strerror or error}.", f"{mend}. {kept}") from error


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """A place that cannot be written is wrong input, before any work is done."""
    try:
        yield
    except OSError as error:
        raise InputError(f"Cannot write to '{path}': {error.strerror}.", "Choose another --out.") from None


# -- one owner --------------------------------------------------------------------------------------------------------
class Busy(InputError):
    """Another process works on the same place."""


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path` while the block runs. The system frees it when its holder ends, however it ends.

    Raises Busy (an InputError) that names the holder where another process has it; OSError where it cannot be made.
    """
    handle = _acquire(path, what)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def waiting_lock(path: Path, what: str) -> Iterator[None]:
    """`lock`, once whoever has it is done."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(path, what))
                break
            except Busy:
                time.sleep(0.1)
        yield


@contextmanager
def lock_of(output: Path) -> Iterator[None]:
    """`lock` for an output that is replaced as a whole: the lock lies beside it. Folders above it are made, and taken
    away again where they stay empty."""
    made = make_folders(output.parent)
    try:
        with lock(output.with_name(f".{output.name}{LOCK}"), f"'{output}'"):
            yield
    finally:
        remove_empty(made)


def _acquire(path: Path, what: str) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                return handle
        except FileNotFoundError:  # the holder took it away between our opening and our locking
            pass
        except OSError as error:
            holder = _holder(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES) or _holds(holder):
                os.close(handle)
                raise Busy(f"{what} is in use by another process{_named(holder)}.",
                           "Wait for it or stop it, or choose another --out.") from None  # fmt: skip
            return handle  # a file system without locks: the holder's number has to do
        os.close(handle)


def _holder(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _holds(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    return isinstance(pid, int) and holder.get("host") == socket.gethostname() and running(pid)


def _named(holder: dict[str, Any]) -> str:
    return f" (number {holder['pid']} on {holder.get('host', 'this machine')})" if "pid" in holder else ""


# -- reading what may be damaged --------------------------------------------------------------------------------------
@contextmanager
def reading(path: Path, mend: str) -> Iterator[None]:
    """Whatever goes wrong while the block makes sense of a file becomes an InputError with its path and the mend."""
    try:
        yield
    except NearfarError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", mend) from error
    except (Exception, RecursionError) as error:
        first = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
        kind = "there is no value" if isinstance(error, KeyError) else type(error).__name__
        raise damaged(path, f"{kind}{f' {first}' if kind.startswith('there') else f', {first}' if first else ''}",
                      mend) from error  # fmt: skip


def damaged(path: Path, found: str, mend: str) -> InputError:
    """The error for a file that does not hold what it should."""
    return InputError(f"{path} is damaged: {found}.", mend)


def write_json(path: Path, value: Any, checksum: bool = False, indent: int | None = 2) -> None:
    """Replaced at once, so that nobody ever reads half of it. checksum: an object gets one of its content."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)
    if checksum:
        found = {CHECKSUM: _checksum(json.loads(text))}
        text = json.dumps(value | found, indent=indent, ensure_ascii=False, default=_plain)
    with whole(path) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8", errors="surrogatepass")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _checksum(value: Mapping[str, Any]) -> str:
    plain = json.dumps({k: v for k, v in value.items() if k != CHECKSUM}, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:32]


def read_json(path: Path, fields: Mapping[str, Any], mend: str, version: int | None = None) -> dict[str, Any]:
    """The object that a JSON file holds. fields: key -> type, or types, that it must have; further keys are kept.
    version: what its "format" must be.

    Raises InputError that names the path, what is wrong and the mend: not readable, not JSON, not an object, a key that
    is missing or holds something else, or (where the file has one) another checksum than its content gives.
    """
    value = _parsed(path, mend)
    if not isinstance(value, dict):
        raise damaged(path, f"it holds {_WORDS.get(type(value), 'something else')}, not an object", mend)
    check_fields(value, fields, path, mend)
    if version is not None and value["format"] != version:
        raise InputError(f"{path} has the format {value['format']}; this version reads {version}.", mend)
    stored = value.pop(CHECKSUM, None)
    if stored is not None and stored != _checksum(value):
        raise damaged(path, "its content is not what was written", mend)
    return value


def _parsed(path: Path, mend: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogatepass")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{path} cannot be read: {said}.", mend) from error
    if not text.strip("\0 \n\r\t"):
        raise damaged(path, "it is empty", mend)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise damaged(path, f"it is not JSON{where}", mend) from error


def check_fields(value: Any, fields: Mapping[str, Any], path: Path, mend: str) -> None:
    """Raises InputError where a value is not an object, or a key is missing or has a value of another type. A type in a
    list of one stands for an object whose values all are of that type."""
    if not isinstance(value, dict):
        raise damaged(path, f"it holds {_WORDS.get(type(value), 'something else')} in place of an object", mend)
    for name, wanted in fields.items():
        if name not in value:
            raise damaged(path, f"'{name}' is missing", mend)
        found = value[name]
        if isinstance(wanted, list):
            check_fields(value, {name: dict}, path, mend)
            check_fields(found, dict.fromkeys(found, wanted[0]), path, mend)
            continue
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            words = " or ".join(str(_WORDS.get(kind, kind)) for kind in kinds)
            raise damaged(path, f"'{name}' is {_WORDS.get(type(found), 'something else')}, not {words}", mend)


def read_lines(path: Path, fields: Mapping[str, Any], mend: str) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line. A last line that was cut off (its writer was killed) is left
    out; any other damage raises InputError with the line."""
    with reading(path, mend):
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise damaged(path, f"line {number} is not JSON", mend) from None
        if not isinstance(value, dict):
            raise damaged(path, f"line {number} is not an object", mend)
        check_fields(value, fields, path, mend)
        found.append(value)
    return found


# -- arrays and checkpoints -------------------------------------------------------------------------------------------
def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_array(path: Path, array: np.ndarray) -> None:
    """A .npy file that any reader takes, with a checksum behind the array."""
    with whole(path) as fresh:
        with fresh.open("wb") as file:
            np.save(file, array)
        found = bytes.fromhex(digest(fresh))
        with fresh.open("ab") as file:
            file.write(_TRAILER + found)


def load_array(path: Path) -> np.ndarray | None:
    """The array of `save_array`, mapped; None where the file is not whole or not what was written."""
    tail = len(_TRAILER) + 32
    try:
        with path.open("rb") as file:
            size, state = os.fstat(file.fileno()).st_size - tail, hashlib.sha256()
            while size > 0 and (block := file.read(min(size, 1 << 20))):
                state.update(block)
                size -= len(block)
            if size or file.read() != _TRAILER + state.digest():
                return None
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None


def check_zip(path: Path, mend: str) -> None:
    """Raises InputError where a file of torch (a zip archive with a checksum of each entry) is not what was written."""
    with reading(path, mend), zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
        if bad is not None:
            raise damaged(path, f"the checksum of its part '{bad}' is wrong", mend)


def replaced_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with whole(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
