"""What an embedding looks like without any task: numbers, a verdict and one sentence of advice each.

Sources: alignment, uniformity: Wang and Isola, ICML 2020; tolerance: Wang and Liu, CVPR 2021; effective rank (RankMe):
Garrido et al., ICML 2023; spread of normalised features as a sign of collapse: Chen and He (SimSiam), CVPR 2021;
modality gap: Liang et al., NeurIPS 2022; hubness: Radovanovic et al., JMLR 2010.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from nearfar.errors import InputError
from nearfar.evaluation import issues
from nearfar.evaluation.neighbours import Neighbours
from nearfar.losses.noncontrastive import uniformity_among
from nearfar.similarity import engine
from nearfar.similarity.exchange import Exchange
from nearfar.vectors import normalise

Verdict = Literal["good", "watch", "bad", "info"]


@dataclass(frozen=True)
class Diagnostic:
    """One number with its verdict and what to do about it."""

    name: str
    value: float
    verdict: Verdict
    advice: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def alignment(a: Any, b: Any) -> float:
    """Mean squared distance of positive pairs (n, d), (n, d) on the unit sphere: 0 = equal, 2 = unrelated."""
    a, b = normalise(a), normalise(b)
    return float(((a - b) ** 2).sum(1).mean())


def uniformity(z: Any, *, t: float = 2.0, tile: int | None = None) -> float:
    """log of the mean of exp(-t |x - y|^2) over pairs of different rows (n, d): 0 = one point, about -2t = spread.

    The loss of that name, on this process alone; `tile`: rows and columns that are looked at together.
    """
    z = normalise(z)
    if len(z) < 2:
        raise InputError("Uniformity needs at least two embeddings. Got one instead.")
    with torch.no_grad(), engine("auto" if tile is None else "streaming", tile=tile):
        return float(uniformity_among(torch.from_numpy(z), t, Exchange()))


def tolerance(z: Any, labels: Any) -> float:
    """Mean cosine of pairs with one label, by class sums: -1..1, without building pairs. NaN where there are none."""
    z, labels = normalise(z), np.asarray(labels)
    z, labels = z[labels >= 0], labels[labels >= 0]
    classes, code, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(classes), z.shape[1]))
    np.add.at(sums, code, z)
    pairs = (counts * (counts - 1)).sum()
    return float(((sums**2).sum() - (z**2).sum()) / pairs) if pairs else float("nan")


def effective_rank(z: Any) -> float:
    """RankMe: exp of the entropy of the singular values' shares, 1..min(n, d), of the vectors as they are."""
    values = np.linalg.svd(np.asarray(z, np.float64), compute_uv=False)
    if values.sum() == 0:
        return 1.0
    shares = values / values.sum()
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spread(z: Any) -> float:
    """sqrt(d) x the mean standard deviation of normalised features: 0 = collapsed, about 1 = spread over the sphere.

    1 for a single vector, which tells nothing.
    """
    z = normalise(z)
    if len(z) < 2:
        return 1.0
    return float(z.std(0).mean() * np.sqrt(z.shape[1]))


def modality_gap(a: Any, b: Any) -> float:
    """Distance of the two modalities' mean directions (n, d), (m, d): 0 = none, 2 = opposite."""
    return float(np.linalg.norm(normalise(a).mean(0) - normalise(b).mean(0)))


def false_negative_rate(ids: Any) -> float:
    """Chance that two different items drawn at random share an id (n,) - that a negative is hidden positive."""
    ids = np.asarray(ids)
    counts = np.unique(ids[ids >= 0], return_counts=True)[1].astype(np.float64)
    total = counts.sum()
    return float((counts * (counts - 1)).sum() / (total * (total - 1))) if total > 1 else 0.0


def hubness(near: Neighbours, gallery: int) -> float:
    """Skewness of how often an item is a neighbour of others: above about 2, few hubs are everybody's neighbour."""
    counts = np.bincount(near.indices[near.indices >= 0], minlength=gallery).astype(np.float64)
    return float(((counts - counts.mean()) ** 3).mean() / counts.std() ** 3) if counts.std() > 0 else 0.0


def diagnose(
    z: Any,
    *,
    labels: Any = None,
    groups: Any = None,
    contents: Any = None,
    domains: Any = None,
    partner: Any = None,
    two_modalities: bool = False,
    max_items: int = 4000,
    seed: int = 0,
) -> list[Diagnostic]:
    """All diagnostics that the given data allow, of embeddings (n, d).

    labels, groups, contents, domains: ids (n,), -1 = missing. partner: the positives of each row, (n, d) - the other
    column of a pair (`two_modalities=True` adds the modality gap). Looks at `max_items` rows, drawn with `seed`.
    Raises InputError for fewer than two rows or values that are not finite.
    """
    z = np.asarray(normalise(z))
    if len(z) < 2:
        raise InputError(f"A diagnosis needs at least two embeddings. Got {len(z)} instead.")
    drawn = np.arange(len(z))
    if len(z) > max_items:
        drawn = np.sort(np.random.default_rng(seed).choice(len(z), max_items, replace=False))
    labels, groups, contents, domains = (
        None if ids is None else np.asarray(ids)[drawn] for ids in (labels, groups, contents, domains)
    )
    z, partner = z[drawn], None if partner is None else normalise(partner)[drawn]
    found = [_collapse(z), _rank(z), _uniformity(z)]
    positives = _positives(z, issues.positives_of(groups, labels)) if partner is None else (z, partner)
    if positives is not None:
        found.append(_alignment(*positives))
    if two_modalities and partner is not None:
        found.append(_gap(z, partner))
    if labels is not None:
        found += _labels(z, labels)
    elif groups is not None:
        found.append(_false_negatives(groups, "group"))
    return found + _neighbours(z, labels if labels is not None else groups, contents, domains)


def _verdict(value: float, bad: float, watch: float) -> Verdict:
    """Higher is better when bad < watch, else lower is."""
    sign = 1 if bad < watch else -1
    return "bad" if sign * value < sign * bad else "watch" if sign * value < sign * watch else "good"


def _positives(z: np.ndarray, ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Each item beside the next one of its id."""
    if ids is None:
        return None
    order = np.argsort(ids, kind="stable")
    here = (ids[order][:-1] == ids[order][1:]) & (ids[order][:-1] >= 0)
    return (z[order[:-1][here]], z[order[1:][here]]) if here.any() else None


def _collapse(z: np.ndarray) -> Diagnostic:
    value = spread(z)
    verdict = _verdict(value, 0.1, 0.5)
    return Diagnostic(
        "collapse (feature spread)",
        value,
        verdict,
        {
            "good": "The features vary as they should (1 = spread over the whole sphere); there is no collapse.",
            "watch": "The vectors crowd into a cone; a lower --temperature, a larger --batch-size or "
            "other --views spread them.",
            "bad": "The representation has collapsed to nearly one point; train with a smaller --lr, with a loss that "
            "has negatives (--loss infonce), and look at the views: nearfar data PATH shows samples.",
        }[verdict],
    )


def _rank(z: np.ndarray) -> Diagnostic:
    value, most = effective_rank(z), min(z.shape)
    verdict = _verdict(value / most, 0.05, 0.15)
    share = f"{value:.0f} of at most {most} dimensions carry information"
    return Diagnostic(
        "effective rank (RankMe)",
        value,
        verdict,
        {
            "good": f"{share}; nothing to do.",
            "watch": f"{share}; train longer (--steps) or with other --views, or keep fewer numbers: "
            f"embed --dims {max(2, round(value))}.",
            "bad": f"{share}; the features are redundant: train with other --views, more negatives (--batch-size, "
            "--negatives queue) or a smaller --lr.",
        }[verdict],
    )


def _uniformity(z: np.ndarray) -> Diagnostic:
    value = uniformity(z)
    verdict = _verdict(value, -1.0, -2.0)
    return Diagnostic(
        "uniformity",
        value,
        verdict,
        {
            "good": "The vectors use the sphere evenly (−4 is even, 0 is one point).",
            "watch": "The vectors are somewhat crowded (−4 is even, 0 is one point); a lower --temperature or more "
            "negatives (--batch-size, --negatives queue) push them apart.",
            "bad": "The vectors are crowded together (−4 is even, 0 is one point); search will hardly tell items "
            "apart: train with a lower --temperature and more negatives (--batch-size, --negatives queue).",
        }[verdict],
    )


def _alignment(a: np.ndarray, b: np.ndarray) -> Diagnostic:
    value = alignment(a, b)
    verdict = _verdict(value, 1.6, 1.0)
    return Diagnostic(
        "alignment",
        value,
        verdict,
        {
            "good": "Positives lie near each other (0 = equal, 2 = unrelated).",
            "watch": "Positives are only loosely near (0 = equal, 2 = unrelated); train longer (--steps) or look at "
            "the pairs that lie far apart.",
            "bad": "Positives lie no nearer than strangers (0 = equal, 2 = unrelated); the model has not learned these "
            "pairs, or they do not belong together.",
        }[verdict],
    )


def _gap(z: np.ndarray, partner: np.ndarray) -> Diagnostic:
    value = modality_gap(z, partner)
    verdict = _verdict(value, 1.2, 0.7)
    return Diagnostic(
        "modality gap",
        value,
        verdict,
        {
            "good": "Both columns share one region of the sphere (0 = no gap, 2 = opposite).",
            "watch": "The two columns sit apart (0 = no gap, 2 = opposite): search one column at a time, or train "
            "with a higher --temperature.",
            "bad": "The two columns lie in different regions (0 = no gap, 2 = opposite): a mixed search would always "
            "find one kind first; a higher --temperature narrows it.",
        }[verdict],
    )


def _labels(z: np.ndarray, labels: np.ndarray) -> list[Diagnostic]:
    value = tolerance(z, labels)
    if not np.isfinite(value):
        return []
    known = labels[labels >= 0]
    if len(np.unique(known)) < 2:
        return [Diagnostic("tolerance", value, "info", "All labels are equal, so they say nothing about neighbours.")]
    any_two = float((z.mean(0) ** 2).sum())
    margin = value - any_two
    verdict = _verdict(margin, 0.02, 0.1)
    return [
        Diagnostic(
            "tolerance",
            value,
            verdict,
            f"Items with one label have a mean cosine of {value:.2f}, any two "
            f"items {any_two:.2f}; "
            + {
                "good": "classes hold together.",
                "watch": "classes hold together weakly.",
                "bad": "labels play no part in this space: if they matter to you, train on them: a method with "
                "labels such as supcon, or --group COLUMN, which makes rows of one value positives.",
            }[verdict],
        ),
        _false_negatives(labels, "label"),
    ]


def _false_negatives(ids: np.ndarray, what: str) -> Diagnostic:
    value = false_negative_rate(ids)
    verdict = "good" if value < 0.02 else "watch" if value < 0.1 else "bad"
    share = f"{100 * value:.1f} % of random pairs share a {what}; "
    if what == "group":
        hidden = "they are hidden from each other's negatives" + (
            "" if verdict == "good" else ": a larger --batch-size makes up for the negatives that this takes"
        )
        return Diagnostic("false negatives", value, verdict, f"{share}{hidden}.")
    mend = "--group COLUMN makes rows of one value positives and hides them from the negatives"
    return Diagnostic(
        "false negatives",
        value,
        verdict,
        share
        + {
            "good": "few enough to leave alone.",
            "watch": f"{mend}; --loss debiased weighs negatives less.",
            "bad": f"negatives of a batch are often positives: {mend}, or train with the labels (supcon).",
        }[verdict],
    )


def _neighbours(
    z: np.ndarray, ids: np.ndarray | None, contents: np.ndarray | None, domains: np.ndarray | None
) -> list[Diagnostic]:
    near = issues.neighbours(z, contents=contents)
    if (near.indices < 0).all():
        return []
    found = [_hubs(near, len(z)), _twins(near)]
    if ids is not None and (ids >= 0).any():
        found.append(_agreement(near, ids))
    if domains is not None and len(np.unique(domains[domains >= 0])) > 1:
        found.append(_mixing(near, domains))
    return found


def _hubs(near: Neighbours, gallery: int) -> Diagnostic:
    value = hubness(near, gallery)
    verdict = _verdict(value, 6.0, 2.5)
    return Diagnostic(
        "hubness",
        value,
        verdict,
        {
            "good": "No item crowds everybody's neighbour list.",
            "watch": "A few items turn up in many neighbour lists; subtracting the mean vector usually mends it.",
            "bad": "Hubs dominate the neighbour lists: subtract the mean vector before you search, or train with a "
            "lower --temperature.",
        }[verdict],
    )


def _twins(near: Neighbours) -> Diagnostic:
    value = float(issues.equal(near).mean())
    verdict = _verdict(value, 0.2, 0.02)
    return Diagnostic(
        "different items, same vector",
        value,
        verdict,
        {
            "good": f"{100 * value:.1f} % of items share their vector with a different item; the model tells items "
            "apart.",
            "watch": f"{100 * value:.1f} % of items share their vector with a different item: near-duplicates in the "
            "data, or inputs cut too short (nearfar data PATH --report FILE lists the first).",
            "bad": f"{100 * value:.1f} % of items cannot be told from a different one: nearfar data PATH --report FILE "
            "lists near copies; else raise --image-size or --text-length.",
        }[verdict],
    )


def _agreement(near: Neighbours, ids: np.ndarray) -> Diagnostic:
    asked, agrees = issues.agreeing(near, ids)
    value = float(agrees[asked].mean()) if asked.any() else 0.0
    chance = false_negative_rate(ids)
    verdict = _verdict(value - chance, 0.05 * (1 - chance), 0.3 * (1 - chance))
    return Diagnostic(
        "nearest neighbour agrees",
        value,
        verdict,
        f"The nearest neighbour is of the same kind for "
        f"{100 * value:.0f} % of items (chance {100 * chance:.1f} %)"
        + {
            "good": ".",
            "watch": "; neighbours are only partly about what you labelled.",
            "bad": "; neighbours are about something else than what you labelled: choose other --views, or positives "
            "by --group COLUMN.",
        }[verdict],
    )


def _mixing(near: Neighbours, domains: np.ndarray) -> Diagnostic:
    seen = (near.indices >= 0) & (domains >= 0)[:, None]
    value = float((domains[near.indices] == domains[:, None])[seen].mean())
    chance = false_negative_rate(domains)
    verdict = _verdict(value - chance, 0.7 * (1 - chance), 0.35 * (1 - chance))
    return Diagnostic(
        "neighbours from the same domain",
        value,
        verdict,
        f"{100 * value:.0f} % of neighbours share the "
        f"item's domain (chance {100 * chance:.0f} %); "
        + {
            "good": "domains mix.",
            "watch": "domains mix partly: take positives across domains.",
            "bad": "the space is sorted by domain first: take positives across domains.",
        }[verdict],
    )
