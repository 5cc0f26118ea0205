"""Who wins: intervals of every row, paired differences to the baseline, and a verdict in words."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.statistics import Interval, holds, interval, paired_interval
from nearfar.units import Metric, places_of

PLAIN = Metric("score")
FEWEST = 3  # seeds for which an interval is shown
BLIND, SEEING = "without labels", "with labels"  # what trained rows learned from, in words


def done(row: dict[str, Any]) -> dict[int, float]:
    """Primary value by seed of the cells that finished with a finite value."""
    return {
        cell["seed"]: float(cell["primary"])
        for cell in row.get("seeds", [])
        if cell.get("status", "done") == "done" and cell.get("primary") is not None and np.isfinite(cell["primary"])
    }


def shown_interval(row: Mapping[str, Any]) -> list[float] | None:
    """The interval of a row over its seeds, as tables and figures show it: none below three seeds, where Student's t
    makes it as wide as the scale."""
    return row.get("interval") if len(done(dict(row))) >= FEWEST else None


def shown_difference(row: dict[str, Any], baseline: dict[str, Any]) -> list[float] | None:
    """The same of its difference to the baseline: none below three shared seeds."""
    own = row.get("difference") or {}
    return own.get("interval") if len(_paired(row, baseline)) >= FEWEST else None


def _paired(row: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """row - other for each seed that both finished. A row that needs no seed (kind chance or reference, one cell)
    stands beside every seed of the other."""
    a, b = done(row), done(other)
    if _seedless(row) and a:
        a = dict.fromkeys(b, next(iter(a.values()))) if not _seedless(other) else a
    if _seedless(other) and b:
        b = dict.fromkeys(a, next(iter(b.values())))
    return [a[seed] - b[seed] for seed in sorted(set(a) & set(b))]


def difference(row: dict[str, Any], other: dict[str, Any]) -> Interval | None:
    """row - other over the seeds that both finished (`_paired`). None where they share no seed."""
    found = _paired(row, other)
    return paired_interval(found) if found else None


def best_first(rows: Sequence[dict[str, Any]], metric: Metric = PLAIN) -> list[dict[str, Any]]:
    """Rows by their mean, the best first, those without one last."""
    return sorted(rows, key=lambda row: (row.get("mean") is None, metric.key(row.get("mean") or 0)))


def learned_from(row: Mapping[str, Any]) -> str | None:
    """Whether a trained row saw labels of the training rows, in words; None for one that needs no training."""
    return None if row["kind"] != "method" else SEEING if row.get("supervised") else BLIND


def ranked_apart(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Where some trained rows saw labels and others did not: BLIND -> the latter, SEEING -> the former, each beside
    what needs no training; else "" -> all rows."""
    kinds = {learned_from(row) for row in rows if done(row)} - {None}
    if len(kinds) < 2:
        return {"": list(rows)}
    return {kind: [row for row in rows if learned_from(row) in (None, kind)] for kind in (BLIND, SEEING)}


def in_order(rows: Sequence[dict[str, Any]], metric: Metric = PLAIN) -> dict[str, list[dict[str, Any]]]:
    """`ranked_apart`, the best first, each row once: what needs no training stands with those that saw no labels."""
    found = {kind: best_first(part, metric) for kind, part in ranked_apart(rows).items()}
    return {kind: [row for row in part if kind != SEEING or learned_from(row)] for kind, part in found.items()}


def winners_of(results: Mapping[str, Any]) -> list[str]:
    """Slugs of the rows that are named as winners, in a results.json of any age."""
    single = [results["winner"]] if results.get("winner") else []
    return list(results.get("winners", single))


def compare_rows(
    rows: Sequence[dict[str, Any]],
    baseline: str,
    *,
    proxy: bool = False,
    chosen: Collection[str] = (),
    metric: Metric = PLAIN,
) -> dict[str, Any]:
    """Fills `mean`, `interval`, `difference` (to the baseline, in the metric's own direction) and `holds` (True where
    better) of each row of results.json and decides.

    Returns {"rows", "winner", "winners", "reason"}. The winner has the best mean, as `metric` says, and a paired
    Student t interval on the better side of zero against EVERY other row (so no correction for the number of methods
    is due); with a proxy task, one seed or an interval that spans zero there is none, and `reason` says why. Where some
    trained rows saw labels and others did not (`ranked_apart`), each kind has its own decision beside what needs no
    training: `winners` holds them, and `winner` is None unless one row wins both. `chosen`: the rows that validation
    data chose, one of each kind; no other trained row may win by its test scores. Raises InputError if `baseline` is
    not a row.
    """
    by_slug = {row["slug"]: row for row in rows}
    if baseline not in by_slug:
        raise InputError(f"The baseline '{baseline}' is not among the rows: {', '.join(by_slug)}.")
    filled = [_filled(row, by_slug[baseline], metric) for row in rows]
    parts = ranked_apart(filled)
    decided = {kind: _chosen(part, chosen, *_decide(part, proxy, metric)) for kind, part in parts.items()}
    winners = list(dict.fromkeys(winner for winner, _ in decided.values() if winner))
    if len(decided) == 1:
        return {"rows": filled, "winner": decided[""][0], "winners": winners, "reason": decided[""][1]}
    told = " ".join(f"{kind.capitalize()}: {reason}" for kind, (_, reason) in decided.items())
    same = len({winner for winner, _ in decided.values()}) == 1
    return {
        "rows": filled,
        "winner": winners[0] if same and winners else None,
        "winners": winners,
        "reason": f"Methods that see labels of the training rows are ranked apart from those that do not. {told}",
    }


def _chosen(
    rows: Sequence[dict[str, Any]], chosen: Collection[str], winner: str | None, reason: str
) -> tuple[str | None, str]:
    """The decision among rows, unless validation data chose another trained row than the winner."""
    labels = {row["slug"]: row["label"] for row in rows if row["kind"] == "method"}
    other = next((slug for slug in chosen if slug in labels), winner)
    if winner in labels and other != winner:
        return None, (
            f"{labels[winner]} has the best test scores, but validation data chose {labels[str(other)]}: no "
            "winner is named."
        )
    return winner, reason


def _seedless(row: dict[str, Any]) -> bool:
    return row.get("kind") in ("chance", "reference", "pretrained") and len(done(row)) == 1


def _filled(row: dict[str, Any], baseline: dict[str, Any], metric: Metric) -> dict[str, Any]:
    values = list(done(row).values())
    own = interval(values) if values else None
    apart = difference(row, baseline) if row["slug"] != baseline["slug"] else None
    return row | {
        "mean": own.mean if own else None,
        "interval": own.bounds if own else None,
        "difference": {"mean": apart.mean, "interval": apart.bounds} if apart else None,
        "holds": holds(_better(apart, metric)) if apart else None,
    }


def _better(apart: Interval, metric: Metric) -> Interval:
    """A difference, positive where it is for the better."""
    if metric.higher_is_better:
        return apart
    low, high = apart.bounds or (None, None)
    return Interval(-apart.mean, None if high is None else -high, None if low is None else -low, apart.n)


def training_gain(rows: Sequence[dict[str, Any]], metric: Metric = PLAIN) -> dict[str, Any] | None:
    """What training gained over the best row that needs none: {"best", "plain" (rows), "gain" (signed, above zero where
    for the better), "unpaid" (trained rows that are no better than `plain`), "words"}. None where either is missing."""
    ranked = best_first([row for row in rows if row.get("mean") is not None], metric)
    trained = [row for row in ranked if row["kind"] == "method"]
    plain = next((row for row in ranked if row["kind"] in ("reference", "untrained", "pretrained")), None)
    if not trained or plain is None:
        return None
    gain = trained[0]["mean"] - plain["mean"]
    unpaid = [row for row in trained if not metric.key(row["mean"]) < metric.key(plain["mean"])]
    names = ", ".join(row["label"] for row in unpaid)
    points = metric.written.write(abs(gain), signed=False) + metric.written.difference
    if trained[0] in unpaid:
        words = f"Training did not pay: {plain['label']}, which needs none, is {points} ahead of {trained[0]['label']}."
    else:
        words = f"Training gained {points}: {trained[0]['label']} against {plain['label']}, the best that needs none."
        words += f" No better than {plain['label']}: {names}." if unpaid else ""
    return {"best": trained[0], "plain": plain, "gain": gain, "unpaid": unpaid, "words": words}


def _decide(rows: list[dict[str, Any]], proxy: bool, metric: Metric) -> tuple[str | None, str]:
    ranked = best_first([row for row in rows if row["mean"] is not None and row["kind"] != "chance"], metric)
    if not ranked:
        return None, "No row finished, so there is nothing to compare."
    best, rivals = ranked[0], ranked[1:]
    if proxy:
        return None, (
            "The data hold no labels, groups or pairs. These scores are a proxy (retrieval under held-out "
            "transforms), which favours methods trained on similar transforms: no winner is named."
        )
    if not rivals:
        return None, f"{best['label']} is the only row, so there is nothing to compare it with."
    open_rivals = [row for row in rivals if not beats(best, row, metric)]
    most = "the highest mean" if metric.higher_is_better else "the lowest mean"
    if not open_rivals:
        return best["slug"], f"{best['label']} is ahead of every other row, {_against(best, rivals[0], metric)}."
    if max(len(done(row)) for row in ranked) < 2:
        trained = next((row for row in rivals if row["kind"] == "method"), rivals[0])
        return None, (
            f"{best['label']} has {most}, but with one seed the difference to "
            f"{trained['label']} has no interval: run at least 3 seeds to name a winner."
        )
    return None, (
        f"{best['label']} has {most}, but not beyond doubt: {_against(best, open_rivals[0], metric)}"
        + (f", and {len(open_rivals) - 1} more open." if len(open_rivals) > 1 else ".")
    )


def beats(best: dict[str, Any], rival: dict[str, Any], metric: Metric = PLAIN) -> bool:
    """Whether the paired interval of best - rival lies on the better side of zero."""
    apart = difference(best, rival)
    if apart is None:
        return False
    apart = _better(apart, metric)
    if _seedless(best) and _seedless(rival):
        return apart.mean > 0 and _items_tell(best, rival)  # no seeds to differ: the test items decide
    return holds(apart) is True


def _items_tell(best: dict[str, Any], rival: dict[str, Any]) -> bool:
    """Whether the bootstrap intervals over test items, where both have one, lie apart."""
    one, other = best["seeds"][0].get("bootstrap"), rival["seeds"][0].get("bootstrap")
    return not one or not other or one[0] > other[1] or other[0] > one[1]


def _against(best: dict[str, Any], rival: dict[str, Any], metric: Metric) -> str:
    apart = difference(best, rival)
    if apart is None:
        return f"it shares no finished seed with {rival['label']}"
    unit, places = metric.written, places_of(apart.mean)
    text = f"{unit.write(apart.mean, signed=True)}{unit.difference} against {rival['label']}"
    if apart.bounds is None:
        return text + ("" if _seedless(best) and _seedless(rival) else " in one shared seed")
    low, high = (unit.write(bound, signed=True, digits=places) for bound in apart.bounds)
    return text + f" (95 % interval {low} to {high}, {apart.n} seeds)"
