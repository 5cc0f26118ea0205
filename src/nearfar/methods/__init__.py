"""Methods: one paper, one file. `nearfar methods` lists them."""

from nearfar.methods.base import Batch, Facts, Loss, Method, Optimisation, Paper, Tower
from nearfar.methods.contrast import (
    Contrast,
    PairContrast,
    ViewContrast,
    against_targets,
    check_plan,
    default_views,
    forward_views,
)
from nearfar.methods.registry import describe, get, list_methods, register, slugs

__all__ = [
    "Batch",
    "Contrast",
    "Facts",
    "Loss",
    "Method",
    "Optimisation",
    "PairContrast",
    "Paper",
    "Tower",
    "ViewContrast",
    "against_targets",
    "check_plan",
    "default_views",
    "describe",
    "forward_views",
    "get",
    "list_methods",
    "register",
    "slugs",
]
