"""Rows that need no training, for tasks on the nodes of a graph: features, spectral vectors, labels that spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nearfar.evaluation.embedding import DataEmbed
from nearfar.evaluation.references import vector_row
from nearfar.evaluation.task import Reference, Task
from nearfar.graphs import Graph, side_by_side

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from nearfar.sources.data import Data

DIMENSIONS = 64
SPREAD, ROUNDS = 0.9, 50


def adjacency(graph: Graph) -> csr_matrix:
    """0/1 (n, n): which nodes an edge joins."""
    from scipy.sparse import csr_matrix as sparse

    edges = graph.edges.cpu().numpy()
    found = sparse((np.ones(edges.shape[1]), (edges[1], edges[0])), shape=(len(graph), len(graph)))
    found.data[:] = 1
    return found


def normalised(graph: Graph) -> csr_matrix:
    """D^-1/2 A D^-1/2, zero for a node without edges."""
    from scipy.sparse import diags

    a = adjacency(graph)
    degree = np.asarray(a.sum(1)).reshape(-1)
    root = diags(np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0.0))
    return root @ a @ root


def spectral_vectors(graph: Graph, dim: int = DIMENSIONS) -> np.ndarray:
    """float32 (n, k): eigenvectors of D^-1/2 A D^-1/2 of the largest eigenvalues, at most `dim`."""
    from scipy.sparse import identity
    from scipy.sparse.linalg import eigsh

    matrix, k = normalised(graph), min(dim, len(graph) - 1)
    if len(graph) <= 3 * dim:
        values, found = np.linalg.eigh(matrix.toarray())
        return found[:, np.argsort(-values)[:k]].astype(np.float32)
    start = np.random.default_rng(0).normal(size=len(graph))
    values, found = eigsh(matrix + 1e-9 * identity(len(graph)), k=k, which="LA", v0=start)
    return found[:, np.argsort(-values)].astype(np.float32)


def spread_labels(graph: Graph, labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float32 (n, classes): labels of some nodes (numbers of rows) after 50 rounds of F <- 0.9 S F + 0.1 Y with
    S = D^-1/2 A D^-1/2 (Zhou et al., NeurIPS 2003). labels: int64 (n,), -1 where there is none."""
    given = known[labels[known] >= 0]
    start = np.zeros((len(graph), int(labels.max()) + 1))
    start[given, labels[given]] = 1
    matrix, found = normalised(graph), start.copy()
    for _ in range(ROUNDS):
        found = SPREAD * (matrix @ found) + (1 - SPREAD) * start
    return found.astype(np.float32)


def plain_features(graph: Graph) -> np.ndarray:
    """float32 (n, sum of d_t): the features, standardised, those of each type in columns of their own."""
    from nearfar.encoders.numeric import moments

    def scaled(x: np.ndarray) -> np.ndarray:
        mean, std = moments(x)
        return np.nan_to_num((x - mean) / std)

    parts = [torch.from_numpy(scaled(x.numpy())) for x in graph.features]
    return side_by_side(parts, graph.types).numpy()


def of_graph(task: Task) -> list[Reference]:
    """Features, features smoothed over two steps, spectral vectors; where a task tells labels, those that spread from
    the training part."""
    data: Data = task.data
    from nearfar.modalities.node import graph_of

    graph = graph_of(data, None, *task.held_out_edges)

    def row(slug: str, label: str, make: Any) -> Reference:
        def embed() -> DataEmbed:
            vectors = make()
            return DataEmbed(data, lambda _, items: vectors[[one.number for one in items]])

        return vector_row(slug, label, task, embed)

    def smoothed() -> np.ndarray:
        from scipy.sparse import identity

        matrix = normalised(graph) + identity(len(graph))
        return np.asarray(matrix @ (matrix @ plain_features(graph)), np.float32)

    rows = [
        row("features", "raw features", lambda: plain_features(graph)),
        row("smoothed", "features of two steps", smoothed),
        row("spectral", "spectral vectors", lambda: spectral_vectors(graph)),
    ]
    labels = task.target_labels
    if labels is not None:
        train = np.asarray(data.splits["train"])
        rows.append(row("spread", "label propagation", lambda: spread_labels(graph, labels, train)))
    return rows
