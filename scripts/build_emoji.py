"""Build the emoji data set that nearfar ships, from the packages that publish the artwork and the texts.

    python scripts/build_emoji.py            # needs npm, Pillow, numpy, pyarrow and cairosvg (with the cairo library)

The same input packages give the same bytes. What happens to the artwork, in this order: flags and the five bare
skin-tone swatches are left out; only emoji drawn in all four styles stay; OpenMoji's vector drawings are rasterised;
alpha is laid on white; each drawing is cropped to its ink, padded to a square with a small margin and scaled to 48
pixels; colours are rounded to 64 levels a channel (an error of at most 2 of 255), which is what keeps the set small;
it is stored losslessly.
"""

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZE = 48  # pixels a side of a shipped drawing
MARGIN = 0.04  # white margin around the ink, as a share of its longer side
LEVELS = 63  # colour steps a channel
RENDER = 4 * SIZE  # pixels at which a vector drawing is rasterised before it is cropped
PACKAGES = {
    "emoji-datasource-twitter": "16.0.0",
    "emoji-datasource-google": "16.0.0",
    "openmoji": "17.0.0",
    "emojibase-data": "17.0.0",
}
STYLES = {  # style: (package, folder, file ending)
    "twemoji": ("emoji-datasource-twitter", "img/twitter/64", ".png"),
    "noto": ("emoji-datasource-google", "img/google/64", ".png"),
    "openmoji-color": ("openmoji", "color/svg", ".svg"),
    "openmoji-line": ("openmoji", "black/svg", ".svg"),
}
# en-gb and es-mx repeat en and es nearly everywhere
LANGUAGES = (
    "bn", "da", "de", "en", "es", "et", "fi", "fr", "hi", "hu", "it", "ja", "ko", "lt", "ms", "nb", "nl", "pl", "pt",
    "ru", "sv", "th", "uk", "vi", "zh", "zh-hant",
)  # fmt: skip
TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
NEUTRAL = {
    "1F468": "1F9D1",
    "1F469": "1F9D1",
    "1F466": "1F9D2",
    "1F467": "1F9D2",
}  # man, woman: person; boy, girl: child
COUNTERPART = {  # gender variants that Unicode spells with code points of their own
    "1F474": "1F9D3", "1F475": "1F9D3",  # old man, old woman: older person
    "1F478": "1FAC5", "1F934": "1FAC5",  # princess, prince: person with crown
    "1F385": "1F9D1-200D-1F384", "1F936": "1F9D1-200D-1F384",  # Santa, Mrs. Claus
    "1F57A": "1F483",  # man, woman dancing
    "1FAC3": "1F930", "1FAC4": "1F930",  # pregnant man, person: pregnant woman
    "1F46B": "1F9D1-200D-1F91D-200D-1F9D1", "1F46C": "1F9D1-200D-1F91D-200D-1F9D1",
    "1F46D": "1F9D1-200D-1F91D-200D-1F9D1",
    "1F9D1-200D-2764-200D-1F9D1": "1F491",  # couple with heart
    "1F9D1-200D-2764-200D-1F48B-200D-1F9D1": "1F48F",  # kiss
}  # fmt: skip


def fetch(folder: Path) -> dict[str, Path]:
    """Pack every package into `folder` and unpack it there; returns each one's root."""
    roots = {}
    for name, version in PACKAGES.items():
        archive = folder / f"{name}-{version}.tgz"
        if not archive.exists():
            print(f"packing {name} {version}")
            subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True)
        target = folder / f"{name}-{version}"
        if not target.exists():
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
        roots[name] = target / "package"
    return roots


def plain(hexcode: str) -> str:
    """The code points in upper case without the presentation selector U+FE0F."""
    return "-".join(p for p in hexcode.upper().split("-") if p != "FE0F")


def is_flag(code: str) -> bool:
    """Regional indicators and tag sequences: the flags of countries and regions."""
    points = [int(p, 16) for p in code.split("-")]
    return any(0x1F1E6 <= p <= 0x1F1FF or 0xE0000 <= p <= 0xE007F for p in points)


def drawings(roots: dict[str, Path]) -> tuple[list[str], dict[str, dict[str, Path]]]:
    """The emoji that all styles draw, flags and swatches left out, and where each drawing lies."""
    files = {
        style: {plain(f.stem): f for f in sorted((roots[package] / folder).glob(f"*{ending}"))}
        for style, (package, folder, ending) in STYLES.items()
    }
    common = set.intersection(*(set(f) for f in files.values()))
    kept = sorted(code for code in common if not is_flag(code) and code not in TONES)
    print(f"{len(common)} emoji in all styles, {len(common) - len(kept)} flags and swatches left out, {len(kept)} kept")
    return kept, files


def on_white(path: Path) -> np.ndarray:
    """A drawing as uint8 (h, w, 3) on white."""
    if path.suffix == ".svg":
        import cairosvg

        raw = cairosvg.svg2png(url=str(path), output_width=RENDER, output_height=RENDER)
        image = Image.open(io.BytesIO(raw)).convert("RGBA")
    else:
        image = Image.open(path).convert("RGBA")
    ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
    ground.alpha_composite(image)
    return np.asarray(ground.convert("RGB"))


def cropped(image: np.ndarray) -> np.ndarray:
    """Ink only, in the middle of a white square with a margin, uint8 (SIZE, SIZE, 3)."""
    ink = np.argwhere((image < 250).any(-1))
    (top, left), (bottom, right) = (ink.min(0), ink.max(0) + 1) if len(ink) else ((0, 0), image.shape[:2])
    height, width = bottom - top, right - left
    side = max(height, width)
    side += 2 * round(side * MARGIN)
    square = np.full((side, side, 3), 255, np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = image[top:bottom, left:right]
    small = np.asarray(Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.LANCZOS), np.float64)
    return np.round(np.round(small / 255 * LEVELS) * (255 / LEVELS)).astype(np.uint8)


def tone_bases(catalogue: list[dict]) -> dict[str, str]:
    """Every emoji's form without a skin tone, as the catalogue lists it."""
    base = {}
    for entry in catalogue:
        code = plain(entry["unified"])
        base[code] = code
        base.update({plain(v["unified"]): code for v in entry.get("skin_variations", {}).values()})
    return base


def variant_key(code: str, base: dict[str, str]) -> str:
    """The same for all variants by tone, by gender and by the side that a figure faces."""
    key = COUNTERPART.get(base[code], base[code])
    key = re.sub("-200D-(2640|2642|27A1)", "", key)
    key = "-".join(NEUTRAL.get(p, p) for p in key.split("-"))
    if re.fullmatch("(1F9D1|1F9D2)(-200D-(1F9D1|1F9D2))+", key):
        return "1F46A"  # family
    return COUNTERPART.get(key, key)


def families(codes: list[str], base: dict[str, str], artwork: Iterable[list[bytes]]) -> list[str]:
    """The splitting unit of each emoji: variants together, and whatever shares exact artwork in any style."""
    keys = [variant_key(code, base) for code in codes]
    parent = {key: key for key in keys}

    def root(key: str) -> str:
        while parent[key] != key:
            key = parent[key]
        return key

    for prints in artwork:
        first: dict[bytes, str] = {}
        for key, mark in zip(keys, prints, strict=True):
            a, b = sorted((root(first.setdefault(mark, key)), root(key)))
            parent[b] = a
    return [root(key) for key in keys]


def write(table: pa.Table, path: Path) -> None:
    pq.write_table(
        table, path, compression="zstd", compression_level=19, use_dictionary=True, dictionary_pagesize_limit=1 << 26
    )
    print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size / 1e6:.2f} MB")


def write_style(out: Path, style: str, codes: list[str], images: list[np.ndarray]) -> None:
    """One file a style. Drawings that occur more than once are stored once (dictionary column)."""
    blobs = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "WEBP", lossless=True, quality=80, method=6)
        blobs.append(buffer.getvalue())
    drawings = pa.array(blobs, pa.binary()).dictionary_encode()
    write(pa.table({"emoji": codes, "image": drawings}), out / f"{style}.parquet")


def texts(root: Path, codes: list[str]) -> dict[str, list[str | None]]:
    """`name` (English), `text` (English) and `text_LANGUAGE`: the name, then the keywords; None where a language has
    none."""
    columns: dict[str, list[str | None]] = {"name": [], "text": []}
    for language in LANGUAGES:
        labels: dict[str, str] = {}
        known: dict[str, str] = {}
        for entry in json.loads((root / language / "data.json").read_text(encoding="utf-8")):
            for item in [entry, *entry.get("skins", [])]:
                code, label = plain(item["hexcode"]), " ".join(item.get("label", "").split())
                words = [t for t in entry.get("tags", []) if t.casefold() != label.casefold()]
                if label:
                    labels[code], known[code] = label, f"{label}: {', '.join(words)}" if words else label
        columns["text" if language == "en" else f"text_{language.replace('-', '_')}"] = [
            known.get(code) for code in codes
        ]
        if language == "en":
            columns["name"] = [labels[code] for code in codes]
    return columns


def write_table(out: Path, roots: dict[str, Path], codes: list[str], family: list[str]) -> None:
    """What holds for an emoji in every style: family, category, subcategory, name and texts."""
    catalogue = json.loads((roots["emoji-datasource-twitter"] / "emoji.json").read_text(encoding="utf-8"))
    base = tone_bases(catalogue)
    kind = {plain(entry["unified"]): (entry["category"], entry["subcategory"]) for entry in catalogue}
    rows = [kind[base[code]] for code in codes]
    columns = {
        "emoji": codes,
        "character": ["".join(chr(int(p, 16)) for p in code.split("-")) for code in codes],
        "family": family,
        "category": [r[0] for r in rows],
        "subcategory": [r[1] for r in rows],
        **texts(roots["emojibase-data"], codes),
    }
    write(pa.table(columns), out / "emoji.parquet")


def write_licences(out: Path, roots: dict[str, Path]) -> None:
    """Licence texts that the packages carry; the notices beside them are written by hand and stay."""
    shutil.copy(roots["openmoji"] / "LICENSE.txt", out / "LICENSE-OpenMoji-CC-BY-SA-4.0.txt")
    shutil.copy(roots["emojibase-data"] / "LICENSE", out / "LICENSE-emojibase-MIT.txt")
    shutil.copy(roots["emoji-datasource-twitter"] / "LICENSE", out / "LICENSE-emoji-datasource-MIT.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(__file__).parents[1] / "src/nearfar/sources/emoji"
    parser.add_argument("--out", type=Path, default=default, help="folder of the data set")
    parser.add_argument("--packages", type=Path, help="folder that keeps the packages; default: a temporary one")
    arguments = parser.parse_args()
    if not shutil.which("npm"):
        sys.exit("npm is needed to get the artwork packages: install it (Debian: apt-get install npm) and run again")
    with tempfile.TemporaryDirectory() as temporary:
        roots = fetch(arguments.packages or Path(temporary))
        codes, files = drawings(roots)
        arguments.out.mkdir(parents=True, exist_ok=True)
        artwork = []
        for style in STYLES:
            print(f"drawing {style}")
            images = [cropped(on_white(files[style][code])) for code in codes]
            artwork.append([hashlib.sha256(p.tobytes()).digest() for p in images])
            print(f"{style}: {len(codes) - len(set(artwork[-1]))} exact duplicates")
            write_style(arguments.out, style, codes, images)
        base = tone_bases(json.loads((roots["emoji-datasource-twitter"] / "emoji.json").read_text()))
        family = families(codes, base, artwork)
        print(f"{len(set(family))} families")
        write_table(arguments.out, roots, codes, family)
        write_licences(arguments.out, roots)


if __name__ == "__main__":
    main()
