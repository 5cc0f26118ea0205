"""Images of one colour each, whose captions name it."""

import csv

import numpy as np
from PIL import Image


def write_colours(folder, colours, count, caption):
    """A table of `count` rows (image, caption, colour), the colours in turn. colours: name -> RGB; caption: of the
    random numbers, the name and the row."""
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        name = list(colours)[i % len(colours)]
        pixels = np.clip(np.array(colours[name]) + rng.normal(0, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append((f"{i}.png", caption(rng, name, i), name))
    with open(folder / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "colour"), *rows])
    return folder / "table.csv"
