"""The log-sum-exp sweep over keys that travel: sums of the rows grow from part to part, gradients take a second round.

All ranks take this way or none: whether one shift of the exponents holds every sum is agreed upon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.answer.columns import Operand
from nearfar.similarity.answer.engine import Engine
from nearfar.similarity.answer.logsumexp import Sweep, gradients, in_range, joined, slopes, sums
from nearfar.similarity.answer.masks import Conditions
from nearfar.similarity.answer.normalise import longest
from nearfar.similarity.answer.numerics import BOUND, LOG2E, full_precision, refuse_second_derivatives
from nearfar.similarity.answer.steps import Step
from nearfar.similarity.answer.vectors import Side, Vectors
from nearfar.similarity.exchange import Ring, any_rank, largest


@dataclass
class RingPlan:
    sweep: Sweep
    operand: Operand
    ring: Ring


class RingLogSumExp(torch.autograd.Function):
    """Answers in the order of the reductions. Inputs: query, this rank's keys, the weights of the groups (or None)."""

    @staticmethod
    def forward(ctx: Any, plan: RingPlan, rows: list[Tensor], *inputs: Tensor):
        ctx.plan = plan
        ctx.save_for_backward(*inputs, *rows)
        answers: list[Tensor | None] = [None] * len(plan.sweep.asked)
        for total, group in zip(rows, plan.sweep.groups, strict=True):
            for k in group.rows:
                answers[k] = total.log()
        return tuple(answers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        refuse_second_derivatives()
        plan: RingPlan = ctx.plan
        many = len(plan.sweep.groups)
        query, keys, rows = ctx.saved_tensors[0], ctx.saved_tensors[1], ctx.saved_tensors[-many:]
        u = [slopes(joined(grads, g.rows), total, g.scale) for g, total in zip(plan.sweep.groups, rows, strict=True)]
        need = ctx.needs_input_grad[2:]
        with full_precision(query.device):
            return None, None, *_around(plan, query.detach(), keys.detach(), u, (need[0], need[1]))


def _around(
    plan: RingPlan, query: Tensor, keys: Tensor, u: list[Tensor], need: tuple[bool, bool]
) -> list[Tensor | None]:
    """Gradients of query, this rank's keys and the weights: those of the keys come home with them."""
    wanted = any_rank(need[1], plan.ring.group)
    parts, side = plan.operand.given([keys]).parts(gradients=wanted), Side(query)
    total: list[Tensor | None] = [None] * (1 + len(u))
    for part in parts:
        with parts.guard():
            none = [part.keys.new_zeros(len(part.keys))] * len(u)
            d_query, d_keys, *d_weights = gradients(
                plan.sweep, side, Side(part.keys), u, none, (need[0], wanted), part.first
            )
            if parts.carried is not None and d_keys is not None:
                parts.carried += d_keys
            for k, x in enumerate((d_query, *d_weights)):
                held = total[k]
                total[k] = x if held is None or x is None else held.add_(x)
    return [total[0], parts.carried if need[1] else None, *total[1:]]


def reduce(step: Step, query: Vectors, operand: Operand, engine: Engine) -> list[Tensor] | None:
    """All log-sum-exps in one round, or None (on all ranks) where the general sweep is needed."""
    ring, found, weights = operand.ring, step.groups, [g.weight for g in step.groups]
    assert ring is not None
    most = largest(torch.stack([longest(query.whole), longest(operand.keys)]), ring.group).prod().item()
    fits = bool(found) and all(most * g.scale * LOG2E <= BOUND for g in found)
    if any_rank(not fits, ring.group) or not found:
        return None
    job = Sweep(step, engine)
    job.shifts = [0.0] * len(found)
    rows, side = [query.new_zeros(len(query)) for _ in found], Side(query.whole.detach())
    with torch.no_grad():
        job.conditions = [Conditions(g.terms, query.dtype, LOG2E) for g in found]
        parts = operand.given([operand.keys.detach()]).parts()
        for part in parts:
            with parts.guard():
                for total, x in zip(rows, sums(job, side, Side(part.keys), part.first)[0], strict=True):
                    total += x
        if any_rank(not in_range(job, rows, rows), ring.group):
            return None
    answers = RingLogSumExp.apply(RingPlan(job, operand, ring), rows, query.whole, operand.keys, *weights)
    assert isinstance(answers, tuple)
    return list(answers)
