import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from iddpm_jax.torch_io.files import (
    read_optimizer,
    read_state_dict,
    write_optimizer,
    write_state_dict,
)

SHAPES = {"a.weight": (4, 3), "a.bias": (4,)}


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


def _adamw(weights, steps=3, **options):
    """The state of an AdamW that has taken some steps."""
    parameters = [torch.nn.Parameter(w.clone()) for w in weights.values()]
    optimizer = torch.optim.AdamW(parameters, **{"lr": 0.1, "weight_decay": 0.5, **options})
    for _ in range(steps):
        sum((p**2).sum() for p in parameters).backward()
        optimizer.step()
    return optimizer.state_dict()


def test_read_state_dict_reads_every_format_alike(weights, tmp_path):
    torch.save(weights, tmp_path / "zip.pt")
    torch.save(weights, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(weights, tmp_path / "some.safetensors")
    for file in tmp_path.iterdir():
        arrays = read_state_dict(file)
        assert set(arrays) == set(weights)
        for name, array in arrays.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, weights[name].numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_read_state_dict_converts_to_float32(weights, tmp_path, dtype):
    torch.save({name: w.to(dtype) for name, w in weights.items()}, tmp_path / "x.pt")
    arrays = read_state_dict(tmp_path / "x.pt")
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, weights[name].to(dtype).float().numpy())


class _Malicious:
    def __reduce__(self):
        return os.mkdir, ("was_here",)


@pytest.mark.parametrize("new_format", [True, False])
def test_read_state_dict_refuses_to_run_code(tmp_path, monkeypatch, new_format):
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"w": torch.zeros(1), "x": _Malicious()},
        "evil.pt",
        _use_new_zipfile_serialization=new_format,
    )
    with pytest.raises(ValueError, match=r"evil\.pt is refused.*would run code.*mkdir"):
        read_state_dict(tmp_path / "evil.pt")
    assert not (tmp_path / "was_here").exists()


def test_read_state_dict_refuses_a_bare_pickle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(_Malicious()))
    with pytest.raises(ValueError, match=r"refused|cannot be read"):
        read_state_dict(tmp_path / "evil.pt")
    assert not (tmp_path / "was_here").exists()


def test_read_state_dict_refuses_an_archive_that_unfolds(weights, tmp_path):
    torch.save(weights, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as source,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(ValueError, match="in it is compressed"):
        read_state_dict(tmp_path / "packed.pt")


def test_read_state_dict_refuses_a_tensor_larger_than_its_data(tmp_path):
    torch.save({"w": torch.zeros(1).expand(10**9, 10**6)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="claim 4000000000000000 bytes, more than the file has"):
        read_state_dict(tmp_path / "x.pt")


def test_read_state_dict_refuses_many_tensors_of_one_storage(tmp_path):
    shared = torch.zeros(1000)
    torch.save({f"w{i}": shared for i in range(60)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="claim 240000 bytes, more than the file has"):
        read_state_dict(tmp_path / "x.pt")


def test_read_state_dict_refuses_an_archive_behind_something_else(weights, tmp_path):
    torch.save(weights, tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04 and another archive" + data)
    with pytest.raises(ValueError, match="not laid out as torch writes"):
        read_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, dtype=torch.int8),
    ],
    ids=["sparse", "meta", "complex", "int"],
)
def test_read_state_dict_refuses_other_kinds_of_tensors(tmp_path, tensor):
    torch.save({"some\x1b[31m": tensor}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt") as error:
        read_state_dict(tmp_path / "x.pt")
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("name", ["x.pt", "x.legacy.pt", "x.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.4, 0.9])
def test_read_state_dict_names_a_truncated_file(weights, tmp_path, name, keep):
    file = tmp_path / name
    if name.endswith("safetensors"):
        safetensors.torch.save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization="legacy" not in name)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=rf"{name} cannot be read.* (truncated|empty)"):
        read_state_dict(file)


def test_read_state_dict_names_parameters_that_are_not_finite(weights, tmp_path):
    weights["a.bias"][1] = float("nan")
    torch.save(weights, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"NaN or infinite values in a\.bias$"):
        read_state_dict(tmp_path / "x.pt")


def test_read_state_dict_says_what_a_file_holds_instead(weights, tmp_path):
    wrong = {
        "give it as --optimizer": _adamw(weights),
        "not a tensor": {"epoch": 3, **weights},
        "save the state dict alone": {"model": weights, "epoch": 3},
        "strip 'module.'": {f"module.{name}": w for name, w in weights.items()},
        "holds no state dict, but a list": [1, 2],
        "not a tensor of floats": {"w": torch.zeros(3, dtype=torch.int32)},
    }
    for message, value in wrong.items():
        torch.save(value, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=message):
            read_state_dict(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="is not a file"):
        read_state_dict(tmp_path / "absent.pt")


def test_read_optimizer_reads_what_write_optimizer_wrote(weights, tmp_path):
    state = _adamw(weights)
    torch.save(state, tmp_path / "opt.pt")
    moments = read_optimizer(tmp_path / "opt.pt", SHAPES)
    assert (moments.count, moments.lr, moments.weight_decay) == (3, 0.1, 0.5)
    write_optimizer(tmp_path / "again.pt", moments)
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert again["param_groups"] == state["param_groups"]
    for i, entry in state["state"].items():
        for key, value in entry.items():
            assert torch.equal(again["state"][i][key], value), (i, key)


def test_read_optimizer_cuts_the_vector_of_a_half_precision_run(weights, tmp_path):
    flat = {"all": torch.cat([w.flatten() for w in weights.values()])}
    torch.save(_adamw(weights), tmp_path / "single.pt")
    torch.save(_adamw(flat), tmp_path / "flat.pt")
    single = read_optimizer(tmp_path / "single.pt", SHAPES)
    flat = read_optimizer(tmp_path / "flat.pt", SHAPES)
    for name in SHAPES:
        np.testing.assert_array_equal(flat.mu[name], single.mu[name])
        np.testing.assert_array_equal(flat.nu[name], single.nu[name])


def test_read_optimizer_says_what_does_not_fit(weights, tmp_path):
    def changed(**entry):
        state = _adamw(weights)
        state["state"][1].update(entry)
        return state

    lacking = _adamw(weights)
    del lacking["state"][1]["exp_avg"]
    odd = {**_adamw(weights)["param_groups"][0], "params": None, "betas": None}
    half = _adamw(weights)
    for entry in half["state"].values():
        entry["step"] = torch.tensor(2.5)
    wrong = {
        "is not the state of an optimiser": weights,
        r"betas=\(0.5, 0.9\)": _adamw(weights, betas=(0.5, 0.9)),
        "amsgrad=True": _adamw(weights, amsgrad=True),
        "has not taken a step": _adamw(weights, steps=0),
        "different numbers of steps": changed(step=torch.tensor(7.0)),
        r"exp_avg of a\.bias has shape \(5,\)": changed(exp_avg=torch.zeros(5)),
        "is negative": changed(exp_avg_sq=-torch.ones(4)),
        "2.5 is no number of steps": half,
        "decoupled_weight_decay=False": torch.optim.Adam(
            [torch.nn.Parameter(w) for w in weights.values()]
        ).state_dict(),
        "is not the state of an AdamW": {**_adamw(weights), "param_groups": [odd]},
        "NaN": changed(exp_avg=torch.full((4,), float("nan"))),
        "has no exp_avg of parameter 1": lacking,
        "of 1 parameters, but the network has 2": _adamw({"a.weight": weights["a.weight"]}),
    }
    for message, value in wrong.items():
        torch.save(value, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=message):
            read_optimizer(tmp_path / "x.pt", SHAPES)


def test_write_state_dict_loads_with_torch(weights, tmp_path):
    write_state_dict(tmp_path / "x.pt", {name: w.numpy() for name, w in weights.items()})
    linear = torch.nn.Sequential()
    linear.add_module("a", torch.nn.Linear(3, 4))
    linear.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True), strict=True)
    assert torch.equal(linear.a.weight, weights["a.weight"])
