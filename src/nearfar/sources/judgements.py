"""What rows say about their pair: a label (1 belongs together, 0 does not) or a score."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.errors import InputError

YES = {"1", "true", "yes", "duplicate", "paraphrase", "equivalent", "match", "relevant", "entailment"}
NO = {"0", "false", "no", "not_duplicate", "not_paraphrase", "not_equivalent", "no_match", "not_relevant",
      "irrelevant", "neutral", "contradiction", "not_entailment"}  # fmt: skip
NONE = {"", "-", "-1", "nan", "none", "null"}
INFERENCE = {"entailment", "neutral", "contradiction", "not_entailment"}
UPPER = 0.8  # share of the range of scores from which a pair counts as a positive


def word(value: Any, names: Sequence[str] | None = None) -> str:
    """A cell in its normal form: lower case, "1" for 1.0 and True; `names`: of the numbers of a ClassLabel column."""
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        value = names[value]
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip().casefold().replace(" ", "_").replace("-", "_") if str(value).strip() not in NONE else ""
    return text[:-2] if text.endswith(".0") else text.replace("non_", "not_")


def pair_label(value: Any, names: Sequence[str] | None = None, numbered: bool = False) -> int | None:
    """1 (belongs together), 0 (does not), -1 (nobody said), or None for a value that is none of these.

    numbered: the numbers are those of natural language inference: 0 entailment, 1 neutral, 2 contradiction.
    """
    text = word(value, names)
    if text in NONE:
        return -1
    if numbered and text in ("0", "1", "2"):
        return int(text == "0")
    return 1 if text in YES else 0 if text in NO else None


def score(value: Any) -> float | None:
    """A finite number, or None."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def scale(ends: Any) -> tuple[float, float]:
    """The ends of a scale of scores, from two numbers or "0,5". Raises InputError for what is none."""
    parts = ends.split(",") if isinstance(ends, str) else list(ends)
    numbers = [known for part in parts if (known := score(part)) is not None]
    if len(parts) != 2 or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise InputError(f"score_range is two numbers, the lower one first. Got {ends!r}.", "Write --score-range 0,5.")
    return numbers[0], numbers[1]


def inference_numbers(words: set[str], text: str, text_b: str) -> bool:
    """Whether plain numbers are those of natural language inference: 0, 1 and 2 beside a premise and a hypothesis."""
    columns = (text.casefold(), text_b.casefold())
    return columns == ("premise", "hypothesis") and "2" in words and words <= {"", "0", "1", "2"}


def high(scores: np.ndarray) -> np.ndarray:
    """bool (N,): the scores in the upper fifth of their range; False for NaN."""
    low, top = np.nanmin(scores), np.nanmax(scores)
    return scores >= low + UPPER * (top - low)


def scaled(scores: np.ndarray) -> np.ndarray:
    """float32 (N,): as cosines. Scores within [-1, 1] stay; others become 0 (the lowest) to 1 (the highest)."""
    low, top = float(scores.min()), float(scores.max())
    if low >= -1 and top <= 1:
        return scores.astype(np.float32)
    return ((scores - low) / (top - low if top > low else 1)).astype(np.float32)
