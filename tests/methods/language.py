"""Tiny language models with random weights, saved as transformers saves real ones."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789.,:()\n"


def save(folder, kind, seed=0, length=1024):
    """kind: "gpt2" (causal), "t5" or "bart" (sequence to sequence)."""
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator([LETTERS], trainers.BpeTrainer(special_tokens=["<unk>", "</s>", "<pad>"]))
    pad = {"pad_token": "<pad>"} if kind != "gpt2" else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", **pad)
    size = len(fast)
    torch.manual_seed(seed)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=length, n_embd=32, n_layer=2, n_head=2,
                                           bos_token_id=1, eos_token_id=1))  # fmt: skip
    elif kind == "bart":
        ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 2}
        model = BartForConditionalGeneration(BartConfig(
            vocab_size=size, d_model=32, max_position_embeddings=length, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
            forced_eos_token_id=None, **ends))  # fmt: skip
    else:
        model = T5ForConditionalGeneration(T5Config(vocab_size=size, d_model=32, d_kv=16, d_ff=64, num_layers=2,
                                                    num_heads=2, eos_token_id=1, pad_token_id=2,
                                                    decoder_start_token_id=2))  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.5) if p.dim() > 1 else None
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
