"""MultiCSR: triplets that are scored, swapped, curated and masked make better sentence vectors than raw ones.

No language model: triplets of docstring sentences, of which 35 % are in the wrong order, and scores that know the
docstrings imperfectly. What decides is the swap; curation costs data, so it is given more raw triplets beside. Scores
of shared words know nothing of the docstrings. The mask matters where a batch holds false negatives: triplets of 100
docstrings alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment import Arm, Cell, Claim

MEASURES = {"spearman": ("sts", "spearman")}
PLAN = {"text_encoder": "small", "steps": 400, "batch_size": 64, "lr": 1e-3}
TWICE = {"steps": 700}  # of which SimCSE has 300
PLAIN, MASKED = "multicsr --frozen none", "multicsr --frozen-share 0.43"
RIGHT = "--curation none --scorer none"


def look(folder: Path, data: Any) -> Mapping[str, float]:
    """The share of the training rows whose triplets are kept, and of the candidates that the mask hides at the end."""
    told = json.loads((folder / "config.json").read_text())
    last = json.loads((folder / "curve.jsonl").read_text().splitlines()[-1])
    kept = {"kept": told["resolved"]["kept"] / told["rows"]["train"]} if "kept" in told["resolved"] else {}
    return kept | {name: last[name] for name in ("hidden",) if name in last}


ARMS = {
    "swapped": Arm(f"{PLAIN} --curation none"),
    "raw": Arm(f"{PLAIN} {RIGHT}"),
    "swapped, curated": Arm(PLAIN),
    "swapped, curated, of more": Arm(PLAIN, data="triplets, more"),
    "swapped by shared words": Arm(f"{PLAIN} --curation none --scorer words_positive,words_negative"),
    "no errors": Arm(f"{PLAIN} {RIGHT}", data="triplets, right"),
    "swapped, masked": Arm(f"{MASKED} --curation none", TWICE),
    "simcse": Arm("simcse"),
}
CROWDED = {
    "masked": Arm(f"{MASKED} {RIGHT} --mask-duplicates false", TWICE),
    "masked, phi 0.6": Arm(f"{MASKED} {RIGHT} --mask-duplicates false --phi 0.6", TWICE),
    "no mask": Arm(f"{PLAIN} {RIGHT} --mask-duplicates false"),
    "no mask, duplicates hidden": Arm(f"{PLAIN} {RIGHT}"),
    "masked, released loss": Arm(f"{MASKED} {RIGHT} --mask-duplicates false --official true", TWICE),
}
CLAIM = Claim(
    slug="multicsr",
    claim="The swap of stage 1 repairs triplets in the wrong order.",
    cells={
        "wrong order": Cell("triplets", ARMS, PLAN, MEASURES, look),
        "false negatives": Cell("triplets, crowded", CROWDED, PLAN, MEASURES, look),
    },
    control="raw",
    measure="spearman",
    seeds=3,
    pairs=[("swapped, curated, of more", "raw"), ("swapped by shared words", "raw"), ("no errors", "raw"),
           ("masked, phi 0.6", "no mask")],
)  # fmt: skip
