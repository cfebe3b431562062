"""PyTorch's files in, and out again."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import iddpm_jax
from iddpm_jax import models
from iddpm_jax.config.build_model import build_model, with_fast_convolutions
from iddpm_jax.config.build_state import restore_state
from iddpm_jax.config.build_training import build_objective, build_optimizer
from iddpm_jax.config.convert_torch import ImportRequest, import_run
from iddpm_jax.config.record import config_from_dict
from iddpm_jax.errors import UsageError
from iddpm_jax.files.lock import lock
from iddpm_jax.files.workdir import read_config
from iddpm_jax.recipes import cifar10_cosine
from iddpm_jax.training import metrics as mt
from iddpm_jax.training.optimizer import get_moments
from iddpm_jax.training.step import TrainStep
from tests import tiny
from tests.commands import TINY, run
from tests.reference import channels_last, filler_weight, relative_error

NETWORK = 1e-4
STEPS = 1e-3
# What the shapes of the golden run's network do not tell (tests/golden/README.md).
FLAGS = [
    "--config.model.image_size=8",
    "--config.model.num_heads=4",
    "--config.model.dropout=0.0",
    "--config.diffusion.steps=1000",
    "--config.diffusion.noise_schedule=cosine",
    "--config.diffusion.rescale_timesteps=True",
    "--config.diffusion.predict_xstart=False",
    "--config.diffusion.use_kl=False",
    "--config.diffusion.rescale_learned_sigmas=True",
    "--attention_order=legacy",
]
# And what its optimiser's file depends on.
RUN_FLAGS = [*FLAGS, "--config.train.batch_size=4", "--torch_microbatch=-1"]

# The same for a call in this process.
VALUES = {
    "model.image_size": 8,
    "model.num_heads": 4,
    "model.dropout": 0.0,
    "diffusion.steps": 1000,
    "diffusion.noise_schedule": "cosine",
    "diffusion.rescale_timesteps": True,
    "diffusion.predict_xstart": False,
    "diffusion.use_kl": False,
    "diffusion.rescale_learned_sigmas": True,
}


def _import_here(workdir, checkpoint, overrides=VALUES, **changes):
    """Imports in this process, as the command does after it has parsed its flags."""
    fields = dict.fromkeys(field.name for field in dataclasses.fields(ImportRequest))
    fields |= {"ema": [], "attention_order": "legacy", "overrides": overrides, **changes}
    import_run(ImportRequest(**{**fields, "checkpoint": str(checkpoint), "workdir": str(workdir)}))


def _import(workdir, checkpoint, *more):
    flags = [f"--checkpoint={checkpoint}", f"--workdir={workdir}", *more]
    return run(["-m", "iddpm_jax.import_torch", *flags])


def _files(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Model, average and optimiser of the golden run."""
    [model], [ema], [opt] = (list(folder.glob(f"{kind}*.pt")) for kind in ("model", "ema", "opt"))
    return model, ema, opt


@pytest.fixture(scope="session")
def imported(golden, tmp_path_factory) -> pathlib.Path:
    """The work directory of the golden run."""
    workdir = tmp_path_factory.mktemp("torch") / "run"
    model, ema, opt = _files(golden.folder / "torch_run")
    result = _import(workdir, model, "--ema", str(ema), f"--optimizer={opt}", *RUN_FLAGS)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return workdir


def _restore(workdir):
    config = config_from_dict(read_config(workdir))
    return restore_state(config, workdir), config, build_model(config)


@pytest.mark.parity
def test_import_continues_as_the_reference_does(golden, imported):
    state, config, model = _restore(imported)
    objective, arrays = build_objective(config), golden.npz("torch_run")
    update = jax.jit(TrainStep(objective, model, build_optimizer(config)).update)
    for i, loss in enumerate(arrays["loss"]):
        batch = {
            "image": channels_last(arrays["x"][i]),
            "label": arrays["y"][i].astype(np.int32),
        }
        drawn = {
            "noise": channels_last(arrays["noise"][i]),
            "t": arrays["t"][i].astype(np.int32),
            "weights": np.ones(len(arrays["t"][i]), np.float32),
        }
        state = state.replace(metrics=mt.initial_metrics(objective))
        state = update(state, batch, drawn, jax.random.key(0))
        error = relative_error(mt.compute(state.metrics)["loss"], loss)
        assert golden.report("imported run: loss", error) <= STEPS
    probe = channels_last(arrays["probe"])
    [rate] = state.ema
    for name, params in {"": state.params, "_ema": state.ema[rate]}.items():
        output = model.apply({"params": params}, probe, jnp.full(1, 500.0), y=jnp.full(1, 3))
        error = relative_error(output, channels_last(arrays[f"output_after{name}"]))
        assert golden.report(f"imported run: output{name or '_raw'}", error) <= STEPS


def test_import_then_export_then_import_is_the_identity(golden, imported, tmp_path):
    out = tmp_path / "exported"
    result = run(["-m", "iddpm_jax.export_torch", f"--workdir={imported}", f"--out={out}"])
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for file in _files(golden.folder / "torch_run"):
        before, after = (torch.load(f, weights_only=True) for f in (file, out / file.name))
        assert type(before) is type(after)
        assert list(before) == list(after)
        if "param_groups" in before:
            assert before["param_groups"] == after["param_groups"]
            assert list(before["state"]) == list(after["state"])
            before, after = (
                {(i, key): value for i, entry in x["state"].items() for key, value in entry.items()}
                for x in (before, after)
            )
        for name, tensor in before.items():
            assert tensor.dtype == after[name].dtype, name
            assert torch.equal(tensor, after[name]), name
    model, ema, opt = _files(out)
    again = tmp_path / "again"
    result = _import(again, model, "--ema", str(ema), f"--optimizer={opt}", *RUN_FLAGS)
    assert result.returncode == 0, result.stderr
    first, second = _restore(imported)[0], _restore(again)[0]
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert read_config(imported) == read_config(again)
    # Nothing that is there is overwritten.
    result = run(["-m", "iddpm_jax.export_torch", f"--workdir={imported}", f"--out={out}"])
    assert result.returncode == 1
    assert "is there already" in result.stderr


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_import_of_a_checkpoint_computes_what_the_reference_does(golden, tmp_path, kind):
    workdir = tmp_path / "run"
    file = golden.folder / f"small_checkpoint.{kind}.pt"
    result = _import(workdir, file, *FLAGS)
    assert result.returncode == 0, result.stderr
    assert "198,982 parameters, after step 0" in result.stdout
    arrays = golden.npz("small_checkpoint")
    model = iddpm_jax.load(str(workdir), ema="none")
    output = model.model.apply(
        {"params": model.params},
        channels_last(arrays["x"]),
        arrays["t"],
        y=jnp.asarray(arrays["y"]),
    )
    error = relative_error(output, channels_last(arrays["output"]))
    assert golden.report("imported checkpoint: output", error) <= NETWORK
    assert model.sample(1, respacing="2").shape == (1, 8, 8, 3)


@pytest.mark.parity
@pytest.mark.parametrize("fast", [False, True])
def test_network_of_the_published_cifar10_checkpoint_equals_reference(golden, fast):
    entry = golden.json("published_checkpoints")["cifar10_uncond_50M_500K"]
    weights = {
        name: filler_weight(name, tuple(shape), golden.seed)
        for name, shape in entry["params"].items()
    }
    model = build_model(cifar10_cosine.get_config())
    model = with_fast_convolutions(model, tiny.mesh(1)) if fast else model
    params = models.params_from_torch(weights, model)
    arrays = golden.npz("cifar10_full")
    output = model.apply({"params": params}, channels_last(arrays["x"]), arrays["t"])
    error = relative_error(output, channels_last(arrays["output"]))
    what = "full CIFAR-10 network: output" + " by Winograd's algorithm" * fast
    assert golden.report(what, error) <= NETWORK


# The golden run's command line, as if a rank had taken two microbatches in a step.
REFERENCE_FLAGS = (
    "--image_size 8 --num_channels 32 --num_res_blocks 1 --learn_sigma True --class_cond True "
    "--noise_schedule cosine --lr 1e-3 --weight_decay=0.01 --ema_rate 0.9 --batch_size 4 "
    "--microbatch 2 --data_dir images"
)


def test_import_takes_the_references_flags_and_its_microbatches(golden, imported, tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "exported"
    model, ema, opt = _files(golden.folder / "torch_run")
    files = [f"--ema={ema}", f"--optimizer={opt}"]
    result = _import(workdir, model, *files, f"--model_flags={REFERENCE_FLAGS}")
    assert result.returncode == 0, result.stderr
    assert "train.batch_size=4 is the --batch_size of one rank" in result.stdout
    # Everything that training goes on with is there, but for its end.
    assert f"python main.py --workdir={workdir} --config.train.num_steps=10003" in result.stdout
    config, singly = read_config(workdir), read_config(imported)
    assert config["train"]["num_steps"] == 3
    assert config.pop("data") == {**singly.pop("data"), "name": "folder", "dir": "images"}
    assert config == singly
    record = json.loads((workdir / "imported.json").read_text())
    assert (record["torch_batch_size"], record["torch_microbatch"]) == (4, 2)
    assert record["attention_order"] == "legacy"
    # Ours are of mean gradients; the files that go out are again of sums.
    sums, means = _restore(imported)[0], _restore(workdir)[0]
    for scale, theirs, ours in zip(
        (2, 4), get_moments(sums.opt_state)[1:], get_moments(means.opt_state)[1:], strict=True
    ):
        jax.tree.map(lambda a, b, n=scale: np.testing.assert_array_equal(a, n * b), theirs, ours)
    result = run(["-m", "iddpm_jax.export_torch", f"--workdir={workdir}", f"--out={out}"])
    assert result.returncode == 0, result.stderr
    assert "2 microbatches on each rank: --batch_size 4 --microbatch 2" in result.stdout
    before, after = (torch.load(file, weights_only=True) for file in (opt, out / opt.name))
    for i, entry in before["state"].items():
        for name, tensor in entry.items():
            assert torch.equal(tensor, after["state"][i][name]), (i, name)


def test_import_of_an_average_as_the_model_says_so(golden, tmp_path, capsys):
    workdir = tmp_path / "run"
    _, ema, _ = _files(golden.folder / "torch_run")
    _import_here(workdir, ema)
    assert "are themselves the average of rate 0.9" in capsys.readouterr().out
    state, config, _ = _restore(workdir)
    assert config.train.ema_rate == (0.9,)
    assert int(state.step) == 3
    jax.tree.map(np.testing.assert_array_equal, state.ema["0.9"], state.params)
    assert '"checkpoint_is_average": "0.9"' in (workdir / "imported.json").read_text()


def test_import_trains_on_to_the_bits_of_the_exported_run(tmp_path, uninterrupted):
    out, workdir = tmp_path / "exported", tmp_path / "run"
    assert (
        run(["-m", "iddpm_jax.export_torch", f"--workdir={uninterrupted}", f"--out={out}"])
    ).returncode == 0
    model, ema, opt = _files(out)
    # The run has a null class for guidance, and the same flags as the tests' tiny network.
    flags = ["--config=configs/digits.py", *TINY, "--config.train.label_dropout=0.1"]
    files = [f"--ema={ema}", f"--optimizer={opt}"]
    result = _import(
        workdir, model, *files, *flags, "--attention_order=legacy", "--torch_microbatch=-1"
    )
    assert result.returncode == 0, result.stderr
    # The run itself, without the detour.
    original = shutil.copytree(uninterrupted, tmp_path / "original")
    for directory in (workdir, original):
        result = run(["main.py", f"--workdir={directory}", *flags, "--config.train.num_steps=8"])
        assert result.returncode == 0, result.stderr
        assert "continuing after step 6" in result.stdout
    detour, direct = _restore(workdir)[0], _restore(original)[0]
    assert int(detour.step) == 8
    jax.tree.map(np.testing.assert_array_equal, detour, direct)


def test_import_leaves_nothing_behind_where_it_fails(golden, tmp_path):
    model, ema, opt = _files(golden.folder / "torch_run")
    damaged = tmp_path / "model000003.pt"
    weights = torch.load(model, weights_only=True)
    weights["out.2.bias"] = torch.zeros(7)
    del weights["out.0.weight"]
    torch.save(weights, damaged)
    other_step = tmp_path / "ema_0.9_000004.pt"
    other_step.write_bytes(ema.read_bytes())
    run_values = VALUES | {"train.batch_size": 4}
    optimizer = {"optimizer": str(opt)}
    ema_only, microbatch = {"ema": [str(ema)]}, {"torch_microbatch": -1}
    other_rates = VALUES | {"train.ema_rate": (0.5, 0.25)}
    for message, checkpoint, overrides, changes in (
        ("missing out.0.weight", damaged, VALUES, {}),
        ("different steps", model, VALUES, {"ema": [str(other_step)]}),
        ("--config.model.image_size=…", model, {}, {}),
        ("the configuration 64", model, VALUES | {"model.num_channels": 64}, {}),
        ("give it as --optimizer", opt, VALUES, {}),
        ("name should be as in", model, VALUES, {"ema": [str(model)]}),
        ("not a file", tmp_path / "absent.pt", {}, {}),
        ("which averages to keep", model, other_rates, ema_only),
        ("has 0.001", model, run_values | {"train.lr": 0.5}, optimizer | microbatch),
        (r"over all ranks\); --torch_microbatch=…", model, VALUES, optimizer),
        ("give --torch_batch_size=…", model, VALUES, {"torch_microbatch": 2}),
    ):
        with pytest.raises(UsageError, match=message):
            _import_here(tmp_path / "runs" / "run", checkpoint, overrides, **changes)
    result = _import(tmp_path / "runs" / "run", model, "--optimizer=", *FLAGS)
    assert result.stderr.startswith("error: --optimizer='' is empty")
    assert result.returncode == 2
    assert not (tmp_path / "runs").exists()


def test_import_starts_averages_without_a_file_from_the_weights(golden, tmp_path, capsys):
    model, ema, _ = _files(golden.folder / "torch_run")
    rates = {"train.ema_rate": (0.5, 0.9)}
    _import_here(tmp_path / "run", model, VALUES | rates, ema=[str(ema)])
    printed = capsys.readouterr().out
    assert "average 0.5: model" in printed
    assert "average 0.9: ema" in printed
    state, config, _ = _restore(tmp_path / "run")
    assert config.train.ema_rate == (0.5, 0.9)
    jax.tree.map(np.testing.assert_array_equal, state.ema["0.5"], state.params)


def test_import_leaves_another_import_of_the_same_directory_alone(golden, tmp_path):
    model, _, _ = _files(golden.folder / "torch_run")
    scratch = tmp_path / ".run.importing"
    (scratch / "checkpoints").mkdir(parents=True)
    with lock(scratch):
        with pytest.raises(UsageError, match="is being written by another process"):
            _import_here(tmp_path / "run", model)
        assert (scratch / "checkpoints").is_dir()
    # What is left of one that was killed does no harm.
    _import_here(tmp_path / "run", model)
    assert not scratch.exists()


def test_import_refuses_a_work_directory_that_holds_something(imported, golden):
    model, _, _ = _files(golden.folder / "torch_run")
    before = sorted(imported.rglob("*"))
    with pytest.raises(UsageError, match="is there already and not empty"):
        _import_here(imported, model)
    assert sorted(imported.rglob("*")) == before
