"""Encoders of nodes: graph convolutions of PyTorch Geometric over features that are scaled first."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.checks import PositiveInt, Width, checked_init
from nearfar.encoders.base import Encoder
from nearfar.encoders.numeric import moments
from nearfar.errors import InputError, install
from nearfar.graphs import Graph, Node, Nodes, joined, side_by_side

Convolution = Literal["gcn", "sage", "gat", "rgcn", "mlp"]
Activation = Literal["prelu", "relu", "rrelu", "elu"]
HEADS = 4  # of a layer of attention; its width is shared among them
Norm = Literal["none", "batch"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"prelu": nn.PReLU, "relu": nn.ReLU, "rrelu": nn.RReLU, "elu": nn.ELU}


def convolutions() -> Any:
    """`torch_geometric.nn`. Raises InputError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_geometric.nn as found
    except ImportError as error:
        raise InputError("Graphs need PyTorch Geometric, which is not installed.", install("graph")) from error
    return found


def symmetric_weights(graph: Graph) -> tuple[Tensor, Tensor]:
    """Edges with a loop at each node, int64 (2, m + n), and 1 / sqrt((1 + deg i) (1 + deg j)) of each, float (m + n,):
    the matrix D^-1/2 (A + I) D^-1/2 of Kipf and Welling, ICLR 2017. deg counts the edges that end in a node."""
    loops = torch.arange(len(graph), device=graph.edges.device).expand(2, -1)
    edges = torch.cat([graph.edges, loops], 1)
    root = (1 + graph.degree).rsqrt()
    return edges, root[edges[0]] * root[edges[1]]


class NodeEncoder(Encoder):
    """What encoders of nodes share: features less their mean, over their deviation (an empty number is its mean), and
    what a model says of itself. Subclasses write `all_nodes`, and take what `config` says.

    inputs: how many numbers each type of node has. types, relations: their names. convolution: name of the encoder.
    counts: features are rows that sum to 1. held_out, held_seed: edges that were left out; transductive: whether all
    nodes were seen in training.
    """

    modality = "node"
    reads_texts = False
    """Whether it reads the texts of nodes, in place of their features."""
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        inputs: Sequence[int],
        types: Sequence[str],
        relations: Sequence[str],
        convolution: str,
        dim: int,
        layers: int,
        activation: Activation,
        counts: bool,
        held_out: float,
        held_seed: int,
        transductive: bool,
    ):
        super().__init__()
        self.inputs, self.types, self.relations = list(inputs), list(types), list(relations)
        self.convolution, self.dim, self.layers, self.counts = convolution, dim, layers, counts
        self.held_out, self.held_seed, self.transductive = held_out, held_seed, transductive
        self.activation_name = activation
        self.fanout: list[int] | None = None
        self.register_buffer("mean", torch.zeros(sum(self.inputs)))
        self.register_buffer("std", torch.ones(sum(self.inputs)))

    @property
    def reach(self) -> int:
        """How many edges away a node sees."""
        return self.layers

    def all_nodes(self, graph: Graph) -> Tensor:
        """Vectors (n, dim) of all nodes."""
        raise NotImplementedError

    def draw_neighbours(self, fanout: Sequence[int] | None) -> None:
        """Of how many neighbours, step by step, training draws; None: the whole graph passes."""
        self.fanout = None if fanout is None else list(fanout)

    def standardise(self, graph: Graph) -> Self:
        """Takes mean and deviation of each number from a graph's nodes. Returns the encoder itself."""
        found = [moments(x.numpy()) for x in graph.features]
        self.mean.copy_(torch.from_numpy(np.concatenate([mean for mean, _ in found])))
        self.std.copy_(torch.from_numpy(np.concatenate([std for _, std in found])))
        return self

    def scaled(self, graph: Graph) -> list[Tensor]:
        """Features of each type, standardised; an empty number (NaN) is 0."""
        means, stds = self.mean.split(self.inputs), self.std.split(self.inputs)
        parts = zip(graph.features, means, stds, strict=True)
        return [((x - mean) / std).nan_to_num(nan=0.0) for x, mean, std in parts]

    def whole_features(self, graph: Graph) -> Tensor:
        """Standardised features (n, sum of d_t), those of each type in columns of their own."""
        return side_by_side(self.scaled(graph), graph.types)

    def forward(self, x: Nodes) -> Tensor:
        return self.all_nodes(x.graph)[x.numbers]

    def prepare(self, items: Any) -> Nodes:
        """Nodes, each with the graph around it -> what `forward` takes. Raises InputError for what is none, and for a
        graph with other features."""
        found = items if isinstance(items, Nodes) else joined([self._node(k, one) for k, one in enumerate(items)])
        self.check(found.graph)
        return found.to(self.device)

    def _node(self, number: int, item: Any) -> Node:
        if isinstance(item, Node):
            return item
        raise InputError(f"Item {number} is not a node with its graph but {str(item)[:60]!r}.",
                         "Embed the nodes of a graph: nearfar embed MODEL GRAPH.")  # fmt: skip

    def check(self, graph: Graph, where: str = "This graph") -> None:
        """Raises InputError where a graph has other features than those that were learned from."""
        widths = [x.shape[1] for x in graph.features]
        if widths != self.inputs:
            raise InputError(f"{where}: nodes have {self._told(widths)}; the model was trained on "
                             f"{self._told(self.inputs)}.", "Give the same features in the same order.")  # fmt: skip

    def _told(self, widths: Sequence[int]) -> str:
        """How many numbers each type has, in words."""
        if len(widths) == 1:
            return f"{widths[0]} numbers"
        names = self.types if len(self.types) == len(widths) else [str(k) for k in range(len(widths))]
        return ", ".join(f"{width} ('{name}')" for name, width in zip(names, widths, strict=True)) + " numbers"

    def config(self) -> dict[str, Any]:
        return {
            "modality": "node",
            "inputs": self.inputs,
            "types": self.types,
            "relations": self.relations,
            "convolution": self.convolution,
            "dim": self.dim,
            "layers": self.layers,
            "activation": self.activation_name,
            "counts": self.counts,
            "held_out": self.held_out,
            "held_seed": self.held_seed,
            "transductive": self.transductive,
        }

    @classmethod
    def restored(cls, config: Mapping[str, Any]) -> NodeEncoder:
        """The encoder that a `config()` describes, with random weights."""
        return cls(**{name: value for name, value in config.items() if name != "modality"})


@checked_init
class GraphEncoder(NodeEncoder):
    """Nodes of a graph -> (n, dim): features less their mean, over their deviation (an empty number is its mean), then
    `layers` graph convolutions, each followed by batch norm, where there is one, and the activation.

    inputs: how many numbers each type of node has. types, relations: their names. convolution: gcn (symmetric
    normalisation with loops), sage (mean of the neighbours), gat (attention of 4 heads), rgcn (weights for each
    relation and its direction; Schlichtkrull et al., ESWC 2018), mlp (linear layers, no edges). dim: width of the last
    layer; the others have twice as much. activation: one module for all layers (prelu: one slope). counts: features are
    rows that sum to 1. norm: batch, over the nodes of the graph or of its drawn part; none.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        types: Sequence[str] = ("",),
        relations: Sequence[str] = ("edges",),
        convolution: Convolution = "gcn",
        dim: Width = 256,
        layers: PositiveInt = 2,
        activation: Activation = "prelu",
        counts: bool = False,
        held_out: float = 0.0,
        held_seed: int = 0,
        transductive: bool = True,
        norm: Norm = "none",
    ):
        super().__init__(inputs, types, relations, convolution, dim, layers, activation, counts, held_out, held_seed,
                         transductive)  # fmt: skip
        several = len(self.inputs) > 1
        self.entry = nn.ModuleList(nn.Linear(d, 2 * dim) for d in self.inputs) if several else None
        widths = [2 * dim if several else self.inputs[0], *[2 * dim] * (layers - 1), dim]
        self.convs = nn.ModuleList(self._layer(a, b) for a, b in itertools.pairwise(widths))
        self.norm = norm
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) if norm == "batch" else nn.Identity() for b in widths[1:])
        self.activation = ACTIVATIONS[activation]()

    def _layer(self, a: int, b: int) -> nn.Module:
        pyg = convolutions()
        if self.convolution == "gcn":
            return pyg.GCNConv(a, b, normalize=False, add_self_loops=False)
        if self.convolution == "mlp":
            return nn.Linear(a, b)
        if self.convolution == "sage":
            return pyg.SAGEConv(a, b)
        if self.convolution == "rgcn":
            return pyg.RGCNConv(a, b, num_relations=max(1, 2 * len(self.relations)))
        if b % HEADS:
            raise InputError(f"--graph-width {self.dim} does not divide into {HEADS} heads of attention.",
                             f"Use a multiple of {HEADS}.")  # fmt: skip
        return pyg.GATConv(a, b // HEADS, heads=HEADS)

    def all_nodes(self, graph: Graph) -> Tensor:
        parts = self.scaled(graph)
        if self.entry is None:
            h = parts[0]
        else:
            h = parts[0].new_zeros(len(graph), 2 * self.dim)
            for kind, (x, entry) in enumerate(zip(parts, self.entry, strict=True)):
                h = h.index_put((graph.types == kind,), entry(x).to(h.dtype))
        edges, weights = symmetric_weights(graph) if self.convolution == "gcn" else (graph.edges, None)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            further = [weights] if weights is not None else [graph.relations] if self.convolution == "rgcn" else []
            h = self.activation(norm(conv(h) if self.convolution == "mlp" else conv(h, edges, *further)))
        return h

    def config(self) -> dict[str, Any]:
        return {**super().config(), "norm": self.norm}
