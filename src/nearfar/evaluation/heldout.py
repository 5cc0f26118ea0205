"""Fixed, strong transforms that no method trains on, for data that hold no labels, groups or pairs."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter


def transform_images(images: np.ndarray, ids: Sequence[int] | np.ndarray, *, seed: int = 20_241) -> np.ndarray:
    """Another look of each image, uint8 (n, 3, h, w) -> the same shape: turned 10 to 25 degrees either way, cut to
    three quarters of its sides, gamma 0.5 or 2, slightly blurred. The same id gives the same look, whatever stands
    beside it."""
    return np.stack([_look(image, np.random.default_rng([seed, int(number)])) for image, number in zip(images, ids)])


def _look(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    height, width = image.shape[1:]
    fill = tuple(int(value) for value in np.median(image[:, [0, 0, -1, -1], [0, -1, 0, -1]], axis=1))
    angle = generator.uniform(10, 25) * generator.choice([-1, 1])
    looked = Image.fromarray(image.transpose(1, 2, 0)).rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill)
    left, top = generator.uniform(0, 0.25, 2) * (width, height)
    box = (left, top, left + 0.75 * width, top + 0.75 * height)
    looked = looked.resize((width, height), Image.Resampling.BILINEAR, box=box)
    looked = looked.filter(ImageFilter.GaussianBlur(0.5 * width / 32))
    gamma = generator.choice([0.5, 2.0])
    return (255 * (np.asarray(looked) / 255) ** gamma).round().astype(np.uint8).transpose(2, 0, 1)


def transform_texts(texts: Sequence[str], ids: Sequence[int] | np.ndarray, *, seed: int = 20_241) -> list[str]:
    """Another reading of each text: 60 % of its words, the rest deleted, lower case, the two halves swapped; a text of
    one word loses its last third instead. The same id gives the same reading."""
    return [_reading(text, np.random.default_rng([seed, int(number)])) for text, number in zip(texts, ids)]


def _reading(text: str, generator: np.random.Generator) -> str:
    words = text.lower().split()
    if len(words) < 2:
        return text.lower()[: max(1, len(text) - len(text) // 3)]
    kept = np.sort(generator.choice(len(words), max(1, round(0.6 * len(words))), replace=False))
    half = len(kept) // 2
    return " ".join(words[place] for place in [*kept[half:], *kept[:half]])
