"""Which known factors can be read off an embedding linearly after each of its stages: signs of feature suppression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.diagnostics import Diagnostic
from nearfar.evaluation.probe import linear_probe
from nearfar.evaluation.statistics import Interval, paired_interval
from nearfar.vectors import normalise


@dataclass(frozen=True)
class Readout:
    """Accuracy of a linear probe, 0..1: of each stage alone, of the stages up to each, and of the commonest class.

    gains: of each later stage alone over the first, with 95 % intervals over the test items (of one model: another seed
    may differ by more).
    """

    factor: str
    alone: list[float]
    joined: list[float]
    commonest: float
    gains: list[Interval]


def read_factors(
    parts: Mapping[str, Any],
    widths: Sequence[int],
    factors: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Readout]:
    """How well each factor is read off by a linear probe after each stage.

    parts: "train", "val" and "test" -> vectors (n, sum of widths), the stages' outputs side by side (C of the probe is
    chosen on "val"). widths: the length of each stage's vector. factors: name -> part -> integer labels (n,), -1 where
    missing. A factor with one class, or without labels in a part, is left out. progress: called with (done, all) before
    each factor.

    A factor that stage 0 does not show and a later one does was suppressed: the easier ones were enough to tell the
    items apart (Chen et al., "Intriguing Properties of Contrastive Losses", NeurIPS 2021).
    Raises InputError: widths that do not add up.
    """
    if any(np.asarray(z).shape[1] != sum(widths) for z in parts.values()):
        raise InputError(f"The stages' widths {list(widths)} do not add up to the length of the vectors.")
    ends = np.cumsum(widths)
    spans = [slice(int(e - w), int(e)) for e, w in zip(ends, widths, strict=True)]
    found = []
    for number, (name, labels) in enumerate(factors.items()):
        if progress is not None:
            progress(number, len(factors))
        y = {part: np.asarray(labels[part]) for part in ("train", "val", "test")}
        if any(not (v >= 0).any() for v in y.values()) or len(np.unique(y["train"][y["train"] >= 0])) < 2:
            continue
        alone = [_correct(parts, y, span, seed) for span in spans]
        joined = [a if k == 0 else _correct(parts, y, slice(0, spans[k].stop), seed) for k, a in enumerate(alone)]
        known = y["train"][y["train"] >= 0]
        share = float((y["test"][y["test"] >= 0] == np.bincount(known).argmax()).mean())
        gains = [paired_interval(later.astype(float) - alone[0]) for later in alone[1:]]
        shares = [[float(c.mean()) for c in shown] for shown in (alone, joined)]
        found.append(Readout(name, shares[0], shares[1], share, gains))
    return found


def _correct(parts: Mapping[str, Any], y: Mapping[str, np.ndarray], span: slice, seed: int) -> np.ndarray:
    """Whether a probe of some of the dimensions is right, for each labelled test item."""
    z = {part: normalise(np.asarray(parts[part])[:, span]) for part in y}
    probe = linear_probe(
        z["train"],
        y["train"],
        z["val"],
        y["val"],
        z["test"],
        y["test"],
        seed=seed,
        strengths=(0.1, 1.0),
        max_train=4000,
    )
    return probe.correct


def factor_diagnostics(found: Sequence[Readout]) -> list[Diagnostic]:
    """The readouts as lines of `nearfar diagnose`."""
    return [Diagnostic(f"read off linearly: {r.factor}", r.joined[-1], "info", _told(r)) for r in found]


def _told(r: Readout) -> str:
    """Accuracies by stage, and whether a later stage shows what the first did not."""

    def spelled(values: Sequence[float]) -> str:
        return ", ".join(f"{100 * v:.0f} %" for v in values)

    readouts = (
        f"By stage alone {spelled(r.alone)}; stages together {spelled(r.joined)}; the commonest class is "
        f"{100 * r.commonest:.0f} %."
    )
    best = max(range(len(r.gains)), key=lambda k: r.gains[k].mean, default=None)
    if best is None:
        return readouts
    gain = r.gains[best]
    ends = "" if gain.low is None or gain.high is None else f" ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    meaning = (
        "the first had suppressed it"
        if (gain.low or 0) > 0
        else "no sign of suppression"
        if (gain.high or 0) >= 0
        else "the first shows it best"
    )
    return f"{readouts} Stage {best + 1} alone against stage 0: {100 * gain.mean:+.1f} points{ends}: {meaning}."
