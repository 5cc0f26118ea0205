"""Meta-paths of a graph of several types: which nodes of one type are joined, along which ways, and through what.

    "paper-author-paper" -> steps (0/1 matrices) -> counts of ways -> strongest (PathSim) -> normalised
    -> reached (what lies between, as means)

Matrices are sparse tensors (COO). Source: MEOW, SDM 2023 (arXiv 2212.13847), as its card's letters A and B.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.graphs import Graph

Joined = set[tuple[int, int, int]]


@dataclass(frozen=True)
class MetaPath:
    """A way through types, the same in both directions. types: their numbers, the first and the last alike; relations:
    of each step the number of its relation, or None for any."""

    types: tuple[int, ...]
    relations: tuple[int | None, ...]

    def words(self, types: Sequence[str], relations: Sequence[str]) -> str:
        """As it is written: TYPE-TYPE-TYPE, or TYPE-RELATION:TYPE where one relation is meant."""
        parts = [types[self.types[0]]]
        for kind, relation in zip(self.types[1:], self.relations, strict=True):
            parts.append(types[kind] if relation is None else f"{relations[relation]}:{types[kind]}")
        return "-".join(parts)


def joined_types(graph: Graph) -> Joined:
    """(relation, type, type) of all that edges join, by numbers; relations without their direction."""
    ends = graph.types[graph.edges]
    found = torch.stack([graph.relations // 2, ends[0], ends[1]], 1).unique(dim=0)
    return {(int(r), int(a), int(b)) for r, a, b in found.tolist()}


def usual_paths(joined: Joined, target: int) -> list[MetaPath]:
    """target-X-target of every other type X that an edge joins with the target, and target-target where edges join
    those; one of each relation, if several join the same types."""
    found = []
    others = sorted({b for _, a, b in joined if a == target}, key=lambda b: (b == target, b))
    for other in others:
        kinds = sorted({r for r, a, b in joined if (a, b) == (target, other)})
        for relation in kinds:
            chosen = relation if len(kinds) > 1 else None
            types = (target, target) if other == target else (target, other, target)
            found.append(MetaPath(types, (chosen,) * (len(types) - 1)))
    return found


def read_paths(
    words: str, types: Sequence[str], relations: Sequence[str], joined: Joined, target: int
) -> list[MetaPath]:
    """The paths that `words` name, separated by commas; auto: `usual_paths`.

    Raises InputError for an unknown type or relation, a path that does not begin and end with the target or is not the
    same in both directions, a step that no edge takes, and where there is no path at all.
    """
    if words.strip() == "auto":
        found = usual_paths(joined, target)
        if not found:
            raise InputError(f"No edge ends in a node of the type '{types[target]}', so no path joins two of them.",
                             "Name another type: --graph-target TYPE.")  # fmt: skip
        return found
    return [read_path(part.strip(), types, relations, joined, target) for part in words.split(",") if part.strip()]


def read_path(word: str, types: Sequence[str], relations: Sequence[str], joined: Joined, target: int) -> MetaPath:
    """One path from its words. Raises InputError as `read_paths` does."""

    def longest(names: Sequence[str]) -> str:
        return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))

    step = re.compile(rf"(?:({longest(relations)}):)?({longest(types)})(?=-|$)")
    place, kinds, chosen = 0, [], []
    while place <= len(word):
        match = step.match(word, place)
        if match is None:
            raise InputError(
                f"The path '{word}' cannot be read from '{word[place:]}' on. Types: {', '.join(types)}; relations: "
                f"{', '.join(relations)}.", "Write TYPE-TYPE-TYPE, or TYPE-RELATION:TYPE-RELATION:TYPE.")  # fmt: skip
        kinds.append(types.index(match[2]))
        chosen.append(relations.index(match[1]) if match[1] else None)
        place = match.end() + 1
    path = MetaPath(tuple(kinds), tuple(chosen[1:]))
    back = path.types == path.types[::-1] and path.relations == path.relations[::-1]
    if len(kinds) < 2 or kinds[0] != target or not back:
        raise InputError(
            f"The path '{word}' must lead from '{types[target]}' to '{types[target]}' and read alike in both "
            "directions.", "For example A-B-A, or A-B-C-B-A.")  # fmt: skip
    for a, b, relation in zip(path.types, path.types[1:], path.relations, strict=False):
        if not any((x, y) == (a, b) and relation in (None, r) for r, x, y in joined):
            raise InputError(f"No edge joins '{types[a]}' and '{types[b]}' as the path '{word}' asks.",
                             "Name types that edges join.")  # fmt: skip
    return path


def steps_of(graph: Graph, path: MetaPath) -> list[Tensor]:
    """Of each step the sparse 0/1 matrix (n_a, n_b) of its two types, rows and columns in their order; edges of several
    relations between the same nodes count once."""
    return [_step(graph, a, b, r) for a, b, r in zip(path.types, path.types[1:], path.relations, strict=False)]


def _step(graph: Graph, a: int, b: int, relation: int | None) -> Tensor:
    ends = graph.types[graph.edges]
    chosen = (ends[0] == a) & (ends[1] == b)
    if relation is not None:
        chosen &= graph.relations // 2 == relation
    index = graph.places[graph.edges[:, chosen]]
    sizes = (int((graph.types == a).sum()), int((graph.types == b).sum()))
    return like_ones(sparse(index, torch.ones(index.shape[1], device=index.device), sizes))


def sparse(index: Tensor, values: Tensor, sizes: tuple[int, int]) -> Tensor:
    """A coalesced sparse matrix; what stands twice is added up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's notes on the state of its sparse tensors
        return torch.sparse_coo_tensor(index, values, sizes).coalesce()


def _product(a: Tensor, b: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse.mm(a, b).coalesce()


def _with(values: Tensor, matrix: Tensor) -> Tensor:
    return sparse(matrix.indices(), values, (matrix.shape[0], matrix.shape[1]))


def like_ones(matrix: Tensor) -> Tensor:
    """1 where an entry is stored."""
    return _with(torch.ones_like(matrix.values()), matrix)


def _identity(n: int, like: Tensor) -> Tensor:
    numbers = torch.arange(n, device=like.device)
    return sparse(torch.stack([numbers, numbers]), torch.ones(n, dtype=like.dtype, device=like.device), (n, n))


def _diagonal(matrix: Tensor) -> Tensor:
    row, column = matrix.indices()
    found = torch.zeros(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    return found.index_add(0, row[row == column], matrix.values()[row == column])


def path_counts(steps: Sequence[Float[Tensor, "a b"]]) -> Float[Tensor, "n n"]:
    """A_ij: how many ways lead from i to j, itself included; sparse. A single step joins without anything between, and
    each node with itself: A + I. Source: card, "Target nodes N; meta-paths"."""
    if len(steps) == 1:
        return (steps[0] + _identity(steps[0].shape[0], steps[0])).coalesce()
    found = steps[0]
    for one in steps[1:]:
        found = _product(found, one)
    return found


def path_similarity(counts: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """PathSim: 2 A_ij / (A_ii + A_jj) of the stored entries; in (0, 1] for symmetric A, 1 for a node with itself.
    Source: card A 1 (Sun et al., VLDB 2011)."""
    row, column = counts.indices()
    own = _diagonal(counts)
    return _with(2 * counts.values() / (own[row] + own[column]), counts)


def strongest(counts: Float[Tensor, "n n"], most: int | None) -> Float[Tensor, "n n"]:
    """A' : of each row the `most` entries of highest PathSim with their counts; None: all. A node itself comes first,
    then, of equals, lower numbers. Source: card A 1 (nei_max)."""
    if most is None:
        return counts
    row, column = counts.indices()
    nearness = path_similarity(counts).values() + (row == column)
    order = torch.sort(nearness, descending=True, stable=True).indices
    order = order[torch.sort(row[order], stable=True).indices]
    many = torch.bincount(row, minlength=counts.shape[0])
    rank = torch.arange(len(row), device=row.device) - (many.cumsum(0) - many)[row[order]]
    kept = order[rank < most]
    return sparse(torch.stack([row[kept], column[kept]]), counts.values()[kept], (counts.shape[0], counts.shape[1]))


def normalised(kept: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """D^-1/2 A'^T D^-1/2, D the row sums of A'; the inverse of 0 is 0. Source: card A 2 (transposed as in the released
    code: A' is not symmetric)."""
    row, column = kept.indices()
    d = torch.zeros(kept.shape[0], dtype=kept.dtype, device=kept.device).index_add(0, row, kept.values())
    root = torch.where(d > 0, d, 1).rsqrt() * (d > 0)
    return sparse(torch.stack([column, row]), root[row] * kept.values() * root[column], (len(d), len(d)))


def masked(kept: Float[Tensor, "n n"], share: float, generator: torch.Generator) -> Float[Tensor, "n n"]:
    """A' without its diagonal and without a drawn share of its other entries; those left are 1, loops are added, and it
    is normalised. Source: card A 3 (adj_mask)."""
    row, column = kept.indices()
    index = kept.indices()[:, row != column]
    chosen = torch.randperm(index.shape[1], generator=generator)[round(share * index.shape[1]) :].to(index.device)
    loops = torch.arange(kept.shape[0], device=index.device).expand(2, -1)
    index = torch.cat([index[:, chosen], loops], 1)
    ones = torch.ones(index.shape[1], dtype=kept.dtype, device=index.device)
    return normalised(sparse(index, ones, (kept.shape[0], kept.shape[1])))


def mask_entries(x: Float[Tensor, "n d"], share: float, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """x with a drawn share of the entries that are not 0 set to 0. Source: card A 4 (feat_mask)."""
    places = (x != 0).flatten().nonzero()[:, 0]
    away = torch.randperm(len(places), generator=generator)[: round(share * len(places))].to(places.device)
    return x.flatten().index_fill(0, places[away], 0).reshape(x.shape)


def mean_graph(adjacencies: Sequence[Float[Tensor, "n n"]]) -> Float[Tensor, "n n"]:
    """A_c, the mean of the normalised matrices of all paths. Source: card A 5."""
    total: Any = adjacencies[0]
    for one in adjacencies[1:]:
        total = total + one
    return (total / len(adjacencies)).coalesce()


def reached(steps: Sequence[Float[Tensor, "a b"]]) -> list[Float[Tensor, "n m"]]:
    """Of each hop between the ends the matrix that takes the mean over the nodes that its steps reach, each counted
    once; a row without any is 0. A single step has nothing between. Source: card B, context aggregation."""
    found, so_far = [], None
    for one in steps[:-1]:
        so_far = one if so_far is None else like_ones(_product(so_far, one))
        row = so_far.indices()[0]
        many = torch.bincount(row, minlength=so_far.shape[0])
        found.append(_with(so_far.values() / many[row], so_far))
    return found
