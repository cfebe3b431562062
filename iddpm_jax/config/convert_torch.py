"""PyTorch runs in and out: what `torch_io` needs of a configuration, and what it makes of one."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ml_collections
import numpy as np

from iddpm_jax import models
from iddpm_jax.config import defaults
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.build_state import build_abstract_state, restore_state
from iddpm_jax.config.build_training import build_learning_rate, build_objective
from iddpm_jax.config.recipes import load_recorded, packaged_recipe
from iddpm_jax.config.record import config_from_values, flat_config, run_identity
from iddpm_jax.errors import UsageError
from iddpm_jax.torch_io import conventions, reference_flags, training_values
from iddpm_jax.torch_io.conventions import Conventions
from iddpm_jax.torch_io.files import read_state_dict, require_torch
from iddpm_jax.torch_io.imported import describe_import, new_workdir, report, write_workdir
from iddpm_jax.torch_io.recognise import (
    Configurations,
    Given,
    Recognised,
    check_images,
    recognise,
)
from iddpm_jax.torch_io.reference_flags import ReferenceFlags
from iddpm_jax.torch_io.run import AdamWOptions, TorchRun, read_run, to_state, write_run
from iddpm_jax.torch_io.run_files import RunFiles, find_run, training_steps


@dataclasses.dataclass(frozen=True)
class ImportRequest:
    """What `import_torch` is asked for; the names are those of its flags.

    Attributes:
      config: the configuration that `--config` names; None where it is not given.
      overrides: what `--config.KEY=…` gives, by dotted key.
    """

    checkpoint: str
    workdir: str
    ema: Sequence[str]
    optimizer: str | None
    preset: str | None
    step: int | None
    model_flags: str | None
    attention_order: str | None
    torch_microbatch: int | None
    torch_batch_size: int | None
    config: ml_collections.ConfigDict | None
    overrides: Mapping[str, Any]


def import_run(request: ImportRequest) -> None:
    """Makes a work directory of the files of a PyTorch run, and prints how to go on with it.

    Raises:
      UsageError: a file cannot be read, what it is is not said, or what is said contradicts it.
    """
    files = find_run(request.checkpoint, request.ema, request.optimizer)
    workdir = new_workdir(request.workdir)
    print(f"reading {files.checkpoint}")
    state_dict = read_state_dict(files.checkpoint)
    arch = models.infer_architecture({name: a.shape for name, a in state_dict.items()})
    check_images(arch, files.checkpoint)
    flags = _reference_flags(request, arch)
    found = _recognise(request, arch, files, flags)
    config = config_from_values(found.values)
    source = _conventions(request, flags, found.published)
    model = _unet(config)
    run = read_run(files, state_dict, model, source)
    step = training_steps(files, request.step, found.published)
    values = {**found.values, **_training_values(request, flags, found, files, run, step)}
    config = config_from_values(values)
    sampler_state = build_objective(config).timestep_sampler.init()
    state = to_state(run, model, step, build_abstract_state(config), sampler_state)
    record = describe_import(files, found.published, step, source)
    print(f"writing {workdir}")
    write_workdir(workdir, state, run_identity(config), record)
    report(request.workdir, values, record, sum(array.size for array in state_dict.values()))


def export_run(workdir: pathlib.Path, directory: pathlib.Path, target: Conventions) -> None:
    """Writes the newest state of a work directory as files of PyTorch, and prints their names.

    Args:
      target: the conventions of the run that goes on with the files.

    Raises:
      UsageError: there is no sound state, or a file is there already.
    """
    require_torch()
    config = load_recorded(workdir)
    state = restore_state(config, workdir)
    options = AdamWOptions(_learning_rate(config), config.train.weight_decay)
    for path in write_run(state, _unet(config), options, directory, target):
        print(path)
    if target.attention_order != "legacy":
        print("attention is ordered for guided-diffusion's use_new_attention_order")
    if target.microbatches() > 1:
        print(
            f"the optimiser's state is that of {target.microbatches()} microbatches on each "
            f"rank: --batch_size {target.batch_size} --microbatch {target.microbatch}"
        )


def _reference_flags(request: ImportRequest, arch: models.Architecture) -> ReferenceFlags:
    """What --model_flags says; nothing where it is not given."""
    if request.model_flags is None:
        return ReferenceFlags({}, {})
    if request.config is not None:
        raise UsageError("--model_flags and --config are two answers to one question; give one")
    known = flat_config(defaults.get_config())
    flags = reference_flags.parse(request.model_flags, arch, known)
    for note in flags.notes:
        print(f"of --model_flags, {note}")
    if "train.batch_size" in flags.given.keys() - request.overrides.keys():
        print(
            f"train.batch_size={flags.batch_size} is the --batch_size of one rank; if the run had "
            "several, import it with their sum as --config.train.batch_size"
        )
    return flags


def _recognise(
    request: ImportRequest, arch: models.Architecture, files: RunFiles, flags: ReferenceFlags
) -> Recognised:
    if request.config is not None and request.preset:
        raise UsageError("--preset and --config are two answers to one question; give one")
    has_flags = request.model_flags is not None
    given = Given(
        whole=None if request.config is None else flat_config(request.config),
        values=reference_flags.merge(flags, request.overrides),
        preset=request.preset or "",
        own_run=files.is_own_run(),
        has_optimizer=files.optimizer is not None,
        has_microbatch=has_flags or request.torch_microbatch is not None,
        # improved-diffusion, whose flags they are, has one order only.
        has_attention_order=has_flags or request.attention_order is not None,
    )
    configurations = Configurations(
        flat_config(defaults.get_config()), lambda name: flat_config(packaged_recipe(name))
    )
    return recognise(arch, files.checkpoint, given, configurations)


def _conventions(request: ImportRequest, flags: ReferenceFlags, published: str) -> Conventions:
    """How the PyTorch run was made, as the command's flags or the run's own ones say."""
    if published and request.attention_order == "new":
        raise UsageError(f"--attention_order=new, but {published} is of the legacy order")
    sizes = {}
    for name, given, in_flags in (
        ("batch_size", request.torch_batch_size, flags.batch_size),
        ("microbatch", request.torch_microbatch, flags.microbatch),
    ):
        if None not in (given, in_flags) and given != in_flags:
            raise UsageError(f"--torch_{name}={given}, but --model_flags has {in_flags}")
        sizes[name] = in_flags if given is None else given
    return conventions.check(
        Conventions(
            request.attention_order or "legacy",
            sizes["batch_size"] or 0,
            -1 if sizes["microbatch"] is None else sizes["microbatch"],
        )
    )


def _training_values(
    request: ImportRequest,
    flags: ReferenceFlags,
    found: Recognised,
    files: RunFiles,
    run: TorchRun,
    step: int,
) -> dict[str, Any]:
    """The values of `train` that the files bring, where they are not what was asked for."""
    asked = {*request.overrides, *flags.given}
    whole = bool(found.published) or request.config is not None
    chosen = whole or "train.ema_rate" in asked
    values: dict[str, Any] = {
        "train.ema_rate": training_values.ema_rates(found.values, files, chosen)
    }
    if run.moments is not None and files.optimizer is not None:
        values |= training_values.optimizer_options(
            found.values, run.moments, files.optimizer, asked
        )
    values["train.num_steps"] = training_values.num_steps(found.values, step, request.overrides)
    return values


def _learning_rate(config: ml_collections.ConfigDict) -> Callable[[int], float]:
    """The learning rate by how many updates were made; in float64 where it is constant."""
    schedule = build_learning_rate(config)
    if config.train.lr_anneal_steps:
        return lambda count: float(np.asarray(schedule(count)))
    return lambda count: config.train.lr


def _unet(config: ml_collections.ConfigDict) -> models.UNet:
    """The network; the parameters of any other than a UNet are refused by their names."""
    return cast(models.UNet, build_model(config))
