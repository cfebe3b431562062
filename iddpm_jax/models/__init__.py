"""Networks in Flax linen. They know nothing of diffusion."""

from iddpm_jax.models.architecture import Architecture, default_channel_mult, infer_architecture
from iddpm_jax.models.network import Network, TrainableNetwork
from iddpm_jax.models.resize import LowRes, area_downsample, upsample_bilinear
from iddpm_jax.models.torch_weights import params_from_torch, params_to_torch, torch_param_shapes
from iddpm_jax.models.unet import SuperResUNet, UNet, abstract_params
from iddpm_jax.models.unet_checks import feature_sizes

__all__ = [
    "Architecture",
    "LowRes",
    "Network",
    "SuperResUNet",
    "TrainableNetwork",
    "UNet",
    "abstract_params",
    "area_downsample",
    "default_channel_mult",
    "feature_sizes",
    "infer_architecture",
    "params_from_torch",
    "params_to_torch",
    "torch_param_shapes",
    "upsample_bilinear",
]
