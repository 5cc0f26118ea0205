"""Where derived data lie, and how they are written: whole or not at all."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nearfar.errors import InputError, NearfarError


def cache_dir(cache: str | Path | None = None) -> Path:
    """The folder of derived data: `cache`, else the variable NEARFAR_CACHE, else ~/.cache/nearfar. It is created.

    Raises InputError where it cannot be created or written.
    """
    path = Path(cache or os.environ.get("NEARFAR_CACHE") or Path.home() / ".cache" / "nearfar").expanduser()
    hint = "Set NEARFAR_CACHE to a folder that you may write."
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The cache folder {path} cannot be created: {error.strerror}.", hint) from error
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(f"The cache folder {path} cannot be written: permission denied.", hint)
    return path


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Gives a fresh path beside `target` to write a file or a folder to; it takes the target's place only after the
    block ends well.

    Two processes may write the same target: one of them wins, and both contents are whole.
    Raises NearfarError where the disk is full or the folder cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _move(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NearfarError(
                f"No space left on the disk for {target}.", "Free some, or set NEARFAR_CACHE."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NearfarError(f"{target.parent} cannot be written: {error.strerror}.", "Set NEARFAR_CACHE.") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:  # a folder that another process finished first
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
