"""CLIP-rocket: strong views of images and captions beside the weak ones make CLIP better, also at equal compute.

Emoji of one hand with their name and keywords, 16 pixels, captions as bags of words. CLIP-rocket has three views a
step: beside it stand CLIP of as many steps, CLIP of three times as many (equal compute), and CLIP whose only view is
the strong one. Then z and h alone, the shared projector, and what SiamLIP, BYOLIP, BarLIP and SwALIP add to the strong
recipe and to plain CLIP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiment import FIGURES, Arm, Cell, Claim

from nearfar.reporting.figures import bars_svg

STEPS = 250
PLAN = {"image_size": 16, "steps": STEPS, "batch_size": 128, "lr": 1e-3}
TRIPLE = {"steps": 3 * STEPS}
# Words of a bag have no order to change: strong captions lose half of their words.
WORDS = "--text-views words --text-views.swap 0 --text-views.deletion 1 --text-views.delete 0.5"
ROCKET, CLIP = f"clip-rocket {WORDS}", f"clip-rocket --local 0 {WORDS}"
EXTRAS = {"BarLIP": "barlow", "SiamLIP": "simsiam", "BYOLIP": "byol"}
PAIRS = {"recall@10": ("pairs", "hit@10"), "recall@1": ("pairs", "hit@1")}
ARMS = {
    "CLIP-rocket": Arm(ROCKET),
    "CLIP": Arm(CLIP),
    "CLIP, 3x steps": Arm(CLIP, TRIPLE),
    "CLIP, strong views": Arm(f"{CLIP} --first strong"),
    "CLIP, strong views, 3x steps": Arm(f"{CLIP} --first strong", TRIPLE),
    "CLIP-rocket, z": Arm(f"{ROCKET} --inference z"),
    "CLIP-rocket, h": Arm(f"{ROCKET} --inference h"),
    "CLIP-rocket, shared projector": Arm(f"{ROCKET} --projector shared"),
    **{f"CLIP-rocket + {name}": Arm(f"{ROCKET} --extra {extra}") for name, extra in EXTRAS.items()},
    "CLIP-rocket, not smoothed": Arm(f"{ROCKET} --smoothing 0"),
    "CLIP-rocket + SwALIP": Arm(f"{ROCKET} --extra swav"),
}


def figure(out: Path, result: dict[str, Any]) -> None:
    """Recall of every arm, in docs/assets/methods/clip-rocket.svg."""
    rows = result["all"]["names"]
    values = {name: {m: [100 * seed[m] for seed in rows[name]] for m in PAIRS} for name in ARMS}
    about = "Recall (x 100), mean of both directions, on emoji never trained on; each tick is a seed."
    title = "Emoji and their keywords: views of both sides, and terms beside them"
    (FIGURES / "clip-rocket.svg").write_text(bars_svg(values, title, about))


CLAIM = Claim(
    slug="clip-rocket",
    claim="Strong views of both sides, with a head of their own, beat CLIP of equal compute.",
    cells={
        "names": Cell("names", ARMS, PLAN, PAIRS),
        "names, terms beside plain CLIP": Cell("names", {
            "CLIP": ARMS["CLIP"],
            **{f"CLIP + {name}": Arm(f"{CLIP} --extra {extra}") for name, extra in EXTRAS.items()},
        }, PLAN, PAIRS),
        "subcategories by their names": Cell("emoji, subcategories", {
            "CLIP-rocket": Arm(ROCKET),
            "CLIP": Arm(CLIP),
            "CLIP, 3x steps": Arm(CLIP, TRIPLE),
            "CLIP, strong views, 3x steps": Arm(f"{CLIP} --first strong", TRIPLE),
        }, {**PLAN, "by": "columns"}, {"zero-shot accuracy": ("zero-shot", "accuracy")}),
    },
    control="CLIP, 3x steps",
    measure="recall@10",
    pairs=[
        ("CLIP-rocket", "CLIP"),
        ("CLIP-rocket", "CLIP, strong views, 3x steps"),
        ("CLIP, strong views, 3x steps", "CLIP, 3x steps"),
        ("CLIP-rocket", "CLIP-rocket, shared projector"),
        *((f"CLIP-rocket + {name}", "CLIP-rocket") for name in EXTRAS),
        ("CLIP-rocket + SwALIP", "CLIP-rocket, not smoothed"),
        *((f"CLIP + {name}", "CLIP") for name in EXTRAS),
    ],
)  # fmt: skip
