"""The same networks in PyTorch, as diffusers builds them: a train step and an ancestral step.

diffusers' `UNet2DModel` has the reference's residual blocks (scale-shift conditioning included)
and attention, and as many parameters as our network. AdamW is torch's fused one, and the average
of the parameters is updated by one call for all. The loss is simpler than ours: the second half
of the output has its mean square minimised, instead of the variational bound.
"""

import time

import torch
from diffusers import DDPMScheduler, UNet2DModel

from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.recipes import packaged_recipe

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def build_network(config) -> UNet2DModel:
    """diffusers' network for a configuration of ours."""
    model, c = build_model(config), config.model
    widths = [c.num_channels * mult for mult in model.channel_mult]
    attends = [2**level in model.attention_resolutions for level in range(len(widths))]
    attending = [w for w, a in zip(widths, attends, strict=True) if a] or widths[-1:]
    return UNet2DModel(
        sample_size=c.image_size,
        in_channels=c.in_channels,
        out_channels=model.out_channels,
        layers_per_block=c.num_res_blocks,
        block_out_channels=widths,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        # One width for all of its heads, where we have one number of heads for all blocks.
        attention_head_dim=attending[0] // c.num_heads,
        dropout=c.dropout,
        resnet_time_scale_shift="scale_shift" if c.use_scale_shift_norm else "default",
        num_class_embeds=c.num_classes or None,
    )


def _prepare(recipe: str, batch: int, form: str, train: bool):
    config = packaged_recipe(recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # As any convolutional network is tuned: the fastest algorithm for each shape, TF32 as JAX.
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    network = build_network(config).to(device).train(train)
    layout = torch.contiguous_format if form == "eager" else torch.channels_last
    network = network.to(memory_format=layout)
    c = config.model
    images = torch.randn(batch, c.in_channels, c.image_size, c.image_size, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device) if c.num_classes else None
    facts = {"parameters": sum(p.numel() for p in network.parameters())}
    return config, network, images.to(memory_format=layout), labels, facts


def _autocast(images, dtype: str):
    return torch.autocast(images.device.type, _DTYPES.get(dtype), enabled=dtype in _DTYPES)


def _wait(images) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def train_step(recipe: str, batch: int, dtype: str, form: str):
    """Forward, backward, AdamW and the average. `form`: eager, channels_last or compile."""
    config, network, images, labels, facts = _prepare(recipe, batch, form, train=True)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    averages = [p.detach().clone() for p in parameters]
    called = torch.compile(network) if form == "compile" else network
    scheduler = DDPMScheduler(config.diffusion.steps, beta_schedule="squaredcos_cap_v2")

    def step():
        t = torch.randint(config.diffusion.steps, (batch,), device=images.device)
        noise = torch.randn_like(images)
        with _autocast(images, dtype):
            output = called(scheduler.add_noise(images, noise, t), t, class_labels=labels).sample
        output = output.float()
        loss = (output[:, : images.shape[1]] - noise).square().mean()
        loss = loss + 1e-3 * output[:, images.shape[1] :].square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1e-4)
        _wait(images)

    return _first(step, facts)


def sampling(recipe: str, batch: int, dtype: str, steps: int, form: str):
    """`steps` ancestral steps from noise, the loop in Python."""
    config, network, images, labels, facts = _prepare(recipe, batch, form, train=False)
    called = torch.compile(network) if form == "compile" else network
    learned = config.diffusion.learn_sigma
    scheduler = DDPMScheduler(
        config.diffusion.steps,
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range" if learned else "fixed_small",
    )
    scheduler.set_timesteps(steps)

    @torch.inference_mode()
    def draw():
        x = torch.randn_like(images)
        for t in scheduler.timesteps.tolist():
            with _autocast(images, dtype):
                output = called(x, t, class_labels=labels).sample
            x = scheduler.step(output.float(), t, x).prev_sample
        _wait(images)

    return _first(draw, facts)


def _first(run, facts):
    """Runs once: torch.compile compiles on the first call."""
    start = time.perf_counter()
    run()
    facts["first_call_seconds"] = time.perf_counter() - start
    if torch.cuda.is_available():
        facts["device_bytes"] = torch.cuda.max_memory_allocated()
    return facts, run
