"""The built-in vowels: JapaneseVowels, 640 utterances of two vowels by nine speakers, 7 to 29 steps of 12 channels.

M. Kudo, J. Toyama and M. Shimbo, UCI Machine Learning Repository: linear prediction coefficients. A file of the wheel
of aeon (BSD-3-Clause; `nearfar.sources.wheels`). Nothing is shipped.
"""

from __future__ import annotations

from pathlib import Path

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.wheels import archive_set


@register
def open_vowels(cache: Path) -> Raw:
    """One row a recording, its class as the label, with the usual parts for training and test."""
    return archive_set("vowels", "JapaneseVowels", cache)
