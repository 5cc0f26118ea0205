"""Which engine is in force, how large its tiles are, and what it did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nearfar.errors import InputError, did_you_mean
from nearfar.similarity.answer.steps import Plan

ENGINES = ("auto", "dense", "streaming")


@dataclass
class Engine:
    """The engine in force, and inside a `with` block what it did: the `plans` of what was asked, the names of the steps
    that `ran`, in order, and how many tiles were `visited`, gradients included."""

    name: str = "auto"
    tile: tuple[int, int] | None = None
    visited: int = 0
    plans: list[Plan] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    noted: bool = False

    def note(self, what: Plan | str) -> None:
        """Notes a plan or a step for whoever opened a `with` block."""
        if isinstance(what, str) and self.noted:
            self.ran.append(what)
        elif isinstance(what, Plan) and self.noted:
            self.plans.append(what)


_current = Engine()


def current() -> Engine:
    return _current


@contextmanager
def engine(name: str = "auto", tile: int | tuple[int, int] | None = None) -> Iterator[Engine]:
    """Forces an engine inside a `with` block. `tile`: rows and columns of a tile (one number for both).

    "dense" builds the matrix; "streaming" visits it tile by tile and computes each tile again for the gradient. Both
    give the same values and gradients; "auto" takes closed forms and log-sum-exp sweeps wherever they can answer, and
    the faster of building and sweeping for what is left. `Similarity.explain` says which, and what the block gives
    tells it of whole losses:

        with engine() as e:
            losses.clip(images, texts)
        print(*e.plans, sep="\\n")
    """
    global _current
    if name not in ENGINES:
        raise InputError(
            f"Unknown similarity engine '{name}'.{did_you_mean(name, ENGINES)}", f"Choose one of {', '.join(ENGINES)}."
        )
    before = _current
    _current = Engine(name, (tile, tile) if isinstance(tile, int) else tile, noted=True)
    try:
        yield _current
    finally:
        _current = before
