"""Methods: one paper, one file. `nearfar methods` lists them."""

from typing import TYPE_CHECKING

from nearfar.lazy import exports

if TYPE_CHECKING:  # imported when first used
    from nearfar.methods.base import Loss, Method
    from nearfar.methods.batch import Batch, Facts
    from nearfar.methods.contrast import (
        Contrast,
        CopyContrast,
        Multistage,
        PairContrast,
        ViewContrast,
        against_targets,
        check_plan,
        default_views,
        forward_views,
    )
    from nearfar.methods.inference import Inference, Request
    from nearfar.methods.optimisation import Optimisation
    from nearfar.methods.paper import Paper
    from nearfar.methods.phases import Phase
    from nearfar.methods.registry import describe, get, list_methods, overview, register, slugs
    from nearfar.methods.staged import Staged
    from nearfar.methods.tower import Tower

__getattr__ = exports(__name__)

__all__ = [
    "Batch",
    "Contrast",
    "CopyContrast",
    "Facts",
    "Inference",
    "Loss",
    "Method",
    "Multistage",
    "Optimisation",
    "PairContrast",
    "Paper",
    "Phase",
    "Request",
    "Staged",
    "Tower",
    "ViewContrast",
    "against_targets",
    "check_plan",
    "default_views",
    "describe",
    "forward_views",
    "get",
    "list_methods",
    "overview",
    "register",
    "slugs",
]
