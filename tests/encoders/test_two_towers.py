"""CLIP, SigLIP and ViT folders of transformers: the vectors are those of transformers, and they serve as models."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

import nearfar
from nearfar import encoders
from nearfar.cli import main
from nearfar.encoders.two_towers import both_of
from nearfar.errors import InputError
from nearfar.models import save_model
from tests import stopping
from tests.colours import write_colours

TEXTS = ["a red square", "blue", "the green triangle of a photo", ""]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "grey": (60, 60, 60)}


def tokenizer(kind):
    """Byte pairs of a few texts, with the special tokens that the kind of model has around a text."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    made.train_from_iterator(TEXTS * 5, trainer)
    before = "<s> " if kind == "clip" else ""
    made.post_processor = processors.TemplateProcessing(
        single=f"{before}$A </s>", pair=f"{before}$A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   pad_token="</s>", model_max_length=16)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("hub")
    small = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "hidden_size": 32, "max_position_embeddings": 16, "vocab_size": 300, "bos_token_id": 0,
            "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    vision = {**small, "hidden_size": 48, "image_size": 32, "patch_size": 8}
    made = {
        "clip": (CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)),
                 CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})),
        "siglip": (SiglipModel(SiglipConfig(text_config={**text, "projection_size": 48}, vision_config=vision)),
                   SiglipImageProcessor(size={"height": 32, "width": 32})),
        "vit": (ViTModel(ViTConfig(**vision), add_pooling_layer=False), CLIPImageProcessor()),
    }  # fmt: skip
    for name, (model, processor) in made.items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
        if name != "vit":
            tokenizer(name).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    return write_colours(folder, COLOURS, 80, lambda rng, name, i: f"a square of {name} number {i}")


def drawn(size=32):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(5)]


@torch.inference_mode()
def theirs(folder, kind):
    """What transformers gives, with the padding and the normalisation of its own files."""
    model = AutoModel.from_pretrained(folder).eval()
    processor = (CLIPImageProcessor if kind == "clip" else SiglipImageProcessor).from_pretrained(folder)
    images = model.get_image_features(**processor(images=drawn(), return_tensors="pt"))
    given = AutoTokenizer.from_pretrained(folder)(
        TEXTS, return_tensors="pt", padding=True if kind == "clip" else "max_length", truncation=True
    )
    if kind == "siglip":
        given = {"input_ids": given["input_ids"]}
    else:
        given = {name: given[name] for name in ("input_ids", "attention_mask")}
    texts = model.get_text_features(**given)
    return [getattr(z, "pooler_output", z).numpy() for z in (images, texts)]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_vectors_are_those_of_transformers(kind, folders):
    images, texts = theirs(folders / kind, kind)
    made = both_of(folders / kind)
    np.testing.assert_allclose(encoders.vectors(made["image"], drawn()), images, atol=2e-5)
    np.testing.assert_allclose(encoders.vectors(made["text"], TEXTS), texts, atol=2e-5)
    assert made["text"].special.fill == (kind == "siglip")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_vectors_put_in_by_hand_take_the_place_of_tokens(kind, folders):
    encoder = both_of(folders / kind)["text"].eval()
    x = encoder.prepare(TEXTS)
    given = encoder.embedded(x)
    assert torch.equal(encoder(given), encoder(x))
    changed = given._replace(vectors=given.vectors.detach().clone().requires_grad_())
    encoder(changed).sum().backward()
    assert changed.vectors.grad[0].abs().sum() > 0
    assert not torch.allclose(encoder(given._replace(vectors=given.vectors + 1)), encoder(x))


def test_an_encoder_of_images_alone(folders, tmp_path):
    model = ViTModel.from_pretrained(folders / "vit", add_pooling_layer=False).eval()
    encoder = encoders.image(str(folders / "vit")).eval()
    x = encoder.prepare(drawn())
    with torch.inference_mode():
        whole = model(pixel_values=(x - encoder.mean) / encoder.std).last_hidden_state
        np.testing.assert_allclose(encoder(x), whole[:, 0], atol=2e-5)
        np.testing.assert_allclose(encoder.feature_map(x).flatten(2).transpose(1, 2), whole[:, 1:], atol=2e-5)
    save_model(tmp_path / "model", {"image": encoder})
    np.testing.assert_allclose(
        nearfar.load(tmp_path / "model", verify=True).embed_images(drawn()),
        nearfar.load(folders / "vit").embed_images(drawn()),
        atol=1e-5,
    )


def test_missing_weights_are_told(folders, tmp_path):
    shutil.copytree(folders / "clip", tmp_path / "clip")
    state = load_file(tmp_path / "clip" / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "clip" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights: visual_projection\.weight"):
        nearfar.load(tmp_path / "clip")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_folder_is_a_model(kind, folders, captions, tmp_path):
    images, texts = theirs(folders / kind, kind)
    model = nearfar.load(folders / kind)
    np.testing.assert_allclose(model.embed_texts(TEXTS), texts / np.linalg.norm(texts, axis=1)[:, None], atol=2e-5)
    np.testing.assert_allclose(model.embed_images(drawn()), images / np.linalg.norm(images, axis=1)[:, None], atol=2e-5)
    assert model.modalities == ["image", "text"]
    assert model.hash == nearfar.load(folders / kind).hash
    index = tmp_path / "index"
    assert main(["embed", str(folders / kind), str(captions), "--out", str(index)]) == 0
    assert main(["search", str(index), "a red square", "--k", "2"]) == 0
    assert main(["evaluate", str(folders / kind), str(captions), "--task", "zero-shot", "--label", "colour"]) == 0
    with pytest.raises(InputError, match="holds no examples to verify"):
        nearfar.load(folders / kind, verify=True)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_saved_model_gives_the_same_vectors(kind, folders, tmp_path):
    made = both_of(folders / kind)
    save_model(tmp_path / "model", made)
    loaded = nearfar.load(tmp_path / "model", verify=True)
    images, texts = theirs(folders / kind, kind)
    np.testing.assert_allclose(loaded.embed_texts(TEXTS), texts / np.linalg.norm(texts, axis=1)[:, None], atol=2e-5)
    assert loaded.embed_images(drawn()).shape == images.shape


def run(slug, captions, out, **given):
    return nearfar.fit(slug, captions, out=out, batch_size=16, val_every=0, **given)


@pytest.mark.parametrize("method", ["pairs", "align"])
def test_training_starts_from_a_whole_model_with_its_heads(method, captions, tmp_path):
    run(method, captions, tmp_path / "first", steps=8, head="linear", dim=20)
    first = nearfar.load(tmp_path / "first" / "model")
    run(method, captions, tmp_path / "same", steps=1, lr=1e-12, weight_decay=0.0, model=str(tmp_path / "first"))
    same = nearfar.load(tmp_path / "same" / "model")
    np.testing.assert_allclose(same.embed_texts(TEXTS[:3]), first.embed_texts(TEXTS[:3]), atol=1e-4)
    assert same.dim == 20
    run(method, captions, tmp_path / "new", steps=1, lr=1e-12, head="linear", dim=24, model=str(tmp_path / "first"))
    assert nearfar.load(tmp_path / "new" / "model").dim == 24


def test_a_clip_folder_is_fine_tuned(folders, captions, tmp_path):
    run("align", captions, tmp_path / "still", steps=1, lr=1e-12, weight_decay=0.0, model=str(folders / "clip"))
    before, still = nearfar.load(folders / "clip"), nearfar.load(tmp_path / "still" / "model")
    np.testing.assert_allclose(still.embed_texts(TEXTS), before.embed_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(still.embed_images(drawn()), before.embed_images(drawn()), atol=1e-5)
    trained = run("align", captions, tmp_path / "run", steps=60, lr=1e-3, model=str(folders / "clip"), label="colour")
    scores = {
        str(one): nearfar.evaluate(one, captions, task="zero-shot", label="colour", on="train")["rows"][0]["primary"]
        for one in (folders / "clip", trained.path)
    }
    assert scores[str(trained.path)] > scores[str(folders / "clip")] + 0.1


def test_adapters_of_both_towers(folders, captions, tmp_path):
    run("align", captions, tmp_path / "run", steps=6, model=str(folders / "clip"), lora=2)
    before, after = nearfar.load(folders / "clip"), nearfar.load(tmp_path / "run" / "model", verify=True)
    for role in ("image", "text"):
        a, b = (model.roles[role].encoder.state_dict() for model in (before, after))
        changed = [name for name in a if not torch.equal(a[name], b[name])]
        assert changed
        assert all("layers" in name for name in changed)


def test_a_run_from_a_clip_folder_goes_on_as_if_uninterrupted(folders, captions, tmp_path):
    given = {"model": str(folders / "clip"), "lr": 1e-3, "save_every": 4, "steps": 8, "batch_size": 16, "val_every": 0}
    body = "import nearfar\nnearfar.fit(method, table, out=out, **json.loads(options))"
    parts = tmp_path / "parts"
    assert stopping.start(body, parts, "pairs", captions, parts, json.dumps(given), 4).returncode != 0
    assert not (parts / "model").exists()
    nearfar.fit("pairs", captions, out=parts, resume=True, **given)
    nearfar.fit("pairs", captions, out=tmp_path / "whole", **given)
    a, b = (nearfar.load(tmp_path / name / "model") for name in ("whole", "parts"))
    np.testing.assert_array_equal(a.embed_texts(TEXTS), b.embed_texts(TEXTS))
    np.testing.assert_array_equal(a.embed_images(drawn()), b.embed_images(drawn()))


def test_one_tower_alone_of_a_folder(folders, captions, tmp_path):
    run("simclr", captions.parent, tmp_path / "run", steps=2, encoder=str(folders / "clip"))
    assert nearfar.load(tmp_path / "run" / "model", verify=True).dim == 24
    run("pairs", captions, tmp_path / "pairs", steps=2, text_encoder=str(folders / "clip"))
    assert nearfar.load(tmp_path / "pairs" / "model", verify=True).modalities == ["image", "text"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "{clip}", "--text-encoder", "tiny"], "brings its own encoder of texts. Leave out --text-encoder"),
        (["--model", "nowhere"], "There is no model folder nowhere"),
        (["--model", "{captions}"], "is not a model folder"),
        (["--head", "own"], "head=own takes the heads of the model"),
        (["--encoder", "{clip}", "--weights", "{clip}"], "--encoder names a folder with weights of its own"),
        (["--encoder", "{captions}"], "holds no model of transformers that takes images"),
        (["--encoder", "{clip}", "--channels", "orientation"], "has channels of its own"),
        (["--encoder", "{clip}", "--image-size", "64"], "has size of its own: 32 pixels"),
    ],
)
def test_wrong_models_to_start_from(words, message, folders, captions, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [word.format(clip=folders / "clip", captions=captions.parent) for word in words]
    assert main(["fit", "pairs", str(captions), "--steps", "2", *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def test_a_damaged_folder_is_told(folders, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip", "text_config": {}, "vision_config": {}}')
    with pytest.raises(InputError, match="cannot be loaded"):
        nearfar.load(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="neither of nearfar nor of transformers"):
        nearfar.load(tmp_path)


OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "patch_size": 8, "head_width": 24},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.48, 0.45, 0.40], "std": [0.26, 0.26, 0.27]},
}


@pytest.fixture(scope="module", params=["clip", "custom text", "siglip"])
def open_clip_folder(request, tmp_path_factory):
    """A small model of open_clip with random weights, and what the library gives of it: folder, images, texts."""
    library = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("open") / "model"
    folder.mkdir()
    said = {**OPEN_CLIP, "model_cfg": {**OPEN_CLIP["model_cfg"], "custom_text": request.param != "clip"}}
    if request.param == "siglip":
        tokenizer("siglip").save_pretrained(folder)
        said["model_cfg"]["text_cfg"] = {**said["model_cfg"]["text_cfg"], "vocab_size": 300, "pool_type": "last",
                                         "hf_tokenizer_name": "its-own", "no_causal_mask": True, "proj_bias": True,
                                         "tokenizer_kwargs": {"clean": "canonicalize"}}  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(said))
    torch.manual_seed(0)
    made = library.create_model(f"local-dir:{folder}", load_weights=False).eval()
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / "open_clip_model.safetensors")
    mean, std = (torch.tensor(said["preprocess_cfg"][k]).view(3, 1, 1) for k in ("mean", "std"))
    pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in drawn()])
    with torch.inference_mode():
        images = made.encode_image((pixels - mean) / std).numpy()
        texts = made.encode_text(library.get_tokenizer(f"local-dir:{folder}")(TEXTS)).numpy()
    return folder, images, texts


def test_a_folder_of_open_clip_is_a_model(open_clip_folder, captions, tmp_path):
    folder, images, texts = open_clip_folder
    images, texts = (z / np.linalg.norm(z, axis=1)[:, None] for z in (images, texts))
    model = nearfar.load(folder)
    np.testing.assert_allclose(model.embed_images(drawn()), images, atol=2e-5)
    np.testing.assert_allclose(model.embed_texts(TEXTS), texts, atol=2e-5)
    save_model(tmp_path / "model", {role: tower.encoder for role, tower in model.roles.items()})
    saved = nearfar.load(tmp_path / "model", verify=True)
    np.testing.assert_allclose(saved.embed_texts(TEXTS), texts, atol=2e-5)
    run("align", captions, tmp_path / "run", steps=3, model=str(folder))
    assert nearfar.load(tmp_path / "run" / "model", verify=True).dim == 24
    with pytest.raises(InputError, match="would be cut off"):
        nearfar.predict(folder, captions, classes="red,blue", templates="{} " + "photo " * 20)


def test_a_damaged_folder_of_open_clip_is_told(open_clip_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match="open_clip_config"):
        nearfar.load(tmp_path)
    shutil.copy(open_clip_folder[0] / "open_clip_config.json", tmp_path)
    with pytest.raises(InputError, match="cannot be loaded"):
        nearfar.load(tmp_path)
