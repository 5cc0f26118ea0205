"""CL4SRec: contrastive learning for sequential recommendation (Xie et al., ICDE 2022).

    history --crop, mask or reorder, twice--> a, b --encoder--> h_a, h_b
    loss = cross-entropy of the next item + lambda InfoNCE of h_a and h_b among the views of the batch

The baseline of MCLRec, which is this with augmenters of its own. The views are `nearfar.views.histories`.
"""

from __future__ import annotations

from nearfar.methods import Paper, register
from nearfar.methods.recommending import ContrastedNextItem


@register("cl4srec", family="recommendation")
class CL4SRec(ContrastedNextItem):
    """Two changed copies of a history are near, beside telling the item that comes next."""

    paper = Paper(
        "Contrastive Learning for Sequential Recommendation",
        "ICDE 2022",
        "Cropped, masked and reordered copies of a history keep what it says of the user.",
        arxiv="2010.14395",
        differs="the two operators of a history differ and keep 0.5, hide 0.5 and reorder 0.8 of it, and every prefix "
        "is a sample with cross-entropy over all items, as in the code of MCLRec that compares with it; a warm-up of a "
        "twentieth of the run (none in the paper: --warmup 0)",
    )
    needs = (frozenset({"user", "item"}),)
    preset_paper = {"views": {"name": "crop-mask-reorder", "different": False}, "weight": 0.1}
    paper_training = {"optimiser": "adam", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant"}
    baseline = 3
