"""What text encoders promise, and a small one with a tokenizer of the user's own texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearfar.checks import PositiveInt, Range, check, one_of
from nearfar.encoders import inserted, sentence
from nearfar.encoders.base import Encoder
from nearfar.encoders.batches import check_texts
from nearfar.encoders.tokens import Embedded, Special, Tokens, frame, pad
from nearfar.errors import InputError

MOST_TOKENS = 1_000_000
JOINS = ("concat", "mean")
LAYER_POOLINGS = ("mean", "mean_sqrt_len_tokens", "max")
PUT_IN = {"experts": "experts", "gates": "gates", "domains": "domains", "pooled": "a pooling over layers"}
"""What may be put into an encoder of layers, by its name in `config()`."""
TextLength = Annotated[int, Range(4, MOST_TOKENS)]


class TextEncoder(Encoder):
    """Tokens -> vectors (n, dim). `special` holds the special ids of its tokenizer. pooling_asked: whether its
    pooling was named by the user."""

    modality = "text"
    special: Special
    pooling_asked: bool = False

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Content ids of each text: not cut, without special ones."""
        raise NotImplementedError

    def encode_spans(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """`encode_ids`, and which characters (from, to) of its text each id stands for."""
        raise NotImplementedError

    def add_tokens(self, names: Sequence[str]) -> list[int]:
        """The ids of tokens that stand for themselves alone ("<|mode|>"); those that are not there yet are added to the
        vocabulary, with random vectors of the size of the others."""
        raise NotImplementedError

    def tokens(self, x: Any) -> tuple[Tensor, Tensor]:
        """Vectors of all tokens (n, L, dim), zero where the mask (n, L) is False, and that mask."""
        raise NotImplementedError

    def shorten(self, length: int) -> None:
        """Read no more than so many tokens of a text from now on, all that stands around it included; more than the
        encoder takes changes nothing."""
        self.special = self.special._replace(length=min(length, self.special.length))

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


class OwnTokens(TextEncoder):
    """A text encoder with a tokenizer of the tokenizers library and a table of vectors of its own."""

    tokenizer: Any
    table: nn.Embedding

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [row.ids for row in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def encode_spans(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        rows = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [row.ids for row in rows], [row.offsets for row in rows]

    def add_tokens(self, names: Sequence[str]) -> list[int]:
        self.tokenizer.add_special_tokens(list(names))
        self.special = self.special._replace(size=self.tokenizer.get_vocab_size())
        self.table = longer(self.table, self.special.size)
        return [self.tokenizer.token_to_id(name) for name in names]


@torch.no_grad()
def longer(table: nn.Embedding, size: int) -> nn.Embedding:
    """The table with `size` rows; new ones are normal with mean and deviation of the others."""
    old = table.weight
    if size <= len(old):
        return table
    made = nn.Embedding(size, old.shape[1], device=old.device, dtype=old.dtype)
    made.weight[: len(old)] = old
    made.weight[len(old) :] = old.mean() + old.std() * torch.randn_like(made.weight[len(old) :])
    return made.requires_grad_(old.requires_grad)


class LayeredText(TextEncoder):
    """A text encoder of layers over tokens, for methods that look inside it.

    width: of the states; depth: number of layers; pooling: one or several of `sentence.POOLINGS`, skipped:
    tokens at the beginning that do not count in it. It takes `Tokens`, or `Embedded` where vectors were put in by hand.
    """

    width: int
    depth: int
    pooling: tuple[str, ...]
    skipped: int = 0
    table: nn.Embedding
    stack: nn.ModuleList

    def __init__(self):
        super().__init__()
        self.route = inserted.Route()
        self.domains: nn.Embedding | None = None
        self._inserted: dict[str, Any] = {}

    def states(self, x: Tokens | Embedded, layers: int) -> Tensor:
        """The states of the last `layers` layers, the last one first, (layers, n, L, width)."""
        raise NotImplementedError

    def tokens(self, x: Tokens | Embedded, layers: int | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of all tokens (n, L, width), zero where the mask (n, L) is False, and that mask; with `layers` those
        of so many layers, the last one first, (layers, n, L, width). Raises InputError for more than there are."""
        self._check_layers(1 if layers is None else layers)
        if self.domains is not None and isinstance(x, Tokens):
            x = self.embedded(x)
        with self.route.of(x):
            states = self.states(x, layers or 1) * x.mask[..., None]
        return (states[0] if layers is None else states), x.mask

    def ordered_blocks(self) -> Sequence[nn.Module]:
        return list(self.stack)

    def recompute(self) -> bool:
        """Experts are told of each pass who takes which, and cannot be computed again later."""
        self.recomputed = "experts" not in self._inserted and self._recompute()
        return self.recomputed

    def _recompute(self) -> bool:
        return False

    def embedded(self, x: Tokens) -> Embedded:
        """The vectors of the tokens from the table, before positions and layers; with domains that of the first token
        is the domain's."""
        end = (x.mask * torch.arange(x.mask.shape[1], device=x.mask.device)).amax(1)
        vectors = self.table(x.ids)
        if self.domains is not None:
            rows = inserted.checked_route(x.route, len(x.ids), self.domains.num_embeddings)
            vectors = torch.cat([self.domains(rows)[:, None], vectors[:, 1:]], 1)
        return Embedded(vectors, x.mask, end, x.route)

    def logits(self, states: Tensor) -> Tensor:
        """Scores of the vocabulary (..., size), by the table that the tokens come from. Raises InputError where its
        vectors have another width than the states."""
        if self.table.embedding_dim != self.width:
            raise InputError(f"The tokens of this model have {self.table.embedding_dim} numbers, its states "
                             f"{self.width}: it has no tied scores of the vocabulary.")  # fmt: skip
        return F.linear(states, self.table.weight)

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (n, L, width) -> vectors (n, dim)."""
        return sentence.pool(states, mask, self.pooling)

    def forward(self, x: Tokens | Embedded) -> Tensor:
        pooled = self._inserted.get("pooled")
        if pooled is None:
            return self.pool(*self.tokens(x))
        skip = max(self.skipped, int(self.special.bos is not None and not pooled["first"]))
        return sentence.pool_layers(*self.tokens(x, pooled["layers"]), pooled["join"], pooled["pooling"], skip)

    def pool_by(self, pooling: str) -> None:
        """Make the vector of a text by another pooling (`sentence.POOLINGS`) than the encoder's own."""
        self.pooling, self.dim = sentence.check_pooling(pooling), self.width

    def pool_layers(self, layers: int, join: str = "concat", pooling: str = "mean", first: bool = False) -> None:
        """Make the vector of a text from its last `layers` layers (`sentence.pool_layers`), in place of the encoder's
        own pooling. first: the token in front of the text ([CLS]) counts. Raises InputError for more layers than there
        are, for other names, and where the user chose the encoder's own pooling."""
        self._once("pooled")
        if self.pooling_asked:
            raise InputError(
                f"The pooling '{self.pooling[0]}' of the encoder would not be used: the method pools over its layers.",
                "Leave out --text-pooling; the method has options of its own.",
            )
        one_of("join", join, JOINS)
        one_of("pooling", pooling, LAYER_POOLINGS)
        self._check_layers(layers)
        self._inserted["pooled"] = {"layers": layers, "join": join, "pooling": pooling, "first": first}
        self.dim = self.width * (layers if join == "concat" else 1)

    def add_experts(self, experts: int, routing: str = "domain") -> None:
        """Make `experts` copies of each layer's MLP, equal at first; a text takes one of them.

        routing: "domain": the number in `Tokens.route`; "router": what a learned linear map of the MLP's input says
        (`router_logits`). Raises InputError for a second call, and for a model whose MLPs are not found.
        """
        self._once("experts")
        if self.recomputed:
            raise InputError("Experts are told of each pass who takes which: their layers cannot be computed again.",
                             "Leave out --gradient-checkpointing; --micro-batch saves memory too.")  # fmt: skip
        check("experts", experts, PositiveInt)
        if routing not in inserted.ROUTINGS:
            raise InputError(f"routing must be one of {', '.join(inserted.ROUTINGS)}. Got '{routing}' instead.")
        inserted.put_experts(self.stack, experts, self.route, self.width if routing == "router" else None)
        self._inserted["experts"] = {"experts": experts, "routing": routing}

    def add_gates(self) -> None:
        """Put a stochastic gate of channels after each layer (`inserted.Gate`; `gates`)."""
        self._once("gates")
        for i, layer in enumerate(self.stack):
            self.stack[i] = inserted.Gated(layer, inserted.Gate(self.width)).train(layer.training)
        self._inserted["gates"] = True

    def add_domains(self, names: Sequence[str], token: bool = True) -> None:
        """Name the domains that `Tokens.route` counts, so that rows of data are routed by their names.

        token: a vector of each domain takes the place of that of the first token ([CLS]), of which it is a copy at
        first. Raises InputError for a tokenizer that puts no token in front, and for one domain or equal ones.
        """
        self._once("domains")
        if len(set(names)) < max(2, len(names)):
            raise InputError(f"Domains must be two or more different names. Got {', '.join(names) or 'none'}.")
        if token and self.special.bos is None:
            raise InputError("This tokenizer puts no token in front of a text that a domain's could replace.",
                             "Use experts without tokens of domains, or another encoder.")  # fmt: skip
        if token:
            own = self.table.weight.detach()[self.special.bos]
            self.domains = nn.Embedding.from_pretrained(own.repeat(len(names), 1).clone(), freeze=False)
        self._inserted["domains"] = {"names": list(names), "token": token}

    @property
    def domain_names(self) -> Sequence[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the numbers in `Tokens.route` mean; empty where texts have no domain."""
        return list(self._inserted.get("domains", {}).get("names", ()))

    def variants(self) -> dict[str, Routed]:
        """Domain -> this encoder, to which every text is of that domain."""
        return {name: Routed(self, place) for place, name in enumerate(self.domain_names)}

    def _check_layers(self, layers: int) -> None:
        if not 1 <= layers <= self.depth:
            raise InputError(f"layers must be between 1 and {self.depth}, the encoder's own. Got {layers} instead.")

    def _once(self, what: str) -> None:
        if what in self._inserted:
            raise InputError(f"This encoder has {PUT_IN[what]} already.")

    @property
    def gates(self) -> list[inserted.Gate]:
        """Those after each layer, in order; none without `add_gates`."""
        return [layer.gate for layer in self.stack if isinstance(layer, inserted.Gated)]  # pyright: ignore

    @property
    def router_logits(self) -> Tensor:
        """What the routers said in the last pass, (layers, n, experts)."""
        return torch.stack(self.route.logits)

    def config(self) -> dict[str, Any]:
        return dict(self._inserted)

    def restore_inserted(self, config: Mapping[str, Any]) -> None:
        """Put in what `config()` says."""
        if config.get("experts"):
            self.add_experts(**config["experts"])
        if config.get("gates"):
            self.add_gates()
        if config.get("domains"):
            self.add_domains(**config["domains"])
        if config.get("pooled"):
            self.pool_layers(**config["pooled"])


class Routed(TextEncoder):
    """An encoder of several domains to which every text is of one of them; its weights are those of the whole."""

    def __init__(self, encoder: LayeredText, place: int):
        super().__init__()
        self._of, self.place, self.dim, self.special = (encoder,), place, encoder.dim, encoder.special

    @property
    def encoder(self) -> LayeredText:
        return self._of[0]

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.encoder.encode_ids(texts)

    def tokens(self, x: Tokens) -> tuple[Tensor, Tensor]:
        return self.encoder.tokens(self.routed(x))

    def forward(self, x: Tokens) -> Tensor:
        return self.encoder(self.routed(x))

    def routed(self, x: Tokens) -> Tokens:
        return x._replace(route=torch.full((len(x.ids),), self.place, device=x.ids.device))

    def train(self, mode: bool = True) -> Routed:
        self.encoder.train(mode)
        return super().train(mode)


def layered(encoder: Any, who: str) -> LayeredText:
    """The encoder as one of layers. Raises InputError, with what to choose, for another."""
    if isinstance(encoder, LayeredText) and len(encoder.stack):
        return encoder
    name = (
        "a frozen one"
        if encoder.config().get("frozen")
        else f"'{encoder.config().get('name', type(encoder).__name__)}'"
    )
    if isinstance(encoder, LayeredText):
        name = "a model whose layers do not stand in one list"
    raise InputError(f"{who} looks into the layers of its text encoder; this is {name}.",
                     "Give --text-encoder tiny, minilm or the folder of a transformer such as BERT, RoBERTa or "
                     "ModernBERT, without --freeze.")  # fmt: skip


class SmallText(OwnTokens):
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

    @torch.no_grad()
    def add_tokens(self, names: Sequence[str]) -> list[int]:
        ids, weights = super().add_tokens(names), self.log_weight
        if len(weights) < self.special.size:
            self.log_weight = nn.Parameter(torch.cat([weights, weights.new_zeros(self.special.size - len(weights))]))
        return ids

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


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder. Raises InputError where there is none."""
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder / 'tokenizer.json'} is missing.", "The model folder is not complete.")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def small_from(config: Mapping[str, Any], folder: Path) -> SmallText:
    """The encoder that `config` describes, with random weights; `folder` holds its tokenizer."""
    said = (config[name] for name in ("dim", "hidden", "dropout", "length"))
    return SmallText(load_tokenizer(folder), *said)
