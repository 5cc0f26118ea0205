"""CoOp: a learned context of prompts (Zhou et al., IJCV 2022), as the code of CSP compares with it on compositions.

    [start] c_1 c_2 c_3  theta_a theta_o  [end]  --frozen text tower-->  t_(a,o);   c = learned, at first "a photo of"

The words of attributes and objects stay the means of their names' token vectors; all compositions share one context.
The equations are functions of `nearfar.methods.prompting`.
"""

from __future__ import annotations

from nearfar.methods import Paper, register
from nearfar.methods.prompting import PromptLearner


@register("coop", family="multimodal")
class CoOp(PromptLearner):
    """The words in front of attribute and object are learned vectors; everything else stays frozen."""

    paper = Paper(
        "Learning to Prompt for Vision-Language Models",
        "IJCV 2022",
        "The context of a prompt is learned as vectors, while names and towers stay as they are.",
        arxiv="2109.01134",
        differs="for compositions, as in the code of CSP: three learned tokens that begin as 'a photo of' (as many as "
        "--context has), the names behind them, no contexts of single classes and no random start; the preset is that "
        "of CSP, whose baseline it is: its rate, decay and views; towers, images and the open world as in csp",
    )
    learned = "context"
