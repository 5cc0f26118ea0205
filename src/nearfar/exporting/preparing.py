"""What stands before an exported graph, as files: tokenizer.json, preprocessing.json, and a README that uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nearfar.encoders import unfrozen
from nearfar.errors import InputError, NearfarError
from nearfar.exporting.graph import INSTEAD, Graph, TextGraph

IMAGE = (
    "turned as its EXIF says, transparent parts laid on white, RGB",
    "the middle square: side = min(width, height), left = (width - side) // 2, top = (height - side) // 2",
    "Lanczos resize to size x size (Pillow)",
    "float32 / 255, channels first; mean and deviation are taken inside of the graph",
)
CALLS = {
    "text": """\
tokenizer = Tokenizer.from_file(said["tokenizer"])  # cuts, pads and puts special tokens around


def prepare(texts):
    rows = tokenizer.encode_batch([said["prompt"] + text for text in texts])
    ids = np.array([row.ids for row in rows], np.int64)
    mask = np.array([row.attention_mask for row in rows], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(mask) if said["see_padding"] else mask}


items = ["a cat sits on the mat", "stock prices fell"]""",
    "image": """\


def prepare(images):
    rows = []
    for image in images:
        image = ImageOps.exif_transpose(image).convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        middle = ground.convert("RGB").crop((left, top, left + side, top + side))
        small = middle.resize((said["size"], said["size"]), Image.Resampling.LANCZOS)
        rows.append(np.asarray(small, np.float32).transpose(2, 0, 1) / 255)
    return {"pixels": np.stack(rows)}


items = [Image.new("RGB", (64, 48), "red"), Image.new("RGB", (48, 64), "blue")]""",
    "vector": """\


def prepare(rows):  # in the order of said["columns"]; NaN where a number is missing
    return {"numbers": np.asarray(rows, np.float32)}


items = np.zeros((2, len(said["columns"])))""",
}
IMPORTS = {"text": "from tokenizers import Tokenizer", "image": "from PIL import Image, ImageOps", "vector": ""}
PACKAGES = {"text": "tokenizers", "image": "pillow", "vector": ""}


def describe(graph: Graph, name: str, folder: Path) -> dict[str, Any]:
    """What preprocessing.json says of a tower; writes its tokenizer into `folder`.

    Raises InputError for a tokenizer that cannot be written as a file, or gives other tokens from it.
    """
    encoder: Any = graph.tower.encoder
    said: dict[str, Any] = {"kind": encoder.modality, "normalised": graph.normalised}
    if isinstance(graph, TextGraph):
        tokenizer = tokenizer_of(graph)
        (folder / name).mkdir(exist_ok=True)
        tokenizer.save(str(folder / name / "tokenizer.json"))
        special = graph.special
        said |= {
            "tokenizer": f"{name}/tokenizer.json",
            "prompt": getattr(unfrozen(encoder), "prompt", ""),
            "length": special.length,
            "padded_to_length": special.fill,
            "see_padding": special.fill,
        }
    elif encoder.modality == "image":
        said |= {"size": encoder.size, "steps": list(IMAGE)}
    else:
        said |= {"columns": list(encoder.columns), "empty": "NaN; counts as the mean of the training rows"}
    return said


def tokenizer_of(graph: TextGraph) -> Any:
    """The tokenizer as one of the tokenizers library that does all: special tokens, cut, padding."""
    from tokenizers import Tokenizer, processors

    encoder, special = unfrozen(graph.tower.encoder), graph.special
    given = encoder.tokenizer
    whole = given if isinstance(given, Tokenizer) else getattr(given, "backend_tokenizer", None)
    if whole is None:
        raise InputError(
            f"The tokenizer of this tower ({type(given).__name__}) has no form as tokenizer.json.", INSTEAD
        )
    made: Any = Tokenizer.from_str(whole.to_str())
    ends = {place: (made.id_to_token(place), place) for place in (special.bos, special.eos) if place is not None}
    around = [[f"{ends[one][0]}:0"] if one is not None else [] for one in (special.bos, special.eos)]
    made.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single=[*around[0], "$A:0", *around[1]], special_tokens=list(ends.values())
    )
    made.enable_truncation(special.length)
    padding = made.id_to_token(special.pad) or "[PAD]"
    made.enable_padding(pad_id=special.pad, pad_token=padding, length=special.length if special.fill else None)
    return made


def check_tokens(graph: TextGraph, said: dict[str, Any], folder: Path, texts: list[str]) -> None:
    """Raises NearfarError where the files give other tokens than the model's own tokenizer."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder / said["tokenizer"]))
    for text in texts:
        ours = graph.feed([text])["input_ids"][0]
        theirs = np.array(tokenizer.encode(said["prompt"] + text).ids, np.int64)
        if not np.array_equal(ours[: len(theirs)], theirs) or (ours[len(theirs) :] != graph.special.pad).any():
            raise NearfarError(
                f"tokenizer.json gives other tokens of {text[:60]!r} than the model; nothing was written.", INSTEAD
            )


def readme(
    target: str, towers: dict[str, dict[str, Any]], measured: list[str], similarity: str, runtime: tuple[str, str, str]
) -> str:
    """README.md: what lies here, how it was verified, and lines that run. runtime: packages, imports, how it is run."""
    packages, imports, call = runtime
    compared = "cosine similarity: they have length 1" if similarity == "cosine" else "dot product"
    lines = [
        f"# A nearfar model for {target}",
        "",
        f"Each file maps prepared inputs to final vectors, compared by {compared}.",
        "`preprocessing.json` says how an input is prepared.",
        "",
        *measured,
    ]
    for name, said in towers.items():
        kind = said["kind"]
        known = " ".join(part for part in (*packages.split(), "numpy", PACKAGES[kind]) if part)
        lines += [
            "",
            f"## {name}",
            "",
            f"    pip install {known}",
            "",
            "```python",
            "import json",
            "",
            *sorted(["import numpy as np", *imports.splitlines()]),
            *([IMPORTS[kind]] if IMPORTS[kind] else []),
            "",
            f'said = json.load(open("preprocessing.json", encoding="utf-8"))["towers"]["{name}"]',
            *CALLS[kind].splitlines(),
            *call.splitlines(),
            "print(vectors.shape)",
            "```",
        ]
    return "\n".join(lines) + "\n"
