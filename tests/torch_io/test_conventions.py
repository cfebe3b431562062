"""What a PyTorch run holds otherwise: sums of gradients, the order of attention."""

import json

import jax
import numpy as np
import optax
import pytest
import torch

from iddpm_jax import models
from iddpm_jax.errors import UsageError
from iddpm_jax.torch_io.conventions import (
    Conventions,
    arrays_from_torch,
    arrays_to_torch,
    check,
    moments_from_torch,
    moments_to_torch,
    recorded,
)
from iddpm_jax.torch_io.files import read_optimizer
from iddpm_jax.training.optimizer import make_optimizer, set_moments

MODEL = models.UNet(
    model_channels=32,
    out_channels=3,
    num_res_blocks=1,
    attention_resolutions=(1,),
    channel_mult=(1,),
    num_heads=4,
    num_heads_upsample=2,
)
SHAPES = {"a": (6, 4), "b": (6,)}
LR, DECAY = 1e-3, 0.01


@pytest.mark.parametrize(
    ("batch", "microbatch", "count"), [(0, -1, 1), (8, 0, 1), (16, 1, 16), (10, 4, 3), (4, 8, 1)]
)
def test_microbatches_counts_as_the_reference_cuts(batch, microbatch, count):
    assert Conventions("legacy", batch, microbatch).microbatches() == count
    if microbatch > 0:
        assert len(range(0, batch, microbatch)) == count


def _examples(step: int) -> torch.Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(step))


def _loss(a, b, x):
    """A mean over examples `[B, 6]`, as a training loss is."""
    return (torch.tanh(x @ a) - (x * b).sum(1, keepdim=True)).square().mean()


def _torch_steps(parameters, optimizer, steps: range, microbatch: int) -> list[np.ndarray]:
    """The reference's steps: the gradients of microbatches add up. Returns the updates made."""
    updates = []
    for step in steps:
        before = [p.detach().clone() for p in parameters]
        optimizer.zero_grad()
        for part in _examples(step).split(microbatch):
            _loss(*parameters, part).backward()
        optimizer.step()
        moved = [p.detach() - old for p, old in zip(parameters, before, strict=True)]
        updates.append(np.concatenate([m.numpy().ravel() for m in moved]))
    return updates


def _our_updates(parameters, moments, steps: range) -> list[np.ndarray]:
    """Our steps from imported moments, with the mean gradient of the whole batch."""
    optimizer = make_optimizer(optax.constant_schedule(LR), weight_decay=DECAY)
    params = {n: p.detach().numpy().copy() for n, p in zip(SHAPES, parameters, strict=True)}
    state = set_moments(
        optimizer.init(params), moments.count, moments.mu, moments.nu, moments.count
    )
    update = jax.jit(optimizer.update)
    updates = []
    for step in steps:
        tensors = [torch.tensor(np.asarray(p), requires_grad=True) for p in params.values()]
        _loss(*tensors, _examples(step)).backward()
        grads = {name: t.grad.numpy() for name, t in zip(SHAPES, tensors, strict=True)}
        moved, state = update(grads, state, params)
        params = optax.apply_updates(params, moved)
        updates.append(np.concatenate([np.ravel(moved[name]) for name in SHAPES]))
    return updates


def test_moments_from_torch_goes_on_as_a_run_with_microbatches(tmp_path):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES.values()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=DECAY)
    _torch_steps(parameters, optimizer, range(20), microbatch=1)
    torch.save(optimizer.state_dict(), tmp_path / "opt.pt")
    start = [p.detach().clone() for p in parameters]
    theirs = _torch_steps(parameters, optimizer, range(20, 71), microbatch=1)
    read = read_optimizer(tmp_path / "opt.pt", SHAPES)
    moments = moments_from_torch(read, MODEL, Conventions("legacy", 16, 1))
    ours = _our_updates(start, moments, range(20, 71))
    for their, our in zip(theirs, ours, strict=True):
        assert np.linalg.norm(our) / np.linalg.norm(their) == pytest.approx(1, abs=5e-4)
        np.testing.assert_allclose(our, their, atol=2e-3 * LR)
    # With the moments as they stand in the file, it all but stands still.
    still = _our_updates(start, read, range(20, 71))
    assert np.linalg.norm(still[-1]) < 0.2 * np.linalg.norm(theirs[-1])


@pytest.mark.parametrize(("microbatch", "exact"), [(1, True), (4, True), (6, False)])
def test_moments_to_torch_is_the_inverse(tmp_path, microbatch, exact):
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES.values()]
    optimizer = torch.optim.AdamW(parameters, lr=LR)
    _torch_steps(parameters, optimizer, range(3), microbatch=16)
    torch.save(optimizer.state_dict(), tmp_path / "opt.pt")
    moments = read_optimizer(tmp_path / "opt.pt", SHAPES)
    conventions = Conventions("legacy", 16, microbatch)
    there = moments_to_torch(moments, MODEL, conventions)
    n = conventions.microbatches()
    np.testing.assert_allclose(there.mu["a"], n * moments.mu["a"], rtol=1e-6)
    np.testing.assert_allclose(there.nu["a"], n**2 * moments.nu["a"], rtol=1e-6)
    back = moments_from_torch(there, MODEL, conventions)
    for before, after in ((moments.mu, back.mu), (moments.nu, back.nu)):
        for name in SHAPES:
            assert after[name].dtype == np.float32
            np.testing.assert_allclose(after[name], before[name], rtol=0 if exact else 2e-7)
    assert (back.count, back.lr) == (moments.count, moments.lr)


def _arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in models.torch_param_shapes(MODEL).items()
    }


def _attention(qkv: torch.Tensor, heads: int, new: bool) -> torch.Tensor:
    """Attention on `[3 C, N]`, its rows in the one order or the other, to `[C, N]`."""
    if new:
        q, k, v = (x.reshape(heads, -1, x.shape[1]) for x in qkv.chunk(3))
    else:
        q, k, v = qkv.reshape(heads, -1, qkv.shape[1]).chunk(3, dim=1)
    weights = torch.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, dim=-1)
    return (weights @ v.transpose(1, 2)).transpose(1, 2).reshape(-1, qkv.shape[1])


def test_arrays_from_torch_attends_as_the_new_order_does():
    new = _arrays()
    legacy = arrays_from_torch(new, MODEL, Conventions("new"))
    blocks = {name.rsplit(".qkv.")[0] for name in new if ".qkv." in name}
    assert {block.split(".")[0] for block in blocks} == {
        "input_blocks",
        "middle_block",
        "output_blocks",
    }
    x = torch.randn(32, 5)
    for block in blocks:
        heads = 2 if block.startswith("output") else 4
        outputs = [
            _attention(
                torch.tensor(arrays[f"{block}.qkv.weight"][..., 0]) @ x
                + torch.tensor(arrays[f"{block}.qkv.bias"])[:, None],
                heads,
                is_new,
            )
            for arrays, is_new in ((new, True), (legacy, False))
        ]
        torch.testing.assert_close(*outputs)
        assert not np.array_equal(new[f"{block}.qkv.bias"], legacy[f"{block}.qkv.bias"])
    for name, array in new.items():
        if ".qkv." not in name:
            assert legacy[name] is array


def test_arrays_to_torch_is_the_inverse_and_legacy_changes_nothing():
    arrays = _arrays()
    new = Conventions("new")
    back = arrays_from_torch(arrays_to_torch(arrays, MODEL, new), MODEL, new)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    assert arrays_from_torch(arrays, MODEL, Conventions()) is arrays


def test_arrays_from_torch_refuses_rows_that_heads_do_not_cut():
    with pytest.raises(UsageError, match="which 4 heads do not cut"):
        arrays_from_torch({"middle_block.1.qkv.bias": np.zeros(9)}, MODEL, Conventions("new"))


def test_check_asks_for_the_batch_of_a_microbatch():
    assert check(Conventions()) == Conventions()
    with pytest.raises(UsageError, match=r"--torch_batch_size=…"):
        check(Conventions("legacy", 0, 4))


def test_recorded_reads_what_an_import_wrote(tmp_path):
    assert recorded(tmp_path) == Conventions()
    conventions = Conventions("new", 16, 4)
    file = tmp_path / "imported.json"
    file.write_text(json.dumps({"step": 3, **conventions.record()}))
    assert recorded(tmp_path) == conventions
    for wrong in (
        [],
        {"attention_order": "odd"},
        {"torch_microbatch": "4"},
        {"torch_microbatch": 4},
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(UsageError, match=r"imported\.json|--torch_batch_size"):
            recorded(tmp_path)
