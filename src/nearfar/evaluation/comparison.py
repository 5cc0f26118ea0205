"""Who wins: intervals of every row, paired differences to the baseline, and a verdict in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.statistics import Interval, holds, interval, paired_interval


def done(row: dict[str, Any]) -> dict[int, float]:
    """Primary value by seed of the cells that finished with a finite value."""
    return {cell["seed"]: float(cell["primary"]) for cell in row.get("seeds", [])
            if cell.get("status", "done") == "done" and cell.get("primary") is not None
            and np.isfinite(cell["primary"])}


def difference(row: dict[str, Any], other: dict[str, Any]) -> Interval | None:
    """row - other over the seeds that both finished. A row that needs no seed (kind chance or reference, one cell)
    stands beside every seed of the other. None where they share no seed."""
    a, b = done(row), done(other)
    if _seedless(row) and a:
        a = dict.fromkeys(b, next(iter(a.values()))) if not _seedless(other) else a
    if _seedless(other) and b:
        b = dict.fromkeys(a, next(iter(b.values())))
    shared = sorted(set(a) & set(b))
    return paired_interval([a[seed] - b[seed] for seed in shared]) if shared else None


def compare_rows(rows: Sequence[dict[str, Any]], baseline: str, *, proxy: bool = False,
                 chosen: str | None = None) -> dict[str, Any]:
    """Fills `mean`, `interval`, `difference` and `holds` of each row of results.json (higher is better) and decides.

    Returns {"rows", "winner", "reason"}. The winner has the best mean and a paired Student t interval above zero
    against EVERY other row (so no correction for the number of methods is due); with a proxy task, one seed or an
    interval that spans zero there is none, and `reason` says why. `chosen`: the row that validation data chose; no
    other trained row may win by its test scores. Raises InputError if `baseline` is not a row.
    """
    by_slug = {row["slug"]: row for row in rows}
    if baseline not in by_slug:
        raise InputError(f"The baseline '{baseline}' is not among the rows: {', '.join(by_slug)}.")
    filled = [_filled(row, by_slug[baseline]) for row in rows]
    winner, reason = _decide(filled, proxy)
    if winner is not None and chosen not in (None, winner) and by_slug[winner]["kind"] == "method":
        winner, reason = None, (f"{by_slug[winner]['label']} has the best test scores, but validation data chose "
                                f"{by_slug[str(chosen)]['label']}: no winner is named.")
    return {"rows": filled, "winner": winner, "reason": reason}


def _seedless(row: dict[str, Any]) -> bool:
    return row.get("kind") in ("chance", "reference", "pretrained") and len(done(row)) == 1


def _filled(row: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    values = list(done(row).values())
    own = interval(values) if values else None
    apart = difference(row, baseline) if row["slug"] != baseline["slug"] else None
    return row | {"mean": own.mean if own else None, "interval": own.bounds if own else None,
                  "difference": {"mean": apart.mean, "interval": apart.bounds} if apart else None,
                  "holds": holds(apart) if apart else None}


def _decide(rows: list[dict[str, Any]], proxy: bool) -> tuple[str | None, str]:
    ranked = sorted((row for row in rows if row["mean"] is not None and row["kind"] != "chance"),
                    key=lambda row: -row["mean"])
    if not ranked:
        return None, "No row finished, so there is nothing to compare."
    best, rivals = ranked[0], ranked[1:]
    if proxy:
        return None, ("The data hold no labels, groups or pairs. These scores are a proxy (retrieval under held-out "
                      "transforms), which favours methods trained on similar transforms: no winner is named.")
    if not rivals:
        return None, f"{best['label']} is the only row, so there is nothing to compare it with."
    open_rivals = [row for row in rivals if not beats(best, row)]
    if not open_rivals:
        return best["slug"], f"{best['label']} is ahead of every other row, {_against(best, rivals[0])}."
    if max(len(done(row)) for row in ranked) < 2:
        trained = next((row for row in rivals if row["kind"] == "method"), rivals[0])
        return None, (f"{best['label']} has the highest mean, but with one seed the difference to "
                      f"{trained['label']} has no interval: run at least 3 seeds to name a winner.")
    return None, (f"{best['label']} has the highest mean, but not beyond doubt: {_against(best, open_rivals[0])}"
                  + (f", and {len(open_rivals) - 1} more open." if len(open_rivals) > 1 else "."))


def beats(best: dict[str, Any], rival: dict[str, Any]) -> bool:
    """Whether the paired interval of best - rival lies above zero."""
    apart = difference(best, rival)
    if apart is not None and _seedless(best) and _seedless(rival):
        return apart.mean > 0 and _items_tell(best, rival)      # no seeds to differ: the test items decide
    return holds(apart) is True


def _items_tell(best: dict[str, Any], rival: dict[str, Any]) -> bool:
    """Whether the bootstrap intervals over test items, where both have one, lie apart."""
    low, high = best["seeds"][0].get("bootstrap"), rival["seeds"][0].get("bootstrap")
    return not low or not high or low[0] > high[1]


def _against(best: dict[str, Any], rival: dict[str, Any]) -> str:
    apart = difference(best, rival)
    if apart is None:
        return f"it shares no finished seed with {rival['label']}"
    text = f"{100 * apart.mean:+.1f} points against {rival['label']}"
    if apart.bounds is None:
        return text + ("" if _seedless(best) and _seedless(rival) else " in one shared seed")
    return text + f" (95 % interval {100 * apart.bounds[0]:+.1f} to {100 * apart.bounds[1]:+.1f}, {apart.n} seeds)"
