"""Who may see whom: relations between the rows (anchors) and the columns (candidates) of a similarity matrix.

A relation answers for one tile of the matrix at a time, so it never costs O(N M) memory unless it is itself a dense
matrix. Boolean relations select pairs, float relations weigh them; both are combined with `&` (and, or product),
`|` (or) and `~` (not).
"""

from nearfar.similarity.relations.base import (
    AtBlock,
    Both,
    Constant,
    Either,
    Not,
    PerBlock,
    Relation,
    Tile,
    check_ids,
    everyone,
    nobody,
)
from nearfar.similarity.relations.pairs import Listed, Sparse, diagonal, equal, listed, sparse
from nearfar.similarity.relations.values import Overlap, Same, Threshold, at_least, at_most, overlap, same
from nearfar.similarity.relations.weights import (
    Dense,
    Function,
    LowRank,
    Nearer,
    PerColumn,
    PerRow,
    dense,
    function,
    low_rank,
    nearer,
    per_column,
    per_row,
)

__all__ = [
    "AtBlock",
    "Both",
    "Constant",
    "Dense",
    "Either",
    "Function",
    "Listed",
    "LowRank",
    "Nearer",
    "Not",
    "Overlap",
    "PerBlock",
    "PerColumn",
    "PerRow",
    "Relation",
    "Same",
    "Sparse",
    "Threshold",
    "Tile",
    "at_least",
    "at_most",
    "check_ids",
    "dense",
    "diagonal",
    "equal",
    "everyone",
    "function",
    "listed",
    "low_rank",
    "nearer",
    "nobody",
    "overlap",
    "per_column",
    "per_row",
    "same",
    "sparse",
]
