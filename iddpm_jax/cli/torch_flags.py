"""The flags of import_torch and export_torch that say how a PyTorch run is, or is to be, made."""

from absl import flags

from iddpm_jax.torch_io.conventions import ATTENTION_ORDERS


def attention_order() -> flags.FlagHolder[str | None]:
    text = (
        "Order of queries, keys and values in the files: legacy, as improved-diffusion has it, or "
        "new, as guided-diffusion with use_new_attention_order. Default of an export: as imported, "
        "or legacy."
    )
    return flags.DEFINE_enum(
        "attention_order", None, list(ATTENTION_ORDERS), text, allow_override=True
    )


def torch_microbatch() -> flags.FlagHolder[int | None]:
    text = (
        "The PyTorch run's --microbatch, on each of its ranks; -1: none. Needed to import an "
        "--optimizer. Default of an export: as imported, or none."
    )
    return flags.DEFINE_integer("torch_microbatch", None, text, -1, allow_override=True)


def torch_batch_size() -> flags.FlagHolder[int | None]:
    text = (
        "The PyTorch run's --batch_size, on each of its ranks. Needed with a --torch_microbatch. "
        "Default of an export: as imported."
    )
    return flags.DEFINE_integer("torch_batch_size", None, text, 1, allow_override=True)


flags.disclaim_key_flags()  # `--help` shows a flag as that of the command which calls this module.
