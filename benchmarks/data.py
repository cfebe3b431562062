"""How fast images arrive, and how long training waits for them.

    python -m benchmarks.data

Rates in images/s, each the median of several passes that take turns: 32 × 32 images in memory,
64 × 64 images from a folder of 256 × 256 JPEGs and from a packed file, and a torch DataLoader with
as many workers on the same folder (with requirements-torch.txt). Then the share of a training step
that is spent on data, for the digits and the CIFAR-10 recipes: blocks of steps with the pipeline
take turns with blocks that use one batch on the devices again and again.
"""

import functools
import json
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np
from absl import app, flags, logging
from PIL import Image

from iddpm_jax.config.build_data import build_source
from iddpm_jax.config.build_model import build_model, with_fast_convolutions
from iddpm_jax.config.build_training import build_objective, build_optimizer
from iddpm_jax.data import DataOptions, InMemorySource, load_source, make_batches, packing
from iddpm_jax.data.images import decode_image
from iddpm_jax.data.packed_writer import PackedWriter
from iddpm_jax.data.pixels import to_float
from iddpm_jax.distributed.mesh import make_mesh, shard_batch
from iddpm_jax.recipes import cifar10_cosine, digits
from iddpm_jax.training.prefetch import DeviceBatches
from iddpm_jax.training.step import make_init, make_train_step

_FILES = flags.DEFINE_integer("files", 600, "JPEGs in the folder.", lower_bound=128)
_WORKERS = flags.DEFINE_integer("workers", 2, "Threads, and processes of torch.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Passes of each kind.", lower_bound=1)

BATCH, SIZE = 64, 64
_BLOCKS = 7


def write_jpegs(folder: pathlib.Path, count: int) -> None:
    """256 × 256 crops of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    photos, random = load_sample_images().images, np.random.default_rng(0)
    for i in range(count):
        photo = photos[i % len(photos)]
        top, left = (int(random.integers(0, limit - 256)) for limit in photo.shape[:2])
        crop = photo[top : top + 256, left : left + 256]
        Image.fromarray(crop).save(folder / f"photo_{i:05d}.jpg", quality=90)


def memory_source() -> InMemorySource:
    """As many random images as CIFAR-10 has."""
    images = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    return InMemorySource(images, np.zeros(50_000, np.int32))


def ours(source, count: int) -> float:
    """Images/s of the training pipeline."""
    batches = make_batches(source, batch_size=BATCH, seed=0, num_workers=_WORKERS.value)
    next(batches)  # Threads start, buffers fill.
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - start)


def make_torch_loader(folder: pathlib.Path):
    """The same decoding in a torch DataLoader; None without torch."""
    try:
        import torch
    except ImportError:
        return None

    class Files(torch.utils.data.Dataset):
        paths = sorted(folder.iterdir())

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, i):
            pixels = decode_image(self.paths[i].read_bytes(), SIZE, 3)
            return torch.from_numpy(to_float(pixels))

    return torch.utils.data.DataLoader(
        Files(), BATCH, shuffle=True, num_workers=_WORKERS.value, drop_last=True
    )


def torch_rate(loader) -> float:
    """Images/s of one epoch after its first batch."""
    batches = iter(loader)
    next(batches)
    start, count = time.perf_counter(), sum(1 for _ in batches)
    return count * BATCH / (time.perf_counter() - start)


def waiting_share(config, source, steps: int) -> dict[str, float]:
    """How long a step takes with the pipeline, and with one batch that is on the devices."""
    mesh = make_mesh()
    model = with_fast_convolutions(build_model(config), mesh)
    parts = (build_objective(config), model, build_optimizer(config), mesh)
    init, _ = make_init(*parts)
    state, step = init(jax.random.key(0)), make_train_step(*parts)
    iterator = make_batches(
        source, batch_size=config.train.batch_size, seed=0, num_workers=_WORKERS.value
    )
    names = ("image", "label") if config.model.num_classes else ("image",)
    batches = DeviceBatches(iterator, functools.partial(shard_batch, mesh), names)
    same = batches.take()
    state = jax.block_until_ready(step(state, same))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(_BLOCKS):
        for loading in seconds:
            start = time.perf_counter()
            for _ in range(steps):
                state = step(state, batches.take() if loading else same)
                if loading:
                    batches.fetch()
                state = jax.block_until_ready(state)
            seconds[loading].append((time.perf_counter() - start) / steps)
    with_data, without = (statistics.median(seconds[loading]) for loading in (True, False))
    return {
        "ms_per_step": round(1000 * with_data, 2),
        "ms_per_step_without_loading": round(1000 * without, 2),
        "share_waiting": round(max(0.0, 1 - without / with_data), 4),
    }


def main(_) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        folder = root / "jpegs"
        folder.mkdir()
        write_jpegs(folder, _FILES.value)
        origin = packing.folder_origin(folder, SIZE, 3, "none", True)
        packing.pack(origin, PackedWriter(root / "train", (SIZE, SIZE, 3), {}), _WORKERS.value)
        options = {"image_size": SIZE, "channels": 3}
        sources = {
            "memory 32 x 32": (memory_source(), 500),
            "packed 64 x 64": (load_source(DataOptions("packed", dir=str(root), **options)), 100),
            "JPEG folder 64 x 64": (
                load_source(DataOptions("folder", dir=str(folder), cache_mb=0, **options)),
                _FILES.value // BATCH - 1,
            ),
        }
        loader = make_torch_loader(folder)
        rates: dict[str, list[float]] = {}
        for _ in range(_REPEATS.value):
            for name, (source, count) in sources.items():
                rates.setdefault(name, []).append(ours(source, count))
            if loader is not None:
                rates.setdefault("JPEG folder 64 x 64, torch", []).append(torch_rate(loader))
        for name, values in rates.items():
            print(json.dumps({"what": name, "images_per_s": round(statistics.median(values))}))
    config = digits.get_config()
    source = build_source(config)
    print(json.dumps({"what": "digits", **waiting_share(config, source, 60)}))
    config = cifar10_cosine.get_config()
    config.train.batch_size = 4
    print(json.dumps({"what": "CIFAR-10, batch 4", **waiting_share(config, memory_source(), 3)}))


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    app.run(main)
