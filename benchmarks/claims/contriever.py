"""Contriever: two random crops of a document as a pair teach retrieval that two copies with deleted words do not.

Docstrings of installed packages: trained on what follows the summary, measured by the summaries, which no training saw.
Against the same queue with word deletion as views, in-batch negatives, the inverse cloze task, and what needs no
training (TF-IDF, BM25, the untrained encoder). Then functions: trained on their code alone.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

PLAN = {"steps": 800, "batch_size": 64, "lr": 2e-3}
FOUND = {"recall@10": ("pairs", "hit@10"), "recall@1": ("pairs", "hit@1"), "nDCG@10": ("pairs", "ndcg@10")}
QUEUE = "--negatives queue --negatives.size 1024 --momentum 0.99"


def arms(data: str) -> dict[str, Arm]:
    return {
        "crops": Arm(f"contriever {QUEUE}", data=data),
        "deletion": Arm(f"contriever --views delete {QUEUE}", data=data),
        "crops, in batch": Arm("contriever --negatives none --momentum none", data=data),
        "cloze": Arm(f"contriever --views ict {QUEUE}", data=data),
    }


CLAIM = Claim(
    slug="contriever",
    claim="Random crops of one document as a pair teach retrieval, which two copies with deleted words do less.",
    cells={
        "docstrings": Cell("documents", arms("documents alone"), PLAN, FOUND),
        "functions": Cell("functions", arms("code"), PLAN | {"steps": 600}, FOUND),
    },
    control="deletion",
    measure="recall@10",
    seeds=3,
    pairs=[("crops", "crops, in batch"), ("crops", "cloze")],
)
