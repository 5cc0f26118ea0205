"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

    items before --table + places--> causal attention blocks --> h_t;    scores of the next item = h_t E^T
    loss = mean over the places of the cross-entropy of the item that came next, among all items

The baseline of methods that add contrast to it. Histories are found by `--user`, `--item` and `--time`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearfar.methods import Paper, register
from nearfar.methods.recommending import NextItem


@register("sasrec", family="recommendation")
class SASRec(NextItem):
    """A causal transformer over the items of a history tells the item that comes next."""

    paper = Paper(
        "Self-Attentive Sequential Recommendation",
        "ICDM 2018",
        "Attention over the items of a history tells the next one; the item table is the output layer too.",
        arxiv="1808.09781",
        differs="cross-entropy over all items instead of one sampled item a place; blocks normalise behind the sum, "
        "with GELU and a wider layer between, as RecBole has them; the state is not normalised once more at the end; a "
        "warm-up of a twentieth of the run (none in the paper: --warmup 0)",
    )
    needs = (frozenset({"user", "item"}),)
    preset_paper = {"positions": "all"}
    paper_training = {
        "optimiser": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "betas": (0.9, 0.98),
        "schedule": "constant",
    }
    baseline = 2

    @classmethod
    def suits(cls, roles: Mapping[str, Any]) -> tuple[int, str] | None:
        return (
            (30, "there are interactions: a history tells what comes next") if {"user", "item"} <= set(roles) else None
        )
