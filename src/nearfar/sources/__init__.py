"""Data in: from a name or a path to rows with roles, content ids and honest splits."""

from nearfar.sources.data import Data
from nearfar.sources.opening import BUILT_IN, open_data
from nearfar.sources.raw import Problem

__all__ = ["BUILT_IN", "Data", "Problem", "open_data"]
