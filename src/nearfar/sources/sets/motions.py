"""The built-in motions: BasicMotions, 80 recordings of a smart watch (standing, running, walking, badminton).

100 steps of 6 channels each: acceleration and turning, ten a second, from four students. A file of the wheel of aeon
(BSD-3-Clause; `nearfar.sources.wheels`), there without a licence of its own. Nothing is shipped.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.ts_files import read_ts_folder
from nearfar.sources.wheels import unpacked

FOLDER = "aeon/datasets/data/BasicMotions"
FILES = ["BasicMotions_TEST.ts", "BasicMotions_TRAIN.ts"]


@register
def open_motions(cache: Path) -> Raw:
    """One row a recording, its class as the label, with the usual parts for training and test."""
    folder = unpacked("aeon", "1.6.0", [f"{FOLDER}/{name}" for name in FILES], cache, "BasicMotions")
    raw = read_ts_folder(folder, FILES, cache, False)
    return dataclasses.replace(raw, name="motions", path=None, kind="built-in time series")
