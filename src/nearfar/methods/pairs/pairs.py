"""Symmetric InfoNCE over given pairs: the baseline of everything that has two columns, or groups.

    a_i --encoder--> z_a      row i of one column belongs to row i of the other (or: two members of one group);
    b_i --encoder--> z_b      the other rows are the negatives, and columns of hard negatives join them

One shared encoder or two, of one kind of data or two. What most people need first: fine-tuning a pretrained encoder
on pairs of one's own. The equation is `nearfar.losses.info_nce(..., symmetric=True)`.
"""

from collections.abc import Mapping
from typing import Any

from nearfar import modalities
from nearfar.methods import PairContrast, Paper, register


@register("pairs", family="pairs")
class Pairs(PairContrast):
    """The two sides of a pair are near, the other rows of the batch far.

    Args:
        temperature: tau; divides the cosine.
        learn_temperature: train tau.
    """

    paper = Paper(
        "Learning Transferable Visual Models From Natural Language Supervision (the loss)",
        "ICML 2021",
        "Each side of a pair must find its partner among all partners of the batch.",
        arxiv="2103.00020",
    )
    preset_paper = {"temperature": 0.07, "learn_temperature": True}
    reads_scores = True
    defaults = {"temperature": 0.07}

    baseline = 2

    @classmethod
    def suits(cls, roles: Mapping[str, Any]) -> tuple[int, str] | None:
        held = [pair for pair in modalities.pairs() if set(pair) <= set(roles)]
        across = next((pair for pair in held if len(modalities.kinds(pair)) == 2), None)
        if across and "group" not in roles:
            a, b = (modalities.of(role).word for role in across)
            return 45, f"each row pairs a {a} with a {b}"
        if any(len(modalities.kinds(pair)) == 1 for pair in held):
            return 40, "each row is a pair"
        return (30, f"rows with the same '{roles['group']}' are positives of each other") if "group" in roles else None
