"""SPACE-2: positives graded by annotation trees order unlabelled texts better than classes of one level do.

First sentences of docstrings; the tree of each is package (domain), module (intent), arguments (slots) and their
defaults (values); a fifth of the training rows have theirs. Against the same network whose copies alone are
positives, SupCon by the domain and by the intent (one view, whose sets hold one name), the labelled rows alone, and
one mean score without heads. What counts: on rows never trained on, how far cosines follow the mean score of the
trees.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

PLAN = {"steps": 300, "batch_size": 64, "text_encoder": "tiny", "text_length": 24, "vocabulary": 4000}
TASK = "trees"
ARMS = {
    "space2": Arm("space2 --dim 32"),
    "copies alone": Arm("space2 --dim 32 --learn unlabelled"),
    "domain": Arm("space2 --dim 32 --tree-views D"),
    "intent": Arm("space2 --dim 32 --tree-views I"),
    "labelled alone": Arm("space2 --dim 32 --learn labelled"),
    "one score": Arm("space2 --tree-views none"),
}
CLAIM = Claim(
    slug="space2",
    claim="Attraction graded by ten views of annotation trees orders dialogues better than one level of them.",
    cells={
        "calls": Cell("calls", ARMS, PLAN, {"Spearman": (TASK, "spearman"), "intent": (TASK, "intent")}),
    },
    control="domain",
    measure="Spearman",
    seeds=3,
    pairs=[("space2", "copies alone"), ("space2", "intent"), ("space2", "labelled alone")],
)
