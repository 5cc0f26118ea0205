"""MoE Embeddings: an MLP of its own for each domain tells pairs apart better than one MLP for all.

Summaries and bodies of docstrings of five packages, the domains; wrong pairs are of the same package. Against the same
network with one MLP (it has the tokens of the domains as well; the experts have more parameters, but as much work a
text), a router that chooses the expert, and a model of one package alone, which shows whether the domains differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from experiment import Arm, Cell, Claim

import nearfar
from nearfar import evaluation
from nearfar.training.modelled import ModelEmbedder

MEASURES = {"F1-max": ("pair-labels", "best f1"), "AP": ("pair-labels", "ap")}


def by_domain(folder: Path, data: Any) -> dict[str, float]:
    """F1-max of each domain, each at a threshold of its own, and their mean."""
    embed = ModelEmbedder(nearfar.load(folder / "model"), data)
    found = evaluation.task_for(data, "pair-labels").evaluate(embed, "test").domains
    told = {f"F1-max, {name}": one["best f1"] for name, one in found.items()}
    return told | ({"F1-max, mean of domains": float(np.mean(list(told.values())))} if told else {})


CLAIM = Claim(
    slug="moe-embeddings",
    claim="An MLP for each domain tells pairs of a domain apart better than one for all.",
    cells={
        "docstrings": Cell(
            "described",
            {
                "moe-embeddings": Arm("moe-embeddings"),
                "one MLP": Arm("moe-embeddings --routing none"),
                "router": Arm("moe-embeddings --routing router"),
                "scipy alone": Arm("pairs --temperature 0.05", data="described, scipy"),
            },
            {"steps": 250, "batch_size": 40, "text_encoder": "tiny", "text_length": 48},
            MEASURES,
            look=by_domain,
        )
    },
    control="one MLP",
    measure="F1-max",
    seeds=3,
    pairs=(("scipy alone", "one MLP"),),
)
