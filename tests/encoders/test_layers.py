"""One vector from several layers, and two texts in one sequence."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import nearfar
from nearfar import encoders
from nearfar.encoders import Special, Tokens, one_sequence, pad, sentence
from nearfar.encoders.sentence import pool_layers
from nearfar.errors import InputError
from nearfar.models import save_model

from .roberta import write_roberta
from .test_transformer import own
from .transformer_folder import TEXTS, write_bert, write_sentence_transformer


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("layers") / "bert")


def naive(states, mask, join, pooling, skip):
    """Loops over rows and tokens, from the card."""
    out = []
    for i in range(mask.shape[0]):
        tokens = [t for t in range(mask.shape[1]) if mask[i, t] and t >= skip]
        parts = [[states[layer, i, t] for layer in range(len(states))] for t in tokens]
        joined = [torch.cat(p) if join == "concat" else sum(p) / len(p) for p in parts]
        width = states.shape[-1] * (len(states) if join == "concat" else 1)
        if not joined:
            out.append(states.new_zeros(width))
        elif pooling == "max":
            out.append(torch.stack(joined).max(0).values)
        else:
            out.append(sum(joined) / len(joined) ** (0.5 if pooling == "mean_sqrt_len_tokens" else 1))
    return torch.stack(out)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4), k=st.integers(1, 3), skip=st.integers(0, 1),
       join=st.sampled_from(encoders.texts.JOINS), pooling=st.sampled_from(encoders.texts.LAYER_POOLINGS))  # fmt: skip
def test_pooled_layers_are_their_loops(lengths, k, skip, join, pooling):
    make = torch.Generator().manual_seed(sum(lengths) + 10 * k)
    states = torch.randn(k, len(lengths), 6, 3, dtype=torch.float64, generator=make)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    found = pool_layers(states, mask, join, pooling, skip)
    assert_close(found, naive(states, mask, join, pooling, skip))
    junk = torch.where(mask[None, :, :, None], states, torch.full_like(states, 99.0))
    assert_close(pool_layers(junk, mask, join, pooling, skip), found)  # padding never counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_constant_states(dtype):
    """Invariant 5: h, sqrt(n) h and h; a row of padding alone gives zeros in every precision."""
    h = torch.tensor([1.0, -2.0], dtype=dtype)
    states = h.expand(1, 2, 9, 2)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0] = True
    for pooling, factor in (("mean", 1.0), ("mean_sqrt_len_tokens", 3.0), ("max", 1.0)):
        found = pool_layers(states, mask, "concat", pooling)
        assert_close(found[0], h * factor)
        assert found[1].tolist() == [0, 0]
    assert_close(pool_layers(states, mask, "concat"), pool_layers(states, mask, "mean"))


def test_an_encoder_reads_its_last_layers(bert):
    """The width is k times that of a layer; [CLS] is left out unless asked for, [SEP] counts."""
    for encoder in (own().eval(), encoders.text(str(bert)).eval()):
        x = encoder.prepare(TEXTS)
        states, mask = encoder.tokens(x, 2)
        encoder.pool_layers(2)
        assert encoder.dim == 32
        assert_close(encoder(x), naive(states, mask, "concat", "mean", 1), rtol=1e-4, atol=1e-5)
        assert_close(encoder(encoder.embedded(x)), encoder(x))
        empty = encoder(encoder.prepare([""]))
        assert_close(empty, torch.cat([s[2:3, 1] for s in states], 1), rtol=1e-4, atol=1e-5)  # [SEP] alone
    other = own().eval()
    states, mask = other.tokens(other.prepare(TEXTS), 1)
    other.pool_layers(1, "mean", "max", first=True)
    assert_close(other(other.prepare(TEXTS)), naive(states, mask, "mean", "max", 0))
    with pytest.raises(InputError, match="a pooling over layers already"):
        other.pool_layers(1)
    with pytest.raises(InputError, match="layers must be between 1 and 2"):
        own().pool_layers(3)
    with pytest.raises(InputError, match="'pooling' must be"):
        own().pool_layers(1, pooling="median")


def test_a_model_keeps_its_layers(bert, tmp_path):
    for number, encoder in enumerate((own(), encoders.text(str(bert)))):
        encoder.pool_layers(2, "concat", "mean_sqrt_len_tokens")
        save_model(tmp_path / str(number), {"text": encoder.eval()})
        model = nearfar.load(tmp_path / str(number), verify=True)
        assert model.dim == 32
        with pytest.raises(InputError, match="has a pooling over layers, which sentence-transformers does not know"):
            model.save_sentence_transformer(tmp_path / "out")


def test_layers_behind_the_pooling_do_not_fit_another_one(bert, tmp_path):
    folder = write_sentence_transformer(tmp_path / "dense", bert, dense=8)
    with pytest.raises(InputError, match="layers of its own after its pooling"):
        encoders.text(str(folder)).pool_layers(2)


@pytest.mark.parametrize("lengths", [((3, 2), (4, 0)), ((0, 0), (1, 9)), ((9, 9), (9, 9)), ((12, 3), (3, 12))])
def test_two_texts_in_one_sequence(lengths):
    special = Special(1, 2, 0, None, 60, length=12)
    a, b = ([list(range(10, 10 + n)) for n in side] for side in zip(*lengths, strict=True))
    b = [[token + 30 for token in row] for row in b]
    found, side = one_sequence(pad(a), pad(b), special)
    for i, (one, two) in enumerate(zip(a, b, strict=True)):
        one, two = list(one), list(two)
        while len(one) + len(two) > 9:  # the longer one is cut, the second where both are equal
            (one if len(one) > len(two) else two).pop()
        wanted = [1, *one, 2, *two, 2]
        assert found.ids[i, found.mask[i]].tolist() == wanted
        assert side[i, found.mask[i]].tolist() == [0] * (len(one) + 2) + [1] * (len(two) + 1)
        assert not found.mask[i, len(wanted) :].any()
        assert (found.ids[i, len(wanted) :] == 0).all()


def test_the_sequence_is_that_of_transformers(bert):
    encoder = encoders.text(str(bert))
    a, b = TEXTS[:3], TEXTS[1:4]
    sides = [pad(encoder.encode_ids(texts)) for texts in (a, b)]
    tokens, side = one_sequence(*sides, encoder.special)
    wanted = encoder.tokenizer(a, b, padding=True, return_tensors="pt", truncation=True, max_length=48)
    assert torch.equal(tokens.ids, wanted["input_ids"])
    assert torch.equal(tokens.mask, wanted["attention_mask"].bool())
    assert torch.equal(side * tokens.mask, wanted["token_type_ids"])


@pytest.mark.parametrize("length", [48, 12])
def test_two_ends_stand_between_texts_where_the_tokenizer_puts_them(length, tmp_path):
    encoder = encoders.text(str(write_roberta(tmp_path / "roberta", places=60)), length=length)
    a, b = ["a b", "", "a b c cat dog a b"], ["c", "dog cat", "b c a b c dog"]
    tokens, side = one_sequence(*(pad(encoder.encode_ids(texts)) for texts in (a, b)), encoder.special)
    wanted = encoder.tokenizer(a, b, padding=True, return_tensors="pt", truncation=True, max_length=length)
    assert torch.equal(tokens.ids, wanted["input_ids"])
    assert torch.equal(tokens.mask, wanted["attention_mask"].bool())
    assert side[0].tolist()[:7] == [0, 0, 0, 0, 0, 1, 1]


def test_a_prompt_that_does_not_count_is_left_out_of_layers_too(bert, tmp_path):
    folder = write_sentence_transformer(tmp_path / "prompted", bert)
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config | {"include_prompt": False}))
    encoder = encoders.text(str(folder), prompt="a cat ").eval()
    states, mask = encoder.tokens(encoder.prepare(TEXTS), 2)
    encoder.pool_layers(2)
    assert encoder.skipped == 3
    assert_close(encoder(encoder.prepare(TEXTS)), naive(states, mask, "concat", "mean", 3), rtol=1e-4, atol=1e-5)


def test_no_pairs_and_no_special_tokens():
    bare = Special(None, None, 0, None, 60, length=6)
    tokens, side = one_sequence(pad([[5, 6]]), pad([[7]]), bare)
    assert tokens.ids.tolist() == [[5, 6, 7]]
    assert side.tolist() == [[0, 0, 1]]
    none = Tokens(torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1, dtype=torch.bool))
    assert len(one_sequence(none, none, bare)[0].ids) == 0


def test_poolings_of_layers_are_known_ones():
    assert set(encoders.texts.LAYER_POOLINGS) <= set(sentence.POOLINGS)
