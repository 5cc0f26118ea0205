"""An encoder of nodes that reads their texts: an encoder of texts, then graph convolutions over its vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar import modalities
from nearfar.encoders.base import evaluating
from nearfar.encoders.network import GraphEncoder, NodeEncoder
from nearfar.encoders.texts import TextEncoder
from nearfar.errors import InputError
from nearfar.graphs import Graph

AT_ONCE = 64  # texts


def text_vectors(encoder: TextEncoder, texts: Any) -> Tensor:
    """float (n, d) of texts, without gradient and dropout."""
    parts = []
    with evaluating(encoder), torch.no_grad():
        for start in range(0, len(texts), AT_ONCE):
            parts.append(encoder(encoder.prepare(list(texts[start : start + AT_ONCE]))))
    return torch.cat(parts)


def with_vectors(graph: Graph, h: Tensor, edges: Tensor | None = None) -> Graph:
    """The nodes of a graph with vectors (n, d) as their features, of one type and one relation; other edges (2, e)
    where they are given."""
    kept = graph.edges if edges is None else edges
    return dataclasses.replace(
        graph,
        features=(h,),
        types=torch.zeros_like(graph.types),
        edges=kept,
        relations=kept.new_zeros(kept.shape[1]),
        degrees=graph.degrees if edges is None else None,
        texts=None,
    )


class TextNodes(NodeEncoder):
    """Nodes with texts -> (n, dim): vectors of the texts, which are made once for a graph and hold no gradient, then
    the convolutions. What else is known of the nodes is not read.

    like: the encoder of the same nodes whose options it takes over. text: the encoder of texts. net: the convolutions.
    """

    reads_texts = True

    def __init__(self, like: NodeEncoder, text: TextEncoder, net: GraphEncoder):
        said = {name: value for name, value in NodeEncoder.config(like).items() if name != "modality"}
        super().__init__(**said)
        self.text, self.net, self.norm = text, net, net.norm
        self._known: tuple[Any, Any, Tensor] | None = None

    @staticmethod
    def over(like: GraphEncoder, dim: int) -> GraphEncoder:
        """Convolutions as those of an encoder, over vectors of that length."""
        said = {name: value for name, value in like.config().items() if name != "modality"}
        return GraphEncoder(**said | {"inputs": [dim], "types": [""], "relations": ["edges"]})

    def read(self, graph: Graph) -> Tensor:
        """Vectors (n, d) of the nodes' texts."""
        stamp = [p._version for p in self.text.parameters()]
        if self._known is None or self._known[0] is not graph or self._known[1] != stamp:
            self._known = graph, stamp, text_vectors(self.text, graph.texts).to(self.device)
        return self._known[2]

    def all_nodes(self, graph: Graph) -> Tensor:
        return self.net.all_nodes(with_vectors(graph, self.read(graph)))

    def check(self, graph: Graph, where: str = "This graph") -> None:
        """Raises InputError for nodes without texts."""
        if graph.texts is None:
            raise InputError(f"{where}: its nodes have no texts, which this model reads.",
                             "Name the columns of texts: --features COLUMN.")  # fmt: skip

    def config(self) -> dict[str, Any]:
        return {**super().config(), "norm": self.norm, "text": self.text.config()}

    def save_files(self, folder: Path) -> None:
        self.text.save_files(folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None}  # a copy makes its own


def text_nodes_from(config: Mapping[str, Any], folder: Path) -> TextNodes:
    """The encoder that a `config()` describes, with random weights; folder: of the files of its encoder of texts."""
    said = {name: value for name, value in config.items() if name not in ("modality", "text")}
    like, text = GraphEncoder(**said), modalities.get("text").restore(config["text"], folder)
    made: Any = text
    return TextNodes(like, made, TextNodes.over(like, text.dim))


__all__ = ["TextNodes", "text_nodes_from", "text_vectors", "with_vectors"]
