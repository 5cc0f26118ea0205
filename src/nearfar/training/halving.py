"""Successive halving: all methods a little, the better half more, until two are left to be compared.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (2016),
figure 1. Each round has the same share of the time and trains anew, so that every score is that of a finished schedule.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import InputError
from nearfar.evaluation import Metric
from nearfar.files import write_json
from nearfar.training import comparing
from nearfar.training.cells import cells_of
from nearfar.training.comparing import Field
from nearfar.training.engine import human
from nearfar.training.entries import Entry

SHARE = 0.4  # of the time goes to the rounds
LEFT = 2
STARTED = {"steps": int, "batch_size": int, "own_batch_sizes": dict, "failed": dict}
ROUND = {
    "steps": int,
    "batch_size": int,
    "own_batch_sizes": dict,
    "scores": dict,
    "kept": list,
    "seconds": (int, float),
}


def rounds_of(count: int) -> list[int]:
    """How many methods begin each round, from `count` on; none where no more than two are there."""
    sizes = []
    while count > LEFT:
        sizes.append(count)
        count = max(LEFT, math.ceil(count / 2))
    return sizes


def better_half(scores: dict[str, float], metric: Metric) -> list[str]:
    """The labels that go on, best first: half of them (rounded up), two at least. Equal scores stay in their order."""
    ranked = sorted(scores, key=lambda name: metric.key(scores[name]))
    return ranked[: max(LEFT, math.ceil(len(scores) / 2))]


def halved(field: Field, entries: Sequence[Entry]) -> tuple[list[Entry], list[dict[str, Any]], float]:
    """The entries that are left, what each round found, and the seconds that the comparison of them may take.

    A round trains every method with seed 0 and ranks by the validation split. Finished rounds are read. Raises
    InputError where there is no validation split, where the time is too little, or where all methods of a round fail.
    """
    sizes = rounds_of(len(entries))
    if not sizes:
        return list(entries), [], field.limit
    if not len(field.data.splits.get("val", ())):
        raise InputError("--auto halves the methods by validation rows, and there are none.", "Name the --methods.")
    if field.settings.steps != "auto":
        raise InputError("--auto fixes the steps of each round from the time.", "Give --budget in place of --steps.")
    left, found = list(entries), []
    while len(left) > LEFT:
        path = field.folder / "rounds" / str(len(found) + 1)
        told = read_round(path) or one_round(field, left, path, len(found) + 1, SHARE / len(sizes))
        found.append(told)
        left = [one for label in told["kept"] for one in left if one.label == label]
    return left, found, (1 - SHARE) * field.limit


def read_round(path: Path) -> dict[str, Any] | None:
    """A finished round; None where there is none."""
    done = path / "round.json"
    return files.read_json(done, ROUND, "Delete it: the round is finished from its runs.") if done.exists() else None


def one_round(field: Field, entries: Sequence[Entry], path: Path, number: int, share: float) -> dict[str, Any]:
    """Trains the entries in a share of the time and writes round.json: steps, scores on validation rows, who goes on.
    What cannot be trained on these data is left out and said."""
    plan = planned(field, entries, path, number, share)
    failed: dict[str, str] = plan["failed"]
    entries = [one for one in entries if one.label not in failed]
    batches = [plan["own_batch_sizes"].get(one.label, plan["batch_size"]) for one in entries]
    settings = [dataclasses.replace(field.settings, steps=plan["steps"], batch_size=batch) for batch in batches]
    cells = [cells_of(path, one, mine, 1) for one, mine in zip(entries, settings, strict=True)]
    field.say(f"round {number}: {len(entries)} methods, {plan['steps']} steps each")
    rows, scores = [], {}
    with field.trained(path, [cell for (cell,) in cells if not cell.done]) as train:
        for place, (one, row) in enumerate(zip(entries, cells, strict=True)):
            shown = f"[round {number}, {place + 1}/{len(entries)}]"
            try:
                told = comparing.train_cells(path, field.data, field.task, one, row, train, shown, field.say)
            except files.Busy:
                raise
            except InputError as error:
                failed[one.label] = str(error)
                continue
            rows.append(told)
            (only,) = told["seeds"]
            if only["status"] == "done" and only["val"] is not None:
                scores[one.label] = only["val"]
    for label, why in failed.items():
        field.say(f"round {number}: {label} left out ({why})")
    if not scores:
        raise InputError(f"No method of round {number} came to an end.", "Name --methods, to see why each fails.")
    kept = better_half(scores, field.task.metric())
    told = plan | {"scores": scores, "kept": kept, "failed": failed, "seconds": comparing.trained_seconds(rows)}
    field.say(f"round {number} keeps {', '.join(kept)} (by validation; {human(told['seconds'])})")
    write_json(path / "round.json", told)
    return told


def planned(field: Field, entries: Sequence[Entry], path: Path, number: int, share: float) -> dict[str, Any]:
    """Steps and batch sizes of a round, fixed once. Raises InputError before anything is trained where the first round
    has less than half of the steps that a comparison needs, or where the last two methods, if they are the slowest,
    would have too few."""
    kept = path / "plan.json"
    if kept.exists():
        return files.read_json(kept, STARTED, "Delete it: the round begins anew.")
    failed: dict[str, str] = {}
    paces = comparing.paced(field.data, field.settings, entries, failed)
    if number == 1:
        comparing.check_time(field.limit, paces.seconds, 1, math.ceil(field.least / 2), share)
        slowest = dict(sorted(paces.seconds.items(), key=lambda one: -one[1])[:LEFT])
        comparing.check_time(field.limit, slowest, field.seeds, field.least, 1 - SHARE)
    plan = {"steps": comparing.steps_within(share * field.limit, paces.seconds, 1), "batch_size": paces.batch,
            "own_batch_sizes": paces.own, "failed": failed}  # fmt: skip
    path.mkdir(parents=True, exist_ok=True)
    write_json(kept, plan)
    return plan
