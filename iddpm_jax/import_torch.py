"""Makes a work directory of a PyTorch checkpoint.

    python -m iddpm_jax.import_torch --checkpoint=cifar10_uncond_50M_500K.pt \\
        --workdir=runs/openai_cifar10

OpenAI's published checkpoints are recognised. For any other, give the --config that it was
trained with, or what is asked for. A whole training run moves with --ema and --optimizer.
"""

import hashlib
import os
import pathlib
import shlex
import shutil
import sys
import time

import jax
from absl import app, flags
from ml_collections import config_flags

from iddpm_jax import configuration, factory, models, torch_run
from iddpm_jax.command_line import configure_logging, parse_flags, reason
from iddpm_jax.config import defaults
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.files import write_json
from iddpm_jax.published import PUBLISHED
from iddpm_jax.torch_config import config_for
from iddpm_jax.torch_files import read_state_dict
from iddpm_jax.training.host_checkpoints import save_host_state
from iddpm_jax.training.workdir import lock, open_workdir

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The network's weights: a state dict, .pt or .safetensors."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory to make.")
_EMA = flags.DEFINE_multi_string(
    "ema", [], "Averaged weights, named as the reference names them: ema_0.9999_500000.pt. Several."
)
_OPTIMIZER = flags.DEFINE_string("optimizer", None, "State of the AdamW: opt500000.pt.")
_PRESET = flags.DEFINE_enum(
    "preset", None, list(PUBLISHED), "Which published checkpoint it is, where the name is changed."
)
_STEP = flags.DEFINE_integer(
    "step", None, "Training steps taken, where the file's name does not tell.", lower_bound=0
)
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(pathlib.Path(defaults.__file__)),
    "Recipe that the checkpoint was trained with; single keys as --config.model.num_heads=4.",
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; see python -m iddpm_jax.import_torch --help")
    try:
        _import()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error if isinstance(error, ValueError) else reason(error)}")


def _import() -> None:
    for name in ("checkpoint", "optimizer", "workdir"):
        if flags.FLAGS[name].value is not None and not flags.FLAGS[name].value.strip():
            raise UsageError(f"--{name} is empty")
    checkpoint = pathlib.Path(_CHECKPOINT.value)
    ema = _ema_files()
    optimizer = pathlib.Path(_OPTIMIZER.value) if _OPTIMIZER.value else None
    workdir = _new_workdir()
    print(f"reading {checkpoint}")
    state_dict = read_state_dict(checkpoint)
    config, published = _config(checkpoint, state_dict, own_run=bool(ema or optimizer))
    model = factory.build_model(config)
    run = torch_run.read_run(state_dict, ema, optimizer, model)
    _adopt_rates(config, checkpoint, list(ema), chosen=bool(published) or _is_given("ema_rate"))
    if run.moments is not None:
        _adopt("weight_decay", run.moments.weight_decay, config, optimizer)
        if not config.train.lr_anneal_steps:  # Else the file has a moment of the decay.
            _adopt("lr", run.moments.lr, config, optimizer)
    files = [checkpoint, *ema.values(), *([optimizer] if optimizer else [])]
    step = _step(files, published)
    state = torch_run.to_state(run, config, model, step)
    record = {
        "published": published,
        "step": step,
        "checkpoint": _record(checkpoint),
        "checkpoint_is_average": torch_run.parse_name(checkpoint).ema_rate or "",
        "ema": {rate: _record(path) for rate, path in ema.items()},
        "optimizer": _record(optimizer) if optimizer else None,
    }
    print(f"writing {workdir}")
    _write(workdir, state, config, record)
    _report(workdir, config, record, sum(array.size for array in state_dict.values()))


def _is_given(key: str) -> bool:
    """Whether the user chose a value of `train.`, in a recipe or alone."""
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    return not flag.using_default_value or f"train.{key}" in overrides


def _adopt_rates(config, checkpoint: pathlib.Path, rates: list[str], chosen: bool) -> None:
    """Takes the averages' rates from the files' names, unless they were chosen."""
    has = [str(rate) for rate in config.train.ema_rate]
    if chosen:
        unknown = [rate for rate in rates if rate not in has]
        if unknown:
            raise UsageError(
                f"--ema: there is a file of rate {unknown[0]}, but train.ema_rate="
                f"{config.train.ema_rate}; --config.train.ema_rate says which averages to keep"
            )
        return
    own = torch_run.parse_name(checkpoint).ema_rate
    rates = rates or ([own] if own else has)
    config.train.ema_rate = tuple(float(rate) for rate in rates)


def _adopt(key: str, value: float, config, optimizer: pathlib.Path) -> None:
    """Sets `train.key` to what the optimiser's file has, as loading it in torch does."""
    has = config.train[key]
    if has == value:
        return
    if f"train.{key}" in config_flags.get_override_values(flags.FLAGS["config"]):
        raise UsageError(f"--config.train.{key}={has}, but {optimizer} has {value}")
    print(f"train.{key}={value} is that of {optimizer.name}; the configuration had {has}")
    config.train[key] = value


def _ema_files() -> dict[str, pathlib.Path]:
    files: dict[str, pathlib.Path] = {}
    for value in _EMA.value:
        for name in [value] if pathlib.Path(value).exists() else value.split(","):
            rate = torch_run.parse_name(pathlib.Path(name)).ema_rate
            if rate is None:
                raise UsageError(f"--ema={name}: the name should be as in ema_0.9999_500000.pt")
            if rate in files:
                raise UsageError(f"--ema: {files[rate]} and {name} are of the same rate {rate}")
            files[rate] = pathlib.Path(name)
    return files


def _new_workdir() -> pathlib.Path:
    workdir = pathlib.Path(_WORKDIR.value).resolve()
    if workdir.is_mount():
        raise UsageError(f"--workdir={workdir} is a mount point; name a directory below it")
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UsageError(f"--workdir={workdir} is there already and not empty; name a new one")
    return workdir


def _config(checkpoint: pathlib.Path, state_dict, own_run: bool):
    flag = flags.FLAGS["config"]
    given = None if flag.using_default_value else _CONFIG.value
    if given is not None and _PRESET.value:
        raise UsageError("--preset and --config are two answers to one question; give one")
    own_run = own_run or torch_run.parse_name(checkpoint).step is not None
    arch = models.infer_architecture({name: a.shape for name, a in state_dict.items()})
    overrides = config_flags.get_override_values(flag)
    found = config_for(arch, checkpoint, given, overrides, _PRESET.value or "", own_run)
    configuration.check_config(found.config, defaults.get_config())
    return found


def _step(files: list[pathlib.Path], published: str) -> int:
    named = torch_run.common_step(files)
    if named is not None and _STEP.value not in (None, named):
        raise UsageError(f"--step={_STEP.value}, but the files are of step {named}")
    if named is None:
        named = _STEP.value
    if named is None:
        named = PUBLISHED[published].steps if published else 0
    if named >= 2**31:
        raise UsageError(f"step {named} is more than {2**31 - 1}")
    return named


def _record(path: pathlib.Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write(workdir: pathlib.Path, state, config, record: dict) -> None:
    """Makes the work directory beside its place, and moves it there when it is complete."""
    scratch = workdir.with_name(f".{workdir.name}.importing")
    scratch.mkdir(parents=True, exist_ok=True)
    with lock(scratch):
        try:
            for left_over in scratch.iterdir():  # By an import that was killed.
                if left_over.is_dir():
                    shutil.rmtree(left_over)
                elif left_over.name != ".lock":
                    left_over.unlink()
            open_workdir(str(scratch), config.to_dict(), factory.MAY_CHANGE)
            write_json(scratch / "imported.json", record)
            # The data iterator's position after a step is the step: no data is needed here.
            data_state = {"next_index": int(state.step)}
            save_host_state(scratch, state, data_state, config.to_dict())
            os.rename(scratch, workdir)
        except BaseException:
            _remove(scratch)
            raise


def _remove(directory: pathlib.Path) -> None:
    """Removes a directory in which writes that failed may still be coming to an end."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)


def _report(workdir: pathlib.Path, config, record: dict, count: int) -> None:
    what = f"OpenAI's {record['published']}" if record["published"] else "a network"
    print(f"{what} of {count:,} parameters, after step {record['step']:,}: {workdir}")
    if record["checkpoint_is_average"]:
        rate = record["checkpoint_is_average"]
        print(f"the weights are themselves the average of rate {rate}; imported.json says so")
    for rate in map(str, config.train.ema_rate):
        origin = record["ema"].get(rate, record["checkpoint"])["file"]
        print(f"average {rate}: {origin}")
    kept = record["optimizer"]
    print(f"optimiser: {kept['file'] if kept else 'starts anew'}")
    shown = shlex.quote(_WORKDIR.value)
    if config.model.small_size:
        print("it is a super-resolution model: see python -m iddpm_jax.super_resolve --help")
    else:
        print(f"use it: python -m iddpm_jax.sample --workdir={shown}")
    if not config.data.name:
        print("to train it on, import it with --config.data.name=… and the train.* keys you want")


def run() -> None:
    """The command line."""
    configure_logging()
    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    flags.mark_flags_as_required(["checkpoint", "workdir"])
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    run()
