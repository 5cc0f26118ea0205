"""WhitenedCSE: copies of a sentence that are whitened in other groups of channels each make better sentence vectors.

Sentences of docstrings, and pairs of them that are graded by where they stand. Against SimCSE with two and with three
copies. The paper tunes a pretrained encoder gently and measures its vectors as they are; here word vectors are learned
from scratch, where the whitened head leaves the encoder less spread, so what decides is measured on vectors whitened by
the training rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment import FIGURES, Arm, Cell, Claim

from nearfar.reporting.figures import bars_svg

MEASURES = {
    "whitened": ("sts --whiten true", "spearman"),
    "as they are": ("sts", "spearman"),
}
PLAN = {"text_encoder": "small", "steps": 500, "batch_size": 64, "lr": 1e-3}
MAIN = {
    "whitenedcse": Arm("whitenedcse"),
    "simcse, 3 copies": Arm("simcse --views.copies 3"),
    "simcse": Arm("simcse"),
}
WHITENING = {
    "one group": Arm("whitenedcse --groups 1 --eps 1e-4"),
    "differentiated": Arm("whitenedcse --differentiate true"),
    "official": Arm("whitenedcse --official true"),
}
TUNED = {
    "whitenedcse": Arm("whitenedcse --eps 1e-4"),  # three channels of MiniLM are 0 in every vector
    "simcse, 3 copies": MAIN["simcse, 3 copies"],
}
GENTLE = {"text_encoder": "minilm", "text_length": 24, "steps": 30, "batch_size": 32, "lr": 3e-5}


def look(folder: Path, data: Any) -> Mapping[str, float]:
    """Of the contrasted vectors at the last line of the curve: squared distance of positives, and uniformity."""
    last = json.loads((folder / "curve.jsonl").read_text().splitlines()[-1])
    return {name: last[name] for name in ("alignment", "uniformity") if name in last}


def figure(out: Path, result: dict[str, Any]) -> None:
    """Both measures of every arm from scratch, in docs/assets/methods/whitenedcse.svg."""
    rows = result["all"]["from scratch"]
    values = {name: {m: [100 * seed[m] for seed in rows[name]] for m in MEASURES}
              for name in [*MAIN, "untrained"]}  # fmt: skip
    about = "Spearman's correlation (x 100) of the similarity of two sentences with their grade; each tick is a seed."
    title = "Sentences of docstrings, encoder from scratch: similarity and grade"
    (FIGURES / "whitenedcse.svg").write_text(bars_svg(values, title, about))


UNITS = {"alignment": "value", "uniformity": "value"}

CLAIM = Claim(
    slug="whitenedcse",
    claim="Similarities of sentences follow their grades better than with as many copies and no whitening.",
    cells={
        "from scratch": Cell("sentences", MAIN | WHITENING, PLAN, MEASURES, look, UNITS, tuple(UNITS)),
        "pretrained, gently": Cell("sentences", TUNED, GENTLE, MEASURES, look, UNITS, tuple(UNITS)),
    },
    control="simcse, 3 copies",
    measure="whitened",
    seeds=3,
)
