"""Image encoders: shapes, weights from files, preparation of images, orientation channels."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

from nearfar import encoders
from nearfar.encoders.images import orientation_channels
from nearfar.errors import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", ["rgb", "orientation"])
@pytest.mark.parametrize("name", ["small", "resnet10t", "vit_tiny_patch16_224", "test_convnext"])
def test_vectors_maps_and_gradients(name, channels):
    torch.manual_seed(0)
    encoder = encoders.image(name, size=32, channels=channels).train()
    x = torch.rand(3, 3, 32, 32)
    out = encoder(x)
    assert out.shape == (3, encoder.dim)
    assert encoder.feature_map(x).ndim == 4
    assert len(encoder.feature_map(x)) == 3
    out.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_small_takes_any_size_and_its_vector_is_the_mean_of_its_map():
    encoder = encoders.image().eval()
    for size in ((8, 8), (32, 32), (14, 20)):
        x = torch.rand(2, 3, *size)
        assert_close(encoder(x), encoder.out(encoder.feature_map(x).mean((2, 3))))
    assert encoder.feature_map(torch.rand(2, 3, 32, 32)).shape == (2, 192, 4, 4)
    with pytest.raises(InputError, match="8 x 8"):
        encoder(torch.rand(1, 3, 6, 6))


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_a_grid_averages_the_parts_of_the_map(size):
    encoder = encoders.image(grid=2, dim=7).eval()
    x = torch.rand(2, 3, *size)
    found = encoder.feature_map(x)
    h, w = found.shape[-2:]
    halves = [(slice(0, -(-h // 2)), slice(h // 2, h)), (slice(0, -(-w // 2)), slice(w // 2, w))]
    parts = torch.stack([torch.stack([found[:, :, a, b].mean((2, 3)) for b in halves[1]], 2) for a in halves[0]], 2)
    assert_close(encoder(x), encoder.out(parts.flatten(1)))
    assert encoders.image(grid=3, dim=0).dim == 9 * 192


def test_a_grid_is_kept_and_a_folder_without_one_has_one_part():
    config = encoders.image(grid=4).config()
    assert encoders.from_config(config).grid == 4
    del config["grid"]
    assert encoders.from_config(config).grid == 1


def test_a_grid_is_the_small_encoders():
    with pytest.raises(InputError, match="'grid' is an option of the encoder 'small'; 'resnet10t'"):
        encoders.image("resnet10t", grid=2)
    with pytest.raises(InputError, match="grid"):
        encoders.image(grid=0)


@pytest.mark.parametrize("name", ["small", "resnet10t", "vit_tiny_patch16_224"])
def test_maps_of_every_layer(name):
    encoder = encoders.image(name, size=64).eval()
    x = torch.rand(2, 3, 64, 64)
    maps = [encoder.feature_map(x, layer) for layer in range(1, encoder.layers + 1)]
    sides = [one.shape[-1] for one in maps]
    assert all(one.ndim == 4 and len(one) == 2 for one in maps)
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] == encoder.feature_map(x).shape[-1]
    with pytest.raises(InputError, match=f"layers 1 to {encoder.layers}. Got layer 0"):
        encoder.feature_map(x, 0)


def test_maps_of_joined_encoders_stand_side_by_side():
    parts = [encoders.image(size=16), encoders.image(size=16)]
    joined, x = encoders.Joined(parts).eval(), torch.rand(2, 3, 16, 16)
    assert_close(joined.feature_map(x, 3)[:, 128:], parts[1].feature_map(x, 3))
    with pytest.raises(InputError, match="layers 1 to 4"):
        joined.check_layer(5)


def test_transformer_map_keeps_the_grid():
    encoder = encoders.image("vit_tiny_patch16_224", size=64).eval()
    x = torch.rand(2, 3, 64, 48)
    tokens = encoder.model.forward_features((x - encoder.mean) / encoder.std)[:, 1:]
    assert encoder.feature_map(x).shape == (2, 192, 4, 3)
    assert_close(encoder.feature_map(x)[:, :, 1, 2], tokens[:, 5])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_without_the_classifier(tmp_path, suffix):
    import timm

    torch.manual_seed(3)
    theirs = timm.create_model("resnet10t", num_classes=5).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, path)
    else:
        save_file(theirs.state_dict(), path)
    ours = encoders.image("resnet10t", size=64, weights=path).eval()
    x = torch.rand(2, 3, 64, 64)
    expected = theirs.forward_head(theirs.forward_features((x - ours.mean) / ours.std), pre_logits=True)
    assert_close(ours(x), expected)


def test_weights_that_do_not_fit_are_told(tmp_path):
    import timm

    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    with pytest.raises(InputError, match="are missing"):
        encoders.image("small", weights=path)
    with pytest.raises(InputError, match="has shape"):
        encoders.image("resnet10t", weights=path, channels="orientation")
    with pytest.raises(InputError, match="no weights file"):
        encoders.image("small", weights=tmp_path / "none.pth")
    torch.save({"model": encoders.image()}, path)
    with pytest.raises(InputError, match="cannot be read as weights"):
        encoders.image("small", weights=path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="cannot be read as weights"):
        encoders.image("small", weights=path)


def test_names_and_sizes_that_are_wrong_are_told():
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        encoders.image("resnet_18")
    with pytest.raises(InputError, match="Did you mean 'small'"):
        encoders.image("smal")
    with pytest.raises(InputError, match="'vit_tiny_patch16_224'"):
        encoders.image("vit_tiny_patch16_224", size=9)
    with pytest.raises(InputError, match="at least 8"):
        encoders.image(size=4)
    with pytest.raises(InputError, match="Did you mean 'orientation'"):
        encoders.image(channels="orientations")


def test_prepare_takes_paths_images_arrays_and_batches(tmp_path):
    encoder = encoders.image(size=16)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    items = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels]
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    assert_close(encoder.prepare(items), expected.expand(4, -1, -1, -1))
    assert_close(encoder.prepare(pixels.transpose(2, 0, 1)[None]), expected[None])


def test_prepare_fits_and_lays_transparency_on_white():
    encoder = encoders.image(size=16)
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 18:42] = 200  # the centre square and its neighbours
    as_batch = encoder.prepare(wide.transpose(2, 0, 1)[None])
    assert_close(encoder.prepare([wide]), torch.full((1, 3, 16, 16), 200 / 255))
    assert_close(as_batch, torch.full((1, 3, 16, 16), 200 / 255))
    tall = np.random.default_rng(0).integers(0, 256, (45, 20, 3), dtype=np.uint8)
    assert_close(encoder.prepare([tall]), encoder.prepare(tall.transpose(2, 0, 1)[None]), atol=1.01 / 255, rtol=0)
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert_close(encoder.prepare([clear]), torch.ones(1, 3, 16, 16))


def test_prepare_tells_what_it_cannot_read(tmp_path):
    encoder = encoders.image(size=16)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        encoder.prepare([tmp_path / "a.png"])
    with pytest.raises(InputError, match="cannot be read"):
        encoder.prepare([tmp_path / "none.png"])
    with pytest.raises(InputError, match="uint8"):
        encoder.prepare(np.zeros((1, 3, 4, 4), np.float32))


def test_orientation_channels_see_the_direction_of_an_edge():
    ramp = torch.linspace(0, 1, 24).expand(1, 3, 24, 24)
    across, down = orientation_channels(ramp)[0, :, 12, 12], orientation_channels(ramp.transpose(2, 3))[0, :, 12, 12]
    assert across.argmax() == 0
    assert down.argmax() == 3
    assert_close(across, down.roll(3), atol=1e-5, rtol=0)
    assert_close(orientation_channels(1 - ramp)[0, :, 12, 12], across, atol=1e-5, rtol=0)  # direction modulo pi
    flat = torch.full((1, 3, 9, 9), 0.4, requires_grad=True)
    orientation_channels(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()
    assert orientation_channels(flat).max() < 0.01


def test_config_rebuilds_the_encoder():
    for encoder in (encoders.image(channels="orientation", dim=24), encoders.image("resnet10t", size=48)):
        again = encoders.from_config(encoder.config())
        again.load_state_dict(encoder.state_dict())
        assert again.config() == encoder.config()
        x = torch.rand(2, 3, encoder.size, encoder.size)
        assert_close(again.eval()(x), encoder.eval()(x))
    with pytest.raises(InputError, match="has no 'name'"):
        encoders.from_config({"modality": "image"})


def test_frozen_features_are_made_once(tmp_path):
    frozen = encoders.Frozen(encoders.image(size=16)).train()
    images = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=generator()).numpy()
    assert not frozen.encoder.training
    assert not frozen(frozen.prepare(images)).requires_grad
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    calls = []
    first = frozen.features(images, tmp_path, "data", 4, lambda done, n: calls.append(done))
    second = frozen.features(images, tmp_path, "data", 4, lambda done, n: calls.append(done))
    assert calls == [4, 8, 10]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, frozen(frozen.prepare(images)).numpy(), atol=1e-5)
    frozen.features(images, tmp_path, "other data", 4, lambda done, n: calls.append(done))
    assert len(calls) == 6
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    other = encoders.Frozen(encoders.image(size=16))
    assert other.hash() != frozen.hash()
