"""`Similarity`: the matrix S_ij = sim(query_i, key_j) / temperature, asked for reductions and never built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.checks import PositiveFloat, check
from nearfar.errors import InputError, did_you_mean
from nearfar.similarity import engines, ranks
from nearfar.similarity.exchange import Ring, all_sum, any_rank, largest, total
from nearfar.similarity.operands import Columns, Operand, Scored, Source, kind, refuse
from nearfar.similarity.reductions import Count, CrossEntropy, LogSumExp, Reduction, Sum
from nearfar.similarity.relations import Listed, Relation, Same, Tile, check_ids, everyone, nobody
from nearfar.similarity.sparse import Sparse
from nearfar.similarity.units import accumulated
from nearfar.similarity.vectors import Vectors

SIMILARITIES = ("cosine", "dot", "euclidean")


@dataclass(eq=False)
class Block:
    """Candidates. `keys` (..., M, D) are shared by all anchors; with `own=True` (..., N, L, D) are each anchor's own.
    A `Source` in place of keys says itself how similar anchors and candidates are.

    `ids`, `labels`: integers of the candidates, (M,) or (N, L); negative = unknown.
    `visible`: which anchors may see them at all (a relation over this block alone).
    `gradient=False` holds the keys (what the source reads) constant.
    `ring`: the keys are those of this rank, and those of the others travel (`Exchange.keys` makes it); columns are then
    numbered over all ranks, and `ids`, `labels` and relations hold the values of all.
    """

    keys: Tensor | Source | Vectors
    own: bool = False
    ids: Tensor | None = None
    labels: Tensor | None = None
    visible: Relation = field(default_factory=lambda: everyone)
    gradient: bool = True
    ring: Ring | None = None


@dataclass(eq=False)
class _PerBlock(Relation):
    """Another relation for each block; each sees its own block as block 0."""

    members: Sequence[Relation]

    def tile(self, t: Tile) -> Tensor:
        return self.members[t.block].tile(replace(t, block=0))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x for m in self.members for x in m.tensors())

    def empty(self, t: Tile) -> bool:
        return self.members[t.block].empty(replace(t, block=0))


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

    def __init__(self, query: Tensor | Source | Vectors | None,
                 blocks: Tensor | Source | Vectors | Block | Sequence[Block] = (), *, positive: Relation | None = None,
                 itself: Relation | None = None, temperature: float | Tensor = 1.0, similarity: str = "cosine",
                 ids: Tensor | None = None, labels: Tensor | None = None, group: dist.ProcessGroup | None = None):
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
        self.visible: Relation = _PerBlock([b.visible for b in self.blocks])
        if all(b.visible is everyone for b in self.blocks):
            self.visible = everyone
        self.negative = self.visible & ~self.positive & ~self.itself
        self._query, self._operands = _operands(query, self.blocks, temperature, similarity)
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
        at_once = [self._in_one_pass(r, reductions) for r in reductions]
        asked = [r for r, x in zip(reductions, at_once, strict=True) if x is None]
        rest = iter(self._swept(asked) if asked else ())
        answers = [next(rest) if x is None else x for x in at_once]
        return answers[0] if len(answers) == 1 else answers

    def _swept(self, reductions: Sequence[Reduction]) -> list[Tensor]:
        plain = [r.negatives() if isinstance(r, CrossEntropy) else r for r in reductions]
        least = any(isinstance(r, CrossEntropy) and r.of is None for r in reductions)
        known = self._known_pairs() if least else None
        asked = [*plain, Sum(where=self._one_positive())] if least and known is None else plain
        found = self._from_twin(asked)
        if found is None:
            found = engines.reduce(self._query, self._operands, asked)
        if least and known is None:
            *found, known = found
            self._paired = known
        return [r.from_negatives(x, known) if isinstance(r, CrossEntropy) else x
                for r, x in zip(reductions, found, strict=True)]

    def _known_pairs(self) -> Tensor | None:
        """S of the declared positives, where it is known or a sweep cannot give it along with the rest."""
        operand = self._operands[self._one_positive().block]
        if self._twin is not None and self._twin._paired is not None:
            return self._twin._paired
        apart = not isinstance(operand, Operand) or operand.own or operand.ring is not None
        return self.paired() if apart or self._query.dim() > 2 else None

    def _in_one_pass(self, r: Reduction, asked: Sequence[Reduction]) -> Tensor | None:
        """A cross-entropy whose sweeps nothing else shares."""
        alone = self._twin is None and sum(isinstance(x, LogSumExp) for x in asked) == 1
        if not isinstance(r, CrossEntropy) or not alone:
            return None
        positive = self._one_positive() if r.of is None else None
        known = isinstance(self.positive, Listed)
        counts = self.has_positive() if known else torch.ones(self._query.shape[:-1], dtype=torch.bool,
                                                              device=self._query.device)
        return engines.cross_entropy(self._query, self._operands, r, counts, positive)

    def _from_twin(self, reductions: Sequence[Reduction]) -> list[Tensor] | None:
        """Where this matrix is the transpose of another: its rows are the other's columns, answered in one sweep."""
        twin = self._twin
        if twin is None:
            return None
        turned = [_transposable(r, self) for r in reductions]
        asked = [a for a in turned if a is not None]
        alone = [r for r, a in zip(reductions, turned, strict=True) if a is None]
        if not all(isinstance(r, Sum) and r.where is self.positive for r in alone):
            return None
        if all(a in self._known for a in asked) and not alone:
            return [self._known[a] for a in asked]
        flipped = [replace(r, dim=0) for r, a in zip(reductions, turned, strict=True) if a is not None]
        answers = engines.reduce(self._query, self._operands, [*reductions, *flipped])
        twin._known = dict(zip(asked, answers[len(reductions):], strict=True))
        return answers[: len(reductions)]

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
            found = engines.reduce(self._query, self._operands, [Sum(where=Listed(c, block)) for c in each])
            return found[0] if columns.dim() == 1 else torch.stack(found, 1)
        columns = _local(columns, operand)
        if self.query.dim() == 2 and columns.dim() == 1 and operand.keys.dim() == 2:
            return (self.query * operand.keys.index_select(0, columns)).sum(-1)
        flat = columns if columns.dim() > 1 else columns[:, None]
        if operand.own:
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
            raise InputError("paired() needs exactly one declared positive a row.",
                             "Declare it with positive=listed(columns), or use a reduction with where=s.positive.")
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
            raise InputError("This loss needs one temperature a row; here it differs between the candidates.",
                             "Pass a number or a tensor (N, 1).")
        return t.squeeze(-1) if t.dim() >= 2 else t

    def any_rank(self, flag: Tensor) -> bool:
        """Whether `flag` holds on any rank, so that all ranks raise together."""
        return any_rank(flag, self.group)

    def topk(self, k: int, *, where: Relation | None = None, block: int = 0,
             progress: Callable[[int], object] | None = None) -> tuple[Tensor, Tensor]:
        """The k largest S of each row in one block: detached values and column numbers, (..., N, k).

        Equal values by column. Fewer than k candidates: values -inf and column -1 at the end. O(N (D + k)) memory.
        `progress` is called with the number of rows after each few that are done.
        """
        with torch.no_grad(), engines.full_precision(self.query.device):
            return ranks.topk(self.query.detach(), self._operands[block], block, k, where, progress)

    def places(self, wanted: Sparse, *, where: Relation | None = None, block: int = 0) -> Iterator[ranks.Placed]:
        """Where wanted candidates stand in the ranking of their row, some rows at a time, without gradient.

        wanted: a `sparse` relation. A candidate's place is 1 + the number of other candidates of the row that are as
        similar or more, wanted ones apart, + that of the wanted ones before it: a tie never helps. What `where` hides
        is not in the ranking. Each similarity is computed once; O(N + M) memory.
        """
        return ranks.placed(self.query.detach(), self._operands[block], block, wanted, where)

    def threshold(self, m: int | Tensor, *, where: Relation | None = None, block: int | None = 0) -> Tensor:
        """Each row's m-th largest S in one block (None: in all), (..., N), detached; -inf where it has fewer than m.

        m: at least 1; a number, or one for each row (LongTensor (..., N)). The value is lowered by the rounding
        error of a product, so that `at_least` keeps the m-th and its ties with any tiling. One sweep, exact, in
        O(N + M) memory: a few rows at a time are held against all candidates.
        """
        blocks = range(len(self._operands)) if block is None else [block]
        operands = {b: self._operands[b] for b in blocks}
        with torch.no_grad(), engines.full_precision(self.query.device):
            value = ranks.nth_largest(self.query.detach(), operands, m, where)
            return value - ranks.rounding(self.query.detach(), operands.values(), value)

    def dense(self) -> Tensor:
        """The whole matrix (..., N, total): small cases, teaching, tests. Raises InputError where keys travel."""
        for operand in self._operands:
            refuse(operand, "The whole matrix")
        with engines.full_precision(self.query.device):
            parts = [o.product(self.query, slice(0, self.query.shape[-2]), slice(0, o.width)) for o in self._operands]
        return torch.cat(parts, -1)

    def mask(self, relation: Relation) -> Tensor:
        """A relation as a whole matrix (..., N, total): small cases, teaching, tests. Not where keys travel."""
        for operand in self._operands:
            refuse(operand, "The whole matrix")
        full = list(engines.tiles(self.query, self._operands, None))
        s = [self._operands[t.block].product(self.query, t.rows, t.columns) for t in full]
        parts = [relation.tile(Tile(t.rows, t.block, t.columns, t.own, t.device, x)).expand_as(x)
                 for t, x in zip(full, s, strict=True)]
        return torch.cat(parts, -1)


def _check(query: Tensor | Vectors, blocks: Sequence[Block], temperature: float | Tensor, similarity: str) -> None:
    if similarity not in SIMILARITIES:
        raise InputError(f"Unknown similarity '{similarity}'.{did_you_mean(similarity, SIMILARITIES)}",
                         f"Choose one of {', '.join(SIMILARITIES)}.")
    if query.dim() < 2:
        raise InputError(f"query must be (..., N, D). Got {tuple(query.shape)}.")
    if not blocks:
        raise InputError("A similarity needs at least one block of candidates.")
    for b, block in enumerate(blocks):
        keys = block.keys
        if isinstance(keys, Source):
            continue
        if keys.dim() < 2 + block.own or keys.shape[-1] != query.shape[-1]:
            shape = "(..., N, L, D)" if block.own else "(..., M, D)"
            raise InputError(f"keys of block {b} must be {shape} with D = {query.shape[-1]}. Got {tuple(keys.shape)}.")
        if block.own and keys.shape[-3] != query.shape[-2]:
            raise InputError(f"Block {b} has lists for {keys.shape[-3]} anchors, but there are {query.shape[-2]}.")
    if not isinstance(temperature, Tensor):
        check("temperature", temperature, PositiveFloat, "argument")


def _local(columns: Tensor, operand: Operand) -> Tensor:
    """The places of the columns among the keys that are here."""
    if operand.ring is None:
        return columns
    columns = columns - operand.ring.first(operand.ring.rank)
    if columns.numel() and not bool(((columns >= 0) & (columns < operand.keys.shape[-2])).all()):
        refuse(operand, "A similarity with another process's candidate")
    return columns


def _transposable(r: Reduction, s: Similarity) -> tuple[float, bool] | None:
    """A log-sum-exp of the rows over everyone or over the negatives, as (scale, negatives only)."""
    if not isinstance(r, LogSumExp) or r.weight is not None or r.dim != 1 or r.block != 0:
        return None
    if r.where is not None and r.where is not s.negative:
        return None
    return r.scale, r.where is not None


def _alone(source: Source, blocks: Tensor | Source | Vectors | Block | Sequence[Block]) -> Block:
    if isinstance(blocks, (Tensor, Source, Vectors, Block)) or len(blocks):
        raise InputError("A source stands in place of query and blocks.",
                         "Pass it alone; with further blocks: Similarity(None, [Block(source), ...]).")
    return Block(source)


def _check_sources(query: Tensor | Vectors | None, blocks: Sequence[Block]) -> None:
    """What a source cannot be, and what only keys can be without anchors."""
    for b, block in enumerate(blocks):
        if not isinstance(block.keys, Source):
            if query is None or not isinstance(block.keys, (Tensor, Vectors)):
                found = type(block.keys).__name__
                raise InputError(f"Block {b} holds {found}; without anchors each block is a source.",
                                 "Derive it from nearfar.similarity.Source, or pass the query.")
            continue
        name, shape = type(block.keys).__name__, getattr(block.keys, "shape", None)
        if not (isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) and n >= 0 for n in shape)):
            raise InputError(f"{name}.shape must be (rows, columns). Got {shape}.")
        if block.own or block.ring is not None:
            raise InputError(f"{name} of block {b} is shared by all anchors and stays on its process.",
                             "Leave out own= and ring=; a list of each anchor's own is a matter of its tiles.")
        if query is not None and (query.dim() != 2 or query.shape[0] != shape[0]):
            raise InputError(f"{name} of block {b} has {shape[0]} rows; the query is {tuple(query.shape)}.",
                             "Both must be of the same anchors, without leading dimensions.")
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


def _scored(block: Block, source: Source, temperature: float | Tensor, dtype: torch.dtype) -> Scored:
    held = tuple(x if block.gradient else x.detach() for x in source.tensors())
    if not isinstance(temperature, Tensor):
        return Scored(source, held, dtype, float(temperature))
    if any(a not in (1, b) for a, b in zip(reversed(temperature.shape), reversed(source.shape), strict=False)):
        raise InputError(f"The temperature must be one number, (N, 1) or (1, M) with (N, M) = {source.shape}. "
                         f"Got {tuple(temperature.shape)}.")
    return Scored(source, (*held, temperature), dtype)


def _operands(query: Tensor | Vectors, blocks: Sequence[Block], temperature: float | Tensor,
              similarity: str) -> tuple[Vectors, list[Columns]]:
    """The anchors and the columns of each block, in their order."""
    if isinstance(query, Vectors):
        if len(blocks) != 1 or blocks[0].keys is not query:
            raise InputError("Vectors stand alone, as their own keys.", "Pass tensors.")
        return query, [Operand(query, False)]
    vectors = [b for b in blocks if isinstance(b.keys, Tensor)]
    of_first = isinstance(temperature, Tensor) and temperature.dim() >= 2 and temperature.shape[-1] > 1
    if of_first and 1 < len(blocks) != len(vectors):
        raise InputError("A temperature of the columns, (1, M), needs a single block where one is a source.")
    anchors, made = Vectors(query), iter(())
    if vectors:
        anchors, products = _factors(query, vectors, temperature, similarity)
        made = iter(products)
    out: list[Columns] = []
    for block in blocks:
        if not isinstance(block.keys, Source):
            out.append(next(made))
            continue
        out.append(operand := _scored(block, block.keys, temperature, anchors.dtype))
        if torch.is_grad_enabled():
            operand.check_declared()
    return anchors, out


def _factors(query: Tensor, blocks: Sequence[Block], temperature: float | Tensor,
             similarity: str) -> tuple[Vectors, list[Operand]]:
    """Query and keys whose plain product is S: normalisation, distance and temperature are folded in, O((N + M) D)."""
    keys = [b.keys if b.gradient else b.keys.detach() for b in blocks if isinstance(b.keys, Tensor)]
    unit = similarity == "cosine"
    if _is_own_keys(query, blocks, temperature, similarity):
        half = temperature.rsqrt() if isinstance(temperature, Tensor) else temperature ** -0.5
        z = Vectors(query, unit=unit, scale=half)
        return z, [Operand(z, False)]  # half of the temperature on each side keeps the two factors one tensor
    if similarity == "euclidean":
        query, keys = accumulated(query), [accumulated(k) for k in keys]
        centre = _centre(query.detach(), next((b.ring for b in blocks if b.ring is not None), None))
        query, keys = _lifted_query(query - centre), [
            _lifted_key(k - (centre.unsqueeze(-2) if b.own else centre)) for k, b in zip(keys, blocks, strict=True)]
    of_columns = isinstance(temperature, Tensor) and temperature.dim() >= 2 and temperature.shape[-1] > 1
    anchors = Vectors(query, unit=unit, scale=None if of_columns else 1 / temperature)
    columns = [Vectors(k, unit=unit) for k in keys]
    if of_columns and isinstance(temperature, Tensor):
        columns[0] = Vectors(keys[0], unit=unit, scale=1 / temperature.transpose(-1, -2))
    if lead := query.shape[:-2]:
        columns = [Vectors(v.whole.expand(*lead, *v.shape[-(2 + b.own):]))
                   for v, b in zip(columns, blocks, strict=True)]
    return anchors, [Operand(v, b.own, b.ring) for v, b in zip(columns, blocks, strict=True)]


def _centre(query: Tensor, ring: Ring | None) -> Tensor:
    """Where distances are measured from, so that few digits are lost; keys that travel need one for all ranks."""
    if ring is None:
        return query.mean(-2, keepdim=True)
    both = torch.cat([query.sum(-2, keepdim=True), query.new_full((*query.shape[:-2], 1, 1), query.shape[-2])], -1)
    both = total(both, ring.group)
    return both[..., :-1] / both[..., -1:].clamp(min=1)


def _is_own_keys(query: Tensor, blocks: Sequence[Block], temperature: float | Tensor, similarity: str) -> bool:
    """Whether the queries are the keys, so that the matrix is symmetric."""
    alone = len(blocks) == 1 and blocks[0].keys is query and blocks[0].gradient and query.dim() == 2
    alone = alone and blocks[0].ring is None
    scalar = not isinstance(temperature, Tensor) or temperature.numel() == 1
    return alone and scalar and similarity != "euclidean"


def _lifted_query(q: Tensor) -> Tensor:
    return torch.cat([2 * q, -(q * q).sum(-1, keepdim=True), -torch.ones_like(q[..., :1])], -1)


def _lifted_key(k: Tensor) -> Tensor:
    return torch.cat([k, torch.ones_like(k[..., :1]), (k * k).sum(-1, keepdim=True)], -1)
