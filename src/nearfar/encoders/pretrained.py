"""Transformers of the transformers library, from local folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.encoders import sentence
from nearfar.encoders.base import load_into, load_tensors
from nearfar.encoders.quiet import quiet
from nearfar.encoders.texts import MOST_TOKENS, LayeredText
from nearfar.encoders.tokens import Embedded, Special, Tokens
from nearfar.errors import InputError


class TransformerText(LayeredText):
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
        self.prompt, self.pool_prompt = prompt, pool_prompt
        self.special = special_of(tokenizer, length)
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
        self.width = model.config.hidden_size
        self._places = find_layers(self.model)
        self.depth = max(1, len(self.stack))
        if getattr(model, "pooler", None) is not None:
            model.pooler.requires_grad_(False)  # its output is not used; distributed training wants to know

    @property
    def table(self) -> nn.Embedding:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The vectors of the tokens."""
        return self.model.get_input_embeddings()

    @property
    def stack(self) -> nn.ModuleList:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model's layers; none where they do not stand in one list."""
        name = self._places[0]
        return nn.ModuleList() if name is None else self.model.get_submodule(name)

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not len(texts):
            return []
        rows = [self.prompt + text for text in texts] if self.prompt else list(texts)
        ids = self.tokenizer(rows, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return [row[len(self.special.prompt) :] for row in ids] if self.prompt else ids

    def encode_spans(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """Raises InputError for a tokenizer that does not tell where its tokens stand."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(f"The tokenizer of this model ({type(self.tokenizer).__name__}) does not tell where its "
                             "tokens stand in a text.", "Use a model with a tokenizer.json.")  # fmt: skip
        if not len(texts):
            return [], []
        first, skipped = len(self.special.prompt), len(self.prompt)
        rows = self.tokenizer([self.prompt + text for text in texts], add_special_tokens=False, truncation=False,
                              verbose=False, return_offsets_mapping=True)  # fmt: skip
        spans = [[(max(0, a - skipped), max(0, b - skipped)) for a, b in row[first:]] for row in rows["offset_mapping"]]
        return [row[first:] for row in rows["input_ids"]], spans

    def add_tokens(self, names: Sequence[str]) -> list[int]:
        self.tokenizer.add_tokens(list(names), special_tokens=True)
        if len(self.tokenizer) > self.table.num_embeddings:
            self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.special = self.special._replace(size=len(self.tokenizer))
        return self.tokenizer.convert_tokens_to_ids(list(names))

    def states(self, x: Tokens | Embedded, layers: int) -> Tensor:
        given = {"inputs_embeds": x.vectors} if isinstance(x, Embedded) else {"input_ids": x.ids}
        seen: list[Tensor] = []

        def keep(_: nn.Module, __: Any, out: Any) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out)

        hooks = [layer.register_forward_hook(keep) for layer in self.stack[self.depth - layers : self.depth - 1]]
        try:
            last = self.model(**given, attention_mask=x.mask.long()).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        # a model with norms before its blocks ends with one; without it earlier states have another scale
        norm = None if self._places[1] is None else self.model.get_submodule(self._places[1])
        return torch.stack([last, *(h if norm is None else norm(h) for h in seen[::-1])])

    def _recompute(self) -> bool:
        return recompute(self.model)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.dense(sentence.pool(states, mask, self.pooling, self.skipped))

    def pool_by(self, pooling: str) -> None:
        self._without_dense()
        super().pool_by(pooling)

    def pool_layers(self, layers: int, join: str = "concat", pooling: str = "mean", first: bool = False) -> None:
        self._without_dense()
        super().pool_layers(layers, join, pooling, first)

    def _without_dense(self) -> None:
        if len(self.dense):
            raise InputError("This model has layers of its own after its pooling, which another pooling would not fit.",
                             "Give the folder of the transformer inside it.")  # fmt: skip

    def config(self) -> dict[str, Any]:
        return super().config() | {
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


def from_folder(
    folder: Path, name: str, dropout: float | None, length: int | None, pooling: str | None, prompt: str | None
) -> TransformerText:
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
    longest = longest_text(tokenizer, model, asked is not None)
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


def recompute(model: Any) -> bool:
    """Turns on the library's own gradient checkpointing; whether the model has it."""
    named = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # of transformers 5 and 4
    turn_on = next((getattr(model, name) for name in named if hasattr(model, name)), None)
    try:
        if turn_on is not None:
            turn_on({"use_reentrant": False})
    except ValueError:
        return False
    return turn_on is not None


def find_layers(model: Any) -> tuple[str | None, str | None]:
    """Where the list of the model's layers and the norm behind it lie; None where no list holds most of the model
    (layers that share their weights, or lie in parts), or no norm follows."""
    number = getattr(model.config, "num_hidden_layers", None) or getattr(model.config, "n_layers", None)
    tables = {p for part in model.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    whole = sum(p.numel() for p in model.parameters() if p not in tables)
    for name, part in model.named_modules():
        if not isinstance(part, nn.ModuleList) or len(part) != number:
            continue
        if sum(p.numel() for p in part.parameters() if p not in tables) < 0.75 * whole:
            continue
        owner, _, last = name.rpartition(".")
        beside = list(model.get_submodule(owner).named_children())
        behind = beside[[child for child, _ in beside].index(last) + 1 :]
        norm = next((child for child, after in behind if "Norm" in type(after).__name__), None)
        return name, norm and f"{owner}.{norm}".lstrip(".")
    return None, None


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


def longest_text(tokenizer: Any, model: Any, asked: bool = False) -> int:
    """The most tokens that the model has places for and, unless a length was asked for, that its tokenizer names."""
    given = getattr(model.config, "max_position_embeddings", None)
    places = given if given and given > 0 else MOST_TOKENS  # none: relative positions
    for part in model.modules():
        table = getattr(part, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            places = min(places, table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
    return int(min(places, MOST_TOKENS if asked else tokenizer.model_max_length))


def special_of(tokenizer: Any, length: int) -> Special:
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
    padding, both = tokenizer.pad_token_id, tokenizer("a", "a")["input_ids"]
    between = both[len(before) + len(inner) : len(both) - len(inner) - len(after)]
    return Special(
        before[0] if before else None,
        after[0] if after else None,
        0 if padding is None else padding,
        tokenizer.mask_token_id,
        len(tokenizer),
        length,
        seam=len(between) if between == after * len(between) else 1,
    )


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
    made = TransformerText(
        model,
        tokenizer,
        config["pooling"],
        config["length"],
        layers,
        config["source"],
        config.get("prompt", ""),
        config.get("pool_prompt", True),
    )
    made.restore_inserted(config)
    return made
