"""An encoder of the nodes of one type along meta-paths, each a graph of its own with what lies between as context.

x_t --linear, elu--> h_t;   f_s = elu(h + sum over hops of mean(h_k) W_sk);   Z_s = GCN(f_s, A_s), whitened as a whole
z = sum_s beta_s Z_s / |Z_s|,   beta = softmax_s of a . mean_i tanh(W z_i + b)

Source: MEOW, SDM 2023 (arXiv 2212.13847), as its card's letter B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import dropout, elu, normalize

from nearfar.checks import PositiveInt, ShareBelowOne, Width, checked_init
from nearfar.encoders.network import ACTIVATIONS, Activation, NodeEncoder
from nearfar.errors import InputError
from nearfar.graphs import Graph, kept
from nearfar.metapaths import mean_graph, normalised, path_counts, reached, read_path, steps_of, strongest

MOMENTUM, EPS = 0.1, 1e-5


@dataclass
class PathGraphs:
    """Of each path its counts A', the normalised matrix, and the means over what lies between, hop by hop."""

    counts: list[Tensor]
    adjacent: list[Tensor]
    between: list[list[Tensor]]


def whole_moments(z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """One mean and one variance (divided by n d) of all entries of a matrix."""
    return z.mean(), z.var(correction=0)


def whole_norm(z: Float[Tensor, "n d"], mean: Tensor, variance: Tensor, eps: float = EPS) -> Float[Tensor, "n d"]:
    """(z - mean) / sqrt(variance + eps), the same for all entries: a layer norm over the whole matrix, without scale
    and shift, where they are its own `whole_moments`. Source: card B."""
    return (z - mean) * (variance + eps).rsqrt()


def attention_score(
    z: Float[Tensor, "n d"], weight: Float[Tensor, "d d"], bias: Float[Tensor, " d"], a: Float[Tensor, " d"]
) -> Float[Tensor, ""]:
    """e = a . mean_i tanh(W z_i + b): how much a path is worth, of all nodes at once. Source: card B."""
    return torch.tanh(z @ weight.T + bias).mean(0) @ a


@checked_init
class PathEncoder(NodeEncoder):
    """Nodes of the target type -> (n, dim); nodes of the other types have their h_t, which no contrast trains alone.

    In training, moments of the whole matrices and scores of the attention are those of the graph; running means of them
    are kept, and used in evaluation, so that a node has one vector, whichever other nodes are embedded beside it.

    inputs, types, relations: as of `GraphEncoder`. target: name of the type; paths: as `nearfar.metapaths.read_paths`
    reads them; nearest: of each path (or one for all) how many neighbours of highest PathSim are kept, 0 for all;
    context: whether what lies between two nodes is seen. dim: d, of all layers. layers, activation: of the convolution
    that all paths share, with the activation between its layers. dropout: on the linear maps.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        types: Sequence[str] = ("a", "b"),
        relations: Sequence[str] = ("edges",),
        convolution: Literal["paths"] = "paths",
        dim: Width = 64,
        layers: PositiveInt = 2,
        activation: Activation = "prelu",
        counts: bool = False,
        held_out: float = 0.0,
        held_seed: int = 0,
        transductive: bool = True,
        target: str = "a",
        paths: Sequence[str] = ("a-b-a",),
        nearest: Sequence[int] = (0,),
        context: bool = True,
        dropout: ShareBelowOne = 0.2,
    ):
        super().__init__(inputs, types, relations, convolution, dim, layers, activation, counts, held_out, held_seed,
                         transductive)  # fmt: skip
        self.target, self.context, self.dropout = target, context, dropout
        self.kind = self.types.index(target)
        every = range(len(self.types))
        known = {(r, a, b) for r in range(max(1, len(self.relations))) for a in every for b in every}
        read = [read_path(one, self.types, self.relations, known, self.kind) for one in paths]
        self.ways, self.paths = read, list(paths)
        if len(nearest) not in (1, len(read)):
            raise InputError(f"--graph-nearest gives {len(nearest)} numbers for {len(read)} paths: {', '.join(paths)}.",
                             "Give one for all, or one for each.")  # fmt: skip
        self.nearest = list(nearest)
        self.entry = nn.ModuleList(nn.Linear(d, dim) for d in self.inputs)
        hops = [len(way.types) - 2 if context else 0 for way in read]
        self.between = nn.ModuleList(nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(k)) for k in hops)
        self.convs = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(layers))
        self.activation = ACTIVATIONS[activation]()
        self.attention, self.worth = nn.Linear(dim, dim), nn.Parameter(torch.randn(dim) / dim**0.5)
        self.register_buffer("moments", torch.tensor([[0.0, 1.0]] * (2 * len(read) + 1)))
        self.register_buffer("scores", torch.zeros(len(read)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        used = {self.kind} | {k for way in read for k in way.types if context}
        for kind, layer in enumerate(self.entry):
            layer.requires_grad_(kind in used)

    moments: Tensor
    scores: Tensor
    seen: Tensor

    @property
    def reach(self) -> int:
        """How many edges away a node sees: its layers, the degrees of the last ones, and the PathSim of those."""
        longest = max(len(way.types) - 1 for way in self.ways)
        return (self.layers + 1) * longest + longest // 2

    def draw_neighbours(self, fanout: Sequence[int] | None) -> None:
        if fanout is not None:
            raise InputError("Meta-paths are those of the whole graph, not of drawn neighbours.",
                             "Use --graph-neighbours all, or another --graph-encoder.")  # fmt: skip

    def graphs_of(self, graph: Graph) -> PathGraphs:
        """The matrices of all paths in a graph, made once."""
        return kept(graph, f"paths {self.paths} {self.nearest}", lambda: self._made(graph))

    def _made(self, graph: Graph) -> PathGraphs:
        steps = [steps_of(graph, way) for way in self.ways]
        most = self.nearest * (len(steps) if len(self.nearest) == 1 else 1)
        counts = [strongest(path_counts(own), k or None) for own, k in zip(steps, most, strict=True)]
        return PathGraphs(counts, [normalised(one) for one in counts], [reached(own) for own in steps])

    # -- the pieces

    def entered(self, kind: int, x: Tensor) -> Tensor:
        """h_t = elu(dropout(x W_t + b_t)) of the nodes of a type."""
        return elu(dropout(self.entry[kind](x), self.dropout, self.training))

    def contexts(self, h: Sequence[Tensor], own: PathGraphs) -> list[Tensor | None]:
        """c_s of each path, (n, dim): what lies between, hop by hop; None where nothing does."""
        found: list[Tensor | None] = []
        linear: Any = self.between
        for way, layers, means in zip(self.ways, linear, own.between, strict=True):
            hops: Any = zip(layers, means, way.types[1:], strict=False)
            terms = [dropout(layer(mean @ h[kind]), self.dropout, self.training) for layer, mean, kind in hops]
            found.append(torch.stack(terms).sum(0) if terms else None)
        return found

    def convolved(self, x: Tensor, adjacency: Tensor, place: int) -> Tensor:
        """The shared convolution, brought to mean 0 and variance 1 as a whole; place: of its running moments."""
        for number, layer in enumerate(self.convs):
            x = torch.sparse.mm(adjacency, dropout(layer(x), self.dropout, self.training))
            x = self.activation(x) if number + 1 < self.layers else x
        mean, variance = whole_moments(x) if self.training else self.moments[place]
        if self.training:
            self._follow(self.moments[place], torch.stack([mean, variance]))
        return whole_norm(x, mean, variance)

    def _follow(self, running: Tensor, value: Tensor) -> None:
        share = max(MOMENTUM, 1 / (1 + int(self.seen)))
        running.copy_((1 - share) * running + share * value.detach().to(running.dtype))

    def attended(self, views: Sequence[Tensor]) -> Tensor:
        """z = sum of beta_v z_v: over the paths, or over the paths and then their masked copies."""
        a = dropout(self.worth, self.dropout, self.training)
        scores = torch.stack([attention_score(z, self.attention.weight, self.attention.bias, a) for z in views])
        if self.training:
            self._follow(self.scores, torch.logsumexp(scores.view(-1, len(self.ways)), 0))
            self.seen += 1
        elif len(views) == len(self.ways):
            scores = self.scores.to(scores.dtype)
        return torch.einsum("v,vnd->nd", scores.softmax(0), torch.stack(list(views)))

    # -- views

    def fine(self, h: Tensor, contexts: Sequence[Tensor | None], adjacent: Sequence[Tensor], first: int = 0
             ) -> list[Tensor]:  # fmt: skip
        """Unit rows of each path: the convolution of elu(h + c_s), or of h where nothing lies between."""
        found = [h if c is None else elu(h + c) for c in contexts]
        return [normalize(self.convolved(f, a, first + s), dim=1)
                for s, (f, a) in enumerate(zip(found, adjacent, strict=True))]  # fmt: skip

    def two_views(self, graph: Graph, features: Tensor, adjacent: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The coarse view z^c and the fine view z^f of the target nodes, (n, dim) each. features: those of the target
        with some entries masked; adjacent: the masked matrices of the paths."""
        own, count = self.graphs_of(graph), len(self.ways)
        h = [self.entered(kind, x) for kind, x in enumerate(self.scaled(graph))]
        context = self.contexts(h, own)
        coarse = self.convolved(h[self.kind], mean_graph(own.adjacent), 2 * count)
        views = self.fine(h[self.kind], context, own.adjacent)
        views += self.fine(self.entered(self.kind, features), context, adjacent, count)
        return coarse, self.attended(views)

    def all_nodes(self, graph: Graph) -> Tensor:
        own = self.graphs_of(graph)
        h = [self.entered(kind, x) for kind, x in enumerate(self.scaled(graph))]
        z = self.attended(self.fine(h[self.kind], self.contexts(h, own), own.adjacent))
        out = z.new_zeros(len(graph), self.dim)
        for kind, part in enumerate(h):
            out = out.index_put((graph.types == kind,), z if kind == self.kind else part.to(z.dtype))
        return out

    def config(self) -> dict[str, Any]:
        return super().config() | {
            "target": self.target,
            "paths": self.paths,
            "nearest": self.nearest,
            "context": self.context,
            "dropout": self.dropout,
        }
