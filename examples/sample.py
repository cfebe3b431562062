"""Loads a trained model, draws from it, and predicts x_0 from a noisy image.

python -m examples.sample --workdir=runs/digits --out=predictions.png
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import iddpm_jax
from iddpm_jax import diffusion as dm


def predict(model: iddpm_jax.TrainedModel, images: np.ndarray, share: float) -> np.ndarray:
    """What the model makes of images that `share` of the diffusion's steps have made noisy.

    One call of the network: E[x_0 | x_t], not a sample. uint8 [N, H, W, C], there and back.
    """
    diffusion = model.build_diffusion("")  # All timesteps; "ddim50" would be fifty of them.
    t = jnp.full(len(images), round(share * (diffusion.num_timesteps - 1)), jnp.int32)
    x_start = jnp.asarray(images, jnp.float32) / 127.5 - 1
    noise = jax.random.normal(jax.random.key(0), x_start.shape)
    x_t = dm.q_sample(diffusion, x_start, t, noise)
    labels = jnp.arange(len(images)) % model.num_classes if model.num_classes else None

    def model_fn(x_t, timestep):
        return model.model.apply({"params": model.params}, x_t, timestep, y=labels)

    pred_xstart = dm.p_mean_variance(diffusion, model_fn, x_t, t).pred_xstart
    return np.asarray(((jnp.stack([x_t, pred_xstart]) + 1) * 127.5).clip(0, 255), np.uint8)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, help="what `iddpm train --workdir` wrote")
    parser.add_argument("--share", type=float, default=0.5, help="of the steps, 0 to 1")
    parser.add_argument("--respacing", default="logsnr20", help="timesteps to sample with")
    parser.add_argument("--out", default="predictions.png", help="picture to write")
    args = parser.parse_args(argv)

    model = iddpm_jax.load(args.workdir)
    print(model)
    images = model.sample(10, sampler="dpm-solver++", respacing=args.respacing)
    noisy, predicted = predict(model, images, args.share)
    rows = [np.hstack(row) for row in (images, noisy, predicted)]  # Samples, x_t, E[x_0 | x_t].
    picture = np.vstack(rows).repeat(6, 0).repeat(6, 1)
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(args.out)


if __name__ == "__main__":
    main()
