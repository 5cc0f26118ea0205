import numpy as np
import pytest
from PIL import Image

from nearfar.sources import open_data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test has a cache folder of its own."""
    path = tmp_path / "cache"
    monkeypatch.setenv("NEARFAR_CACHE", str(path))
    return path


@pytest.fixture
def image():
    """Writes an image of random pixels; the same seed gives the same pixels."""

    def make(path, seed=0, size=(12, 10), mode="RGB"):
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
        return path

    return make


@pytest.fixture
def image_folder(tmp_path, image):
    """Twenty images in two classes."""
    for i in range(20):
        image(tmp_path / "animals" / ("cat" if i < 10 else "dog") / f"{i:02d}.png", seed=i)
    return tmp_path / "animals"


@pytest.fixture
def written(tmp_path):
    """Writes a text file and opens it as data."""

    def make(name, content, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content, encoding="utf-8")
        return open_data(path, **options)

    return make
