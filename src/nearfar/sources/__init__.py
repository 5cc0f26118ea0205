"""Data in: from a name or a path to rows with roles, content ids and honest splits."""

from typing import TYPE_CHECKING

from nearfar.lazy import exports

if TYPE_CHECKING:  # imported when first used
    from nearfar.sources.beir import export_beir
    from nearfar.sources.data import Data
    from nearfar.sources.opening import open_data
    from nearfar.sources.raw import Problem
    from nearfar.sources.roles import known_roles
    from nearfar.sources.showing import show

__getattr__ = exports(__name__)

__all__ = ["Data", "Problem", "export_beir", "known_roles", "open_data", "show"]
