"""How far a model that says how sure it is may be believed: of classes that it was trained on, and of others."""

from __future__ import annotations

import numpy as np

from nearfar.evaluation.diagnostics import Diagnostic

BINS = 15
ENOUGH = 10  # rows of a kind of which numbers are told


def knows_mistakes(uncertainty: np.ndarray, right: np.ndarray) -> float | None:
    """The share of pairs of a wrong and a right row in which the wrong one is less sure (area under the ROC curve):
    0.5 where uncertainty says nothing. None where all rows are right, or all wrong. uncertainty, right: (n,)."""
    from sklearn.metrics import roc_auc_score

    return None if right.all() or not right.any() else float(roc_auc_score(~right, uncertainty))


def calibration_error(probability: np.ndarray, truth: np.ndarray) -> float:
    """The expected calibration error (Guo et al., ICML 2017), 0..1: how far the probability of what is told lies from
    how often it is right, over 15 bins. probability: (n, C), rows that sum to 1; truth: (n,)."""
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    found = multiclass_calibration_error(torch.from_numpy(probability).float(), torch.from_numpy(truth),
                                         num_classes=probability.shape[1], n_bins=BINS)  # fmt: skip
    return float(found)


def certainty_diagnostics(
    scores: np.ndarray,
    uncertainty: np.ndarray,
    truth: np.ndarray,
    seen: np.ndarray,
    probabilities: bool,
    evidence: bool,
) -> list[Diagnostic]:
    """scores: (n, C), probabilities or not; uncertainty: (n,); truth: (n,) columns; seen: (C,), classes trained on.
    evidence: whether the uncertainty is that of an opinion."""
    right, known, found = scores.argmax(1) == truth, seen[truth], []
    what = "u = C / S of the fused opinion" if evidence else "the entropy of the softmax as a share of log C"
    if min(known.sum(), (~known).sum()) >= ENOUGH:
        a, b = uncertainty[known].mean(), uncertainty[~known].mean()
        found.append(Diagnostic("less sure of unseen classes", float(b - a), "good" if b > a + 0.01 else "watch",
                                f"Mean uncertainty ({what}) {a:.3f} of rows of classes trained on, {b:.3f} of others"
                                + ("." if b > a + 0.01 else ": it does not tell them apart.")))  # fmt: skip
        auc = knows_mistakes(uncertainty, known)
        assert auc is not None
        found.append(Diagnostic("unseen classes by uncertainty", auc, "good" if auc > 0.6 else "watch",
                                "In so large a share of pairs of a row of an unseen class and one of a seen class the "
                                "first is less sure (0.5: it says nothing)."))  # fmt: skip
    for kind, rows in (("seen", known), ("unseen", ~known)):
        if rows.sum() < ENOUGH:
            continue
        auc = knows_mistakes(uncertainty[rows], right[rows])
        if auc is not None:
            found.append(Diagnostic(f"mistakes by uncertainty, {kind}", auc, "good" if auc > 0.6 else "watch",
                                    f"In so large a share of pairs of a wrong and a right row of {kind} classes the "
                                    "wrong one is less sure (0.5: it says nothing), told among all classes without a "
                                    "constant on unseen ones."))  # fmt: skip
        if probabilities:
            error = calibration_error(scores[rows], truth[rows])
            said, was = float(scores[rows].max(1).mean()), float(right[rows].mean())
            found.append(Diagnostic(f"calibration error, {kind}", error, "good" if error < 0.1 else "watch",
                                    f"Of rows of {kind} classes {100 * was:.0f} % are told right, at a mean "
                                    f"probability of {100 * said:.0f} %: {'surer' if said > was else 'less sure'} than "
                                    f"it should be (expected calibration error, {BINS} bins; 0 is best)."))  # fmt: skip
    return found


__all__ = ["calibration_error", "certainty_diagnostics", "knows_mistakes"]
