import jax
import numpy as np
import pytest

from iddpm_jax import models
from tests.reference import MODEL_CLASSES


def _shapes(entry):
    return {name: tuple(shape) for name, shape in entry["params"].items()}


def _without(shapes, start):
    return {name: shape for name, shape in shapes.items() if not name.startswith(start)}


def test_infer_architecture_reads_every_golden_network(golden):
    for name, entry in golden.json("unet").items():
        config, arch = entry["config"], models.infer_architecture(_shapes(entry))
        doubled = 2 if config["cls"] == "SuperResModel" else 1
        assert arch.dims == config.get("dims", 2), name
        assert arch.model_channels == config["model_channels"], name
        assert arch.input_channels == doubled * config["in_channels"], name
        assert arch.output_channels == config["out_channels"], name
        assert arch.num_res_blocks == config["num_res_blocks"], name
        assert arch.channel_mult == tuple(config["channel_mult"]), name
        assert arch.attention_resolutions == tuple(config["attention_resolutions"]), name
        assert arch.num_classes == config.get("num_classes"), name
        assert arch.use_scale_shift_norm == config["use_scale_shift_norm"], name
        assert arch.conv_resample == config.get("conv_resample", True), name


def test_infer_architecture_of_published_networks_maps_every_parameter_both_ways(golden):
    seen = []
    for name, entry in golden.json("published_checkpoints").items():
        shapes = _shapes(entry)
        if shapes in seen:  # Three pairs share an architecture.
            continue
        seen.append(shapes)
        arch = models.infer_architecture(shapes)
        [(channels, super_resolution, _)] = arch.readings()
        model = MODEL_CLASSES["SuperResModel" if super_resolution else "UNetModel"](
            model_channels=arch.model_channels,
            out_channels=arch.output_channels,
            num_res_blocks=arch.num_res_blocks,
            attention_resolutions=arch.attention_resolutions,
            channel_mult=arch.channel_mult,
            num_classes=arch.num_classes,
            use_scale_shift_norm=arch.use_scale_shift_norm,
            in_channels=channels,
        )
        # In the reference's order too, by which its optimisers number parameters.
        assert list(models.torch_param_shapes(model).items()) == list(shapes.items()), name
        # Views of one zero: nothing of this size is held in memory.
        weights = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
        tree = models.params_from_torch(weights, model)
        assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == entry["num_params"], name


@pytest.mark.parametrize(
    ("channels", "readings"),
    [
        ((3, 6), [(3, False, True)]),
        ((6, 6), [(3, True, True)]),
        ((2, 2), [(1, True, True), (2, False, False)]),
        ((5, 5), []),
    ],
)
def test_readings_lists_every_way_to_read_the_channels(golden, channels, readings):
    shapes = _shapes(golden.json("unet")["uncond_learn_sigma"])
    shapes["input_blocks.0.0.weight"] = (32, channels[0], 3, 3)
    shapes["out.2.weight"] = (channels[1], 32, 3, 3)
    assert models.infer_architecture(shapes).readings() == readings


def test_infer_architecture_says_what_is_no_such_network(golden):
    shapes = _shapes(golden.json("unet")["uncond_learn_sigma"])
    damages = {
        "input_blocks.0.0.weight is missing": _without(shapes, "input_blocks.0."),
        "numbered with gaps": _without(shapes, "output_blocks.3."),
        "not one multiple": {**shapes, "input_blocks.1.0.out_layers.3.weight": (33, 32, 3, 3)},
        "unequal numbers": {**shapes, "input_blocks.2.0.in_layers.0.weight": (32,)},
        "no residual block": _without(shapes, "input_blocks.3.0.in_layers"),
    }
    for message, damaged in damages.items():
        with pytest.raises(ValueError, match=message):
            models.infer_architecture(damaged)


@pytest.mark.parametrize(
    ("image_size", "channel_mult"),
    [
        (256, (1, 1, 2, 2, 4, 4)),
        (64, (1, 2, 3, 4)),
        (32, (1, 2, 2, 2)),
        (128, (1, 1, 2, 3, 4)),
        (28, (1, 2, 2)),
        (14, (1, 2)),
        (8, (1, 2)),
        (7, (1,)),
        (1, (1,)),
    ],
)
def test_default_channel_mult_suits_every_size(image_size, channel_mult):
    assert models.default_channel_mult(image_size) == channel_mult
