"""The fast sweep over keys that travel: the sums of each row grow from part to part, the gradients take a second round.

All ranks take this way or none: whether one shift of the exponents holds every sum is agreed upon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.exchange import Ring, any_rank, largest
from nearfar.similarity.fast import (
    BOUND,
    LOG2E,
    Conditions,
    Plan,
    gradients,
    groups,
    in_range,
    joined,
    slopes,
    sums,
)
from nearfar.similarity.operands import Operand
from nearfar.similarity.reductions import LogSumExp, Reduction
from nearfar.similarity.units import longest
from nearfar.similarity.vectors import Side, Vectors


@dataclass
class Journey:
    plan: Plan
    operand: Operand
    ring: Ring


class TravellingLogSumExp(torch.autograd.Function):
    """Answers in the order of the reductions. Inputs: query, this rank's keys, the weights of the groups (or None)."""

    @staticmethod
    def forward(ctx: Any, journey: Journey, rows: list[Tensor], *inputs: Tensor):
        ctx.journey = journey
        ctx.save_for_backward(*inputs, *rows)
        answers: list[Tensor | None] = [None] * len(journey.plan.asked)
        for total, group in zip(rows, journey.plan.groups, strict=True):
            for k in group.rows:
                answers[k] = total.log()
        return tuple(answers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        from nearfar.similarity.engines import full_precision, refuse_second_derivatives

        refuse_second_derivatives()
        journey: Journey = ctx.journey
        many = len(journey.plan.groups)
        query, keys, rows = ctx.saved_tensors[0], ctx.saved_tensors[1], ctx.saved_tensors[-many:]
        u = [slopes(joined(grads, g.rows), total, g.scale)
             for g, total in zip(journey.plan.groups, rows, strict=True)]
        need = ctx.needs_input_grad[2:]
        with full_precision(query.device):
            return None, None, *_around(journey, query.detach(), keys.detach(), u, (need[0], need[1]))


def _around(journey: Journey, query: Tensor, keys: Tensor, u: list[Tensor],
            need: tuple[bool, bool]) -> list[Tensor | None]:
    """Gradients of query, this rank's keys and the weights: those of the keys come home with them."""
    wanted = any_rank(need[1], journey.ring.group)
    trip, side = journey.operand.given([keys]).parts(gradients=wanted), Side(query)
    total: list[Tensor | None] = [None] * (1 + len(u))
    for part in trip:
        with trip.guard():
            none = [part.keys.new_zeros(len(part.keys))] * len(u)
            d_query, d_keys, *d_weights = gradients(journey.plan, side, Side(part.keys), u, none, (need[0], wanted),
                                                    part.first)
            if trip.carried is not None and d_keys is not None:
                trip.carried += d_keys
            for k, x in enumerate((d_query, *d_weights)):
                held = total[k]
                total[k] = x if held is None or x is None else held.add_(x)
    return [total[0], trip.carried if need[1] else None, *total[1:]]


def reduce(query: Vectors, operand: Operand, reductions: Sequence[Reduction], tile: tuple[int, int],
           choice: Any) -> list[Tensor] | None:
    """All reductions in one round, or None (on all ranks) where the general sweep is needed."""
    ring = operand.ring
    assert ring is not None
    found = groups(reductions)
    most = largest(torch.stack([longest(query.whole), longest(operand.keys)]), ring.group).prod().item()
    fits = found is not None and query.dim() == 2 and all(most * g.scale * LOG2E <= BOUND for g in found)
    if any_rank(not fits, ring.group) or found is None:
        return None
    plan = Plan(found, tile, False, choice, [r for r in reductions if isinstance(r, LogSumExp)])
    plan.shifts = [0.0] * len(found)
    rows, side = [query.new_zeros(len(query)) for _ in found], Side(query.whole.detach())
    with torch.no_grad():
        plan.conditions = [Conditions(g.terms, query.dtype, LOG2E) for g in found]
        trip = operand.given([operand.keys.detach()]).parts()
        for part in trip:
            with trip.guard():
                for total, x in zip(rows, sums(plan, side, Side(part.keys), part.first)[0], strict=True):
                    total += x
        if any_rank(not in_range(plan, rows, rows), ring.group):
            return None
    answers = TravellingLogSumExp.apply(Journey(plan, operand, ring), rows, query.whole, operand.keys,
                                        *(g.weight for g in found))
    assert isinstance(answers, tuple)
    return list(answers)
