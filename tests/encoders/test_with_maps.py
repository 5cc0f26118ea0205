"""The vector and the maps of several layers in one pass are those of passes of their own."""

import pytest
import torch

from nearfar import encoders
from nearfar.errors import InputError


def images(size, n=2):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", [1, 2])
def test_of_the_small_network(grid):
    encoder, x = encoders.image("small", 16, grid=grid).eval(), images(16)
    vector, maps = encoder.with_maps(x, (3, 1))
    assert torch.allclose(vector, encoder(x))
    assert [m.shape[1] for m in maps] == encoder.channels_of((3, 1)) == [128, 32]
    for layer, found in zip((3, 1), maps, strict=True):
        assert torch.allclose(found, encoder.feature_map(x, layer))
    assert encoder.with_maps(x, ())[1] == []
    with pytest.raises(InputError, match="layers 1 to 4"):
        encoder.with_maps(x, (5,))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_of_convolutions(name):
    encoder, x = encoders.image(name, 32).eval(), images(32)
    vector, maps = encoder.with_maps(x, (3, 2))
    assert torch.allclose(vector, encoder(x), atol=1e-5)
    for layer, found in zip((3, 2), maps, strict=True):
        assert torch.allclose(found, encoder.feature_map(x, layer), atol=1e-5)


def test_of_tokens_behind_the_last_norm():
    """By the blocks of the transformer, one after the other; its class token is the vector."""
    encoder, x = encoders.image("vit_tiny_patch16_224", 32).eval(), images(32)
    vector, maps = encoder.with_maps(x, (9, 6, 3))
    model, tokens, wanted = encoder.model, None, {}
    tokens = model._pos_embed(model.patch_embed(encoder._input(x)))
    for number, block in enumerate(model.blocks, 1):
        tokens = block(tokens)
        wanted[number] = model.norm(tokens)[:, 1:].transpose(1, 2).reshape(2, 192, 2, 2)
    assert torch.allclose(vector, model.norm(tokens)[:, 0], atol=1e-5)
    assert torch.allclose(vector, encoder(x), atol=1e-5)
    for layer, found in zip((9, 6, 3), maps, strict=True):
        assert torch.allclose(found, wanted[layer], atol=1e-5)
