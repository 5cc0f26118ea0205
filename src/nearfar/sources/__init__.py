"""Data in: from a name or a path to rows with roles, content ids and honest splits."""

from typing import TYPE_CHECKING

from nearfar.lazy import exports

if TYPE_CHECKING:  # imported when first used
    from nearfar.sources.beir import export_beir
    from nearfar.sources.data import Data
    from nearfar.sources.opening import open_data
    from nearfar.sources.raw import Problem
    from nearfar.sources.roles import ROLES
    from nearfar.sources.showing import show

__getattr__ = exports(__name__)

__all__ = ["ROLES", "Data", "Problem", "export_beir", "open_data", "show"]
