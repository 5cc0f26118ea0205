"""The probes of feature maps: cells, pixels and mIoU against loops and torchmetrics, readable and unreadable maps."""

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.evaluation import dense_probe
from nearfar.evaluation.dense import (
    Segmenter,
    bootstrap_miou,
    cell_labels,
    class_counts,
    ious,
    mean_iou,
    mean_iou_of,
    read_at,
    segmentation_probe,
)


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


def masks_and_maps(n, seed, side=8, noise=0.1):
    """Blocky masks of three classes, and maps (n, 3, 4, 4) from which they can be read."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (n, 4, 4)).repeat(side // 4, 1).repeat(side // 4, 2).astype(np.uint8)
    maps = np.eye(3)[masks[:, :: side // 4, :: side // 4]].transpose(0, 3, 1, 2)
    return (maps + noise * rng.normal(size=maps.shape)).astype(np.float32), masks


def test_the_scores_of_a_probe_equal_its_scores_on_an_enlarged_map():
    rng = np.random.default_rng(0)
    probe = Segmenter(
        np.array([0, 7, 9], np.uint8), rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    )
    maps = rng.normal(size=(2, 5, 4, 4)).astype(np.float32)
    rows, columns = (x.reshape(1, -1).repeat(2, 0) for x in np.mgrid[:9, :9])
    features = read_at(maps, rows, columns, (9, 9))
    expected = probe.classes[(features @ probe.weight.T + probe.bias).argmax(-1)].reshape(2, 9, 9)
    assert (probe(maps, 9) == expected).all()


def test_every_pixel_of_a_readable_map():
    train, val, test = (masks_and_maps(n, seed) for seed, n in enumerate((40, 20, 20)))
    found = segmentation_probe([train], [val], [test], [0, 1, 2])
    noise = [(np.random.default_rng(9).normal(size=x.shape), masks) for x, masks in (train, val, test)]
    blind = segmentation_probe(*[[part] for part in noise], [0, 1, 2])
    assert found.miou > 0.85  # what is missing lies along the edges: scores are enlarged bilinearly
    assert found.miou > blind.miou + 0.4
    assert found.counts.shape == (20, 3, 3)
    assert found.counts.sum((0, 2)).tolist()[1:] == [20 * 64] * 2


def test_batches_change_nothing():
    parts = [masks_and_maps(n, seed) for seed, n in enumerate((40, 20, 20))]
    whole = segmentation_probe(*[[part] for part in parts], [0, 1, 2], each=4)
    val, test = ([(x[:7], y[:7]), (x[7:], y[7:])] for x, y in parts[1:])
    cut = segmentation_probe([parts[0]], val, test, [0, 1, 2], each=4)
    assert (whole.counts == cut.counts).all()


def test_pixels_of_no_class_and_absent_classes():
    parts = [masks_and_maps(n, seed) for seed, n in enumerate((40, 20, 20))]
    parts[2][1][:5] = 255
    parts[0][1][:, :4][parts[0][1][:, :4] == 1] = 255
    found = segmentation_probe(*[[part] for part in parts], [0, 1, 2, 4])
    assert (found.counts[:5] == 0).all()
    assert np.isnan(ious(found.counts.sum(0))[3])  # class 4 occurs nowhere
    only = [(x, np.zeros_like(y)) for x, y in parts]
    with pytest.raises(InputError, match="one class only"):
        segmentation_probe([only[0]], [only[1]], [only[2]], [0, 1])
    with pytest.raises(InputError, match="maps must be"):
        segmentation_probe([(parts[0][0][:3], parts[0][1])], [], [], [0, 1])


def test_two_classes_are_read_as_well_as_three():
    parts = [(x, np.minimum(y, 1)) for x, y in (masks_and_maps(n, seed) for seed, n in enumerate((40, 20, 20)))]
    assert segmentation_probe(*[[part] for part in parts], [0, 1]).miou > 0.85


def test_counts_and_miou_equal_torchmetrics_and_the_loop():
    import torch
    from torchmetrics.classification import MulticlassJaccardIndex

    rng = np.random.default_rng(0)
    found, truth = rng.integers(0, 4, (2, 5, 6, 6)).astype(np.uint8)
    truth[0, 0] = 255
    counted = class_counts(found, truth, [0, 1, 2, 3])
    for n in range(5):
        here = truth[n] != 255
        for c in range(4):
            true, seen = (truth[n] == c) & here, (found[n] == c) & here
            assert counted[n, :, c].tolist() == [(true & seen).sum(), true.sum(), seen.sum()]
    peer = MulticlassJaccardIndex(4, ignore_index=255)(*(torch.from_numpy(x.astype(np.int64)) for x in (found, truth)))
    assert mean_iou_of(counted.sum(0)) == pytest.approx(float(peer), abs=1e-6)
    assert class_counts(np.full((1, 2, 2), 9), np.full((1, 2, 2), 5), [5, 9]).tolist() == [[[0, 0], [4, 0], [0, 4]]]


def test_the_interval_covers_the_miou_and_knows_units():
    rng = np.random.default_rng(0)
    both, *more = rng.integers(10, 50, (3, 60, 4))
    counted = np.stack([both, both + more[0], both + more[1]], 1)
    apart = bootstrap_miou(counted)
    assert apart.low < apart.mean < apart.high
    assert apart.mean == mean_iou_of(counted.sum(0))
    assert bootstrap_miou(counted).bounds == apart.bounds
    twins = bootstrap_miou(np.concatenate([counted, counted]), np.tile(np.arange(60), 2))
    assert twins.high - twins.low == pytest.approx(apart.high - apart.low, rel=0.05)  # copies tell nothing new
    assert bootstrap_miou(counted[:1]).bounds is None
