"""Updates in turn: one step of training is several, each of some parameters by a loss of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from nearfar import processes
from nearfar.errors import InputError

if TYPE_CHECKING:
    from nearfar.methods.base import Method
    from nearfar.methods.batch import Batch


@dataclass(frozen=True, eq=False)
class Phase:
    """One of the updates of a step.

    name: for the learning curve. parameters: what it updates: parameters, or modules, whose trained ones are meant.
    loss: the batch -> `Loss`, computed with all that earlier phases of the step have changed. every: it takes part in
    the steps every - 1, 2 every - 1, ... optimiser, lr, weight_decay, betas, clip_norm: of this update alone; None: as
    the run's. shares: the name of an earlier phase of the same parameters, whose optimiser (state, rate and all) makes
    this update too: a second step of one Adam, not the first one of another. main: "loss" of the learning curve is this
    phase's, which takes part in every step; none: the first one's that does.
    """

    name: str
    parameters: Iterable[nn.Parameter | nn.Module]
    loss: Callable[[Any], Any]
    every: int = 1
    optimiser: str | None = None
    lr: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    clip_norm: float | None = None
    shares: str | None = None
    main: bool = False
    trained: Sequence[nn.Parameter] = field(init=False)

    def __post_init__(self):
        listed: dict[nn.Parameter, None] = {}
        for one in self.parameters:
            listed |= dict.fromkeys(one.parameters() if isinstance(one, nn.Module) else [one])
        object.__setattr__(self, "trained", [p for p in listed if p.requires_grad])
        if not self.trained:
            raise InputError(f"The phase '{self.name}' updates no trained parameter.")
        if self.every < 1:
            raise InputError(f"The phase '{self.name}' must take part every 1 or more steps. Got {self.every}.")
        if self.shares is not None and any(value is not None for value in self.own().values()):
            raise InputError(f"The phase '{self.name}' shares an optimiser, and cannot have settings of its own.")

    def own(self) -> dict[str, Any]:
        """Its settings of the optimisation, None where they are the run's."""
        return {name: getattr(self, name) for name in ("optimiser", "lr", "weight_decay", "betas", "clip_norm")}

    def due(self, step: int) -> bool:
        return (step + 1) % self.every == 0

    def optimisation(self, whole: Any) -> Any:
        """The optimisation of the run with what this phase changes."""
        return dataclasses.replace(whole, **{name: value for name, value in self.own().items() if value is not None})


def check_phases(phases: Sequence[Phase]) -> None:
    """Raises where two phases bear one name, a step could have none, or a phase shares what is not there."""
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise InputError(f"Two phases bear one name: {', '.join(names)}.")
    for place, phase in enumerate(phases):
        if phase.shares is None:
            continue
        first = next((one for one in phases[:place] if one.name == phase.shares and one.shares is None), None)
        if first is None or set(first.trained) != set(phase.trained):
            raise InputError(
                f"The phase '{phase.name}' shares the optimiser of '{phase.shares}', which is no earlier phase of the "
                "same parameters with an optimiser of its own."
            )
    if phases and all(phase.every > 1 for phase in phases):
        raise InputError("One phase at least must take part in every step (every=1).")
    if sum(phase.main for phase in phases) > 1 or any(phase.main and phase.every > 1 for phase in phases):
        raise InputError("One phase at most is the main one, and it takes part in every step.")


def owners(phases: Sequence[Phase]) -> list[Phase]:
    """The phases with an optimiser of their own, one each."""
    return [phase for phase in phases if phase.shares is None]


def run_phases(method: Method, phases: Sequence[Phase], batch: Batch) -> dict[str, float]:
    """The due phases of a step, one after the other; returns the terms of their losses.

    "loss" is that of the main phase, or the first that takes part in every step. In each, the gradient flows through
    all parameters and is kept for the phase's own alone, so that the others stay as they are to the bit. Lightning
    counts one step.
    Gradients are averaged over the processes here, not by DDP.
    """
    optimisers, terms = method.optimizers(), {}
    listed = optimisers if isinstance(optimisers, list) else [optimisers]
    owning = {phase.name: (phase, one) for phase, one in zip(owners(phases), listed, strict=True)}
    due = [phase for phase in phases if phase.due(batch.step)]
    for place, phase in enumerate(due):
        owner, optimiser = owning[phase.shares or phase.name]
        loss = phase.loss(batch)
        method.check_finite(loss, batch.step)
        method.zero_grad(set_to_none=True)
        method.manual_backward(loss.total, inputs=list(phase.trained))
        processes.average_gradients(phase.trained)
        method.updating = owner.optimisation(method.optimisation)
        if place + 1 < len(due):
            method.trainer.strategy.optimizer_step(optimiser.optimizer, _nothing, model=method)
        else:
            optimiser.step()
        method.zero_grad(set_to_none=True)
        terms |= {name: float(x) for name, x in loss.terms.items()} | {phase.name: float(loss.total.detach())}
    for schedule in _schedules(method):
        schedule.step()
    always = sorted((phase for phase in phases if phase.every == 1), key=lambda phase: not phase.main)
    return terms | {"loss": terms[always[0].name]}


def _schedules(method: Method) -> list[Any]:
    found = method.lr_schedulers()
    return found if isinstance(found, list) else [found]


def _nothing() -> None:
    """The closure of a step whose gradients are there already."""


__all__ = ["Phase", "check_phases", "owners", "run_phases"]
