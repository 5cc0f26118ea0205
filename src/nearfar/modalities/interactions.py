"""Interactions: who met which item when. What a row holds of its user is the history of items before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.checks import PositiveInt, ShareBelowOne, Width
from nearfar.errors import InputError, did_you_mean
from nearfar.modality import Modality, Reader, holder, register

if TYPE_CHECKING:
    import numpy as np

    from nearfar.encoders import Encoder
    from nearfar.sources.data import Data
    from nearfar.sources.interactions import Log
    from nearfar.sources.raw import Raw
    from nearfar.sources.scan import Scan

SHOWN = 5  # latest items of a history that are shown


@dataclass
class Options:
    """The encoder of histories of items.

    Args:
        history_length: latest items of a history that are read (SASRec's n).
        history_width: length of the vectors of items and histories (d).
        history_layers: blocks of causal attention.
        history_heads: attention heads of a block.
        history_inner: width of the layer between, in a block's MLP.
        history_dropout: dropout in training.
        history_users: keep what is known of each user in the model's folder, so that `search MODEL user:42` finds it.
    """

    history_length: PositiveInt = 50
    history_width: Width = 64
    history_layers: PositiveInt = 2
    history_heads: PositiveInt = 2
    history_inner: Width = 256
    history_dropout: ShareBelowOne = 0.5
    history_users: bool = True


@register
class Interactions(Modality):
    """Items of the role "user" are histories (tuples of ids, in order), those of the role "item" single ids. Both pass
    one encoder, whose item table scores what comes next by its inner product with the state of a history."""

    word, words = "interaction", "interactions"
    roles = ("user", "item")
    columns = {
        "user": ("user", "user_id", "userid", "uid", "reviewerid", "customer_id", "customerid", "session_id"),
        "item": ("item", "item_id", "itemid", "iid", "movie_id", "movieid", "asin", "product_id", "productid",
                 "track_id"),
    }  # fmt: skip
    named_with = ("user", "item", "time")
    described = {
        "user": "column of users, whose rows are their histories",
        "item": "column of the items that users met",
    }
    rank, certainty = 3, 60
    divisions = ("leave-one-out", "by-time")
    whole = "user"
    titled = "item"
    tables = frozenset({".inter"})
    options = Options
    by_rows = True
    plans = {"crop-mask-reorder": "nearfar.views.histories:CropMaskReorder"}
    default_plan = "crop-mask-reorder"
    why = "there are interactions: the item that comes next is the positive of a history"
    metric = "ndcg@10"
    example = "imports"
    tag = "other"
    usage = 'embed([["242", "302"]])'
    cell = None
    unit = "rows of one"

    # -- the way in

    def fits(self, role: str, values: Sequence[Any]) -> bool:
        return True  # ids are texts or numbers

    def read_file(self, path: Path, cache: Path, skip: bool) -> Raw:
        from nearfar.sources.interactions import read_inter

        return read_inter(path, cache, skip)

    def state(self, raw: Raw, columns: Mapping[str, Sequence[str]]) -> Mapping[str, np.ndarray]:
        """A scan is of one column of times."""
        import numpy as np

        return {str(raw.roles["time"]): np.zeros(len(raw.table), np.int64)} if "time" in raw.roles else {}

    def scan(self, raw: Raw, columns: Mapping[str, Sequence[str]], found: Scan) -> None:
        from nearfar.sources.interactions import scan_interactions

        for role in self.roles:
            if role not in columns:
                raise InputError(f"{raw.path or raw.name}: interactions need a column of {role}s.",
                                 f"Name it: --{role} COLUMN.")  # fmt: skip
        one = {role: columns[role][0] for role in self.roles}
        scan_interactions(raw, one | ({"time": str(raw.roles["time"])} if "time" in raw.roles else {}), found)

    def splits(self, data: Data) -> dict[str, np.ndarray]:
        return log(data).samples

    def remarks(self, data: Data, role: str) -> list[str]:
        from nearfar.sources.interactions import remarks

        return remarks(data) if role == self.roles[0] else []

    def samples(self, data: Data, role: str, rows: np.ndarray) -> list[str]:
        if role == self.roles[1]:
            return [self._title(data, item) for item in self.items(data, role, rows)]
        users = data.values(role, rows)
        histories = zip(users, self.items(data, role, rows), strict=True)
        return [f"{user}: {self._in_words(data, history)}" for user, history in histories]

    def _title(self, data: Data, item: str) -> str:
        return str(data.meta.get("titles", {}).get(item) or item)

    def _in_words(self, data: Data, history: Sequence[str]) -> str:
        """The latest items of a history, by title."""
        titles = [self._title(data, item) for item in history[-SHOWN:]]
        return ("... → " if len(history) > SHOWN else "") + (" → ".join(titles) or "nothing yet")

    # -- items

    def items(self, data: Data, role: str, rows: Any = None, size: int | None = None) -> Any:
        import numpy as np

        known, rows = log(data), np.arange(len(data)) if rows is None else np.asarray(rows)
        names = np.array(known.item_names, dtype=object)
        if role == self.roles[1]:
            return names[known.items[rows]].tolist()
        codes, lengths = known.spans.of(rows, int(known.lengths.max(initial=1)))
        return [tuple(names[one[:n]]) for one, n in zip(codes, lengths, strict=True)]

    def other_look(self, items: Any, rows: np.ndarray) -> Any:
        """A history without its last but one, last but four... item; single items as they are."""
        return [tuple(x for k, x in enumerate(item[::-1]) if k % 3 != 1)[::-1] if isinstance(item, tuple) else item
                for item in items]  # fmt: skip

    def show(self, data: Data, role: str, items: Any, size: int = 48) -> list[dict[str, str]]:
        from nearfar.reporting.cells import clip

        if role == self.roles[1]:
            return [{"text": clip(self._title(data, item))} for item in items]
        return [{"text": self._in_words(data, item)} for item in items]

    def stamp(self, data: Data, role: str, rows: np.ndarray, size: int | None = None) -> list[bytes]:
        items = self.items(data, role, rows)
        if role == self.roles[1]:
            return [item.encode("utf-8", "surrogatepass") for item in items]
        own = data.digests(role, rows)
        return ["\0".join([str(d), *item]).encode("utf-8", "surrogatepass") for d, item in zip(own, items, strict=True)]

    # -- training

    def described_encoder(self, options: Any) -> str:
        return f"causal transformer of {options.history_layers} layers"

    def check(self, options: Any) -> None:
        if options.history_width % options.history_heads:
            raise InputError(f"--history-heads {options.history_heads} do not divide --history-width "
                             f"{options.history_width}.", "Change one of them.")  # fmt: skip

    def encoder(self, options: Any, data: Data, seed: int) -> Encoder:
        """It knows the items of training rows."""
        from nearfar.encoders.histories import HistoryEncoder

        found = log(data)
        items = [found.item_names[code] for code in found.known]
        named = data.meta.get("titles", {})
        titles = {item: named[item] for item in items if item in named}
        sizes = {
            name: getattr(options, f"history_{name}") for name in ("layers", "heads", "inner", "dropout", "length")
        }
        users = found.histories() if options.history_users else {}
        return HistoryEncoder(items, options.history_width, **sizes, titles=titles, users=users)

    def reader(self, data: Data, role: str, encoder: Any, length: int | None = None) -> Reader:
        import numpy as np
        import torch

        from nearfar.encoders.histories import Histories

        own, found = inner(encoder), log(data)
        place = np.array([own.index.get(name, 0) for name in found.item_names], np.int64)
        if role == self.roles[1]:

            def items(rows: np.ndarray, rng: Any = None) -> Any:
                return torch.from_numpy(place[found.items[rows]])

            return Reader(items, lambda rows: items(rows))
        spans, place = found.spans_of(place > 0), np.append(place, 0)

        def histories(rows: np.ndarray, rng: Any = None) -> Any:
            codes, lengths = spans.of(rows, own.length)
            return Histories(torch.from_numpy(place[codes]), torch.from_numpy(lengths))

        return Reader(histories, lambda rows: histories(rows), np.minimum(spans.lengths, own.length))

    # -- a model and its use

    def restore(self, config: Mapping[str, Any], folder: Path) -> Encoder:
        from nearfar.encoders.histories import restored

        return restored(config, folder)

    def accepts(self, item: Any) -> bool:
        return isinstance(item, str | int | list | tuple)

    def preprocessing(self, encoder: Any) -> dict[str, Any]:
        own = inner(encoder)
        return {"items": len(own.items), "length": own.length, "unknown items": "are left out of a history"}

    def examples(self, encoder: Any) -> list[Any]:
        items = inner(encoder).items
        return [items[: k + 1] for k in range(min(6, len(items)))]

    def kept(self, data: Data, role: str, rows: np.ndarray, encoder: Any) -> list[Any]:
        own = inner(encoder)
        found = self.items(data, role, rows)
        if role == self.roles[1]:
            return [item for item in found if item in own.index]
        return [[item for item in one if item in own.index][-own.length :] for one in found]

    def write(self, items: Sequence[Any], encoder: Any) -> list[Any]:
        return [list(map(str, item)) if isinstance(item, list | tuple) else str(item) for item in items]

    def search(self, model: Any, query: Any, k: int) -> list[dict[str, Any]] | None:
        """The items that come next of "user:42", of "items:50,181", or of a list of ids; those of the history are left
        out."""
        import numpy as np

        if self.roles[0] not in model.roles or self.roles[1] not in model.roles:
            return None
        own = inner(model.roles[self.roles[0]].encoder)
        history = self._asked(own, query)
        vectors = model.embed(own.items, self.roles[1], batch_size=4096).astype(np.float64)
        scores = vectors @ model.embed([history], self.roles[0])[0].astype(np.float64)
        met = set(map(str, history))
        order = [place for place in np.argsort(-scores, kind="stable") if own.items[place] not in met][:k]
        return [{"key": own.items[place], "title": own.titles.get(own.items[place], ""), "score": float(scores[place])}
                for place in order]  # fmt: skip

    def _asked(self, own: Any, query: Any) -> list[str]:
        """The history that a query means."""
        if not isinstance(query, str):
            return list(query)
        kind, mark, rest = query.partition(":")
        if mark and kind == "items":
            found = [item.strip() for item in rest.split(",") if item.strip()]
            if not any(item in own.index for item in found):
                raise InputError(f"The model knows none of the items '{rest:.60}'.", "Name items of its training data.")
            return found
        if not mark or kind != "user":
            raise InputError(f"This model finds the next items of a history. Got '{query:.60}'.",
                             "Write user:42, or items:50,181 for a history of your own.")  # fmt: skip
        if rest not in own.users:
            why = "" if own.users else " (it was trained with --history-users false)"
            near = did_you_mean(rest, list(own.users)[:20_000])
            raise InputError(f"The model knows no user '{rest:.60}'{why}.{near}", "Give the history: items:50,181.")
        return [item for item in own.users[rest] if item in own.index]

    def query(self, words: str, alone: bool) -> Any:
        """A history of ids, separated by commas."""
        found = [part.strip() for part in words.removeprefix("items:").split(",") if part.strip()]
        return found or None


def inner(encoder: Any) -> Any:
    """The encoder of histories within one that is frozen, or the first of several side by side."""
    return holder(encoder, "mask_id")


def log(data: Data) -> Log:
    from nearfar.sources.interactions import log_of

    return log_of(data)
