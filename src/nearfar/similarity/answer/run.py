"""Takes the steps of a plan, and joins the answers of the blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nearfar.similarity.answer import batched, closed_form, cross_entropy, logsumexp, ring, steps, sweep
from nearfar.similarity.answer.columns import Columns, Operand
from nearfar.similarity.answer.engine import Engine
from nearfar.similarity.answer.numerics import full_precision, log_sum_exp, quotient, safe_log
from nearfar.similarity.answer.steps import Body, Part, Step
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.reductions import LogSumExp, Mean, Reduction
from nearfar.similarity.relations import Listed

Found = list[Tensor] | None


def reduce(body: Body, query: Vectors, operands: Sequence[Columns], engine: Engine) -> list[Tensor]:
    """The answers of all reductions, in the graph of the query whether or not they depend on it."""
    with full_precision(query.device):
        found = _answers(body, query, operands, engine)
    return [x if x.requires_grad else x + query.x.reshape(-1)[:0].sum().to(x.dtype) for x in found]


def at_once(
    step: Step, query: Vectors, operands: Sequence[Columns], counts: Tensor, positive: Listed | None, engine: Engine
) -> Tensor:
    """A cross-entropy in one pass; see `cross_entropy.reduce`."""
    engine.note(step.name)
    keys = [o.vectors for o in operands if isinstance(o, Operand)]
    return cross_entropy.reduce(step, query, keys, counts, positive, engine)


def _answers(body: Body, query: Vectors, operands: Sequence[Columns], engine: Engine) -> list[Tensor]:
    answers: dict[Part, Tensor] = {}
    for step in body.steps:
        _take(step, query, operands, engine, answers)
    return [
        _joined(r, [answers[p] for p in parts], len(operands))
        for r, parts in zip(body.reductions, body.parts, strict=True)
    ]


def _take(step: Step, query: Vectors, operands: Sequence[Columns], engine: Engine, answers: dict[Part, Tensor]) -> None:
    engine.note(step.name)
    held = operands if step.block is None else [operands[step.block]]
    found = ALGORITHMS[step.name](step, query, held, engine)
    if found is None:
        for other in step.otherwise:
            _take(other, query, operands, engine, answers)
        return
    for p, x in zip(step.parts, found, strict=True):
        row = None if p.lift is None else p.lift.row
        answers[p] = x if row is None else x + safe_log(row)


def _joined(r: Reduction, parts: Sequence[Tensor], blocks: int) -> Tensor:
    """The answer over all blocks from those of each; of a mean the sums of the blocks come before the counts."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(r, LogSumExp):
        return log_sum_exp(parts)
    total = torch.stack(list(parts[:blocks])).sum(0)
    return quotient(total, torch.stack(list(parts[blocks:])).sum(0)) if isinstance(r, Mean) else total


def _dense(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    return sweep.dense(query.whole, held, [p.reduction for p in step.parts], engine)


def _streamed(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    return sweep.streamed(query, held, [p.reduction for p in step.parts], step.tile, engine)


def _keys(query: Vectors, block: Columns) -> Vectors:
    """Those of a closed form; counting needs none, whatever the similarity is."""
    return block.vectors if isinstance(block, Operand) else Vectors(query.new_zeros(block.width, 0))


def _nothing(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    return [closed_form.nothing(query, p.reduction) for p in step.parts]


def _listed(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    return [closed_form.listed(query, _keys(query, held[0]), p.reduction, p.terms) for p in step.parts]


def _sums(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    return [closed_form.summed(query, _keys(query, held[0]), p.reduction, p.terms) for p in step.parts]


def _weighted(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    return [
        closed_form.weighted(query, _keys(query, held[0]), p.reduction, p.terms, p.weight)
        for p in step.parts
        if p.weight is not None
    ]


def _log_sum_exp(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    return logsumexp.reduce(step, query, _operand(held).vectors, engine)


def _ring(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    return ring.reduce(step, query, _operand(held), engine)


def _batched(step: Step, query: Vectors, held: Sequence[Columns], engine: Engine) -> Found:
    inner = step.inner
    assert inner is not None
    return batched.reduce(query, held, inner.reductions, lambda q, o: _answers(inner, q, o, engine))


def _operand(held: Sequence[Columns]) -> Operand:
    (operand,) = held
    assert isinstance(operand, Operand)
    return operand


ALGORITHMS: dict[str, Callable[[Step, Vectors, Sequence[Columns], Engine], Found]] = {
    steps.NOTHING: _nothing,
    steps.LISTED: _listed,
    steps.SUMS: _sums,
    steps.WEIGHTED: _weighted,
    steps.LOG_SUM_EXP: _log_sum_exp,
    steps.DENSE: _dense,
    steps.SWEEP: _streamed,
    steps.RING: _ring,
    steps.RING_SWEEP: _streamed,
    steps.BATCHED: _batched,
}
