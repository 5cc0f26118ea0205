"""Words that several checks share: plans and measures of the digits and of the emoji."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiment import FIGURES

from nearfar.reporting.figures import bars_svg

SIDE = 16
WEAK = "--views two-crops --views.crop 0.7,1 --views.flip 0 --views.strength 0.25 --views.grey 0"
STRONG = "--views two-crops --views.crop 0.3,1 --views.flip 0 --views.strength 0.5 --views.grey 0"
FEW = "few-shot --ways 10 --shots 5 --queries 20 --episodes 100"
DIGITS = {"5 labels a class": (FEW, "5-shot"), "kNN": ("labels", "knn"), "probe": ("labels", "probe")}
EMOJI = {"hit@1": ("groups", "hit@1"), "hard hit@1": ("groups", "hard/hit@1")}
PLAN = {"image_size": SIDE, "steps": 300, "batch_size": 64, "lr": 2e-3}
EMOJI_PLAN = {"steps": 300, "batch_size": 128}
COMPOSING_CLIP = {
    "steps": 600, "batch_size": 64, "image_size": 16, "text_encoder": "tiny", "text_causal": True,
    "text_pooling": "lasttoken", "text_length": 12, "lr": 2e-3,
}  # fmt: skip
COMPOSING_PLAN = {"steps": 300, "batch_size": 128}
COMPOSITIONS = {"AUC": ("compositions", "auc"), "H": ("compositions", "harmonic"), "seen": ("compositions", "seen"),
                "unseen": ("compositions", "unseen")}  # fmt: skip


def compositions_figure(slug: str, rows: Mapping[str, Sequence[Mapping[str, float]]], title: str, about: str) -> None:
    """What each row tells of compositions seen in training and of new ones, in docs/assets/methods/SLUG.svg."""
    shown = {"seen": "trained on, at best", "unseen": "never trained on, at best", "AUC": "area under both"}
    values = {name: {words: [100 * x[key] for x in seeds] for key, words in shown.items()}
              for name, seeds in rows.items() if set(shown) <= set(seeds[0])}  # fmt: skip
    (FIGURES / f"{slug}.svg").write_text(bars_svg(values, title, about, unit=" %"))
