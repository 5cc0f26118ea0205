"""Contriever: two random crops of a document as a pair teach retrieval that two copies with deleted words do not.

Functions of packages: trained on the code alone, measured by their summaries, which no training saw. Against the same
queue with word deletion as views, in-batch negatives, and what needs no training (TF-IDF, BM25, the untrained encoder).
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

PLAN = {"steps": 600, "batch_size": 64, "lr": 2e-3}
FOUND = {"recall@10": ("pairs", "hit@10"), "recall@1": ("pairs", "hit@1"), "nDCG@10": ("pairs", "ndcg@10")}
QUEUE = "--negatives queue --negatives.size 1024 --momentum 0.99"
CLAIM = Claim(
    slug="contriever",
    claim="Random crops of one document as a pair teach retrieval, which two copies with deleted words do less.",
    cells={
        "functions": Cell("functions", {
            "crops": Arm(f"contriever {QUEUE}", data="code"),
            "deletion": Arm(f"contriever --views delete {QUEUE}", data="code"),
            "crops, in batch": Arm("contriever --negatives none --momentum none", data="code"),
        }, PLAN, FOUND),
    },
    control="deletion",
    measure="recall@10",
    seeds=3,
    pairs=[("crops", "crops, in batch")],
)  # fmt: skip
