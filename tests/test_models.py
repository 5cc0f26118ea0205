"""Model folders: equal vectors after loading, honest errors, nothing lost when saving fails, equal exports."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar import encoders, heads, models
from nearfar.errors import InputError, NearfarError

from .encoders.transformer_folder import TEXTS, write_bert, write_sentence_transformer

CORPUS = ["a cat sat on the mat", "the dog ran away", "stock prices fell on monday"] * 3


def small_text(seed: int = 0, **options):
    torch.manual_seed(seed)
    return encoders.text("small", texts=CORPUS, vocabulary=120, dim=16, **options)


def images(n: int = 5, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def trained(module: torch.nn.Module, x) -> torch.nn.Module:
    """Batch statistics that are not the initial ones."""
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(x)
    return module


@pytest.fixture
def dual(tmp_path):
    """A model of images and texts in one space."""
    torch.manual_seed(1)
    image = encoders.image(size=16, dim=24)
    trained(image, torch.rand(8, 3, 16, 16))
    head = trained(heads.mlp(16, 20, 10, last_norm=True), torch.randn(30, 16))
    towers = {"image": (image, heads.linear(24, 10)), "text": (small_text(), head)}
    models.save_model(tmp_path / "dual", towers, {"method": "align"}, {"data": "toy", "metrics": {"hit@1": 0.25}})
    return tmp_path / "dual", towers


def test_loaded_vectors_equal_those_before_saving(dual):
    path, towers = dual
    model = models.load(path, verify=True)
    assert model.modalities == ["image", "text"]
    assert model.dim == 10
    assert list(model.roles) == ["image", "text"]
    for role, items in (("image", images()), ("text", TEXTS)):
        encoder, head = towers[role]
        expected = encoders.vectors(encoder, items, head=head)
        expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
        ours = model.embed(items, role)
        assert ours.dtype == np.float32
        assert ours.shape == (len(items), 10)
        np.testing.assert_allclose(ours, expected, atol=1e-7)
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_embed_finds_the_tower_by_what_the_items_are(dual, tmp_path):
    model = models.load(dual[0])
    np.testing.assert_array_equal(model.embed(TEXTS), model.embed_texts(TEXTS))
    batch = images(2)
    files = []
    for i, pixels in enumerate(batch.transpose(0, 2, 3, 1)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    expected = model.embed_images(batch)
    np.testing.assert_allclose(model.embed(files), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed([Image.open(file) for file in files]), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed_images([str(file) for file in files]), expected, atol=1e-6)
    assert model.embed([]).shape == (0, 10)


def test_embedding_does_not_depend_on_the_batch_size(dual):
    model, seen = models.load(dual[0]), []
    texts = TEXTS * 3
    whole = model.embed_texts(texts, batch_size=100)
    parts = model.embed_texts(texts, batch_size=4, progress=lambda done, n: seen.append((done, n)))
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert seen[-1] == (15, 15)
    assert len(seen) == 4


def test_cosine_normalises_and_dot_does_not(tmp_path):
    encoder = small_text()
    raw = encoders.vectors(encoder, TEXTS)
    models.save_model(tmp_path / "dot", {"text": encoder}, {"similarity": "dot"})
    models.save_model(tmp_path / "cosine", {"text": encoder})
    np.testing.assert_allclose(models.load(tmp_path / "dot").embed(TEXTS), raw, atol=1e-7)
    unit = models.load(tmp_path / "cosine").embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1, 1, 0, 1, 1], atol=1e-6)  # the empty text is zero


def test_a_shared_tower_is_stored_once(tmp_path):
    encoder, other = small_text(), small_text(1)
    models.save_model(tmp_path / "shared", {"text": encoder, "text_b": encoder})
    models.save_model(tmp_path / "two", {"text": encoder, "text_b": other})
    shared, two = models.load(tmp_path / "shared"), models.load(tmp_path / "two")
    assert shared.roles["text"] is shared.roles["text_b"]
    np.testing.assert_array_equal(shared.embed(TEXTS, "text"), shared.embed(TEXTS, "text_b"))
    assert np.abs(two.embed(TEXTS, "text") - two.embed(TEXTS, "text_b")).max() > 0.01
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("shared", "two")]
    assert 1.8 < sizes[1] / sizes[0] < 2.2


def test_frozen_encoders_are_stored_as_what_they_hold(tmp_path):
    encoder = small_text()
    models.save_model(tmp_path / "m", {"text": (encoders.Frozen(encoder), heads.linear(16, 4))})
    assert models.load(tmp_path / "m").embed(TEXTS).shape == (5, 4)


def test_hash_follows_weights_and_configuration(tmp_path):
    encoder = small_text()
    first = models.save_model(tmp_path / "a", {"text": encoder}, {"method": "x"}, {"notes": "one"})
    assert models.save_model(tmp_path / "b", {"text": encoder}, {"method": "x"}, {"notes": "two"}) == first
    assert models.save_model(tmp_path / "c", {"text": encoder}, {"method": "y"}) != first
    assert models.save_model(tmp_path / "d", {"text": small_text(5)}, {"method": "x"}) != first
    assert models.load(tmp_path / "a").hash == first


def test_card_and_configuration_can_be_read(dual):
    card = (dual[0] / "README.md").read_text()
    assert "| hit@1 | 0.25 |" in card
    assert "## Data\n\ntoy" in card
    assert "cosine" in card
    assert "Not stated" in card
    config = json.loads((dual[0] / "config.json").read_text())
    assert config["method"] == "align"
    assert config["format"] == models.FORMAT
    assert config["towers"]["image"]["preprocessing"]["size"] == 16


@pytest.mark.parametrize("name", ["model.safetensors", "verify.json", "config.json", "text/tokenizer.json"])
def test_a_missing_file_is_named(dual, name):
    (dual[0] / name).unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        models.load(dual[0])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "text/tokenizer.json"])
def test_a_changed_file_is_named(dual, name):
    path = dual[0] / name
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    with pytest.raises(InputError, match="was changed"):
        models.load(dual[0])
    path.write_bytes(content)
    models.load(dual[0])


def test_wrong_folders_are_told_apart(dual, tmp_path):
    bert = write_bert(tmp_path / "bert")
    transformer = write_sentence_transformer(tmp_path / "st", bert)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no model folder"):
        models.load(tmp_path / "nowhere")
    assert models.load(transformer).modalities == models.load(bert).modalities == ["text"]
    with pytest.raises(InputError, match=r"no config\.json"):
        models.load(tmp_path / "empty")
    with pytest.raises(InputError, match=r"Did you mean .*dual"):
        models.load(tmp_path)
    config = json.loads((dual[0] / "config.json").read_text())
    (dual[0] / "config.json").write_text(json.dumps(config | {"format": models.FORMAT + 1}))
    with pytest.raises(InputError, match=f"reads up to {models.FORMAT}"):
        models.load(dual[0])


def test_verify_notices_other_vectors(dual):
    path = dual[0] / "verify.json"
    stored = json.loads(path.read_text())
    stored["examples"]["text"]["vectors"][1][0] += 0.01
    path.write_text(json.dumps(stored))
    with pytest.raises(NearfarError, match="does not give its stored vectors"):
        models.load(dual[0], verify=True)
    assert models.load(dual[0]).embed(TEXTS).shape == (5, 10)


def test_own_examples_are_stored(tmp_path):
    examples = {"image": list(images(20).transpose(0, 2, 3, 1))}
    models.save_model(tmp_path / "m", {"image": encoders.image(size=16)}, examples=examples)
    stored = json.loads((tmp_path / "m" / "verify.json").read_text())["examples"]["image"]
    assert len(stored["inputs"]) == len(stored["vectors"]) == 16
    np.testing.assert_allclose(models.load(tmp_path / "m").embed(images(20)[:16]), stored["vectors"], atol=1e-5)


def test_saving_again_replaces_and_failing_keeps_the_old_one(dual, monkeypatch):
    path, towers = dual
    before = models.load(path).hash

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(NearfarError, match="No space left"):
        models.save_model(path, towers, {"method": "other"})
    monkeypatch.undo()
    assert models.load(path, verify=True).hash == before
    assert [child.name for child in path.parent.iterdir()] == ["dual"]
    after = models.save_model(path, towers, {"method": "other"})
    assert models.load(path, verify=True).hash == after != before
    assert [child.name for child in path.parent.iterdir()] == ["dual"]


def test_a_place_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name in ("papers", "file", "file/below"):
        with pytest.raises(InputError):
            models.save_model(tmp_path / name, {"text": small_text()})
    assert (tmp_path / "papers" / "thesis.txt").read_text() == "years of work"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["file", "papers"]


def test_what_cannot_be_a_model_is_told(tmp_path):
    text = small_text()
    with pytest.raises(InputError, match="at least one tower"):
        models.save_model(tmp_path / "m", {})
    with pytest.raises(InputError, match="different lengths"):
        models.save_model(tmp_path / "m", {"text": text, "image": encoders.image(size=16)})
    with pytest.raises(InputError, match="Dropout cannot be stored"):
        models.save_model(tmp_path / "m", {"text": (text, torch.nn.Sequential(torch.nn.Dropout()))})
    with pytest.raises(InputError, match="must not set towers"):
        models.save_model(tmp_path / "m", {"text": text}, {"towers": {}})
    with pytest.raises(InputError, match="similarity 'euclid'"):
        models.save_model(tmp_path / "m", {"text": text}, {"similarity": "euclid"})
    assert not (tmp_path / "m").exists()


def test_wrong_calls_are_told(dual, tmp_path):
    models.save_model(tmp_path / "text", {"text": small_text()})
    only_text, both = models.load(tmp_path / "text"), models.load(dual[0])
    with pytest.raises(InputError, match="no image tower"):
        only_text.embed_images(images())
    with pytest.raises(InputError, match="no image tower"):
        only_text.save_timm(tmp_path / "t")
    with pytest.raises(InputError, match="Did you mean 'text'"):
        both.embed(TEXTS, role="texts")
    with pytest.raises(InputError, match="not one"):
        both.embed("a cat")


@pytest.mark.parametrize("kind", ["small", "small with head", "transformer", "transformer with dense and head", "dot"])
def test_sentence_transformers_gives_equal_vectors(tmp_path, kind):
    from sentence_transformers import SentenceTransformer

    head, config = None, {}
    if kind.startswith("transformer"):
        bert = write_bert(tmp_path / "bert")
        folder = write_sentence_transformer(tmp_path / "user", bert, "max", 12) if "dense" in kind else bert
        encoder = encoders.text(str(folder))
    else:
        encoder = small_text()
    if "head" in kind:
        head = trained(heads.mlp(encoder.dim, 20, 8, last_norm=True), torch.randn(30, encoder.dim))
    if kind == "dot":
        config = {"similarity": "dot"}
    models.save_model(tmp_path / "m", {"text": (encoder, head)}, config)
    model = models.load(tmp_path / "m", verify=True)
    assert model.save_sentence_transformer(tmp_path / "st") <= 5e-6  # among them a text of 512 tokens
    theirs = SentenceTransformer(str(tmp_path / "st"), device="cpu", local_files_only=True).encode(TEXTS)
    np.testing.assert_allclose(theirs, model.embed(TEXTS), atol=1e-6)
    assert not (tmp_path / "st" / "raw").exists()
    model.save_sentence_transformer(tmp_path / "st")  # an older export is replaced


@pytest.mark.parametrize(("name", "size"), [("resnet10t", 48), ("vit_tiny_patch16_224", 32)])
def test_timm_gives_equal_vectors(tmp_path, name, size):
    import timm

    torch.manual_seed(0)
    encoder = encoders.image(name, size)
    trained(encoder, torch.rand(4, 3, size, size))
    models.save_model(tmp_path / "m", {"image": encoder})
    model = models.load(tmp_path / "m", verify=True)
    assert model.save_timm(tmp_path / "timm") <= 1e-6
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    said = timm.data.resolve_model_data_config(theirs)
    assert list(said["input_size"]) == [3, size, size]
    mean, std = (torch.tensor(said[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        out = theirs((torch.from_numpy(images(3, size)).float() / 255 - mean) / std)
    np.testing.assert_allclose(torch.nn.functional.normalize(out).numpy(), model.embed(images(3, size)), atol=1e-6)


def test_timm_refuses_what_it_cannot_hold(tmp_path):
    for name, tower in {
        "small": encoders.image(size=16),
        "head": (encoders.image("resnet10t", 32), heads.linear(512, 8)),
        "channels": encoders.image("resnet10t", 32, channels="orientation"),
    }.items():
        models.save_model(tmp_path / name, {"image": tower})
        with pytest.raises(InputError):
            models.load(tmp_path / name).save_timm(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_head_description_round_trip():
    head = trained(heads.mlp(6, 9, 4, layers=3, last_norm=True), torch.randn(20, 6)).eval()
    again = heads.build(heads.describe(head))
    again.load_state_dict(head.state_dict())
    x = torch.randn(5, 6)
    torch.testing.assert_close(again.eval()(x), head(x))


def test_a_copied_folder_is_the_same_model(dual, tmp_path):
    shutil.copytree(dual[0], tmp_path / "copy")
    assert models.load(tmp_path / "copy", verify=True).hash == models.load(dual[0]).hash


def test_a_run_in_place_of_its_model_is_told(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"method": "simclr", "format": 1}')
    (tmp_path / "run" / "model" / "verify.json").write_text("{}")
    with pytest.raises(InputError, match=r"run is a run, not a model folder. Its model is .*run/model"):
        models.load(tmp_path / "run")
