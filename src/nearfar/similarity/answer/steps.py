"""What a plan is made of: the shape of a matrix, what it is asked for, and named steps with their cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from nearfar.similarity.answer.columns import Columns, Operand, Scored
from nearfar.similarity.answer.normal_form import Factors, Terms, terms
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.reductions import Count, Reduction
from nearfar.similarity.relations import Relation, everyone, nobody

# Steps, in the order in which they are preferred.
NOTHING, LISTED, SUMS, WEIGHTED = "no pairs", "listed pairs", "class sums", "weighted sums"
LOG_SUM_EXP, DENSE, SWEEP = "log-sum-exp sweep", "whole matrix", "general sweep"
CROSS_ENTROPY, RING, RING_SWEEP = "cross-entropy pass", "ring log-sum-exp", "ring sweep"
SELECTION, RING_SELECTION = "selection", "ring selection"
BATCHED, PAIRS, TRANSPOSE = "entry by entry", "paired rows", "transpose"
CLOSED = {
    NOTHING: "the relation holds nowhere",
    LISTED: "few pairs, and their places are known",
    SUMS: "sums over everyone or over equal values are products with sums of keys",
    WEIGHTED: "weights are factors: products with sums of weighted keys",
}


@dataclass(frozen=True)
class Cost:
    """products: floating-point operations of the matrix products, gradients included where they are wanted; passes:
    how often the matrix is gone over; memory: bytes beyond inputs and their gradients, about."""

    products: float
    passes: int
    memory: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.products + other.products, self.passes + other.passes, max(self.memory, other.memory))


@dataclass(frozen=True)
class BlockShape:
    """What is known of one block. width: its columns, over all ranks; `product`: it holds keys, else a source;
    `itself`: the keys are the anchors; `flat`: no leading dimensions; tile: the most a source allows."""

    width: int
    product: bool = True
    per_anchor: bool = False
    travels: bool = False
    itself: bool = False
    flat: bool = True
    gradient: bool = False
    tile: tuple[int, int] | None = None

    @property
    def shared(self) -> bool:
        """Keys on this process that all anchors share."""
        return self.product and not self.per_anchor and not self.travels


@dataclass(frozen=True)
class Shape:
    """What is known of a matrix beside its numbers. dtype: of its sums."""

    rows: int
    dim: int
    blocks: tuple[BlockShape, ...]
    lead: tuple[int, ...] = ()
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    gradient: bool = False

    @classmethod
    def of(cls, query: Vectors, columns: Sequence[Columns]) -> Shape:
        wanted = torch.is_grad_enabled()
        return cls(
            query.shape[-2],
            query.shape[-1],
            tuple(_block_shape(query, c) for c in columns),
            tuple(query.shape[:-2]),
            query.device.type,
            query.dtype,
            wanted and query.requires_grad,
        )

    @property
    def width(self) -> int:
        return sum(b.width for b in self.blocks)

    @property
    def entries(self) -> int:
        return math.prod(self.lead) * self.rows * self.width

    @property
    def travels(self) -> bool:
        return any(b.travels for b in self.blocks)

    @property
    def wanted(self) -> bool:
        """Whether there are gradients to make."""
        return self.gradient or any(b.gradient for b in self.blocks)

    @property
    def flat(self) -> bool:
        return not self.lead and all(b.flat for b in self.blocks)

    def entry(self) -> Shape:
        """One entry of the leading dimensions."""
        return replace(self, lead=(), blocks=tuple(replace(b, flat=True, itself=False) for b in self.blocks))

    def only(self, block: int) -> Shape:
        return replace(self, blocks=(self.blocks[block],))


def _block_shape(query: Vectors, c: Columns) -> BlockShape:
    wanted = torch.is_grad_enabled() and any(
        x.requires_grad for x in ((c.vectors,) if isinstance(c, Operand) else c.tensors())
    )
    if isinstance(c, Operand):
        return BlockShape(
            c.width,
            per_anchor=c.per_anchor,
            travels=c.ring is not None,
            itself=c.vectors is query,
            flat=c.flat,
            gradient=wanted,
        )
    return BlockShape(
        c.width, product=False, gradient=wanted, tile=c.source.tile_shape if isinstance(c, Scored) else None
    )


@dataclass(frozen=True, eq=False)
class Ask:
    """What one matrix is asked for. `twin`: two directions share their sweeps, and what the other has left here: the
    log-sum-exps of `known` (scale, negatives only), and S of the positives where `paired`."""

    shape: Shape
    reductions: Sequence[Reduction]
    positive: Relation = nobody
    negative: Relation = everyone
    twin: bool = False
    known: frozenset[tuple[float, bool]] = frozenset()
    paired: bool = False


@dataclass(eq=False)
class Part:
    """One reduction as one block sees it (None: over all blocks). `terms` and `weight` are the normal forms of its
    relation and weight; a log-sum-exp is raised by the log of its `lift`, the weights of the rows."""

    reduction: Reduction
    block: int | None = None
    terms: Terms = field(default_factory=Terms)
    weight: Factors | None = None
    lift: Factors | None = None

    @cached_property
    def counts(self) -> bool:
        return isinstance(self.reduction, Count)


@dataclass(eq=False)
class Group:
    """Log-sum-exps of one scale, relation and weight of the columns: they share every exponential. rows, columns: the
    numbers of those that reduce rows, and columns."""

    scale: float
    where: Relation | None
    factors: Factors = field(default_factory=Factors)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.terms: Terms = terms(self.where)

    @cached_property
    def weight(self) -> Tensor | None:
        """Of the columns, (M,). Made once, where it is first read."""
        return self.factors.column

    def symmetric(self) -> bool:
        return not self.factors.columns and self.terms.symmetric()


@dataclass(eq=False)
class Step:
    """One algorithm for some parts. otherwise: the steps for the same parts where the numbers do not allow this one.

    tile: rows and columns of a tile. small: the matrix may be built, for second derivatives and for exponentials that
    are kept (`keeps`). half_grid: the matrix is symmetric, and half of it is enough. fused: which parts are sums that
    the sweep takes along.
    """

    name: str
    parts: list[Part]
    cost: Cost
    why: str
    block: int | None = None
    tile: tuple[int, int] = (1, 1)
    groups: list[Group] = field(default_factory=list)
    fused: frozenset[int] = frozenset()
    small: bool = False
    half_grid: bool = False
    keeps: bool = False
    otherwise: list[Step] = field(default_factory=list)
    inner: Body | None = None


@dataclass(eq=False)
class Body:
    """Steps for some reductions, and the parts that the answer of each is joined of."""

    reductions: list[Reduction]
    parts: list[list[Part]]
    steps: list[Step]


def pairs_cost(shape: Shape, each: int) -> Cost:
    """What `each` listed similarities of every row cost."""
    numbers = math.prod(shape.lead) * shape.rows * shape.dim * each
    return Cost(numbers * (6 if shape.wanted else 2), 0, 4 * numbers)


@dataclass(eq=False)
class Plan:
    """How the reductions of one `Ask` are answered. `str()` is a table of the steps and their cost.

    passes: the reductions that a cross-entropy pass answers alone. body: steps for the others, in their order (with the
    sums of the positives after them where `positives` is "sum"), and for `given`, log-sum-exps of the columns that the
    other direction will ask for. recalled: those that the other direction has left, in place of `body`.
    """

    shape: Shape
    reductions: Sequence[Reduction]
    passes: dict[int, Step]
    body: Body | None
    positives: str | None = None
    given: list[tuple[float, bool]] | None = None
    recalled: list[tuple[float, bool]] | None = None

    @property
    def steps(self) -> list[Step]:
        """In the order in which they are taken."""
        out = list(self.passes.values())
        if self.positives == "pairs":
            out.append(Step(PAIRS, [], pairs_cost(self.shape, 1), "the similarity of each row and its positive"))
        if self.recalled is not None:
            out.append(Step(TRANSPOSE, [], Cost(0, 0, 0), "the sweep of the other direction has answered it"))
        return out + (self.body.steps if self.body is not None else [])

    @property
    def names(self) -> list[str]:
        return [step.name for step in self.steps]

    @property
    def cost(self) -> Cost:
        """Of all steps: their products and passes, and the most memory that one of them takes."""
        return sum((step.cost for step in self.steps), Cost(0, 0, 0))

    def __str__(self) -> str:
        lead = "".join(f"{n:,} x " for n in self.shape.lead)
        kind = str(self.shape.dtype).removeprefix("torch.")
        wanted = "values and gradients" if self.shape.wanted else "values only"
        lines = [
            f"{lead}{self.shape.rows:,} x {self.shape.width:,} similarities, width {self.shape.dim}, {kind}, "
            f"{self.shape.device}, {wanted}",
            _line("step", "passes", "products", "memory", "why"),
        ]
        for k, step in enumerate(self.steps, 1):
            cost = step.cost
            lines.append(
                _line(f"{k}. {step.name}", str(cost.passes), operations(cost.products), size(cost.memory), step.why)
            )
            if step.otherwise:
                lines.append(
                    "   or, where the sums are too large or too small for one shift of the exponents: "
                    + " and ".join(other.name for other in step.otherwise)
                )
        return "\n".join(lines)

    __repr__ = __str__


def _line(name: str, passes: str, products: str, memory: str, why: str) -> str:
    return f"{name:24} {passes:>6} {products:>12} {memory:>10}  {why}"


def operations(x: float) -> str:
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if x < 1000:
            return f"{x:.3g} {unit}"
        x /= 1000
    return f"{x:,.0f} PFLOP"


def size(x: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if x < 1024:
            return f"{x:.3g} {unit}"
        x /= 1024
    return f"{x:,.1f} TiB"
