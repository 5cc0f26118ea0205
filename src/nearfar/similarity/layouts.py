"""Layouts make the similarities of a loss from embeddings: who is an anchor, who a candidate, who a positive.

A loss is a function `rows(s) -> (N,)` of one similarity; a layout says over which similarities it runs and how their
means are joined. So every loss works with one direction, both directions, many views, and further blocks of negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.checks import PositiveFloat, check
from nearfar.errors import InputError
from nearfar.similarity.answer.vectors import Vectors, halved
from nearfar.similarity.exchange import Exchange, Ring, exchange
from nearfar.similarity.matrix import Similarity
from nearfar.similarity.relations import Listed, Relation, Sparse, diagonal, nobody, same, sparse
from nearfar.similarity.source import Block


@dataclass(frozen=True, eq=False)
class Anchors:
    """The anchors of one similarity, and the candidates that stand in the batch (block 0).

    query: the anchors' vectors (N, D). items: the item of each in this process's batch, (N,).
    partner: the vector of each anchor's positive, (N, D); positive: its column, (N,). batch: the candidates of the
    batch. negative: the pairs of that block that are negatives so far. similarity: "cosine", "dot" or "euclidean".
    """

    query: Tensor
    items: Tensor
    partner: Tensor
    positive: Tensor
    batch: Block
    negative: Relation
    similarity: str
    net: Exchange
    width: int
    repeat: int

    def columns(self, values: Tensor) -> Tensor:
        """Integers of the items of this process's batch, (n,), as values of the block's columns, (M,).

        Columns that belong to no item (further negatives) are -1. Talks to the other processes: call it on all.
        """
        more = values.new_full((max(0, self.width - len(values)),), -1)
        return self.net.gather(torch.cat([values, more])[: self.width].repeat(self.repeat))[0]


@dataclass(frozen=True, eq=False)
class ExtraCandidates:
    """What is added to one similarity.

    blocks: further candidates. excluded: pairs of the batch that are no negatives (a declared positive stays one).
    extra_positives: columns of the batch that are positives as well, (N, P), -1 for none; the loss is then the mean
    over an anchor's 1 + P positives, each against all other candidates (the mean outside the log).
    """

    blocks: Sequence[Block] = ()
    excluded: Relation = nobody
    extra_positives: Tensor | None = None


Extras = Sequence[Block] | Callable[[Anchors], ExtraCandidates]

Rows = Callable[[Similarity], Tensor]


@dataclass
class Layout:
    """Similarities whose losses are joined by "mean" or "sum", each with its weight (default 1). contrasted: an anchor
    without a negative does not count, rather than with what the loss gives it."""

    parts: list[Similarity]
    join: str = "mean"
    transposed: bool = False
    weights: Sequence[float] | None = None
    contrasted: bool = False

    def loss(self, rows: Rows) -> Tensor:
        """The mean of `rows` over the anchors of each part, joined. A scalar.

        Two directions over one matrix share their sweeps.
        """
        if self.transposed:
            first, second = self.parts
            first.share(second)
            second.share(first)
        try:
            losses = [s.mean(rows(s), s.has_positive() & s.has_negative() if self.contrasted else None)
                      for s in self.parts]  # fmt: skip
        finally:
            for s in self.parts:
                s.share(None)
        weights = self.weights or [1.0] * len(losses)
        total = torch.stack([w * x if w != 1 else x for w, x in zip(weights, losses, strict=True)]).sum()
        return total / sum(weights) if self.join == "mean" else total


@dataclass(frozen=True)
class Known:
    """Candidates that belong to an anchor by a list: the ids `flat[starts[i]:starts[i + 1]]` belong to item i, and
    `columns` (n,) are the ids of the candidates' items, -1 where unknown. Integers."""

    flat: Tensor
    starts: Tensor
    columns: Tensor

    def among(self, columns: Tensor, items: Tensor) -> Sparse:
        """Pairs of anchors of these items and of candidates with these ids, (M,)."""
        values, order = columns.sort(stable=True)
        first, last = torch.searchsorted(values, self.flat), torch.searchsorted(values, self.flat, right=True)
        count = torch.where(self.flat < 0, 0, last - first)
        row = torch.repeat_interleave(torch.arange(len(self.starts) - 1, device=columns.device), self.starts.diff())
        within = torch.arange(int(count.sum()), device=columns.device) - torch.repeat_interleave(
            count.cumsum(0) - count, count
        )
        found = sparse(
            row.repeat_interleave(count), order[first.repeat_interleave(count) + within], len(self.starts) - 1
        )
        return Sparse(found.order, found.start[items], found.stop[items])

    def to(self, device: torch.device | str) -> Known:
        return Known(self.flat.to(device), self.starts.to(device), self.columns.to(device))


@dataclass(frozen=True)
class ExcludedPairs:
    """Pairs of items that are equal in some kind of identity, or that a list says belong together.

    As `excluded` of a layout they are neither positive nor negative of each other (duplicates, known positives); as
    `extra_positives` they are positives of each other (labels, for losses of several positives).

    `kinds`: for each kind of identity the values of an anchor's item and of a candidate's item, integers (n,) each;
    items whose values are equal are such a pair. -1 is unknown and equals nothing; a value below raises InputError.
    `known`: the lists of the anchors, and those of the candidates where they are the anchors.
    """

    kinds: Sequence[tuple[Tensor, Tensor]]
    known: tuple[Known, Known] | None = None

    def relation(self, items: Tensor, net: Exchange, width: int, repeat: int = 1) -> Relation:
        """Anchors of the local items `items` against `width` items of each rank, each rank's repeated `repeat` times.

        Columns beyond the known values (further negatives) are unknown.
        """

        def gathered(column: Tensor) -> Tensor:
            column = torch.cat([column, column.new_full((max(0, width - len(column)),), -1)])[:width]
            return net.gather(column.repeat(repeat))[0]

        relation: Relation = nobody
        for row, column in self.kinds:
            relation = relation | same(row[items], gathered(column))
        if self.known is not None:
            relation = relation | self.known[0].among(gathered(self.known[0].columns), items)
        return relation

    def reversed(self) -> ExcludedPairs:
        """The same pairs seen from the candidates."""
        known = None if self.known is None else (self.known[1], self.known[0])
        return ExcludedPairs([(column, row) for row, column in self.kinds], known)


def _one(
    query: Tensor | Vectors,
    keys: Tensor | Vectors,
    ring: Ring | None,
    partner: Tensor,
    items: Tensor,
    first: Listed,
    itself: Relation,
    excluded: Relation,
    extra_candidates: Extras,
    temperature: float | Tensor,
    similarity: str,
    net: Exchange,
    in_batch: bool = True,
    width: int = 0,
    repeat: int = 1,
    also: Relation = nobody,
) -> Layout:
    """One similarity with the positives `first` and `also`; with attracted ones one more for each, weighing as much."""
    positive = first | also
    visible = ~(excluded & ~positive) if in_batch else positive
    if callable(extra_candidates):
        assert isinstance(query, Tensor)
        more = extra_candidates(
            Anchors(
                query,
                items,
                partner,
                first.columns,
                Block(keys),
                visible & ~positive & ~itself,
                similarity,
                net,
                width,
                repeat,
            )
        )
    else:
        more = ExtraCandidates(extra_candidates)
    visible = visible & ~(more.excluded & ~positive)
    extra_positives = () if more.extra_positives is None else more.extra_positives.unbind(1)
    parts = []
    for mine in (positive, *map(Listed, extra_positives)):
        seen = visible if mine is positive else visible | mine
        candidates = [Block(keys, visible=seen, ring=ring), *more.blocks]
        parts.append(
            Similarity(
                query,
                candidates,
                positive=mine,
                itself=itself,
                temperature=temperature,
                similarity=similarity,
                group=net.group,
            )
        )
    return Layout(parts, weights=[1 / len(parts)] * len(parts) if extra_positives else None)


def _together(layouts: Sequence[Layout], join: str = "mean", shares: Sequence[float] | None = None) -> Layout:
    """Several layouts as one; `shares` weigh each of them."""
    parts = [s for layout in layouts for s in layout.parts]
    if shares is None and all(layout.weights is None for layout in layouts):
        return Layout(parts, join)
    shares = shares or [1.0] * len(layouts)
    weights = [
        w * x for layout, w in zip(layouts, shares, strict=True) for x in layout.weights or [1.0] * len(layout.parts)
    ]
    return Layout(parts, join, weights=weights)


def one_way(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    similarity: str = "cosine",
    excluded: ExcludedPairs | None = None,
    extra_positives: ExcludedPairs | None = None,
    extra_candidates: Extras = (),
    in_batch: bool = True,
    negatives: str = "local",
) -> Layout:
    """Query i against its key i; the other keys of the batch (all ranks with "global") are its negatives.

    Args: query, key: (n, D). key may hold more rows than query (further negatives at the end).
        excluded, extra_positives: pairs of items that are no negatives of each other, and those that are further
        positives.
        extra_candidates: further blocks, or a function of the `Anchors` that gives `ExtraCandidates`.
        in_batch: False leaves only the blocks of `extra_candidates` as negatives (MoCo, Contriever).
    """
    net = exchange(negatives)
    with net.together():
        _matrices(query, key, temperature)
        if key.shape[0] < query.shape[0]:
            raise InputError(f"Each query needs a key: got {query.shape[0]} queries and {key.shape[0]} keys.")
    net.widths(query, key)
    keys, offset, ring = net.keys(key, whole=callable(extra_candidates))
    items = torch.arange(query.shape[0], device=query.device)
    relation = nobody if excluded is None else excluded.relation(items, net, key.shape[0])
    positive = diagonal(query.shape[0], offset, query.device)
    alike = nobody if extra_positives is None else extra_positives.relation(items, net, key.shape[0])
    return _one(
        query,
        keys,
        ring,
        key[: len(items)],
        items,
        positive,
        nobody,
        relation,
        extra_candidates,
        temperature,
        similarity,
        net,
        in_batch,
        key.shape[0],
        also=alike,
    )


def both_ways(
    a: Tensor,
    b: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    similarity: str = "cosine",
    excluded: ExcludedPairs | None = None,
    extra_positives: ExcludedPairs | None = None,
    extra_candidates: Extras = (),
    extra_candidates_back: Extras = (),
    join: str = "mean",
    negatives: str = "local",
) -> Layout:
    """a_i against all b, and b_i against all a: the two directions of image-text and other pairs.

    b may hold more rows than a: further candidates of the direction a -> b. `extra_candidates` holds more of that
    direction, `extra_candidates_back` of b -> a.
    """
    scalar = not isinstance(temperature, Tensor) or temperature.numel() == 1
    plain = not (extra_candidates or extra_candidates_back)
    forth = one_way(
        a,
        b,
        temperature=temperature,
        similarity=similarity,
        excluded=excluded,
        extra_positives=extra_positives,
        extra_candidates=extra_candidates,
        negatives=negatives,
    )
    back = one_way(
        b[: a.shape[0]],
        a,
        temperature=_transposed(temperature),
        similarity=similarity,
        excluded=None if excluded is None else excluded.reversed(),
        extra_positives=None if extra_positives is None else extra_positives.reversed(),
        extra_candidates=extra_candidates_back,
        negatives=negatives,
    )
    alone = forth.parts[0].group is None and a.shape == b.shape
    layout = _together([forth, back], join)
    layout.transposed = alone and scalar and plain and similarity != "euclidean"
    return layout


def _matrices(a: Tensor, b: Tensor, temperature: float | Tensor) -> None:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        raise InputError(
            f"A layout is made of embeddings. Got {type(a).__name__} and {type(b).__name__}.",
            "A similarity of your own stands alone: Similarity(source, positive=...).",
        )
    if not (a.is_floating_point() and b.is_floating_point()):
        raise InputError(
            f"Embeddings must be real floating-point numbers. Got {a.dtype} and {b.dtype}.", "Convert them: x.float()."
        )
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise InputError(f"Embeddings must be (n, D) and (m, D) of one D. Got {tuple(a.shape)} and {tuple(b.shape)}.")
    if not isinstance(temperature, Tensor):
        check("temperature", temperature, PositiveFloat, "argument")


def _transposed(temperature: float | Tensor) -> float | Tensor:
    if isinstance(temperature, Tensor) and temperature.dim() >= 2:
        return temperature.transpose(-1, -2)
    return temperature


def all_views(
    views: Sequence[Tensor],
    *,
    targets: int | None = None,
    temperature: float | Tensor = 1.0,
    similarity: str = "cosine",
    excluded: ExcludedPairs | None = None,
    extra_positives: ExcludedPairs | None = None,
    extra_candidates: Extras = (),
    negatives: str = "local",
) -> Layout:
    """Every view against every target view of the same item, the other items of both views as negatives.

    Two views: the 2n anchors of NT-Xent, each with 2n - 1 candidates. More: the mean over the ordered pairs of a view
    and a target (the first `targets` views; default all), so that 8 crops with 2 big ones need no other loss.

    Args: views: V tensors (n, D), row i of each is the same item. excluded, extra_positives: as in `one_way`.
    Raises InputError: fewer than two views, or views of different sizes.
    """
    net = exchange(negatives)
    with net.together():
        if len(views) < 2:
            raise InputError(f"all_views needs at least two views. Got {len(views)}.")
        if not all(isinstance(v, Tensor) for v in views):
            raise InputError(f"Views are tensors (n, D). Got {', '.join(type(v).__name__ for v in views)}.")
        if len({v.shape for v in views}) > 1:
            raise InputError(f"All views must have the same shape. Got {[tuple(v.shape) for v in views]}.")
        _matrices(views[0], views[1], temperature)
    net.widths(views[0])
    count = len(views) if targets is None else targets
    pairs = [(a, b) for a in range(len(views)) for b in range(count) if a != b]
    if len(views) == 2 and count == 2:
        pairs = [(0, 1)]
    elif count >= 2:
        pairs = [(a, b) for a, b in pairs if not (a < count and a > b)]
    both = [a < count and b < count for a, b in pairs]
    parts = [
        _pair_of_views(
            views[a], views[b], symmetric, temperature, similarity, excluded, extra_positives, extra_candidates, net
        )
        for (a, b), symmetric in zip(pairs, both, strict=True)
    ]
    return _together(parts, shares=[2.0 if x else 1.0 for x in both] if len(set(both)) > 1 else None)


def _pair_of_views(
    a: Tensor,
    b: Tensor,
    symmetric: bool,
    temperature: float | Tensor,
    similarity: str,
    excluded: ExcludedPairs | None,
    extra_positives: ExcludedPairs | None,
    extra_candidates: Extras,
    net: Exchange,
) -> Layout:
    """Anchors of a (and of b, where symmetric) among the candidates of both views, of all ranks."""
    n = a.shape[0]
    scalar = not isinstance(temperature, Tensor) or temperature.numel() == 1
    alone = symmetric and similarity == "cosine" and scalar and net.group is None and not extra_candidates
    if alone and not halved(a, b):
        keys, offset, ring = Vectors.below([a, b], temperature), 0, None
    else:  # rank after rank: the rows of a, then those of b
        keys, offset, ring = net.keys(torch.cat([a, b]), whole=callable(extra_candidates))
    items = torch.arange(n, device=a.device)
    mine = items + offset
    query = a if not symmetric else keys if net.group is None else torch.cat([a, b])
    positive = torch.cat([mine + n, mine]) if symmetric else mine + n
    itself = diagonal(2 * n if symmetric else n, offset, a.device)
    items = items.repeat(2) if symmetric else items
    known, alike = (nobody if x is None else x.relation(items, net, n, repeat=2) for x in (excluded, extra_positives))
    partner = b if not (symmetric and callable(extra_candidates)) else torch.cat([b, a])
    listed = Listed(positive, halves=n if symmetric and net.group is None else None)
    return _one(
        query,
        keys,
        ring,
        partner,
        items,
        listed,
        itself,
        known,
        extra_candidates,
        temperature,
        similarity,
        net,
        width=n,
        repeat=2,
        also=alike,
    )


def own_view(
    views: Sequence[Tensor],
    *,
    targets: int | None = None,
    gradient: bool = False,
    together: bool = False,
    temperature: float | Tensor = 1.0,
    similarity: str = "cosine",
    excluded: ExcludedPairs | None = None,
    negatives: str = "local",
) -> Layout:
    """Every view against the target views of the same item, the other items in the anchor's OWN view as negatives.

    The mean over the views; an anchor's positives are the first `targets` views (default all) without its own.

    Args: views: V tensors (n, D), row i of each is the same item. gradient: of positives and negatives too, else they
        are constants. together: one similarity with all positives of an anchor, else one for each of them, whose mean
        counts. excluded: pairs of items that are no negatives of each other.
    Raises InputError: fewer than two views, views of different sizes, a single target.
    """
    net, count = exchange(negatives), len(views) if targets is None else targets
    with net.together():
        if len(views) < 2 or len({v.shape for v in views}) > 1:
            raise InputError(f"Views must be two or more of one shape. Got {[tuple(v.shape) for v in views]}.")
        if count > len(views):
            raise InputError(f"{count} target views are asked for, and there are {len(views)} views.")
        if count < 2:
            raise InputError(f"Each view needs another one as its positive. Got {count} target view.")
        _matrices(views[0], views[1], temperature)
    net.widths(views[0])
    n, device = len(views[0]), views[0].device
    relation = nobody if excluded is None else excluded.relation(torch.arange(n, device=device), net, n)
    held = views if gradient else [v.detach() for v in views]
    parts, weights = [], []
    for a, query in enumerate(views):
        keys, offset, _ = net.keys(held[a], whole=True)
        others = [held[b] for b in range(count) if b != a]
        groups = [others] if together else [[v] for v in others]
        for group in groups:
            own = torch.zeros(n, dtype=torch.long, device=device)
            own = own if len(group) == 1 else torch.arange(len(group), device=device).expand(n, -1)
            blocks = [Block(keys, visible=~relation, gradient=gradient),
                      Block(torch.stack(group, 1), per_anchor=True, gradient=gradient)]  # fmt: skip
            parts.append(Similarity(query, blocks, positive=Listed(own, 1), itself=diagonal(n, offset, device),
                                    temperature=temperature, similarity=similarity, group=net.group))  # fmt: skip
            weights.append(1 / len(groups))
    return Layout(parts, weights=weights if len(set(weights)) > 1 else None)
