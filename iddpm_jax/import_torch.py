"""Makes a work directory of a PyTorch checkpoint.

    python -m iddpm_jax.import_torch --checkpoint=cifar10_uncond_50M_500K.pt \\
        --workdir=runs/openai_cifar10

OpenAI's published checkpoints are recognised. For any other, give the --config that it was
trained with, the reference's own flags as --model_flags, or what is asked for. A whole training
run moves with --ema and --optimizer.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shlex
import shutil
import time
from typing import TYPE_CHECKING

from absl import flags

from iddpm_jax.cli import command, config_flag, shared_flags
from iddpm_jax.cli.path_flag import define_path
from iddpm_jax.config.check import check_config
from iddpm_jax.config.record import run_identity
from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import write_json
from iddpm_jax.files.paths import local_path
from iddpm_jax.files.workdir import lock, open_workdir
from iddpm_jax.torch_io import conventions
from iddpm_jax.torch_io.conventions import Conventions
from iddpm_jax.torch_io.published import PUBLISHED

if TYPE_CHECKING:
    from iddpm_jax import models
    from iddpm_jax.torch_io.flags import TorchFlags

_CHECKPOINT = define_path("checkpoint", "The network's weights: a state dict, .pt or .safetensors.")
_WORKDIR = shared_flags.workdir("Work directory to make.")
_EMA = flags.DEFINE_multi_string(
    "ema", [], "Averaged weights, named as the reference names them: ema_0.9999_500000.pt. Several."
)
_OPTIMIZER = define_path("optimizer", "State of the AdamW: opt500000.pt.")
_PRESET = flags.DEFINE_enum(
    "preset", None, list(PUBLISHED), "Which published checkpoint it is, where the name is changed."
)
_STEP = flags.DEFINE_integer(
    "step", None, "Training steps taken, where the file's name does not tell.", lower_bound=0
)
_MODEL_FLAGS = flags.DEFINE_string(
    "model_flags",
    None,
    "The flags that improved-diffusion trained it with: '--image_size 32 --num_channels 128 …'.",
)
_ATTENTION_ORDER = flags.DEFINE_enum(
    "attention_order",
    None,
    list(conventions.ATTENTION_ORDERS),
    "How the file orders queries, keys and values: legacy, as improved-diffusion, or new, as "
    "guided-diffusion with use_new_attention_order.",
)
_TORCH_MICROBATCH = flags.DEFINE_integer(
    "torch_microbatch",
    None,
    "The PyTorch run's --microbatch, on each of its ranks; -1: none. Needed with --optimizer.",
    lower_bound=-1,
)
_TORCH_BATCH_SIZE = flags.DEFINE_integer(
    "torch_batch_size",
    None,
    "The PyTorch run's --batch_size, on each of its ranks. Needed with --torch_microbatch.",
    lower_bound=1,
)


def main() -> None:
    import jax

    from iddpm_jax import models
    from iddpm_jax.config.build_model import build_model
    from iddpm_jax.torch_io import run as torch_run
    from iddpm_jax.torch_io.files import read_state_dict
    from iddpm_jax.torch_io.recognise import check_images

    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    checkpoint = pathlib.Path(_CHECKPOINT.value)
    ema = _ema_files()
    optimizer = pathlib.Path(_OPTIMIZER.value) if _OPTIMIZER.value else None
    workdir = _new_workdir()
    print(f"reading {checkpoint}")
    state_dict = read_state_dict(checkpoint)
    arch = models.infer_architecture({name: a.shape for name, a in state_dict.items()})
    check_images(arch, checkpoint)
    given = _model_flags(arch)
    found = _config(arch, checkpoint, given, own_run=bool(ema or optimizer))
    config = found.config
    conventions = _conventions(given, found.published)
    model = build_model(config)
    run = torch_run.read_run(state_dict, ema, optimizer, model, conventions)
    whole = bool(found.published) or config_flag.given() is not None
    chosen = whole or "train.ema_rate" in {*_overrides(), *given.listed}
    _adopt_rates(config, checkpoint, list(ema), chosen)
    if run.moments is not None:
        _adopt("weight_decay", run.moments.weight_decay, config, optimizer, given)
        if not config.train.lr_anneal_steps:  # Else the file has a moment of the decay.
            _adopt("lr", run.moments.lr, config, optimizer, given)
    files = [checkpoint, *ema.values(), *([optimizer] if optimizer else [])]
    step = _step(files, found.published)
    _set_num_steps(config, step)
    state = torch_run.to_state(run, config, model, step)
    record = {
        "published": found.published,
        "step": step,
        "checkpoint": _record(checkpoint),
        "checkpoint_is_average": torch_run.parse_name(checkpoint).ema_rate or "",
        "ema": {rate: _record(path) for rate, path in ema.items()},
        "optimizer": _record(optimizer) if optimizer else None,
        **conventions.record(),
    }
    print(f"writing {workdir}")
    _write(workdir, state, config, record)
    _report(workdir, config, record, sum(array.size for array in state_dict.values()))


def _model_flags(arch: models.Architecture) -> TorchFlags:
    """What --model_flags says; nothing where it is not given."""
    from iddpm_jax.torch_io import flags
    from iddpm_jax.torch_io.flags import TorchFlags

    if _MODEL_FLAGS.value is None:
        return TorchFlags({}, {})
    if config_flag.given() is not None:
        raise UsageError("--model_flags and --config are two answers to one question; give one")
    given = flags.parse(_MODEL_FLAGS.value, arch)
    for note in given.notes:
        print(f"of --model_flags, {note}")
    if "train.batch_size" in given.listed.keys() - _overrides().keys():
        print(
            f"train.batch_size={given.batch_size} is the --batch_size of one rank; if the run had "
            "several, import it with their sum as --config.train.batch_size"
        )
    return given


def _overrides() -> dict:
    """Single values that the user gave as --config.KEY=…, by dotted key."""
    return config_flag.overrides()


def _conventions(given: TorchFlags, published: str) -> Conventions:
    """How the PyTorch run was made, from the flags that say so."""
    if published and _ATTENTION_ORDER.value == "new":
        raise UsageError(f"--attention_order=new, but {published} is of the legacy order")
    sizes = {}
    for name, flag, told in (
        ("batch_size", _TORCH_BATCH_SIZE, given.batch_size),
        ("microbatch", _TORCH_MICROBATCH, given.microbatch),
    ):
        if None not in (flag.value, told) and flag.value != told:
            raise UsageError(f"--torch_{name}={flag.value}, but --model_flags has {told}")
        sizes[name] = told if flag.value is None else flag.value
    return conventions.check(
        Conventions(
            _ATTENTION_ORDER.value or "legacy",
            sizes["batch_size"] or 0,
            -1 if sizes["microbatch"] is None else sizes["microbatch"],
        )
    )


def _asks(values, published: bool) -> list[str]:
    """What is to be said besides a configuration of these values, where it is not said yet."""
    asks = []
    if _OPTIMIZER.value:
        if "train.batch_size" not in values:
            asks.append("--config.train.batch_size=… (over all ranks)")
        if _TORCH_MICROBATCH.value is None and _MODEL_FLAGS.value is None:
            asks.append(
                "--torch_microbatch=… (the run's --microbatch on each rank, with its --batch_size "
                "there as --torch_batch_size=…; -1 if it had none), on which the optimiser's state "
                "depends"
            )
    heads = {values.get("model.num_heads"), values.get("model.num_heads_upsample", -1)} - {-1}
    # improved-diffusion, whose flags are given, has one order only, and with one head all are one.
    told = published or _ATTENTION_ORDER.value or _MODEL_FLAGS.value is not None
    if not told and heads != {1}:
        asks.append(
            "--attention_order=legacy (a file of improved-diffusion) or "
            "--attention_order=new (of guided-diffusion with use_new_attention_order)"
        )
    return asks


def _adopt_rates(config, checkpoint: pathlib.Path, rates: list[str], chosen: bool) -> None:
    """Takes the averages' rates from the files' names, unless they were chosen."""
    from iddpm_jax.torch_io import run as torch_run

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


def _adopt(key: str, value: float, config, optimizer: pathlib.Path, given: TorchFlags) -> None:
    """Sets `train.key` to what the optimiser's file has, as loading it in torch does."""
    has = config.train[key]
    if has == value:
        return
    if f"train.{key}" in {*_overrides(), *given.listed}:
        raise UsageError(
            f"train.{key}={has} is asked for, but {optimizer} has {value}: leave one of the two "
            "out; without --optimizer it starts anew"
        )
    print(f"train.{key}={value} is that of {optimizer.name}; the configuration had {has}")
    config.train[key] = value


def _ema_files() -> dict[str, pathlib.Path]:
    from iddpm_jax.torch_io import run as torch_run

    files: dict[str, pathlib.Path] = {}
    for value in _EMA.value:
        for name in [value] if pathlib.Path(value).exists() else value.split(","):
            path = local_path(name, "--ema")
            rate = torch_run.parse_name(path).ema_rate
            if rate is None:
                raise UsageError(f"--ema={name}: the name should be as in ema_0.9999_500000.pt")
            if rate in files:
                raise UsageError(f"--ema: {files[rate]} and {name} are of the same rate {rate}")
            files[rate] = path
    return files


def _new_workdir() -> pathlib.Path:
    workdir = pathlib.Path(_WORKDIR.value).resolve()
    if workdir.is_mount():
        raise UsageError(f"--workdir={workdir} is a mount point; name a directory below it")
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UsageError(f"--workdir={workdir} is there already and not empty; name a new one")
    return workdir


def _config(arch, checkpoint: pathlib.Path, given: TorchFlags, own_run: bool):
    from iddpm_jax.torch_io import flags
    from iddpm_jax.torch_io import run as torch_run
    from iddpm_jax.torch_io.recognise import config_for

    whole = None if config_flag.given() is None else config_flag.value()
    if whole is not None and _PRESET.value:
        raise UsageError("--preset and --config are two answers to one question; give one")
    own_run = own_run or torch_run.parse_name(checkpoint).step is not None
    overrides = flags.merge(given, _overrides())
    found = config_for(arch, checkpoint, whole, overrides, _PRESET.value or "", own_run, _asks)
    check_config(found.config)
    return found


def _set_num_steps(config, step: int) -> None:
    """Ends the run where it stands, or where its rate ends, unless the user says where.

    Of unknown steps nothing can be said: then training asks for their number.
    """
    c = config.train
    if "train.num_steps" not in _overrides():
        end = max(c.num_steps or c.lr_anneal_steps, step)
        end = min(end, c.lr_anneal_steps or end)
        if end:
            c.num_steps = end


def _step(files: list[pathlib.Path], published: str) -> int:
    from iddpm_jax.torch_io import run as torch_run

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
    from iddpm_jax.config.record import MAY_CHANGE
    from iddpm_jax.training.checkpoint_writer import save_host_state

    scratch = workdir.with_name(f".{workdir.name}.importing")
    scratch.mkdir(parents=True, exist_ok=True)
    with lock(scratch):
        try:
            for left_over in scratch.iterdir():  # By an import that was killed.
                if left_over.is_dir():
                    shutil.rmtree(left_over)
                elif left_over.name != ".lock":
                    left_over.unlink()
            open_workdir(str(scratch), config.to_dict(), MAY_CHANGE)
            write_json(scratch / "imported.json", record)
            # The data iterator's position after a step is the step: no data is needed here.
            data_state = {"next_index": int(state.step)}
            save_host_state(scratch, state, data_state, run_identity(config))
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
    else:
        print(f"train it on: {_continuation(shown, config.train.num_steps or 0, record['step'])}")


def _continuation(workdir: str, num_steps: int, step: int) -> str:
    """The command that goes on, which config.json tells all but how long."""
    command = f"python main.py --workdir={workdir}"
    if num_steps > step:
        return f"{command} (to step {num_steps:,}, which --config.train.num_steps changes)"
    return f"{command} --config.train.num_steps={step + 10_000} (10,000 steps more, or any number)"


run = command(main, required=["checkpoint", "workdir"], config=True)

if __name__ == "__main__":
    run()
