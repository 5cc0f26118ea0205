"""Methods: one paper, one file. `nearfar methods` lists them."""

from typing import TYPE_CHECKING

from nearfar.lazy import exports

if TYPE_CHECKING:  # imported when first used
    from nearfar.methods.base import Batch, Facts, Loss, Method, Optimisation, Tower
    from nearfar.methods.paper import Paper
    from nearfar.methods.registry import describe, get, list_methods, overview, register, slugs

__getattr__ = exports(__name__)

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
    "overview",
    "register",
    "slugs",
]
