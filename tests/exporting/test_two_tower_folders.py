"""CLIP, SigLIP and open_clip folders as ONNX files, and image towers of 8 bits, by onnxruntime alone."""

import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar import encoders, heads
from tests.encoders.test_two_towers import drawn, folders, open_clip_folder  # noqa: F401
from tests.exporting.test_export import TEXTS, batch_statistics, embed_by_hand, embed_texts, images, saved

SHORT = [one for one in TEXTS if one][:4]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_both_towers_of_a_folder(kind, folders, tmp_path):  # noqa: F811
    model = nearfar.load(folders / kind)
    done = nearfar.export(folders / kind, "onnx", tmp_path / "out")
    assert sorted(done.towers) == ["image", "text"]
    assert max(one.difference for one in done.towers.values()) < 1e-4
    pixels = embed_by_hand(tmp_path / "out", "image", images())
    words = embed_texts(tmp_path / "out", "text", SHORT)
    assert np.abs(pixels @ words.T - model.embed_images(images()) @ model.embed_texts(SHORT).T).max() < 1e-4


def test_int8_of_images_is_measured(tmp_path):
    torch.manual_seed(0)
    image = batch_statistics(encoders.image(size=16, dim=24), torch.rand(64, 3, 16, 16))
    saved(tmp_path / "m", {"image": (image, heads.linear(24, 16))})
    done = nearfar.export(tmp_path / "m", "onnx", tmp_path / "out", int8=True, data="digit-operations")
    one = done.towers["image"]
    assert one.int8_bytes < one.bytes
    assert 0.3 < one.recall <= 1
    assert json.loads((tmp_path / "out" / "measured.json").read_text())["image"]["recall"] == one.recall
