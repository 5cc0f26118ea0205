"""Folders of sentence-transformers in all their forms: the vectors are those of sentence-transformers itself."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from nearfar import encoders
from nearfar.encoders import sentence
from nearfar.errors import InputError
from nearfar.models import load, save_model

from .transformer_folder import TEXTS, write_bert

LONG = "the cat sat on a mat and the dog ran " * 12
CASED = [*TEXTS, "The CAT sat", "THE DOG RAN", LONG]


def write_roberta(folder):
    """A byte-level BPE, whose tokens depend on the blank before them, and positions that begin after the padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        [*CASED, "query: what sat on the mat", "passage: the dog"] * 3,
        trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token="<mask>", cls_token="<s>", sep_token="</s>", model_max_length=40,
    )  # fmt: skip
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=len(fast), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=32, max_position_embeddings=42, pad_token_id=1)  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def layers(*names):
    from sentence_transformers import models as parts

    torch.manual_seed(3)
    size, made = 16, []
    for name in names:
        if name == "dense":
            made.append(parts.Dense(size, 8, activation_function=torch.nn.GELU()))
            size = 8
        elif name == "residual":
            made.append(parts.Dense(size, size, use_residual=True))
        elif name == "norm":
            made.append(parts.LayerNorm(size))
            torch.nn.init.normal_(made[-1].norm.weight)
        else:
            made.append(parts.Normalize() if name == "normalize" else parts.Dropout(0.3))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("sentence")

    @cache
    def body(kind):
        return write_bert(base / kind) if kind == "bert" else write_roberta(base / kind)

    def write(
        kind="bert",
        pooling="mean",
        after=("normalize",),
        length=20,
        lower=False,
        prompts=None,
        default=None,
        pool_prompt=True,
    ):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers import models as parts

        transformer = parts.Transformer(str(body(kind)), max_seq_length=length, do_lower_case=lower)
        width = 16 * (1 if isinstance(pooling, str) else len(pooling))
        modules = [transformer, parts.Pooling(16, pooling_mode=pooling, include_prompt=pool_prompt)]
        assert width == 16 or after == ("normalize",)
        whole = SentenceTransformer(
            modules=[*modules, *layers(*after)], device="cpu", prompts=prompts, default_prompt_name=default
        )
        place = base / f"st{len(list(base.iterdir()))}"
        whole.save(str(place), create_model_card=False)
        return place

    return write


def compare(place, texts=CASED, **given):
    """Largest distance of the two libraries' directions."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(place), device="cpu", local_files_only=True).encode(texts, **given)
    mine = encoders.vectors(encoders.text(str(place)), texts, batch_size=3)
    theirs, mine = (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12) for z in (theirs, mine))
    return float(np.abs(1 - (theirs * mine).sum(1)).max())


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("pooling", [*sentence.POOLINGS, ("cls", "mean"), ("max", "mean_sqrt_len_tokens", "lasttoken")])
def test_poolings(folder, kind, pooling):
    assert compare(folder(kind, pooling)) < 1e-5


@pytest.mark.parametrize("after", [
    (), ("dense",), ("dense", "normalize"), ("normalize", "dense"), ("normalize", "dense", "normalize"),
    ("norm", "dense"), ("dense", "norm", "normalize"), ("residual", "normalize", "dense"), ("dropout", "dense"),
])  # fmt: skip
def test_layers_in_their_order(folder, after):
    assert compare(folder(after=after)) < 1e-5


@pytest.mark.parametrize("pool_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken", "weightedmean"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_default_prompt_is_in_front_of_every_text(folder, kind, pooling, pool_prompt):
    prompts = {"query": "the cat: ", "passage": "a dog on the mat: "}
    texts = [text for text in CASED if text]
    place = folder(kind, pooling, prompts=prompts, default="query", pool_prompt=pool_prompt)
    assert compare(place, texts) < 1e-5
    without = folder(kind, pooling, prompts=prompts, pool_prompt=pool_prompt)
    assert compare(without, texts) < 1e-5
    named = encoders.vectors(encoders.text(str(without), prompt="query"), texts)
    np.testing.assert_allclose(named, encoders.vectors(encoders.text(str(place)), texts), atol=1e-6)


def test_lower_case(folder):
    plain, lowered = folder("roberta"), folder("roberta", lower=True)
    assert compare(lowered) < 1e-5
    upper, lower = encoders.vectors(encoders.text(str(lowered)), ["THE CAT", "the cat"])
    np.testing.assert_array_equal(upper, lower)
    upper, lower = encoders.vectors(encoders.text(str(plain)), ["THE CAT", "the cat"])
    assert np.abs(upper - lower).max() > 1e-3


@pytest.mark.parametrize(("kind", "length", "expected"), [
    ("bert", None, 48), ("bert", 30, 30), ("bert", 5000, 48), ("roberta", None, 40), ("roberta", 5000, 40),
])  # fmt: skip
def test_lengths_and_places(folder, kind, length, expected):
    place = folder(kind, length=length)
    encoder = encoders.text(str(place))
    assert encoder.special.length == expected
    assert encoders.vectors(encoder, [LONG * 20]).shape == (1, 16)
    if length is None or length <= expected:
        assert compare(place, [*CASED, LONG * 20]) < 1e-5


def test_more_than_512_tokens(tmp_path):
    from transformers import BertConfig, BertModel

    place = write_bert(tmp_path / "long")
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(place)
    config.max_position_embeddings = 700
    BertModel(config).save_pretrained(place)
    assert encoders.text(str(place)).special.length == 700
    assert compare(place, [LONG * 20, LONG * 4]) < 1e-5


def test_a_model_keeps_prompt_layers_and_poolings(folder, tmp_path):
    place = folder("bert", ("cls", "mean"), prompts={"q": "the cat: "}, default="q", pool_prompt=False)
    encoder = encoders.text(str(place))
    save_model(tmp_path / "m", {"text": encoder})
    texts = [text for text in CASED if text]
    mine = load(tmp_path / "m").embed_texts(texts)
    assert load(tmp_path / "m").save_sentence_transformer(tmp_path / "st") < 1e-4
    from sentence_transformers import SentenceTransformer

    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "st"), device="cpu").encode(texts), mine, atol=1e-5)
    both = folder("bert", after=("norm", "residual", "normalize", "dense"))
    save_model(tmp_path / "n", {"text": encoders.text(str(both))})
    assert load(tmp_path / "n").save_sentence_transformer(tmp_path / "st2") < 1e-4


@pytest.mark.parametrize(("file", "content", "says"), [
    ("modules.json", "[{}]", "does not list modules"),
    ("modules.json", "{", "modules.json"),
    ("modules.json", "7", "JSON list"),
    ("1_Pooling/config.json", '{"pooling_mode": "median"}', "pooling 'median'"),
    ("1_Pooling/config.json", "\x00\xff", "1_Pooling"),
    ("2_Dense/config.json", '{"in_features": "many"}', "does not describe a Dense"),
    ("2_Dense/config.json", '{"in_features": 16, "out_features": 8, "activation_function": "os.system"}', "activation"),
    ("config_sentence_transformers.json", '{"prompts": [1]}', "prompts"),
    ("config_sentence_transformers.json", '{"default_prompt_name": "query"}', "default prompt 'query'"),
])  # fmt: skip
def test_damaged_folders_are_told(folder, file, content, says):
    place = folder(after=("dense",))
    (place / file).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=says):
        encoders.text(str(place))


def test_unknown_modules_are_named(folder):
    place = folder()
    listed = json.loads((place / "modules.json").read_text())
    listed[1]["type"] = "sentence_transformers.models.LSTM"
    (place / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match="module 'LSTM'"):
        encoders.text(str(place))


def test_a_prompt_as_long_as_the_texts(folder):
    with pytest.raises(InputError, match="fills the"):
        encoders.text(str(folder()), prompt="the cat sat on " * 20)


def test_frozen_features_know_what_makes_a_vector(folder, tmp_path):
    """Length, pooling, prompt, layers and the tokenizer are part of a feature's name; so is the preprocessing."""
    prompts = {"q": "the cat: "}
    made = [encoders.text(str(folder(**given)), **more) for given, more in [
        ({}, {}), ({}, {"length": 6}), ({}, {"pooling": "cls"}), ({"pooling": ("cls", "mean")}, {}),
        ({"prompts": prompts, "default": "q"}, {}), ({"prompts": prompts, "default": "q", "pool_prompt": False}, {}),
        ({"lower": True, "kind": "roberta"}, {}), ({"kind": "roberta"}, {}), ({"after": ("normalize", "dense")}, {}),
    ]]  # fmt: skip
    made += [encoders.image("small", size=32), encoders.image("resnet18"), encoders.image("resnet18", size=64)]
    assert len({encoders.Frozen(one).hash() for one in made}) == len(made)
    again = encoders.text(str(folder()))
    assert encoders.Frozen(again).hash() == encoders.Frozen(made[0]).hash()
    long, short = (encoders.Frozen(one).features([LONG], tmp_path, "same") for one in made[:2])
    assert np.abs(long - short).max() > 1e-3


def test_frozen_images_know_their_normalisation():
    one, other = encoders.image("resnet18"), encoders.image("resnet18")
    other.load_state_dict(one.state_dict())
    assert encoders.Frozen(one).hash() == encoders.Frozen(other).hash()
    other.mean += 0.1
    assert encoders.Frozen(one).hash() != encoders.Frozen(other).hash()
