"""A similarity that is never built: every pairwise loss is a few reductions of one matrix, swept tile by tile.

    s = one_way(query, key, temperature=0.07).parts[0]
    info_nce = s.mean(softplus(s.reduce(LogSumExp(where=s.negative)) - s.paired()))

One asks (`matrix`, `relations`, `reductions`, `layouts`, `source`, `temperature`), `answer` answers, and `exchange`
talks to the other processes.
"""

from nearfar.similarity.answer.engine import Engine, engine
from nearfar.similarity.answer.normalise import accumulated, normalise
from nearfar.similarity.answer.steps import Plan
from nearfar.similarity.exchange import exchange_plan
from nearfar.similarity.layouts import (
    Anchors,
    ExcludedPairs,
    ExtraCandidates,
    Known,
    Layout,
    all_views,
    both_ways,
    one_way,
    own_view,
)
from nearfar.similarity.matrix import Similarity
from nearfar.similarity.reductions import Count, CrossEntropy, LogSumExp, Max, Mean, Min, SoftmaxMean, Sum
from nearfar.similarity.relations import (
    Relation,
    Sparse,
    at_least,
    at_most,
    dense,
    diagonal,
    equal,
    everyone,
    function,
    listed,
    low_rank,
    nearer,
    nobody,
    overlap,
    per_column,
    per_row,
    same,
    sparse,
)
from nearfar.similarity.source import Block, Source
from nearfar.similarity.temperature import Temperature, check_temperature

__all__ = [
    "Anchors",
    "Block",
    "Count",
    "CrossEntropy",
    "Engine",
    "ExcludedPairs",
    "ExtraCandidates",
    "Known",
    "Layout",
    "LogSumExp",
    "Max",
    "Mean",
    "Min",
    "Plan",
    "Relation",
    "Similarity",
    "SoftmaxMean",
    "Source",
    "Sparse",
    "Sum",
    "Temperature",
    "accumulated",
    "all_views",
    "at_least",
    "at_most",
    "both_ways",
    "check_temperature",
    "dense",
    "diagonal",
    "engine",
    "equal",
    "everyone",
    "exchange_plan",
    "function",
    "listed",
    "low_rank",
    "nearer",
    "nobody",
    "normalise",
    "one_way",
    "overlap",
    "own_view",
    "per_column",
    "per_row",
    "same",
    "sparse",
]
