"""Texts: cells of a column, lines of a file, or a folder of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nearfar.checks import Range, ShareBelowOne
from nearfar.errors import InputError
from nearfar.modalities.image import ASKED, Image
from nearfar.modalities.vector import mostly_numbers
from nearfar.modality import Modality, Reader, register

if TYPE_CHECKING:
    import numpy as np

    from nearfar.encoders import Encoder
    from nearfar.evaluation.embedding import DataEmbed
    from nearfar.evaluation.task import Reference, Task
    from nearfar.sources.data import Data
    from nearfar.sources.raw import Raw

SCRATCH = ("small", "tiny", "mini", "base")
ENDINGS = frozenset({".txt", ".md", ".rst", ".text", ".markdown", ".adoc", ".org", ".tex", ".html"})
EXAMPLES = ("", "a cat sits on the mat", "Stock prices fell on Monday.", "def add(a, b): return a + b",
            "Der schnelle braune Fuchs", "12 + 30 = 42")  # fmt: skip


COMPARED, OFTEN, LEAST = 512, 0.2, 4  # rows that are compared, share that is told, words of a text that counts


@dataclass
class Options:
    """The encoder of texts.

    Args:
        text_encoder: from scratch, with a tokenizer of its own: small (a mean of word vectors), or the transformers
            tiny (2 layers of 128), mini (4 of 256), base (12 of 768); minilm (packaged), or the folder of a
            transformers, sentence-transformers or nearfar model. auto: small; tiny for methods that look into layers.
        text_length: most tokens of a text that the encoder reads, the special ones included; default what the encoder
            takes. Fewer make training on long texts much cheaper.
        vocabulary: size of the vocabulary of a text encoder from scratch.
        text_pooling: how a transformer makes one vector of its tokens; default as its folder says, else mean.
        text_positions: of a transformer from scratch: rotary or learned; default rotary.
        text_causal: whether a token of a transformer from scratch sees those before it alone.
        text_dropout: in training; default 0.1 from scratch, else as the folder says.
    """

    text_encoder: str = "auto"
    text_length: Annotated[int, Range(4, 1_000_000)] | None = None
    vocabulary: Annotated[int, Range(6, 10_000_000)] = 8000
    text_pooling: Literal["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"] | None = None
    text_positions: Literal["rotary", "learned"] | None = None
    text_causal: bool = False
    text_dropout: ShareBelowOne | None = None


@register
class Text(Modality):
    """Items are str; what views take are content tokens, what the encoder takes has the special ones around them."""

    word, words = "text", "texts"
    roles = ("text", "text_b")
    columns = {
        "text": ("text", "caption", "captions", "anchor", "query", "question", "sentence1", "sentence_1", "sentence_a",
                 "text_a", "text1", "text_1", "question1", "question_1", "sentence", "premise", "summary", "title",
                 "source", "description", "content", "docstring", "func_documentation_string"),
        "text_b": ("text_b", "positive", "answer", "passage", "document", "sentence2", "sentence_2", "sentence_b",
                   "text2", "text_2", "question2", "question_2", "body", "response", "translation", "hypothesis",
                   "code", "func_code_string", "target"),
    }  # fmt: skip
    described = {"text": "column of texts", "text_b": "second column of texts"}
    rank, certainty = 1, 0
    looks_words, may_be_words = "texts of several words", "short texts"
    endings = ENDINGS
    options = Options
    plans = {
        "crops": "nearfar.views.text:Crops",
        "ict": "nearfar.views.text:InverseCloze",
        "twice": "nearfar.views.text:Twice",
        "delete": "nearfar.views.text:Delete",
        "mask": "nearfar.views.text:Mask",
        "words": "nearfar.views.words:Words",
    }
    default_plan = "twice"
    why = "there are texts without pairs: two crops of one text are its positives"
    metric = "ndcg@10"
    example = "emoji"
    tag = "sentence-similarity"
    usage = 'embed_texts(["a text"])'
    unit = "words"

    # -- the way in

    def looks_like(self, values: Sequence[Any]) -> bool:
        filled = [v for v in values if v not in (None, "")]
        if not filled or not all(isinstance(v, str) for v in filled) or mostly_numbers(filled):
            return False
        if Image().looks_like(values):
            return False
        return sum(len(v.split()) for v in filled) / len(filled) >= 2 and len(set(filled)) > 0.3 * len(filled)

    def may_be(self, values: Sequence[Any]) -> bool:
        return bool(values) and all(isinstance(v, str) for v in values) and not mostly_numbers(values)

    def fits(self, role: str, values: Sequence[Any]) -> bool:
        return super().fits(role, values) and not Image().looks_like(values)

    def read_files(self, path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
        from nearfar.sources.folders import read_texts

        return read_texts(path, files, others, cache, skip)

    def content(self, value: Any) -> bytes:
        """Its normal form: copies that differ in case or white space alone are equal."""
        from nearfar.sources.words import normal

        return normal(value).encode("utf-8", "surrogatepass")

    def gathered(
        self, raw: Raw, wanted: Mapping[str, Any], window: int | None, skip: bool
    ) -> tuple[Raw, dict[str, Any], dict[str, str]] | None:
        """An image with several captions as a row for each."""
        from nearfar.sources.captions import opened_lists

        role = self.roles[0]
        return None if window is not None else opened_lists(raw, wanted, role, self.columns[role], Image(), skip)

    def size(self, value: Any) -> int:
        return len(value.split())

    def near_copies(self, data: Data, role: str, rows: np.ndarray) -> list[tuple[int, int]]:
        """Texts of five words or more whose word triples overlap by 80 % or more (estimated)."""
        from nearfar.sources.words import near_copies

        texts = data.texts(role, rows)
        long = [i for i, text in enumerate(texts) if len(text.split()) >= 5]
        head = near_copies([texts[i] for i in long])
        return [(int(rows[long[h]]), int(rows[long[i]])) for i, h in enumerate(head) if h != i]

    def remarks(self, data: Data, role: str) -> list[str]:
        """A text that stands in its partner is found by its words alone."""
        if role != self.roles[1] or self.roles[0] not in data.roles:
            return []
        import numpy as np

        from nearfar.sources.words import normal

        rows = np.unique(np.linspace(0, len(data) - 1, COMPARED).astype(int))
        pairs = zip(*(map(normal, data.texts(one, rows)) for one in self.roles), strict=True)
        share = float(np.mean([a != b and len(a.split()) >= LEAST and a in b for a, b in pairs]))
        if share < OFTEN:
            return []
        first, second = (data.roles[one] for one in self.roles)
        return [
            f"'{first}' stands word for word in '{second}' of about {100 * share:.0f} % of the rows: there it is "
            "found without any learning; name another column if there is one"
        ]

    # -- items

    def items(self, data: Data, role: str, rows: Any = None, size: int | None = None) -> list[str]:
        return data.texts(role) if rows is None else data.texts(role, rows)

    def other_look(self, items: Any, rows: np.ndarray) -> Any:
        from nearfar.evaluation.heldout import transform_texts

        return transform_texts(items, rows)

    def caption(self, item: Any) -> str:
        return item[:80]

    def stamp(self, data: Data, role: str, rows: np.ndarray, size: int | None = None) -> list[bytes]:
        return [text.encode("utf-8", "surrogatepass") for text in data.texts(role, rows)]

    def references(self, task: Task, size: int) -> list[Reference]:
        from nearfar.evaluation.references import by_word_counts, by_words
        from nearfar.evaluation.search_task import SearchTask

        return by_words(task) if isinstance(task, SearchTask) else by_word_counts(task)

    def raw_features(self, data: Data, role: str) -> DataEmbed | None:
        from nearfar.evaluation.references import word_vectors

        return word_vectors(data, role, 256)

    # -- training

    def suited(self, options: Options, layers: bool) -> Options:
        return (
            replace(options, text_encoder="tiny" if layers else "small") if options.text_encoder == "auto" else options
        )

    def check(self, options: Any) -> None:
        name = options.text_encoder
        if name not in ("auto", *SCRATCH, "minilm") and not (name.strip() and Path(name).is_dir()):
            raise InputError(f"There is no text encoder '{name}': it is none of {', '.join(SCRATCH)}, minilm, and not "
                             "a folder.", "Models are not downloaded: give the path of a local folder.")  # fmt: skip

    def pretrained(self, options: Any) -> bool:
        return options.text_encoder not in ("auto", *SCRATCH)

    def described_encoder(self, options: Any) -> str:
        return self.suited(options, layers=False).text_encoder

    def resolved(self, options: Any) -> dict[str, Any]:
        return {"text_encoder": self.described_encoder(options)}

    def encoder(self, options: Any, data: Data, seed: int) -> Encoder:
        from nearfar import encoders

        train = data.splits["train"]
        texts = [text for role in self.roles if data.training_roles.get(role) for text in data.texts(role, train)]
        if not texts and not self.pretrained(options):
            raise InputError(f"{data.name} has no texts of which a text encoder could learn its words.",
                             "Name their column (--text COLUMN), or start from a model: --model FOLDER.")  # fmt: skip
        return encoders.text(
            self.described_encoder(options),
            texts=texts,
            vocabulary=options.vocabulary,
            length=options.text_length,
            dropout=options.text_dropout,
            pooling=options.text_pooling,
            positions=options.text_positions,
            causal=options.text_causal or None,
        )

    def reader(self, data: Data, role: str, encoder: Any, length: int | None = None) -> Reader:
        """Content tokens, made once."""
        return self._routed(self._reader(self.items(data, role), encoder, length), data, encoder)

    def reader_at(self, data: Data, role: str, rows: np.ndarray, encoder: Any) -> Reader:
        return self._routed(super().reader_at(data, role, rows, encoder), data, encoder, rows)

    def _routed(self, reader: Reader, data: Data, encoder: Any, at: np.ndarray | None = None) -> Reader:
        """The reader (of the rows `at`, None: all) with the domain of each row by its name, for encoders that take
        domains apart; where the data hold none, the encoder says what to do."""
        import numpy as np
        import torch

        names = encoder.domain_names
        if not names or data.domains is None:
            return reader
        at = data.ids if at is None else np.asarray(at)
        place = np.array([names.index(name) if name in names else -1 for name in data.domain_names] + [-1])
        routes = torch.from_numpy(place[np.asarray(data.domains)[at]])

        def raw(rows: np.ndarray, rng: Any = None) -> Any:
            found = routes[torch.from_numpy(np.asarray(rows))]
            if bool((found < 0).any()):
                key = data.keys[int(at[rows[int((found < 0).nonzero()[0, 0])]])]
                other = sorted(set(data.domain_names) - set(names))
                raise InputError(
                    f"{data.name}, row {key}: its domain in '{data.roles['domain']}' is none that this model knows "
                    f"({', '.join(names)}; here also {', '.join(other[:8]) or 'empty cells'}).",
                    "Leave such rows out, or take one of its domains for all: --variant NAME.",
                )
            return reader.raw(rows, rng)._replace(route=found)

        return Reader(raw, lambda rows: self.ready(raw(rows), encoder), reader.lengths)

    def reader_of(self, items: Any, encoder: Any) -> Reader:
        return self._reader(items, encoder)

    def _reader(self, texts: Sequence[str], encoder: Any, length: int | None = None) -> Reader:
        import numpy as np

        from nearfar.encoders.tokens import TokenStore

        special = encoder.special
        store = TokenStore(encoder.encode_ids(list(texts)), length or special.length - special.frame)
        return Reader(store.read, lambda rows: self.ready(store.read(rows), encoder), np.diff(store.starts))

    def ready(self, inputs: Any, encoder: Any) -> Any:
        from nearfar.encoders.tokens import frame

        return frame(inputs, encoder.special)

    # -- a model and its use

    def restore(self, config: Mapping[str, Any], folder: Path) -> Encoder:
        from nearfar.encoders import openclip
        from nearfar.encoders.dialogue import dialogue_from
        from nearfar.encoders.pretrained import transformer_from
        from nearfar.encoders.texts import small_from
        from nearfar.encoders.transformer import SIZES, own_from
        from nearfar.encoders.two_towers import restored_text

        if "of" in config:
            return dialogue_from(config, self.restore(config["of"], folder))
        made = {
            "small": small_from,
            "two-towers": restored_text,
            "open-clip": openclip.restored_text,
            **dict.fromkeys(SIZES, own_from),
        }
        return made.get(config["name"], transformer_from)(config, folder)

    def check_items(self, items: Any) -> None:
        from nearfar.encoders.batches import check_texts

        check_texts(items)

    def check_whole(self, items: Any, encoder: Any) -> None:
        room = encoder.special.length - encoder.special.frame
        for text, ids in zip(items, encoder.encode_ids(list(items)), strict=True):
            if len(ids) > room:
                raise InputError(
                    f"'{text[:80]}' has {len(ids)} tokens, of which this text encoder reads {room}: the rest would be "
                    "cut off.",
                    "Write it shorter, or take a model that reads longer texts.",
                )

    def lengths(self, items: Any) -> Sequence[int]:
        return [len(text) for text in items]

    def preprocessing(self, encoder: Any) -> dict[str, Any]:
        special = encoder.special
        return {"tokenizer": "files in this tower's folder", "length": special.length, "bos": special.bos,
                "eos": special.eos}  # fmt: skip

    def examples(self, encoder: Any) -> list[Any]:
        return list(EXAMPLES)

    def query(self, words: str, alone: bool) -> Any:
        if alone and Path(words).suffix.lower() in ASKED:
            Image().query(words, alone=False)
            raise InputError("This model embeds texts only.", "Give a text as the query.")
        if not words.strip():
            raise InputError("The query is empty.", "Write what to search for.")
        return words
