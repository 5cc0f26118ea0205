"""Methods: one paper, one file. `nearfar methods` lists them."""

from nearfar.methods.base import Batch, Facts, Loss, Method, Optimisation, Paper, Tower
from nearfar.methods.registry import describe, get, list_methods, register, slugs

__all__ = [
    "Batch",
    "Facts",
    "Loss",
    "Method",
    "Optimisation",
    "Paper",
    "Tower",
    "describe",
    "get",
    "list_methods",
    "register",
    "slugs",
]
