"""CoCoSoDa: queues, a slow encoder and softly augmented copies teach code search more than the batch alone.

Functions of packages and their summaries, at a small batch. Against the same network in the batch alone (both
directions), queues and teacher without augmentation, four terms in place of six, masking alone, and what needs no
training.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

PLAN = {"steps": 500, "batch_size": 32, "lr": 2e-3}
FOUND = {"MRR": ("code-search", "mrr"), "hit@1": ("code-search", "hit@1")}
SODA = "cocosoda --queue 512 --momentum 0.99"
CLAIM = Claim(
    slug="cocosoda",
    claim="Augmented copies among queues of past ones teach code search more than contrast in the batch.",
    cells={
        "functions": Cell("functions", {
            "cocosoda": Arm(SODA),
            "in batch": Arm("pairs --temperature 0.07"),
            "no augmentation": Arm(f"{SODA} --rate 0"),
            "four terms": Arm(f"{SODA} --within false"),
            "masking alone": Arm(f"{SODA} --augment dynamic-masking"),
        }, PLAN, FOUND),
    },
    control="in batch",
    measure="MRR",
    seeds=3,
    pairs=[("cocosoda", "no augmentation"), ("cocosoda", "four terms")],
)  # fmt: skip
