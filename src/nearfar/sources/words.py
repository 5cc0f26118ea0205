"""Texts: their normal form, content ids and near-copies."""

import hashlib
import re
import unicodedata

import numpy as np

_TOKEN = re.compile(r"\w+", re.UNICODE)
_PRIME = np.uint64((1 << 61) - 1)


def normal(text: str) -> str:
    """Compatible forms joined (NFKC), case folded, every run of white space one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_id(text: str) -> int:
    """A signed 64-bit id: equal for equal normal forms."""
    digest = hashlib.blake2b(normal(text).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little", signed=True)


def min_hashes(text: str, count: int = 32, shingle: int = 3) -> np.ndarray:
    """uint64 (count,): minima of `count` hashes over the text's runs of `shingle` words. Texts whose runs overlap by a
    share J (Jaccard) agree in about J of the entries."""
    tokens = _TOKEN.findall(normal(text)) or [""]
    runs = {" ".join(tokens[i : i + shingle]) for i in range(max(1, len(tokens) - shingle + 1))}
    marks = np.array(
        [int.from_bytes(hashlib.blake2b(r.encode(), digest_size=4).digest(), "little") for r in runs], np.uint64
    )
    generator = np.random.default_rng(20240601)
    a = generator.integers(1, 1 << 31, (count, 1), np.uint64)
    b = generator.integers(0, 1 << 60, (count, 1), np.uint64)
    return ((a * marks + b) % _PRIME).min(axis=1)
