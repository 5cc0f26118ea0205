"""The probe of feature maps: cells and mIoU against loops, readable and unreadable maps."""

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.evaluation import dense_probe
from nearfar.evaluation.dense import cell_labels, mean_iou


def test_cells_take_the_class_under_their_centre():
    mask = np.arange(24).reshape(1, 4, 6)
    assert cell_labels(mask, 2, 3).tolist() == [[[7, 9, 11], [19, 21, 23]]]
    assert (cell_labels(mask, 4, 6) == mask).all()
    with pytest.raises(InputError, match="at least as large"):
        cell_labels(mask, 8, 3)


def test_mean_iou_equals_the_loop():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    expected = np.mean([((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum() for c in range(4)])
    assert mean_iou(a, b) == pytest.approx(expected, abs=1e-6)
    assert mean_iou(a, a) == pytest.approx(1.0)
    assert mean_iou([2, 2], [2, 2]) == 1.0
    assert mean_iou([10, 70], [70, 10]) == 0.0


def scenes(n, seed):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (n, 4, 4)).repeat(2, 1).repeat(2, 2)
    return masks, np.eye(3)[masks[:, ::2, ::2]].transpose(0, 3, 1, 2) + 0.1 * rng.normal(size=(n, 3, 4, 4))


def test_a_readable_map_scores_one_and_noise_does_not():
    masks, maps = scenes(20, 0)
    test_masks, test_maps = scenes(10, 1)
    found = dense_probe(maps, masks, test_maps, test_masks)
    assert found.miou == pytest.approx(1.0)
    assert found.foreground == found.accuracy == 1.0
    assert found.cells == 160
    noise = np.random.default_rng(2).normal(size=(30, 3, 4, 4))
    assert dense_probe(noise[:20], masks, noise[20:], test_masks).miou < 0.35


def test_ignored_pixels_are_left_out():
    masks, maps = scenes(20, 0)
    test_masks, test_maps = scenes(10, 1)
    test_masks[:5] = -1
    assert dense_probe(maps, masks, test_maps, test_masks).cells == 80


def test_wrong_input():
    masks, maps = scenes(4, 0)
    with pytest.raises(InputError, match="one for each mask"):
        dense_probe(maps[:3], masks, maps, masks)
    with pytest.raises(InputError, match="one class only"):
        dense_probe(maps, np.zeros_like(masks), maps, masks)
