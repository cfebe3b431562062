"""Sources by name."""

from iddpm_jax.data.folder import folder_source
from iddpm_jax.data.options import DataOptions
from iddpm_jax.data.packed import packed_source
from iddpm_jax.data.relabel import relabelled
from iddpm_jax.data.sources import Source, digits_source
from iddpm_jax.data.tfds_source import tfds_source
from iddpm_jax.errors import UsageError


def load_source(options: DataOptions) -> Source:
    """Opens the source that `options` describes, with the labels of `options.class_names`.

    Raises:
      UsageError: there is no such source, it has no such split, or it cannot be read.
    """
    where = f"data.name={options.name!r} in data.dir={options.dir!r}"
    return relabelled(_open(options), options.class_names, where)


def _open(options: DataOptions) -> Source:
    if options.name == "digits":
        if options.dir:
            raise UsageError(
                f"data.dir={options.dir!r}: digits come with scikit-learn; leave it out"
            )
        return digits_source(options.split, options.image_size)
    if options.name.startswith("tfds:"):
        return tfds_source(options)
    readers = {"folder": folder_source, "packed": packed_source}
    if options.name not in readers:
        raise UsageError(
            f"unknown data.name={options.name!r}: choose digits, folder, packed or tfds:NAME"
        )
    if not options.dir:
        raise UsageError(f"data.name={options.name!r} needs data.dir, which says where images are")
    source = readers[options.name](options)
    if not len(source):
        raise UsageError(f"data.split={options.split!r} of {options.dir!r} has no images")
    return source
