"""How weights are updated: the optimiser as its paper has it, the schedule of the learning rate, clipping."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import torch
from torch import nn

from nearfar.errors import InputError, did_you_mean
from nearfar.processes import sharded, whole

_PLAIN = {"nesterov": False}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "Lamb": {"max_grad_norm": None, "always_adapt": True},
    "SGD": _PLAIN,
    "SGDW": _PLAIN,
    "SGDP": _PLAIN,
    "Lars": _PLAIN,
    "AdamP": {"nesterov": False, "wd_ratio": 0.1},
    "Adopt": {"clip_exp": 0.25},
    "RMSprop": {"momentum": 0.0},
    "RMSpropTF": {"momentum": 0.0},
    "Muon": {"momentum": 0.95},
    "AdafactorBigVision": {"momentum_dtype": torch.float32},
}
"""timm's class -> what differs from its paper there by default and is set back here: LAMB clips the norm of all
gradients at 1 and gives biases no trust ratio; "sgd", "sgdw" and "sgdp" mean Nesterov's momentum (ask for "nesterov");
AdamP's projection decays by 0.01 instead of 0.1; ADOPT clips by t^0.333 instead of t^0.25."""

NOTES: Mapping[str, str] = {
    "Lamb": "gradients not clipped, a trust ratio for every parameter",
    "Adafactor": "updates clipped at a root mean square of 1, as published; the learning rate is as given",
    "Adopt": "updates clipped at t^0.25, as published",
    "Mars": "parameters of one dimension by AdamW, as published",
    "Muon": "parameters of one dimension by AdamW, as published",
    "AdafactorBigVision": "decay and momentum as in big_vision",
}
"""What an optimiser does besides its step, for the reader of the plan."""

SUFFIXES: Mapping[str, str] = {
    "caution": "cautious: parts of an update against the gradient are left out",
    "trust_clip": "trust ratio at most 1",
    "corrected_weight_decay": "decay scaled by lr over peak lr",
    "nesterov": "Nesterov's momentum",
}
"""What the letters of timm's names ("cadamw", "lambc", "adamc", "nlarc") add, for the reader of the plan."""


@cache
def known_optimisers() -> list[str]:
    from timm.optim import list_optimizers  # pyright: ignore[reportPrivateImportUsage]

    return [str(name) for name in list_optimizers()]


def check_optimiser(name: str, betas: Sequence[float] | None = None) -> None:
    """Raises InputError for an optimiser that is not there or that needs what a run does not give, and for betas that
    it does not take."""
    from timm.optim import get_optimizer_info  # pyright: ignore[reportPrivateImportUsage]

    known, wanted = known_optimisers(), name.lower()
    if wanted not in known:
        raise InputError(f"There is no optimiser '{name}'.{did_you_mean(wanted, known)}",
                         f"Known: {', '.join(known[:12])} ... (timm.optim.list_optimizers()).")  # fmt: skip
    info = get_optimizer_info(wanted)
    package = info.opt_class.partition(".")[0] if isinstance(info.opt_class, str) else ""
    if package and importlib.util.find_spec(package) is None:
        raise InputError(f"The optimiser '{name}' needs the package '{package}', which is not installed.",
                         "Install it, or use an optimiser of timm's own: adamw, sgd, lars, lamb.")  # fmt: skip
    if wanted == "adahessian":
        raise InputError("The optimiser 'adahessian' needs second derivatives, which a run does not compute.",
                         "Use another one: adamw, sgd, lars, lamb.")  # fmt: skip
    if betas is not None and not (info.has_betas and info.num_betas == len(betas)):
        takes = f"{info.num_betas} betas" if info.has_betas else "no betas"
        raise InputError(f"The optimiser '{name}' takes {takes}. Got --betas {','.join(map(str, betas))}.",
                         "Leave out --betas, or use an optimiser such as adamw.")  # fmt: skip


@dataclass(frozen=True)
class Optimisation:
    """How weights are updated; chosen by `fit`, not by the method.

    optimiser: a name that timm knows (adamw, sgd, lars, lamb, ...), taken as its paper has it (`PUBLISHED`); lr: peak
    learning rate; momentum: of optimisers that have one and name no other; warmup: steps of linear rise; schedule:
    "cosine", "linear" or "constant" from the peak to `final` times the peak; betas: of Adam and its kind, None: the
    optimiser's own; clip_norm: largest norm of all gradients together, None: not clipped; eps: under the root of Adam
    and its kind, None: the optimiser's own; decay_all: biases and norms decay as well; adapt_all: LARS gives them a
    trust ratio as well; layer_decay: from each block of the encoders to the one before, the learning rate falls by this
    share (`nearfar.encoders.depth.rates`).
    """

    optimiser: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    warmup: int = 0
    schedule: str = "cosine"
    final: float = 0.0
    betas: tuple[float, float] | None = None
    clip_norm: float | None = None
    eps: float | None = None
    decay_all: bool = False
    adapt_all: bool = False
    layer_decay: float = 1.0

    def factor(self, step: int, steps: int) -> float:
        """The learning rate at a step, as a share of the peak.

        Warm-up: (1 - rho) t / W for t < W, so that step 0 leaves the weights as they are; then the schedule from 1 to
        rho = `final`. Source: Izacard et al., Contriever, TMLR 2022 (official code)."""
        if step < self.warmup:
            return (1 - self.final) * step / self.warmup
        share = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        if self.schedule == "constant":
            return 1.0
        fall = (1 + math.cos(math.pi * share)) / 2 if self.schedule == "cosine" else 1 - share
        return self.final + (1 - self.final) * fall

    def settings(self) -> dict[str, Any]:
        """What the optimiser's constructor gets beside parameters, learning rate and decay."""
        from timm.optim import get_optimizer_info  # pyright: ignore[reportPrivateImportUsage]

        info = get_optimizer_info(self.optimiser.lower())
        found: dict[str, Any] = {"momentum": self.momentum}
        if not isinstance(info.opt_class, str):
            asked = info.defaults or {}
            set_back = dict(PUBLISHED.get(info.opt_class.__name__, {}))
            if self._names_nesterov():
                set_back.pop("nesterov", None)
            free = {"momentum", "nesterov", "wd_ratio"}  # of timm's names, not asked for by their letters
            found |= {k: v for k, v in set_back.items() if k in free or k not in asked}
        given = {"betas": self.betas and tuple(self.betas), "eps": self.eps, "always_adapt": self.adapt_all or None}
        return found | {k: v for k, v in given.items() if v is not None}

    def _names_nesterov(self) -> bool:
        return self.optimiser.lower() in ("nesterov", "nesterovw", "nlars", "nlarc")

    def make(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser over groups of parameters, each with its `lr` and `weight_decay` (see `groups`)."""
        from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]

        return create_optimizer_v2(
            list(groups), opt=self.optimiser, lr=self.lr, weight_decay=self.weight_decay, **self.settings()
        )

    def groups(self, parameters: Iterable[nn.Parameter], scaled: Mapping[nn.Parameter, float]) -> list[dict[str, Any]]:
        """Parameters by their learning rate and decay, those at the full rate first, sharded ones apart.

        scaled: parameter -> multiple of the learning rate.
        Raises InputError: nothing is trained.
        """
        found: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
        for p in parameters:
            if p.requires_grad:
                decay = self.weight_decay if p.dim() > 1 or self.decay_all else 0.0
                found.setdefault((scaled.get(p, 1.0), decay, sharded(p)), []).append(p)
        if not found:
            raise InputError("Nothing of this model is trained.", "Unfreeze the encoder or add a head.")
        ordered = sorted(found.items(), key=lambda one: one[0][0] != 1)
        return [{"params": ps, "lr": self.lr * scale, "weight_decay": d} for (scale, d, _), ps in ordered]

    def clip(self, parameters: Iterable[nn.Parameter]) -> None:
        """Scales all gradients together so that their norm is at most `clip_norm`."""
        if self.clip_norm is None:
            return
        parts: dict[bool, dict[nn.Parameter, torch.Tensor]] = {}
        for p in parameters:
            if p.grad is not None:
                parts.setdefault(sharded(p), {})[p] = p.grad
        norms = [whole(torch.nn.utils.get_total_norm(list(part.values()))) for part in parts.values()]
        for part in parts.values():
            torch.nn.utils.clip_grads_with_norm_(list(part), self.clip_norm, reduce(torch.hypot, norms))

    def describe(self) -> str:
        """The optimiser and what it does besides the step of its paper, for the plan."""
        from timm.optim import get_optimizer_info  # pyright: ignore[reportPrivateImportUsage]

        info = get_optimizer_info(self.optimiser.lower())
        remarks, held = [], {}
        if not isinstance(info.opt_class, str):
            signature = inspect.signature(info.opt_class).parameters
            held = {k: p.default for k, p in signature.items()} | (info.defaults or {}) | self.settings()
            remarks = [NOTES[info.opt_class.__name__]] if info.opt_class.__name__ in NOTES else []
            remarks += [text for key, text in SUFFIXES.items() if held.get(key) is True]
        else:
            remarks.append(f"with the defaults of {info.opt_class.partition('.')[0]}")
        if "trust_coeff" in held:
            whose = "every parameter" if held["always_adapt"] or self.decay_all else "parameters that decay"
            remarks.append(f"trust ratio {held['trust_coeff']:g} for {whose}")
        if self.betas is not None:
            remarks.append(f"betas {self.betas[0]:g} and {self.betas[1]:g}")
        if self.clip_norm is not None:
            remarks.append(f"gradients clipped at norm {self.clip_norm:g}")
        if self.layer_decay < 1:
            remarks.append(f"{self.layer_decay:g} of the learning rate from each block to the one before")
        if self.decay_all:
            remarks.append("biases and norms decay as well")
        return self.optimiser + (f" ({'; '.join(remarks)})" if remarks else "")
