"""An EMA teacher: a copy of a module that follows it slowly and never receives a gradient."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from nearfar.errors import InputError


def momentum_at(step: int, steps: int, start: float, end: float = 1.0, schedule: str = "constant") -> float:
    """The momentum at an optimiser step: constant, or by cosine from `start` to `end` over `steps`.

    m_k = end - (end - start) (cos(pi k / K) + 1) / 2, k clamped to K (BYOL, Grill et al., NeurIPS 2020).
    """
    if schedule == "constant":
        return start
    k = min(step, steps) / max(steps, 1)
    return end - (end - start) * (math.cos(math.pi * k) + 1) / 2


class Teacher(nn.Module):
    """xi <- m xi + (1 - m) theta over the parameters; buffers (batch norm) stay each one's own. In train mode, as in
    MoCo: its batch norm and dropout act like the student's.

    Raises InputError: a momentum outside [0, 1].
    """

    def __init__(self, student: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(student)
        for p in self.module.parameters():
            p.requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        if not 0 <= momentum <= 1:
            raise InputError(f"The momentum of a teacher must be in [0, 1]. Got {momentum}.")
        for mine, theirs in zip(self.module.parameters(), student.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1 - momentum)

    def forward(self, *args, **kwargs):
        with torch.no_grad():
            return self.module(*args, **kwargs)


class Average(Teacher):
    """The mean of a module's weights over the updates so far, its first weights included: stochastic weight averaging
    (Izmailov et al., UAI 2018) over every step."""

    count: torch.Tensor

    def __init__(self, student: nn.Module):
        super().__init__(student)
        self.register_buffer("count", torch.ones((), dtype=torch.int64))

    def update(self, student: nn.Module) -> None:
        """Takes in the weights as they are now."""
        count = int(self.count)
        self.follow(student, count / (count + 1))
        self.count += 1
