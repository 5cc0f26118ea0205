"""Images of a shape in a colour, in a table of attribute and object."""

import csv

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 40), "blue": (40, 50, 220), "grey": (110, 110, 110)}
y, x = np.mgrid[:16, :16]
r = np.hypot(y - 7.5, x - 7.5)
SHAPES = {
    "disc": r < 5.5,
    "ring": (r < 6.5) & (r > 3.5),
    "box": (abs(y - 7.5) < 5) & (abs(x - 7.5) < 5),
    "bar": abs(y - 7.5) < 2.5,
    "cross": (abs(y - 7.5) < 2) | (abs(x - 7.5) < 2),
}


def write_shapes(folder, each=12, second=False, **columns):
    """`each` images of every pair; second: half of them large with a column size. columns: name -> function of
    colour, shape and number."""
    rng, rows = np.random.default_rng(0), []
    for number in range(each):
        for colour, rgb in COLOURS.items():
            for shape, mask in SHAPES.items():
                pixels = np.full((16, 16, 3), 245.0)
                pixels[np.roll(mask, rng.integers(-1, 2, 2), (0, 1))] = rgb
                pixels = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
                name = f"{colour}-{shape}-{number}.png"
                Image.fromarray(pixels).save(folder / name)
                row = {"image": name, "caption": f"a photo of {colour} {shape}", "attribute": colour, "object": shape}
                if second:
                    row["size"] = "big" if number % 2 else ""
                rows.append(row | {key: make(colour, shape, number) for key, make in columns.items()})
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "table.csv"
