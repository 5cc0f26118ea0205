"""An index to look at: its vectors on a map, what is near each, what is odd about them. On Embedding Atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearfar.lazy import exports

if TYPE_CHECKING:
    from nearfar.exploring.atlas import Atlas, explore

__getattr__ = exports(__name__)
__all__ = ["Atlas", "explore"]
