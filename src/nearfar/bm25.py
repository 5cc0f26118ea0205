"""BM25 of texts (bm25s), in Lucene's form with k1 = 1.5 and b = 0.75: the reference row of a comparison, and half of a
hybrid search."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+|\d+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(text: str) -> list[str]:
    """Lower-case words; code names are cut at underscores and capitals ("parseHTML_page" -> parse html page), scripts
    without spaces (Chinese, Japanese) into characters."""
    return [word.lower() for word in _WORD.findall(_HUMP.sub(" ", text))]


class BM25:
    """Scores of documents for texts. `index`: of bm25s; None where no document has a word."""

    def __init__(self, index: Any, documents: int):
        self.index, self.documents = index, documents

    @classmethod
    def of(cls, documents: Iterable[str]) -> BM25:
        """The index of some documents, read once."""
        import bm25s

        ids: dict[str, int] = {}
        tokens = [[ids.setdefault(word, len(ids)) for word in words(text)] for text in documents]
        if not ids:
            return cls(None, len(tokens))
        index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        index.index((tokens, ids), show_progress=False)
        return cls(index, len(tokens))

    def scores(self, text: str) -> np.ndarray:
        """float32 (documents,): 0 for those without a word of the text."""
        if self.index is None:
            return np.zeros(self.documents, np.float32)
        known = self.index.vocab_dict
        asked = [known[word] for word in words(text) if word in known]
        return self.index.get_scores_from_ids(asked) if asked else np.zeros(self.documents, np.float32)

    def save(self, folder: Path) -> None:
        """Writes the index as bm25s does; nothing where no document has a word."""
        if self.index is not None:
            self.index.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path, documents: int) -> BM25:
        """What `save` wrote, mapped."""
        import bm25s

        return cls(bm25s.BM25.load(folder, mmap=True, show_progress=False) if folder.exists() else None, documents)
