"""Files of data that come inside other packages: read where the package is installed, or in its wheel.

    find("aeon", "1.6.0", cache).read("aeon/datasets/data/BasicMotions/BasicMotions_TRAIN.ts")

Nothing of the package is imported, so what it needs need not be there, and no network is used.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from nearfar.errors import InputError
from nearfar.files import whole_folder
