"""The networks against the reference: outputs, features and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import models
from iddpm_jax.models.layers import timestep_embedding
from tests.reference import channels_last, make_network, relative_error

pytestmark = pytest.mark.parity

NETWORK = 1e-4


def _inputs(arrays, name):
    inputs = {
        key: arrays[f"{name}/{key}"]
        for key in ("x", "t", "y", "low_res")
        if f"{name}/{key}" in arrays
    }
    if "low_res" in inputs:
        inputs["low_res"] = channels_last(inputs["low_res"])
    if "y" in inputs:
        inputs["y"] = inputs["y"].astype(np.int32)
    return channels_last(inputs.pop("x")), inputs.pop("t"), inputs


def _evaluate(model, params, x, t, conditions, cotangent):
    """Output, features, and the gradients of sum(output · cotangent)."""

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def grad(params, x):
        output, features = model.apply({"params": params}, x, t, **conditions, return_features=True)
        return jnp.sum(output * cotangent), (output, features)

    (grad_params, grad_x), (output, features) = jax.jit(grad)(params, x)
    return output, features, grad_params, grad_x


def test_networks_equal_reference(golden):
    entries, arrays = golden.json("unet"), golden.npz("unet")
    for name, entry in entries.items():
        model, params = make_network(entry, golden.seed)
        x, t, conditions = _inputs(arrays, name)
        cotangent = channels_last(arrays[f"{name}/cotangent"])
        output, features, grad_params, grad_x = _evaluate(
            model, params, x, t, conditions, cotangent
        )

        def check(what, actual, expected, name=name):
            error = relative_error(actual, expected)
            assert golden.report(f"network: {what}", error) <= NETWORK, name

        check("output", output, channels_last(arrays[f"{name}/output"]))
        check("input gradient", grad_x, channels_last(arrays[f"{name}/grad_x"]))
        if f"{name}/features/middle" in arrays:
            check("middle", features["middle"], channels_last(arrays[f"{name}/features/middle"]))
            for side in ("down", "up"):
                rms = [np.sqrt(np.mean(np.square(h, dtype=np.float64))) for h in features[side]]
                check(f"{side} features (rms)", rms, arrays[f"{name}/features/{side}_rms"])

        gradients = models.params_to_torch(grad_params)
        assert gradients.keys() == entry["grad_norms"].keys()
        # Some gradients are 0 in exact arithmetic (a bias before a norm of one channel a group),
        # and rounding noise in both: what float32 resolves of the largest one bounds the rest.
        noise = np.finfo(np.float32).eps * max(entry["grad_norms"].values())
        for key, expected in entry["grad_norms"].items():
            difference = abs(np.linalg.norm(gradients[key]) - expected)
            error = difference / max(expected, noise / NETWORK)
            assert golden.report("network: gradient norm per parameter", error) <= NETWORK, key


def test_torch_param_shapes_equal_reference(golden):
    for entry in golden.json("unet").values():
        model, _ = make_network(entry, golden.seed)
        expected = {name: tuple(shape) for name, shape in entry["params"].items()}
        assert models.torch_param_shapes(model) == expected


def test_timestep_embedding_equals_reference(golden):
    arrays = golden.npz("losses")
    for key in arrays:
        if key.startswith("emb_") and key != "emb_t":
            embedding = timestep_embedding(arrays["emb_t"], int(key.removeprefix("emb_")))
            # At t = 3999 neighbouring float32 angles are 2e-4 apart.
            error = relative_error(embedding, arrays[key])
            assert golden.report("network: timestep embedding", error) <= NETWORK
