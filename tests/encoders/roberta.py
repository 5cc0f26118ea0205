"""A tiny random RoBERTa with a byte-pair tokenizer, which puts two </s> between the texts of a pair."""

from pathlib import Path
from typing import Any

import torch


def write_roberta(folder: Path, classes: int | None = None, places: int = 40) -> Path:
    """classes: of a sequence classifier; None: the encoder alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification, RobertaModel

    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
               "mask_token": "<mask>"}  # fmt: skip
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "c", "cat", "dog"]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ids: Any = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "num_labels": classes or 2}
    config = RobertaConfig(vocab_size=len(words), max_position_embeddings=places, type_vocab_size=1, **sizes, **ids)
    (RobertaModel if classes is None else RobertaForSequenceClassification)(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder
