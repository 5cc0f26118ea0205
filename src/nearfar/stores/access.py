"""A place on an object store, by way of fsspec: what lies there, and its exchange with files. Whatever a store says
becomes an InputError with the URL and the mend."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfar.errors import InputError, NearfarError, did_you_mean, install

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> the extra of nearfar that knows it
_ACCESS = {
    "s3": "Access and server are those of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE and AWS_ENDPOINT_URL.",
}
_SHOW_HALF = {"file", "local", "sftp", "ssh"}  # file systems, where a file is seen while it is being written
_ON_ITS_WAY = ".sending"

Listed = dict[str, list[Any]]
"""Name below the place ("" for an object itself) -> its size in bytes and a mark that changes with it."""


def is_url(place: Any) -> bool:
    """Whether a place is named by a URL."""
    return isinstance(place, str) and _URL.fullmatch(place) is not None


def below(place: str | Path, *names: str) -> str | Path:
    """What lies below a folder, or below a URL."""
    return "/".join([str(place).rstrip("/"), *names]) if is_url(place) else Path(place, *names)


class Store:
    """What lies at a URL and below it. Raises InputError where the URL names nothing, and where the package that knows
    its protocol is not installed."""

    def __init__(self, url: str):
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        with store_errors(url):
            self.system, place = url_to_fs(url)
        if not str(place).strip("/"):
            raise InputError(f"'{url}' names no object.", "Write for example s3://BUCKET/NAME.")
        self.place = str(place).rstrip("/")

    @property
    def _shows_half(self) -> bool:
        names = self.system.protocol
        return not _SHOW_HALF.isdisjoint({names} if isinstance(names, str) else names)

    def at(self, name: str) -> str:
        return f"{self.place}/{name}" if name else self.place

    def listed(self, name: str = "") -> Listed:
        """What is there, or at a name below it; empty where there is nothing."""
        place = self.at(name)
        with store_errors(self.url):
            self.system.invalidate_cache()
            try:
                found = self.system.find(place, detail=True)
            except FileNotFoundError:
                return {}
        root = self.system._strip_protocol(place).rstrip("/")
        return {path.removeprefix(root).lstrip("/"): [facts.get("size"), _mark(facts)] for path, facts in found.items()
                if facts.get("type") != "directory" and not path.endswith(_ON_ITS_WAY)}  # fmt: skip

    def get(self, name: str, target: Path) -> None:
        """Reads one object into a file."""
        with store_errors(self.url):
            self.system.get_file(self.at(name), str(target))

    def text(self, name: str = "") -> str | None:
        """What one small object holds; None where there is none."""
        with store_errors(self.url), contextlib.suppress(FileNotFoundError):
            self.system.invalidate_cache()
            return self.system.cat_file(self.at(name)).decode("utf-8", "replace")
        return None

    def put(self, source: Path, name: str) -> None:
        """Writes one object, which is seen whole or as it was before."""
        target = self.at(name)
        with store_errors(self.url, "written"):
            if not self._shows_half:
                self.system.put_file(str(source), target)
                return
            above, _, last = target.rpartition("/")
            fresh = f"{above}/.{last}{_ON_ITS_WAY}"
            self.system.makedirs(above, exist_ok=True)
            self.system.put_file(str(source), fresh)
            self.system.mv(fresh, target)

    def remove(self, name: str) -> None:
        """Takes one object away, if it is there."""
        with store_errors(self.url, "written"), contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self.at(name))

    def check_writable(self) -> None:
        """Raises InputError where nothing can be written."""
        above, _, name = self.place.rpartition("/")
        probe = f"{above}/.{name}.nearfar" if above else f"{self.place}.nearfar"
        with store_errors(self.url, "written"):
            if self._shows_half:
                self.system.makedirs(above, exist_ok=True)
            self.system.pipe_file(probe, b"")
            with contextlib.suppress(Exception):  # who may write need not be allowed to delete
                self.system.rm_file(probe)


@contextmanager
def store_errors(url: str, verb: str = "read") -> Iterator[None]:
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
            raise InputError(f"'{url}' cannot be {verb}: {first_line(error)}.", "Mend the URL.") from error
        from fsspec import available_protocols

        near = did_you_mean(protocol, available_protocols())
        raise InputError(f"Nothing is known of {protocol}://.{near}", "Paths have no ://.") from error
    except Exception as error:  # stores have errors of their own, which have nothing in common
        raise InputError(f"'{url}' cannot be {verb}: {first_line(error)}.", _ACCESS.get(protocol, "")) from error


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _mark(facts: dict[str, Any]) -> str:
    """What tells a state of an object from others, as far as its store says it."""
    return str(next((facts[name] for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")
                     if facts.get(name)), ""))  # fmt: skip
