"""The built-in motions: BasicMotions, 80 recordings of a smart watch (standing, running, walking, badminton).

100 steps of 6 channels each: acceleration and turning, ten a second, from four students. A file of the wheel of aeon
(BSD-3-Clause; `nearfar.sources.wheels`), there without a licence of its own. Nothing is shipped.
"""

from __future__ import annotations

from pathlib import Path

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.wheels import archive_set


@register
def open_motions(cache: Path) -> Raw:
    """One row a recording, its class as the label, with the usual parts for training and test."""
    return archive_set("motions", "BasicMotions", cache)
