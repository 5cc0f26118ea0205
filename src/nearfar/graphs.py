"""A graph as tensors: typed nodes with features, edges of relations; parts of it, and edges that are held out.

pairs -> connected (both ways, no loops) -> Graph -> around / sampled (a part) -> Nodes, what an encoder takes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(eq=False)
class Graph:
    """n nodes and m edges.

    features: of each type of node a float matrix (n_t, d_t), its nodes in their order. types: int64 (n,), of each node.
    edges: int64 (2, m), source and target; an edge stands in both directions. relations: int64 (m,), of each edge: 0
    where there is one, else 2 r for the r-th as it was given and 2 r + 1 against its direction. degrees: float (n,),
    how many edges end in each node, where `edges` are only those of a part; None: as many as there are. texts: of each
    node, n of them; None where none is known.
    """

    features: tuple[Tensor, ...]
    types: Tensor
    edges: Tensor
    relations: Tensor
    degrees: Tensor | None = None
    texts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.types)

    def to(self, device: torch.device | str) -> Graph:
        if self.types.device == torch.device(device):
            return self
        kept = self.__dict__.setdefault("_moved", {})
        if str(device) not in kept:
            with torch.inference_mode(False):
                moved = {f.name: _moved(getattr(self, f.name), device) for f in dataclasses.fields(self)}
            kept.clear()
            kept[str(device)] = Graph(**moved)
        return kept[str(device)]

    @cached_property
    def places(self) -> Tensor:
        """int64 (n,): the row of each node in the features of its type."""
        with torch.inference_mode(False):
            found = torch.zeros_like(self.types)
            for kind in range(len(self.features)):
                own = self.types == kind
                found[own] = torch.arange(int(own.sum()), device=found.device)
        return found

    @cached_property
    def degree(self) -> Tensor:
        """float (n,): how many edges end in each node, of the whole graph."""
        if self.degrees is not None:
            return self.degrees
        with torch.inference_mode(False):
            return torch.bincount(self.edges[1], minlength=len(self)).to(torch.float32)

    @cached_property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts int64 (n + 1,) and numbers of edges int64 (m,): those that end in node i are
        order[starts[i] : starts[i + 1]]."""
        target = self.edges[1].cpu().numpy()
        order = np.argsort(target, kind="stable")
        return np.searchsorted(target[order], np.arange(len(self) + 1)), order

    def with_edges(self, kept: Tensor) -> Graph:
        """The same nodes with some of the edges, bool (m,); degrees are counted anew."""
        return dataclasses.replace(self, edges=self.edges[:, kept], relations=self.relations[kept], degrees=None)

    def part(self, nodes: np.ndarray, edges: np.ndarray | None = None) -> Graph:
        """Some nodes, in the order given, with the edges of these numbers (None: all between them); a node keeps the
        degree that it has in the whole graph."""
        chosen, kinds = torch.from_numpy(np.asarray(nodes, np.int64)), range(len(self.features))
        new = torch.full((len(self),), -1)
        new[chosen] = torch.arange(len(chosen))
        if edges is None:
            kept = ((new[self.edges[0]] >= 0) & (new[self.edges[1]] >= 0)).nonzero()[:, 0]
        else:
            kept = torch.from_numpy(edges)
        features = tuple(self.features[k][self.places[chosen[self.types[chosen] == k]]] for k in kinds)
        texts = None if self.texts is None else tuple(self.texts[k] for k in chosen.tolist())
        return Graph(features, self.types[chosen], new[self.edges[:, kept]], self.relations[kept], self.degree[chosen],
                     texts)  # fmt: skip


class Nodes:
    """Some nodes of a graph, which are to be embedded: numbers int64 (b,)."""

    def __init__(self, graph: Graph, numbers: Tensor):
        self.graph, self.numbers = graph, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> Nodes:
        return Nodes(self.graph, self.numbers[rows])

    def to(self, device: torch.device | str) -> Nodes:
        return Nodes(self.graph.to(device), self.numbers.to(device))


@dataclass(frozen=True)
class Node:
    """One node with the graph around it: an item of its own."""

    graph: Graph
    number: int


def connected(
    count: int, given: Sequence[np.ndarray], features: Sequence[np.ndarray], types: np.ndarray | None = None
) -> Graph:
    """A graph of `count` nodes. given: of each relation the pairs int64 (2, m) of source and target. Loops are left
    out, an edge that stands twice in a relation counts once, and each is added against its direction."""
    edges, relations = [np.zeros((2, 0), np.int64)], [np.zeros(0, np.int64)]
    for number, pairs in enumerate(given):
        pairs = np.asarray(pairs, np.int64).reshape(2, -1)
        pairs = pairs[:, pairs[0] != pairs[1]]
        back = pairs[::-1]
        if len(given) == 1:
            both = np.unique(np.concatenate([pairs, back], 1), axis=1)
            edges, relations = [*edges, both], [*relations, np.zeros(both.shape[1], np.int64)]
            continue
        for place, part in enumerate((pairs, back)):
            own = np.unique(part, axis=1)
            edges, relations = [*edges, own], [*relations, np.full(own.shape[1], 2 * number + place)]
    kinds = np.zeros(count, np.int64) if types is None else np.asarray(types, np.int64)
    return Graph(
        tuple(torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in features),
        torch.from_numpy(kinds),
        torch.from_numpy(np.ascontiguousarray(np.concatenate(edges, 1))),
        torch.from_numpy(np.concatenate(relations)),
    )


def around(graph: Graph, node: int, hops: int, most: int = 2000) -> Node:
    """A node with all that lies within so many hops, which is what a network of as many layers sees of it. Where these
    are more than `most` nodes, ten neighbours of each at most, at most two hops away, drawn always alike."""
    found = _reached(graph, np.array([node]), [None] * hops, np.random.default_rng(0), most)
    if found is None:
        return sampled_around(graph, node, [10] * min(hops, 2))
    found = np.sort(found)  # so that what depends on the order of nodes is as in the whole
    return Node(graph.part(found), int(np.searchsorted(found, node)))


def sampled_around(graph: Graph, node: int, fanout: Sequence[int]) -> Node:
    """A node with a drawn neighbourhood, always the same one."""
    part = sampled(graph, np.array([node]), fanout, np.random.default_rng(0))
    return Node(part.graph, int(part.numbers[0]))


def _reached(
    graph: Graph, start: np.ndarray, fanout: Sequence[int | None], rng: np.random.Generator, most: int
) -> np.ndarray | None:
    """Numbers of the nodes within as many hops, the first ones first; None where they are more than `most`."""
    seen, last = {int(x): None for x in start}, start
    for count in fanout:
        _, source = _arriving(graph, last, count, rng)
        last = np.array([x for x in np.unique(source).tolist() if x not in seen], np.int64)
        seen |= dict.fromkeys(last.tolist())
        if len(seen) > most:
            return None
    return np.fromiter(seen, np.int64, len(seen))


def _arriving(
    graph: Graph, nodes: np.ndarray, count: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the edges that end in some nodes, at most `count` of each drawn without return, and their sources."""
    starts, order = graph.neighbours
    first, many = starts[nodes], starts[nodes + 1] - starts[nodes]
    place = np.repeat(first - np.cumsum(many) + many, many) + np.arange(many.sum())
    if count is not None and len(place):
        owner = np.repeat(np.arange(len(nodes)), many)
        shuffled = np.lexsort((rng.random(len(place)), owner))
        rank = np.arange(len(place)) - np.repeat(np.cumsum(many) - many, many)
        place = place[shuffled[rank < count]]
    edges = order[place]
    return edges, graph.edges[0].numpy()[edges]


def sampled(graph: Graph, nodes: np.ndarray, fanout: Sequence[int], rng: np.random.Generator) -> Nodes:
    """Some nodes in the part of the graph that is drawn around them: of each node at most fanout[0] neighbours, of each
    of these fanout[1]... (Hamilton et al., NeurIPS 2017)."""
    numbers, place = np.unique(np.asarray(nodes, np.int64), return_inverse=True)
    last, seen, kept = numbers, numbers, []
    for count in fanout:
        edges, source = _arriving(graph, last, count, rng)
        kept.append(edges)
        last = np.setdiff1d(source, seen)
        seen = np.concatenate([seen, last])
    chosen = np.unique(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    return Nodes(graph.part(seen, chosen), torch.from_numpy(place.reshape(-1)))


def side_by_side(parts: Sequence[Tensor], types: Tensor) -> Tensor:
    """Matrices (n_t, d_t) of each type as one (n, sum of d_t), each in columns of its own, 0 elsewhere."""
    if len(parts) == 1:
        return parts[0]
    out, first = parts[0].new_zeros(len(types), sum(x.shape[1] for x in parts)), 0
    for kind, x in enumerate(parts):
        rows = (types == kind).nonzero()[:, 0]
        out[rows, first : first + x.shape[1]] = x
        first += x.shape[1]
    return out


def joined(nodes: Sequence[Node]) -> Nodes:
    """Nodes of any graphs as nodes of one, side by side; those of one graph share it."""
    graphs = list({id(node.graph): node.graph for node in nodes}.values())
    starts = dict(zip(map(id, graphs), np.cumsum([0, *map(len, graphs[:-1])]).tolist(), strict=True))
    numbers = torch.tensor([starts[id(node.graph)] + node.number for node in nodes], dtype=torch.int64)
    if len(graphs) == 1:
        return Nodes(graphs[0], numbers)
    whole = Graph(
        tuple(torch.cat(parts) for parts in zip(*(g.features for g in graphs), strict=True)),
        torch.cat([g.types for g in graphs]),
        torch.cat([g.edges + starts[id(g)] for g in graphs], 1),
        torch.cat([g.relations for g in graphs]),
        torch.cat([g.degree for g in graphs]),
        tuple(text for g in graphs for text in g.texts or ()) if all(g.texts is not None for g in graphs) else None,
    )
    return Nodes(whole, numbers)


def pairs_of(graph: Graph) -> np.ndarray:
    """int64 (2, p): each two nodes that an edge joins, the lower number first, each once and sorted."""
    edges = graph.edges.cpu().numpy()
    return np.unique(np.sort(edges, 0), axis=1)


def joined_with(graph: Graph) -> Tensor:
    """float (n,): with how many other nodes edges of the graph join each, whatever their relations."""
    counted = np.bincount(pairs_of(graph).reshape(-1), minlength=len(graph))
    return torch.from_numpy(counted).to(graph.edges.device, torch.float32)


def with_degrees(graph: Graph) -> Graph:
    """The graph in which nodes of a type without features, (n_t, 0), have two: 1, and the logarithm of 1 + the number
    of nodes that they are joined with here."""
    if all(x.shape[1] for x in graph.features):
        return graph
    degree = torch.log1p(joined_with(graph))
    features = (
        x if x.shape[1] else torch.stack([torch.ones_like(own), own], 1)
        for x, own in ((x, degree[graph.types == kind]) for kind, x in enumerate(graph.features))
    )
    return dataclasses.replace(graph, features=tuple(features))


def held_out(graph: Graph, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs int64 (2, k) of joined nodes that are held out for validation and for testing: half of `share` of all
    pairs each. No node loses its last edge: a pair is drawn only while both its nodes keep another one."""
    return kept(graph, f"held out {share} {seed}", lambda: _held_out(graph, share, seed))


def _held_out(graph: Graph, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = pairs_of(graph)
    wanted = round(share * pairs.shape[1])
    left = np.bincount(pairs.reshape(-1), minlength=len(graph))
    chosen = []
    for place in np.random.default_rng([seed, 77]).permutation(pairs.shape[1]).tolist():
        if len(chosen) == wanted:
            break
        a, b = pairs[:, place]
        if left[a] > 1 and left[b] > 1:
            chosen.append(place)
            left[a] -= 1
            left[b] -= 1
    half = len(chosen) // 2
    return pairs[:, chosen[:half]], pairs[:, chosen[half:]]


def without(graph: Graph, pairs: np.ndarray) -> Graph:
    """The graph without the edges between some pairs of nodes (2, k), in both directions and all relations."""
    if not pairs.shape[1]:
        return graph
    edges = np.sort(graph.edges.cpu().numpy(), 0)
    code, away = edges[0] * len(graph) + edges[1], np.sort(pairs, 0)
    return graph.with_edges(torch.from_numpy(~np.isin(code, away[0] * len(graph) + away[1])))


def kept(graph: Graph, name: str, make: Callable[[], Any]) -> Any:
    """What is made of a graph once and stays with it; training may use it, also where embedding made it first."""
    store = graph.__dict__.setdefault("_kept", {})
    if name not in store:
        with torch.inference_mode(False):
            store[name] = make()
    return store[name]


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(one, device) for one in value)
    return value.to(device) if isinstance(value, Tensor) else value
