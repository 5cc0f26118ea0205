"""CSP: compositional soft prompts (Nayak et al., ICLR 2023).

    theta (A + O, d): a vector for each attribute and each object, at first the mean of its name's token vectors
    [start] a photo of  theta_a theta_o  [end]  --frozen text tower-->  t_(a,o)
    z_k = s cos(f(x), t_k) over all compositions of training rows;   L = cross-entropy of z with the true one

A vector has to serve in all its pairs, so that attributes and objects that never stood together can be put together.
The equations are functions of `nearfar.methods.prompting`.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from nearfar.checks import ShareBelowOne
from nearfar.encoders import Encoder
from nearfar.methods import Paper, register
from nearfar.methods.prompting import PromptLearner


@register("csp", family="multimodal")
class CSP(PromptLearner):
    """Every attribute and every object is a learned word of the prompt; the towers stay frozen.

    Args: dropout: r; of the elements of all words, one mask a step, so that an attribute has the same in all its pairs.
    """

    paper = Paper(
        "Learning to Compose Soft Prompts for Compositional Zero-Shot Learning",
        "ICLR 2023",
        "Attributes and objects are learned words of a prompt, which can be put together in pairs never seen.",
        arxiv="2204.03574",
        differs="towers and scale are frozen outright (the code computes their gradients and throws them away); "
        "prompts are as long as they need to be, not 8 tokens in training and 16 in use; images are not changed "
        "unless --views or --preset paper say so, and never by a random perspective; in the open world implausible "
        "pairs are left out (--task 'compositions --left zero' for the code's factor 0), and judged by the tower's own "
        "vectors of their names unless word vectors are given; the preset is that of MIT-States and C-GQA (UT-Zappos: "
        "--lr 5e-4 --dropout 0.2), for 20 epochs of batches of 128 (--batch-size 64 --accumulate 2)",
    )
    preset_paper = {**PromptLearner.preset_paper, "dropout": 0.3}

    def __init__(
        self, encoder: Encoder, encoder_b: Encoder | None = None, *, dropout: ShareBelowOne = 0.3, **shared: Any
    ):
        super().__init__(encoder, encoder_b, **shared)
        self.dropout = dropout

    def vocabulary(self) -> Tensor:
        return F.dropout(super().vocabulary(), self.dropout, self.training)
