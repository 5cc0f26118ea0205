"""`Similarity`: the matrix S_ij = sim(query_i, key_j) / temperature, asked for reductions and never built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import overload

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.checks import PositiveFloat, check
from nearfar.errors import InputError, did_you_mean
from nearfar.similarity.answer import run, topk
from nearfar.similarity.answer.columns import Columns, Operand, columns_of, refuse
from nearfar.similarity.answer.engine import current
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.answer.plan import plan
from nearfar.similarity.answer.steps import Ask, Plan, Shape
from nearfar.similarity.answer.sweep import tiles
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.exchange import all_sum, any_rank, largest, total
from nearfar.similarity.reductions import Count, CrossEntropy, Reduction, Sum
from nearfar.similarity.relations import Listed, PerBlock, Relation, Same, Sparse, Tile, check_ids, everyone, nobody
from nearfar.similarity.source import Block, Source, kind

SIMILARITIES = ("cosine", "dot", "euclidean")


class Similarity:
    """S_ij = sim(query_i, key_j) / temperature over one or more blocks of candidates.

    Args:
        query: anchors (..., N, D). A `Source` stands alone: a similarity (N, M) of one's own in place of query, keys
            and `similarity`. None: all blocks are sources. `Vectors` that are their own keys: length and temperature
            are folded in.
        blocks: keys (..., M, D), a `Source`, a `Block` of either, or several.
        positive: the declared positives (a relation; `listed(columns)` for one a row). Default: none.
        itself: pairs that are the same object (empty between two towers). Default: none.
        temperature: number or tensor, scalar, (N, 1) or (1, M) of the first block; divides. Never clamped here.
        similarity: "cosine", "dot", or "euclidean" (minus the squared distance).
        ids, labels: integers of the anchors, (N,), compared with those of the blocks by `same("ids")`.
        group: process group whose ranks share the mean; None is this process alone.

    Half precision is accumulated in float32; float64 stays float64. A zero vector has cosine 0 with everything.

    Raises:
        InputError: shapes that do not fit, an unknown similarity, a temperature that is not positive; a source among
            keys that travel or with leading dimensions, or one that reads tensors with gradient without saying so.
    """

    def __init__(
        self,
        query: Tensor | Source | Vectors | None,
        blocks: Tensor | Source | Vectors | Block | Sequence[Block] = (),
        *,
        positive: Relation | None = None,
        itself: Relation | None = None,
        temperature: float | Tensor = 1.0,
        similarity: str = "cosine",
        ids: Tensor | None = None,
        labels: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
    ):
        if isinstance(query, Source):
            query, blocks = None, _alone(query, blocks)
        if isinstance(blocks, (Tensor, Source, Vectors)):
            blocks = [Block(blocks)]
        self.blocks = [blocks] if isinstance(blocks, Block) else list(blocks)
        _check_sources(query, self.blocks)
        query = _no_vectors(self.blocks) if query is None else query
        _check(query, self.blocks, temperature, similarity)
        self.temperature, self.similarity, self.group = temperature, similarity, group
        self.ids, self.labels = ids, labels
        self.positive = positive if positive is not None else nobody
        self.itself = itself if itself is not None else nobody
        self.visible: Relation = PerBlock([b.visible for b in self.blocks])
        if all(b.visible is everyone for b in self.blocks):
            self.visible = everyone
        self.negative = self.visible & ~self.positive & ~self.itself
        self._query, self._operands = columns_of(query, self.blocks, temperature, similarity)
        self._twin: Similarity | None = None
        self._paired: Tensor | None = None
        self._known: dict[tuple[float, bool], Tensor] = {}

    @property
    def query(self) -> Tensor:
        """The anchors with length and temperature folded in, (..., N, D), at least float32."""
        return self._query.whole

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., N, total number of candidates a row)."""
        return (*self._query.shape[:-1], sum(o.width for o in self._operands))

    def same(self, what: str) -> Relation:
        """Pairs with equal "ids" or "labels"; blocks that carry none are related to nobody."""
        rows = {"ids": self.ids, "labels": self.labels}.get(what)
        if rows is None:
            raise InputError(f"These anchors carry no '{what}'.", "Pass ids= or labels= to the similarity.")
        columns = [getattr(b, what) for b in self.blocks]
        check_ids(rows, *columns)
        return Same(rows, columns)

    @overload
    def reduce(self, reduction: Reduction, /) -> Tensor: ...
    @overload
    def reduce(self, reduction: Reduction, another: Reduction, /, *more: Reduction) -> list[Tensor]: ...
    def reduce(self, *reductions):
        """Answers all reductions in one sweep over the tiles: (..., N) for dim=1, (..., M) for dim=0."""
        if not reductions:
            raise InputError("reduce() needs at least one reduction.")
        chosen = self._plan(reductions)
        current().note(chosen)
        answers = self._at_once(chosen)
        rest = iter(self._swept(chosen) if len(answers) < len(reductions) else ())
        found = [answers[k] if k in answers else next(rest) for k in range(len(reductions))]
        return found[0] if len(found) == 1 else found

    def explain(self, *reductions: Reduction) -> Plan:
        """How `reduce` answers these reductions together: a table of steps with their cost, and as a value its `steps`,
        their `names` and `cost`. Nothing is computed.

        A step's `passes` are how often it goes over the matrix; `products` the floating-point operations of its matrix
        products, gradients included where they are wanted; `memory` bytes beyond inputs and their gradients, about.
        """
        return self._plan(reductions)

    def _plan(self, reductions: Sequence[Reduction]) -> Plan:
        for r in reductions:
            if isinstance(r, CrossEntropy) and r.of is None:
                self._one_positive()
            if r.dim == 0:
                _check_columns(self._operands[r.block])
        twin = self._twin
        return plan(
            Ask(
                Shape.of(self._query, self._operands),
                reductions,
                self.positive,
                self.negative,
                twin is not None,
                frozenset(self._known),
                twin is not None and twin._paired is not None,
            ),
            current(),
        )

    def _at_once(self, chosen: Plan) -> dict[int, Tensor]:
        """The cross-entropies that a pass of their own answers."""
        answers = {}
        for k, step in chosen.passes.items():
            asked = chosen.reductions[k]
            positive = self._one_positive() if isinstance(asked, CrossEntropy) and asked.of is None else None
            shape, device = self._query.shape[:-1], self._query.device
            counts = torch.ones(shape, dtype=torch.bool, device=device)
            if isinstance(self.positive, Listed):
                counts = self.has_positive()
            answers[k] = run.at_once(step, self._query, self._operands, counts, positive, current())
        return answers

    def _swept(self, chosen: Plan) -> list[Tensor]:
        """The answers to the other reductions, in their order."""
        asked = [r for k, r in enumerate(chosen.reductions) if k not in chosen.passes]
        paired = None
        if chosen.positives is not None:
            paired = self._twin._paired if chosen.positives == "twin" and self._twin is not None else None
            paired = self.paired() if chosen.positives == "pairs" else paired
        if chosen.recalled is not None:
            found = [self._known[key] for key in chosen.recalled]
        else:
            assert chosen.body is not None
            found = run.reduce(chosen.body, self._query, self._operands, current())
        many = len(asked) + (chosen.positives == "sum")
        if chosen.positives == "sum":
            self._paired = paired = found[len(asked)]
        if chosen.given is not None and self._twin is not None:
            self._twin._known = dict(zip(chosen.given, found[many:], strict=True))
        return [
            r.from_negatives(x, paired) if isinstance(r, CrossEntropy) else x
            for r, x in zip(asked, found[: len(asked)], strict=True)
        ]

    def share(self, twin: Similarity | None) -> None:
        """Shares sweeps with `twin`, whose matrix and relations are the transposes of these; None stops it."""
        self._twin, self._known, self._paired = twin, {}, None

    def at(self, columns: Tensor, block: int = 0) -> Tensor:
        """S of row i and column `columns[i]` (or each of `columns[i, :]`), in O(pairs D). LongTensor (N,) or (N, P).

        Where keys travel, the columns must be this rank's own. A source answers for the tiles that hold such pairs.
        """
        operand = self._operands[block]
        if not isinstance(operand, Operand):
            each = [columns] if columns.dim() == 1 else columns.unbind(1)
            found = self._swept(self._plan([Sum(where=Listed(c, block)) for c in each]))
            return found[0] if columns.dim() == 1 else torch.stack(found, 1)
        columns = _local(columns, operand)
        if self.query.dim() == 2 and columns.dim() == 1 and operand.keys.dim() == 2:
            return (self.query * operand.keys.index_select(0, columns)).sum(-1)
        flat = columns if columns.dim() > 1 else columns[:, None]
        if operand.per_anchor:
            keys = operand.keys.gather(-2, flat[..., None].expand(*flat.shape, operand.keys.shape[-1]))
        else:
            keys = operand.keys[..., flat, :]
        s = (keys * self.query.unsqueeze(-2)).sum(-1)
        return s if columns.dim() > 1 else s.squeeze(-1)

    def paired(self) -> Tensor:
        """S of each row's declared positive, (..., N). A row whose positive is -1 gets 0 and leaves `mean`."""
        positive = self._one_positive()
        operand = self._operands[positive.block]
        if not isinstance(operand, Operand):
            return self.at(positive.columns, positive.block)
        keys, ring = operand.keys, operand.ring
        if keys.shape == self.query.shape and positive.start == (0 if ring is None else ring.first(ring.rank)):
            known = None if self._twin is None else self._twin._paired  # a matrix and its transpose share it
            self._paired = (self.query * keys).sum(-1) if known is None else known
            return self._paired
        if positive.start is not None:
            return self.at(positive.columns, positive.block)
        held = positive.columns >= 0
        some = positive.columns.clamp(min=0 if ring is None else ring.first(ring.rank))
        return torch.where(held, self.at(some, positive.block), 0) if keys.shape[-2] else self.query[..., 0] * 0

    def _one_positive(self) -> Listed:
        if not isinstance(self.positive, Listed) or self.positive.columns.dim() != 1:
            raise InputError(
                "paired() needs exactly one declared positive a row.",
                "Declare it with positive=listed(columns), or use a reduction with where=s.positive.",
            )
        return self.positive

    def has_positive(self) -> Tensor:
        """Which rows have a positive, bool (..., N)."""
        n = self._query.shape[:-1]
        if isinstance(self.positive, Listed):
            held = self.positive.columns >= 0
            return (held if held.dim() == 1 else held.any(1)).expand(n)
        if self.positive is nobody:
            return torch.zeros(n, dtype=torch.bool, device=self._query.device)
        with torch.no_grad():
            return self.reduce(Count(where=self.positive & self.visible & ~self.itself)) > 0

    def has_negative(self) -> Tensor:
        """Which rows have a negative, bool (..., N)."""
        with torch.no_grad():
            return self.reduce(Count(where=self.negative)) > 0

    def mean(self, rows: Tensor, where: Tensor | None = None) -> Tensor:
        """The mean of `rows` (..., N) over all anchors of all ranks that have a positive (or those of `where`).

        Scaled so that the average over ranks (DDP's) is exact. No such row anywhere: 0 with a graph.
        """
        complete = isinstance(self.positive, Listed) and self.positive.complete
        if where is None and complete and self.group is None and rows.numel():
            return rows.mean()
        where = self.has_positive() if where is None else where
        summed, count = torch.where(where, rows, 0).sum(), total(where.sum().to(rows.dtype), self.group)
        if self.group is not None:
            summed = summed * dist.get_world_size(self.group)
        return summed / count.clamp(min=1)

    def log_mean_exp(self, rows: Tensor, where: Tensor | None = None) -> Tensor:
        """log of the mean of exp(rows) over all anchors of all ranks that have a positive (or those of `where`).

        A scalar; 0 where there is no such row anywhere.
        """
        where = self.has_positive() if where is None else where
        rows = torch.where(where, rows, -math.inf)
        top = rows.detach().max() if rows.numel() else rows.new_tensor(-math.inf)
        top, count = largest(top, self.group), total(where.sum().to(rows.dtype), self.group)
        top = torch.where(top.isfinite(), top, 0)
        summed = all_sum((rows - top).exp().sum(), self.group)
        return top + torch.where(count > 0, summed / count.clamp(min=1), 1).log()

    def row_temperature(self) -> Tensor:
        """The temperature of each row's similarities, (..., N) or a scalar.

        Raises InputError where it differs between the columns.
        """
        t = torch.as_tensor(self.temperature, dtype=self._query.dtype, device=self._query.device)
        if t.dim() >= 2 and t.shape[-1] > 1:
            raise InputError(
                "This loss needs one temperature a row; here it differs between the candidates.",
                "Pass a number or a tensor (N, 1).",
            )
        return t.squeeze(-1) if t.dim() >= 2 else t

    def any_rank(self, flag: Tensor) -> bool:
        """Whether `flag` holds on any rank, so that all ranks raise together."""
        return any_rank(flag, self.group)

    def topk(
        self, k: int, *, where: Relation | None = None, block: int = 0, progress: Callable[[int], object] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k largest S of each row in one block: detached values and column numbers, (..., N, k).

        Equal values by column. Fewer than k candidates: values -inf and column -1 at the end. O(N (D + k)) memory.
        `progress` is called with the number of rows after each few that are done.
        """
        with torch.no_grad(), full_precision(self.query.device):
            return topk.topk(self.query.detach(), self._operands[block], block, k, where, progress)

    def ranks_of(self, wanted: Sparse, *, where: Relation | None = None, block: int = 0) -> Iterator[topk.Ranks]:
        """Where wanted candidates stand in the ranking of their row, some rows at a time, without gradient.

        wanted: a `sparse` relation. A candidate's place is 1 + the number of other candidates of the row that are as
        similar or more, wanted ones apart, + that of the wanted ones before it: a tie never helps. What `where` hides
        is not in the ranking. Each similarity is computed once; O(N + M) memory.
        """
        return topk.ranks_of(self.query.detach(), self._operands[block], block, wanted, where)

    def threshold(self, m: int | Tensor, *, where: Relation | None = None, block: int | None = 0) -> Tensor:
        """Each row's m-th largest S in one block (None: in all), (..., N), detached; -inf where it has fewer than m.

        m: at least 1; a number, or one for each row (LongTensor (..., N)). The value is lowered by the rounding
        error of a product, so that `at_least` keeps the m-th and its ties with any tiling. One sweep, exact, in
        O(N + M) memory: a few rows at a time are held against all candidates.
        """
        blocks = range(len(self._operands)) if block is None else [block]
        operands = {b: self._operands[b] for b in blocks}
        with torch.no_grad(), full_precision(self.query.device):
            value = topk.nth_largest(self.query.detach(), operands, m, where)
            return value - topk.rounding(self.query.detach(), operands.values(), value)

    def dense(self) -> Tensor:
        """The whole matrix (..., N, total): small cases, teaching, tests. Raises InputError where keys travel."""
        for operand in self._operands:
            refuse(operand, "The whole matrix")
        with full_precision(self.query.device):
            parts = [o.product(self.query, slice(0, self.query.shape[-2]), slice(0, o.width)) for o in self._operands]
        return torch.cat(parts, -1)

    def mask(self, relation: Relation) -> Tensor:
        """A relation as a whole matrix (..., N, total): small cases, teaching, tests. Not where keys travel."""
        for operand in self._operands:
            refuse(operand, "The whole matrix")
        full = list(tiles(self.query, self._operands, None))
        s = [self._operands[t.block].product(self.query, t.rows, t.columns) for t in full]
        parts = [
            relation.tile(Tile(t.rows, t.block, t.columns, t.per_anchor, t.device, x)).expand_as(x)
            for t, x in zip(full, s, strict=True)
        ]
        return torch.cat(parts, -1)


def _check(query: Tensor | Vectors, blocks: Sequence[Block], temperature: float | Tensor, similarity: str) -> None:
    if similarity not in SIMILARITIES:
        raise InputError(
            f"Unknown similarity '{similarity}'.{did_you_mean(similarity, SIMILARITIES)}",
            f"Choose one of {', '.join(SIMILARITIES)}.",
        )
    if query.dim() < 2:
        raise InputError(f"query must be (..., N, D). Got {tuple(query.shape)}.")
    if not blocks:
        raise InputError("A similarity needs at least one block of candidates.")
    for b, block in enumerate(blocks):
        keys = block.keys
        if isinstance(keys, Source):
            continue
        if keys.dim() < 2 + block.per_anchor or keys.shape[-1] != query.shape[-1]:
            shape = "(..., N, L, D)" if block.per_anchor else "(..., M, D)"
            raise InputError(f"keys of block {b} must be {shape} with D = {query.shape[-1]}. Got {tuple(keys.shape)}.")
        if block.per_anchor and keys.shape[-3] != query.shape[-2]:
            raise InputError(f"Block {b} has lists for {keys.shape[-3]} anchors, but there are {query.shape[-2]}.")
    if not isinstance(temperature, Tensor):
        check("temperature", temperature, PositiveFloat, "argument")


def _check_columns(operand: Columns) -> None:
    """Raises where columns have no reduction."""
    if operand.per_anchor:
        raise InputError("Columns of an anchor's own list have no reduction (dim=0).", "Use dim=1, or share the block.")
    refuse(operand, "A reduction of the columns (dim=0)")


def _local(columns: Tensor, operand: Operand) -> Tensor:
    """The places of the columns among the keys that are here."""
    if operand.ring is None:
        return columns
    columns = columns - operand.ring.first(operand.ring.rank)
    if columns.numel() and not bool(((columns >= 0) & (columns < operand.keys.shape[-2])).all()):
        refuse(operand, "A similarity with another process's candidate")
    return columns


def _alone(source: Source, blocks: Tensor | Source | Vectors | Block | Sequence[Block]) -> Block:
    if isinstance(blocks, (Tensor, Source, Vectors, Block)) or len(blocks):
        raise InputError(
            "A source stands in place of query and blocks.",
            "Pass it alone; with further blocks: Similarity(None, [Block(source), ...]).",
        )
    return Block(source)


def _check_sources(query: Tensor | Vectors | None, blocks: Sequence[Block]) -> None:
    """What a source cannot be, and what only keys can be without anchors."""
    for b, block in enumerate(blocks):
        if not isinstance(block.keys, Source):
            if query is None or not isinstance(block.keys, (Tensor, Vectors)):
                found = type(block.keys).__name__
                raise InputError(
                    f"Block {b} holds {found}; without anchors each block is a source.",
                    "Derive it from nearfar.similarity.Source, or pass the query.",
                )
            continue
        name, shape = type(block.keys).__name__, getattr(block.keys, "shape", None)
        if not (isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) and n >= 0 for n in shape)):
            raise InputError(f"{name}.shape must be (rows, columns). Got {shape}.")
        if block.per_anchor or block.ring is not None:
            raise InputError(
                f"{name} of block {b} is shared by all anchors and stays on its process.",
                "Leave out per_anchor= and ring=; a list of each anchor's own is a matter of its tiles.",
            )
        if query is not None and (query.dim() != 2 or query.shape[0] != shape[0]):
            raise InputError(
                f"{name} of block {b} has {shape[0]} rows; the query is {tuple(query.shape)}.",
                "Both must be of the same anchors, without leading dimensions.",
            )
    rows = {block.keys.shape[0] for block in blocks if isinstance(block.keys, Source)}
    if len(rows) > 1:
        raise InputError(f"The sources have different numbers of rows: {sorted(rows)}.")


def _no_vectors(blocks: Sequence[Block]) -> Tensor:
    """Anchors of no dimension (N, 0), in the graph of what the sources read."""
    sources = [b.keys for b in blocks if isinstance(b.keys, Source)]
    if not sources:
        raise InputError("A similarity needs at least one block of candidates.")
    dtype, device = kind(sources[0])
    query = torch.zeros(sources[0].shape[0], 0, dtype=dtype, device=device)
    for x in (x for b, source in zip(blocks, sources, strict=True) if b.gradient for x in source.tensors()):
        query = query + x.reshape(-1)[:0].sum().to(dtype) if x.requires_grad else query
    return query
