"""Answers of a local language model of transformers to prompts, decoded greedily, kept on disk as they come.

model = LanguageModel("flan-t5-xl")
model.answers(prompts, most=64)                       # one line of text for each prompt
model.answers(prompts, against=others, contrast=0.5)  # each word also unlike what the other prompt would give
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar import processes
from nearfar.encoders.pretrained import longest_text
from nearfar.encoders.quiet import quiet
from nearfar.errors import InputError
from nearfar.progress import track
from nearfar.sources.storage import cache_dir, entry, entry_bytes, new_entry

KIND = "answers"
BATCHES = 8  # between two writes
HOW = "Give the folder of a causal or sequence-to-sequence model of transformers, complete with its tokenizer."


def contrastive_scores(
    right: Float[Tensor, "n v"], noisy: Float[Tensor, "n v"], contrast: float = 1.0
) -> Float[Tensor, "n v"]:
    """log p(word | instruction) - contrast log p(word | noisy instruction) of each next word, from logits. 0: as
    without the noisy one. Source: MultiCSR, stage 1, of which the abstract alone speaks; not in the released code."""
    return right.log_softmax(-1) - contrast * noisy.log_softmax(-1)


class LanguageModel:
    """folder: of a model of transformers, loaded offline, without running code of the folder, and only where an answer
    is not known yet. Of an unchanged folder known answers are read (`digest`). batch: prompts at once.

    Raises InputError for a folder that holds no such model, and for prompts beyond its length.
    """

    def __init__(self, folder: str | Path, batch: int = 16):
        self.folder, self.batch = Path(folder), batch
        if not (self.folder / "config.json").is_file():
            raise InputError(f"{folder} is not the folder of a language model: it has no config.json.", HOW)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        device, safe = "cuda" if torch.cuda.is_available() else "cpu", {"local_files_only": True,
                                                                       "trust_remote_code": False}  # fmt: skip
        try:
            with quiet():
                paired = AutoConfig.from_pretrained(self.folder, **safe).is_encoder_decoder
                kind: Any = AutoModelForSeq2SeqLM if paired else AutoModelForCausalLM
                side = "right" if paired else "left"  # a causal model goes on from the last place
                dtype = "auto" if device == "cuda" else torch.float32
                model = kind.from_pretrained(self.folder, weights_only=True, dtype=dtype, **safe)
                tokenizer: Any = AutoTokenizer.from_pretrained(self.folder, padding_side=side, **safe)
        except Exception as error:
            raise InputError(f"The language model in {self.folder} cannot be loaded: {str(error).strip()[:300]}",
                             HOW) from error  # fmt: skip
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return model.to(device).eval(), tokenizer

    @cached_property
    def digest(self) -> str:
        """Of the folder's files: of small ones their content, of weights name, size and time."""
        state = hashlib.sha256()
        for path in sorted(p for p in self.folder.iterdir() if p.is_file()):
            facts = path.stat()
            small = path.suffix in (".json", ".txt", ".model")
            state.update(repr((path.name, facts.st_size, 0 if small else facts.st_mtime_ns)).encode())
            state.update(path.read_bytes() if small else b"")
        return state.hexdigest()[:24]

    def answers(
        self,
        prompts: Sequence[str],
        *,
        most: int = 256,
        against: Sequence[str] | None = None,
        contrast: float = 0.0,
        what: str = "answers",
    ) -> list[str]:
        """The first line of what the model says to each prompt. Known answers are read; new ones are kept as they come,
        so that what was interrupted goes on from there.

        most: new tokens of an answer. against, contrast: `contrastive_scores` with the noisy prompts, one each.
        """
        others: Sequence[str] = prompts if against is None or not contrast else against
        keys = [hashlib.sha256(f"{a}\0{b}".encode()).hexdigest()[:32] for a, b in zip(prompts, others, strict=True)]
        said = Kept(f"{self.digest}-{most}-{contrast:g}")
        asked = {key: pair for key, *pair in zip(keys, prompts, others, strict=True) if key not in said.known}
        if asked and processes.started() > 1:
            raise InputError(f"{len(asked):,} {what} are to be written first, and several processes would write them.",
                             "Run the same command once with --dry-run on one process, which keeps them.")  # fmt: skip
        todo = list(asked)
        with track(f"{self.folder.name}: {what}", len(todo), least=2 * self.batch) as advance, said:
            for start in range(0, len(todo), self.batch):
                now = todo[start : start + self.batch]
                right, noisy = zip(*(asked[key] for key in now), strict=True)
                said.add(dict(zip(now, self._said(right, noisy, most, contrast), strict=True)))
                if (start // self.batch + 1) % BATCHES == 0:
                    said.write()
                advance(len(now))
        return [said.known[key] for key in keys]

    @torch.no_grad()
    def _said(self, prompts: Sequence[str], others: Sequence[str], most: int, contrast: float) -> list[str]:
        model, tokenizer = self._loaded
        x = self._tokens(prompts)
        width = x["input_ids"].shape[1]
        paired, room = model.config.is_encoder_decoder, longest_text(tokenizer, model, asked=True)
        if width + (0 if paired else 1) > room:
            raise InputError(f"A prompt has {width} tokens; the language model in {self.folder} reads {room}.",
                             "Leave out such long texts, or take another model.")  # fmt: skip
        further = [Against(model, self._tokens(others), 0 if paired else width, contrast)] if contrast else []
        out = model.generate(**x, max_new_tokens=most if paired else min(most, room - width), do_sample=False,
                             num_beams=1, logits_processor=further, stop_strings=["\n"], tokenizer=tokenizer,
                             pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        texts = tokenizer.batch_decode(out if paired else out[:, width:], skip_special_tokens=True)
        return [text.strip().partition("\n")[0].strip() for text in texts]

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        model, tokenizer = self._loaded
        made = tokenizer(list(texts), padding=True, return_tensors="pt").to(model.device)
        return {name: made[name] for name in ("input_ids", "attention_mask")}


class Against:
    """Next words' scores against those of the same model behind noisy prompts (`contrastive_scores`), as a processor of
    transformers. prompts: their tokens; skipped: of the right prompts, before what was written."""

    def __init__(self, model: Any, prompts: dict[str, Tensor], skipped: int, contrast: float):
        self.model, self.prompts, self.skipped, self.contrast = model, prompts, skipped, contrast
        self.encoded = model.get_encoder()(**prompts) if model.config.is_encoder_decoder else None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written, mask = input_ids[:, self.skipped :], self.prompts["attention_mask"]
        if self.encoded is not None:
            out = self.model(encoder_outputs=self.encoded, attention_mask=mask, decoder_input_ids=written)
        else:
            ids = torch.cat([self.prompts["input_ids"], written], 1)
            mask = torch.cat([mask, torch.ones_like(written)], 1)
            places = (mask.cumsum(1) - 1).clamp(min=0)
            out = self.model(input_ids=ids, attention_mask=mask, position_ids=places)
        return contrastive_scores(scores, out.logits[:, -1].to(scores), self.contrast)


class Kept:
    """Answers on disk under a name, `known`: by the digest of their prompt. Each write is a whole entry of the cache;
    leaving the block writes what was added since, however it ends."""

    def __init__(self, name: str):
        self.folder, self.name = cache_dir() / KIND, name
        self.known: dict[str, str] = {}
        self.fresh: dict[str, str] = {}
        for path in sorted(self.folder.glob(f"{name}-*.json")):
            if entry(path):
                self.known |= json.loads(entry_bytes(path))

    def add(self, answers: dict[str, str]) -> None:
        self.known |= answers
        self.fresh |= answers

    def write(self) -> None:
        if self.fresh:
            part = hashlib.sha256("".join(self.fresh).encode()).hexdigest()[:16]
            with new_entry(self.folder / f"{self.name}-{part}.json") as path:
                path.write_text(json.dumps(self.fresh, ensure_ascii=False), "utf-8")
            self.fresh = {}

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.write()


__all__ = ["LanguageModel", "contrastive_scores"]
