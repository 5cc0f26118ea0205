"""A tiny random BERT, written as a user's folder would be."""

from pathlib import Path

import torch

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "the",
    "mat",
    "ran",
    "##s",
    "fell",
]
TEXTS = ["a cat sat on the mat", "the dog ran", "", "cats fell", "a dog on a mat on a mat on a mat " * 8]


def write_bert(folder: Path, dropout: float = 0.0, safe: bool = True) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    model = BertModel(config)
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def write_modernbert(folder: Path) -> Path:
    from transformers import BertTokenizerFast, ModernBertConfig, ModernBertModel

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = ModernBertConfig(vocab_size=len(WORDS), max_position_embeddings=48, attn_implementation="sdpa",
                              reference_compile=False, **sizes, **ids)  # fmt: skip
    ModernBertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def write_sentence_transformer(folder: Path, bert: Path, pooling: str = "mean", dense: int | None = None) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as parts

    modules = [parts.Transformer(str(bert), max_seq_length=20), parts.Pooling(16, pooling_mode=pooling)]
    if dense is not None:
        torch.manual_seed(1)
        modules.append(parts.Dense(16, dense, activation_function=torch.nn.Tanh()))
    SentenceTransformer(modules=[*modules, parts.Normalize()], device="cpu").save(str(folder))
    return folder
