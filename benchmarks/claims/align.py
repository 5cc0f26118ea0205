"""ALIGN: many noisy pairs teach more than few clean ones.

Emoji of one hand with their names: all pairs with 30 % of the training names exchanged, against 300 clean pairs, and
all pairs clean. The same steps. Then label smoothing, and how many candidates the softmax has (the batch).
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

PLAN = {"steps": 300, "batch_size": 128}
PAIRS = {"recall@10": ("pairs", "hit@10"), "recall@1": ("pairs", "hit@1")}
CLAIM = Claim(
    slug="align",
    claim="Many pairs of which 30 % are wrong teach a dual encoder more than 300 clean ones.",
    cells={
        "names": Cell("names", {
            "many, 30 % wrong": Arm("align", data="names, shuffled"),
            "300 clean": Arm("align", data="names, 300"),
            "many, clean": Arm("align"),
        }, PLAN, PAIRS),
        "names, smoothing": Cell("names", {"0.1": Arm("align"), "0": Arm("align --smoothing 0")}, PLAN, PAIRS),
        "names, candidates": Cell("names", {
            "128": Arm("align"),
            "64": Arm("align", {"batch_size": 64}),
            "32": Arm("align", {"batch_size": 32}),
        }, PLAN, PAIRS),
    },
    control="300 clean",
    measure="recall@10",
    pairs=[("many, clean", "many, 30 % wrong")],
)  # fmt: skip
