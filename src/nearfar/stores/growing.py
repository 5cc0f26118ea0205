"""Folders that grow for hours, at a URL: made in the cache, and sent as they grow, so that another machine reads them
meanwhile, and goes on with them when this one is gone.

with mirrored("s3://shelf/runs/one", again="...") as folder:    # a folder of this machine; of a path, the path itself
    ...                                                         # what is written in it arrives a little later
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nearfar import files
from nearfar.errors import InputError, NearfarError
from nearfar.progress import Say, silent
from nearfar.stores.access import Listed, Store, first_line, is_url
from nearfar.stores.copies import STATE, State, brought, copy_of, facts_of
from nearfar.stores.sending import PAUSES, Overwritten, held_in, patiently, sent, unlike

LOOK = 1.0  # seconds between two looks at the folder
EVERY = 60.0  # seconds after which what only grows (curves, logs) is sent
GROWING = ("curve.jsonl", "logs/")


@contextmanager
def mirrored(
    out: str | Path,
    *,
    again: str,
    goes_on: bool = True,
    alone: bool = True,
    check: Callable[[set[str]], None] | None = None,
    say: Say = silent,
) -> Iterator[Path]:
    """Gives the folder of this machine that stands for `out`: of a path, the path; of a URL, one in the cache that
    holds what is there, and whose changes are sent there while the block runs and when it ends.

    Args:
        again: how to send what did not arrive, in words, for messages.
        goes_on: whether what is there is gone on with; else what an earlier call has left here is forgotten.
        alone: whether what an earlier call could not send may be taken for what is there. Where several machines read
            the URL (`alone` false) all of them take what is there.
        check: is told the names at the URL; raises where they are not to be written to.
        say: is told, once, that the store does not answer, and that it does again.

    A store that is away for a while delays nothing: it is tried again with growing pauses. Raises InputError, before
    the block, where the URL cannot be written; Busy where another process of this machine writes to it; NearfarError
    after the block where the store still did not take everything, or somebody else has written there.
    """
    if not is_url(out):
        yield Path(out)
        return
    store, copy = Store(str(out)), copy_of(str(out), "written ")
    copy.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(copy.with_name(files.LOCK), f"'{out}'"):
        there, before = store.listed(), State.read(copy)
        ahead = before is not None and goes_on and alone and is_ahead(copy, before, there)
        if check is not None:
            check({*there, *(held_in(copy) if ahead else ())})
        store.check_writable()
        if before is not None and ahead:
            state = with_added(store, copy, before, there)
        elif there and goes_on:
            state = brought(store, copy, there, before)
        else:
            state = anew(store, copy, there)
        with Sender(store, copy, state, again, say):
            yield copy


def is_ahead(copy: Path, state: State, there: Listed) -> bool:
    """Whether more was made here than was sent, and nobody else has gone on since, or has taken all of it away."""
    untouched = not state.changed_there(there) and bool(there or not state.files)
    return untouched and copy.is_dir() and bool(unlike(copy, state))


def with_added(store: Store, copy: Path, state: State, there: Listed) -> State:
    """The state of a copy that is ahead, with what others have added at the URL."""
    for name in there.keys() - state.files.keys() - {state.sending}:
        if not (copy / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            store.get(name, copy / name)
            state.files[name], state.here[name] = there[name], facts_of(copy / name)
    return state


def anew(store: Store, copy: Path, there: Listed) -> State:
    """The state of a folder that begins; what an earlier one has left goes when it ends."""
    files.remove(copy)
    state = State(store.url, there)
    state.write(copy)
    return state


class Sender:
    """A thread that looks for what has changed and sends it."""

    def __init__(self, store: Store, copy: Path, state: State, again: str, say: Say):
        self.store, self.copy, self.state, self.again, self.say = store, copy, state, again, say
        self.ended, self.failures, self.last = threading.Event(), 0, time.monotonic()
        self.lost: Overwritten | None = None
        self.thread = threading.Thread(target=self.follow, daemon=True, name="nearfar-sender")

    def __enter__(self) -> Sender:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.ended.set()
        self.thread.join()
        if kind is None:
            self.finish(PAUSES)
            return
        try:
            self.finish(PAUSES[:1])
        except NearfarError as failed:  # what ended the block is told, not this
            self.say(str(failed))

    def follow(self) -> None:
        pause = LOOK
        while self.lost is None and not self.ended.wait(pause):
            pause = LOOK if self.send_if_due() else PAUSES[min(self.failures, len(PAUSES)) - 1]

    def send_if_due(self) -> bool:
        """Whether all that is due has arrived."""
        try:
            if not self.due():
                return True
            self.send(closing=False)
        except Overwritten as error:
            self.lost = error
            self.say(f"warning: {error.message} Nothing more is sent.")
            return False
        except Exception as error:  # whatever it is, training goes on
            self.failures += 1
            if self.failures == 1:
                said = error.message if isinstance(error, NearfarError) else first_line(error)
                self.say(f"warning: {said} The work goes on; what is missing is sent when the store answers.")
            return False
        if self.failures:
            self.say(f"'{self.store.url}' is written again.")
        self.failures, self.last = 0, time.monotonic()
        return True

    def due(self) -> bool:
        """Whether there is something to send: at once what was replaced, after a minute what grows."""
        names = unlike(self.copy, self.state) if self.copy.is_dir() else []
        waiting = [name for name in names if name.endswith(GROWING[0]) or GROWING[1] in name]
        return len(waiting) < len(names) or bool(names and time.monotonic() - self.last > EVERY)

    def send(self, closing: bool) -> None:
        if not self.copy.with_name(STATE).exists():
            raise Overwritten(f"What was to be sent to '{self.store.url}' was taken out of the cache.")
        os.utime(self.copy.parent)  # what was not used for longest leaves the cache first
        sent(self.store, self.copy, self.state, closing)

    def finish(self, pauses: tuple[float, ...]) -> None:
        """Sends all that is left. Raises NearfarError, which says how to send it later, where the store does not take
        it."""
        try:
            if self.lost is not None:
                raise self.lost
            patiently(lambda: self.send(closing=True), pauses)
        except Overwritten as error:
            raise NearfarError(error.message, f"What was made here lies in {self.copy}.") from error
        except InputError as error:
            raise NearfarError(
                f"Not everything was sent to '{self.store.url}': {error.message}",
                f"It is kept in {self.copy}: {self.again} on this machine sends it.",
            ) from error
