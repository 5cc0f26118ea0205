"""What a random ranking reaches, in closed form."""

from collections.abc import Sequence

import numpy as np

from nearfar.evaluation.relevance import visible_grades
from nearfar.evaluation.retrieval import Retrieval
from nearfar.evaluation.searches import Search


def expected_retrieval(search: Search, ks: Sequence[int]) -> Retrieval:
    """`Retrieval` of a random ranking of what each query may see."""
    queries, size = len(search.query.rows), search.size
    hidden = np.zeros(queries, np.int64) if search.hidden is None else search.hidden.counts.numpy()
    grades = [tuple(one.tolist()) for one in visible_grades(search.relevant, search.hidden)]
    answered = np.flatnonzero([len(one) for one in grades])
    asked = [(grades[query], int(size - hidden[query])) for query in answered]
    expected = {one: expected_metrics(*one, ks=ks) for one in set(asked)}
    values = [expected[one] for one in asked]
    per_query = {name: np.array([value[name] for value in values]) for name in values[0]}
    return Retrieval(
        {name: float(value.mean()) for name, value in per_query.items() if name != "rank"},
        per_query,
        answered,
        len(answered),
        queries - len(answered),
        size,
    )


def expected_metrics(
    grades: Sequence[float], gallery: int, *, ks: Sequence[int] = (1, 5, 10), cut: int = 10
) -> dict[str, float]:
    """Expectation of every metric over all orders of a gallery with relevant items of these grades (falling)."""
    relevant = len(grades)
    places = np.arange(1, gallery + 1, dtype=np.float64)
    free = gallery - relevant
    none_yet = np.cumprod(np.concatenate([[1.0], np.maximum(free - places + 1, 0) / (gallery - places + 1)]))
    first = none_yet[:-1] - none_yet[1:]
    ideal = (np.array(grades[:cut]) / np.log2(np.arange(2, min(relevant, cut) + 2))).sum()
    gain = sum(grades) / gallery * (1 / np.log2(np.arange(2, min(gallery, cut) + 2))).sum()
    others = (relevant - 1) / (gallery - 1) if gallery > 1 else 0.0
    return (
        {f"hit@{k}": float(1 - none_yet[min(k, gallery)]) for k in ks}
        | {f"recall@{k}": min(k, gallery) / gallery for k in ks}
        | {f"precision@{k}": min(k, gallery) * relevant / gallery / k for k in ks}
        | {
            "mrr": float((first / places).sum()),
            f"ndcg@{cut}": float(gain / ideal),
            "map": float(((1 + (places - 1) * others) / places).mean()),
            "rank": float((first * places).sum()),
        }
    )
