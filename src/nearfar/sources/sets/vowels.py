"""The built-in vowels: JapaneseVowels, 640 utterances of two vowels by nine speakers, 7 to 29 steps of 12 channels.

M. Kudo, J. Toyama and M. Shimbo, UCI Machine Learning Repository: linear prediction coefficients. A file of the wheel
of aeon (BSD-3-Clause; `nearfar.sources.wheels`). Nothing is shipped.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.ts_files import read_ts_folder
from nearfar.sources.wheels import unpacked

FOLDER = "aeon/datasets/data/JapaneseVowels"
FILES = ["JapaneseVowels_TEST.ts", "JapaneseVowels_TRAIN.ts"]


@register
def open_vowels(cache: Path) -> Raw:
    """One row a recording, its class as the label, with the usual parts for training and test."""
    folder = unpacked("aeon", "1.6.0", [f"{FOLDER}/{name}" for name in FILES], cache, "JapaneseVowels")
    raw = read_ts_folder(folder, FILES, cache, False)
    return dataclasses.replace(raw, name="vowels", path=None, kind="built-in time series")
