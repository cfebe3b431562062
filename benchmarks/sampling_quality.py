"""Steps against quality on digits: a Markdown table of samplers and step counts.

    python -m benchmarks.sampling_quality --workdir=runs/digits

Quality is what `digits_judge` says: the share of samples in which a classifier recognises the
requested class, and the Fréchet distance between its hidden features of samples and of the
held-out digits.
"""

import json
import time

import numpy as np
from absl import app, flags

import iddpm_jax
from benchmarks.digits_judge import classifier, features, flat, frechet_distance
from iddpm_jax.data import digits_source

_WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "Work directory of the digits recipe.")
_NUM = flags.DEFINE_integer("num_samples", 500, "Samples for each entry of the table.")
_STEPS = flags.DEFINE_list("steps", ["10", "25", "50", "100", "1000"], "Step counts.")

# Each sampler with the spacing of timesteps that is usual for it.
SPACINGS = {"ddpm": "exact", "ddim": "exact", "dpm-solver++": "logsnr"}


def main(_) -> None:
    network, held_out = classifier(), digits_source("test")
    reference = features(network, held_out.images)
    train = features(network, digits_source("train").images)
    print(f"held-out digits: accuracy {network.score(flat(held_out.images), held_out.labels):.1%}")
    print(f"training digits: Fréchet distance {frechet_distance(train, reference):.2f}")
    model = iddpm_jax.load(_WORKDIR.value)
    total = model.build_diffusion("").num_timesteps
    rows = []
    for sampler, spacing in SPACINGS.items():
        cells = []
        for steps in map(int, _STEPS.value):
            start = time.monotonic()
            images = model.sample(
                _NUM.value,
                sampler=sampler,
                respacing=f"{spacing}{steps}" if steps < total else "",
                batch_size=250,
            )
            requested = np.arange(_NUM.value) % model.num_classes
            accuracy = float((network.predict(flat(images)) == requested).mean())
            distance = frechet_distance(features(network, images), reference)
            row = {"sampler": sampler, "steps": steps, "accuracy": accuracy, "frechet": distance}
            print(json.dumps({**row, "seconds": round(time.monotonic() - start, 1)}), flush=True)
            cells.append(f"{accuracy:.1%} / {distance:.2f}")
        rows.append(f"| {sampler} | " + " | ".join(cells) + " |")
    print("| accuracy / Fréchet distance | " + " | ".join(_STEPS.value) + " |")
    print("| --- |" + " --- |" * len(_STEPS.value))
    print("\n".join(rows))


if __name__ == "__main__":
    app.run(main)
