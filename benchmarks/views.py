"""Two-crop views: samples/s of nearfar's batched plan against torchvision's transforms, image by image.

    python benchmarks/views.py [--threads 2] [--pairs 15]

Both make SimCLR's two views (crop 0.2 to 1, flip, jitter at strength 0.5, grey; blur from 96 pixels on) of the same
uint8 images, in one process, in turn. "pil": the usual pipeline from PIL images to float tensors; "tensor":
transforms v2 on uint8 tensors. Prints the median ratio of times over the pairs, with its smallest and largest value.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from nearfar import views

CASES = ((32, 128), (96, 64))  # side in pixels, images a batch


def transforms(side: int, source: str) -> v2.Compose:
    blur = [v2.RandomApply([v2.GaussianBlur(int(0.1 * side) // 2 * 2 + 1)], 0.5)] if side >= 96 else []
    end = (
        [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        if source == "pil"
        else [v2.ToDtype(torch.float32, scale=True)]
    )
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, (0.2, 1.0), interpolation=InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            *blur,
            *end,
        ]
    )


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(side: int, n: int, pairs: int) -> list[dict]:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    batch, generator = torch.from_numpy(pixels), torch.Generator().manual_seed(0)
    plan = views.TwoCrops()
    sources = {"pil": [Image.fromarray(image) for image in pixels.transpose(0, 2, 3, 1)], "tensor": list(batch)}
    rows = []
    for source, images in sources.items():
        change = transforms(side, source)

        def theirs(change=change, images=images):
            return [torch.stack([change(image) for image in images]) for _ in range(2)]

        def ours():
            return plan(batch, generator)

        theirs(), ours()
        times = [(seconds(ours), seconds(theirs)) for _ in range(pairs)]
        ratios = [b / a for a, b in times]
        rows.append(
            {
                "side": side,
                "batch": n,
                "against": source,
                "pairs": pairs,
                "nearfar_samples_per_second": round(n / statistics.median(a for a, _ in times)),
                "torchvision_samples_per_second": round(n / statistics.median(b for _, b in times)),
                "times_faster": {
                    "median": round(statistics.median(ratios), 2),
                    "least": round(min(ratios), 2),
                    "most": round(max(ratios), 2),
                },
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for side, n in CASES for row in measure(side, n, options.pairs)]
    print(
        json.dumps(
            {
                "question": "batched views against per-image transforms",
                "threads": options.threads,
                "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
                "rows": rows,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
