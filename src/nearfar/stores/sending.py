"""What was made here, brought to a store: only what has changed, in an order in which a reader never opens half a
thing, and a killed sender leaves what was whole before."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nearfar import files
from nearfar.errors import InputError, NearfarError
from nearfar.stores.access import Store, is_url
from nearfar.stores.copies import STATE, UNSENT, State, copy_of, facts_of, fetched, linked

SAME = 5  # tries to see one state of a folder that others write in
LAST = (
    ("config.json", "index.json", "modules.json", "preprocessing.json"),  # of models, indexes, exports
    ("best.ckpt",),
    ("last.ckpt",),  # needs the curve and the best weights that it tells of
    ("scores.json",),  # says that a run is finished
    ("round.json", "results.json"),  # of the comparison that holds it
)  # the names that are sent after all others, in this order
WHOLE = {"model": "config.json", "best": "config.json"}  # folder -> what says that all of it is there
INDEX = "index.json"  # the same of an index, whatever its name
OPEN = (".db", ".db-journal", ".db-wal")  # of databases, which are whole when they are closed


class Overwritten(NearfarError):
    """Somebody else writes to the same URL, or has taken away what was to be sent."""


@dataclass(frozen=True)
class Pin:
    """A file as it was, whatever takes its place; `facts`: as `facts_of`."""

    path: Path
    facts: list[int]


def sent(store: Store, copy: Path, state: State, closing: bool) -> None:
    """Makes what is at the URL equal to the copy, as far as it is not. closing: nobody writes in it any more, so what
    is gone here is taken away there too (of what `state` knows), and databases are whole.

    `state` follows each object, so that a sending that fails, or is killed, is gone on with. Raises Overwritten where
    somebody else has written there since, InputError for whatever the store says.
    """
    there = store.listed()
    if other := state.changed_there(there):
        raise Overwritten(
            f"'{store.url}' is written to by somebody else ('{other[0]}' is not what was sent from here)."
        )
    state.files = {name: facts for name, facts in state.files.items() if name in there or name == state.sending}
    held = held_in(copy)
    gone = [name for name in state.files if name not in held] if closing else []
    changed = [name for name in unlike(copy, state, held) if closing or not name.endswith(OPEN)]
    with pinned(copy, sorted(changed, key=place_of, reverse=True)) as pins:
        for guard in guards_of([*pins, *gone], there):
            store.remove(guard)
            state.files.pop(guard, None)
            if guard in held and guard not in pins:
                pins[guard] = Pin(held[guard], facts_of(held[guard]))
        for name in sorted(pins, key=place_of):
            state.sending = name
            state.write(copy)
            store.put(pins[name].path, name)
            state.files[name] = next(iter(store.listed(name).values()), [])
            state.here[name] = pins[name].facts
    for name in gone:
        store.remove(name)
        state.files.pop(name, None)
        state.here.pop(name, None)
    state.sending = None
    state.write(copy)


def place_of(name: str) -> tuple[int, str]:
    """Where a name stands in the order of sending."""
    last = name.rpartition("/")[2]
    return next((k for k, names in enumerate(LAST, 1) if last in names), 0), name


def guards_of(names: Iterable[str], there: Iterable[str]) -> list[str]:
    """Of what is there: what says that a folder is whole, of which some of the names are."""
    names, found = list(names), []
    for one in there:
        folder = PurePosixPath(one).parent
        if one.rpartition("/")[2] in (INDEX, WHOLE.get(folder.name)):
            inside = "" if str(folder) == "." else f"{folder}/"
            if any(name != one and name.startswith(inside) for name in names):
                found.append(one)
    return found


def held_in(copy: Path) -> dict[str, Path]:
    """The files of a copy by their names below it; what is on its way into it is none of them."""
    if copy.is_file():
        return {"": copy}
    found = {path.relative_to(copy).as_posix(): path for path in copy.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items()
            if not any(files.is_temporary(part) or part == files.LOCK for part in name.split("/"))}  # fmt: skip


def unlike(copy: Path, state: State, held: dict[str, Path] | None = None) -> list[str]:
    """The files here that are not what is at the URL."""
    found = []
    for name, path in (held_in(copy) if held is None else held).items():
        with suppress(FileNotFoundError):
            if name == state.sending or not state.equal_here(name, path):
                found.append(name)
    return found


@contextmanager
def pinned(copy: Path, names: list[str]) -> Iterator[dict[str, Pin]]:
    """The files of these names as they stand at one moment, while others may replace them. What is there before what it
    needs comes first. Nothing where they are replaced all the time."""
    with tempfile.TemporaryDirectory(prefix=".pins-", dir=copy.parent) as folder:
        for turn in range(SAME):
            found: dict[str, Pin] = {}
            with suppress(FileNotFoundError):
                for number, name in enumerate(names):
                    pin = Path(folder, f"{turn}-{number}")
                    linked(copy / name if name else copy, pin)
                    found[name] = Pin(pin, facts_of(pin))
                if all(_same(copy / name if name else copy, pin.path) for name, pin in found.items()):
                    break
        else:
            found = {}
        yield found


def _same(path: Path, pin: Path) -> bool:
    one, other = path.stat(), pin.stat()
    return one.st_ino == other.st_ino or [one.st_size, one.st_mtime_ns] == [other.st_size, other.st_mtime_ns]


# -- outputs ----------------------------------------------------------------------------------------------------------
@contextmanager
def appended(out: str | Path, append: bool) -> Iterator[tuple[Path, bool]]:
    """Gives the path to write an output to, and whether it is appended to: `out` as it is, or the copy of what is at a
    URL, which is sent there when the block ends well. A sending that failed is made up for by the next call.

    Raises InputError, before anything is computed, where the URL cannot be written, or holds something and append is
    false.
    """
    if not is_url(out):
        yield Path(out), append
        return
    url = str(out)
    store, copy = Store(url), copy_of(url)
    store.check_writable()
    unsent = copy.with_name(UNSENT)
    if unsent.exists() and copy.exists():
        append = True  # what was finished, and did not get there
    elif store.listed():
        if not append:
            raise exists(url, "Add new rows with --append, or choose another --out.")
        fetched(url)
    else:
        files.remove(copy)
        files.remove(copy.with_name(STATE))
    yield copy, append
    unsent.touch()
    sent(store, copy, State.read(copy) or State(store.url, store.listed()), closing=True)
    unsent.unlink()


@contextmanager
def written(
    out: str | Path, *, replace: bool = False, option: str = "--out", check: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Gives the path to write a file or a folder to that is made in one go: `out` as it is, or one that is sent to a
    URL when the block ends well. check: of the path.

    Raises InputError, before anything is computed, where (unless `replace`) something is there, where a URL cannot be
    written, or a folder lies there.
    """
    if not is_url(out):
        if check is not None:
            check(Path(out))
        if not replace and os.path.lexists(out):
            raise exists(str(out), f"Choose another {option}.")
        yield Path(out)
        return
    store = Store(str(out))
    store.check_writable()
    there = store.listed()
    if there and not (replace and list(there) == [""]):
        raise exists(str(out), f"Choose another {option}.")
    with tempfile.TemporaryDirectory(prefix="nearfar-") as folder:
        made = Path(folder, store.url.rpartition("/")[2])
        if check is not None:
            check(made)
        yield made
        state = State(store.url, there)
        patiently(lambda: sent(store, made, state, closing=True))


PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # seconds between tries of a store that does not answer


def patiently(send: Callable[[], None], pauses: Iterable[float] = PAUSES) -> None:
    """Sends, again after each pause. Raises what the last try raised; Overwritten at once."""
    for pause in pauses:
        try:
            send()
            return
        except InputError:
            time.sleep(pause)
    send()


def exists(url: str, mend: str) -> InputError:
    return InputError(f"'{url}' exists already.", mend)
