"""Which images to read, and how."""

import dataclasses

from iddpm_jax.errors import UsageError

LABEL_RULES = ("prefix", "directory", "none")


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The `data.` keys of the configuration, and the size of the model's images.

    Attributes:
      name: `digits`, `folder`, `packed` or `tfds:NAME`.
      image_size, channels: of the network's images.
      dir: folder, archive, or data directory of TFDS.
      split: such as `train`, `test`, `train[:90%]`.
      labels: `prefix` of the file's name, `directory` that it is in, or `none`.
      test_percent: share of a folder that is held out as its test split.
      exif: turn images as their EXIF orientation says.
      on_bad_image: `skip` with a warning, or `error`.
      cache_mb: data sets up to this size are held in memory, decoded.
      resize: scale and crop images of a fixed size, as of TFDS, that is not the network's.
      class_names: of the run that is continued, in the order of their labels; empty for a new
        one.
    """

    name: str
    image_size: int
    channels: int
    dir: str = ""
    split: str = "train"
    labels: str = "none"
    test_percent: float = 0.0
    exif: bool = True
    on_bad_image: str = "skip"
    cache_mb: int = 2048
    resize: bool = False
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        if self.labels not in LABEL_RULES:
            raise UsageError(f"data.labels={self.labels!r}: choose one of {LABEL_RULES}")
        if not 0 <= self.test_percent < 100:
            raise UsageError(f"data.test_percent={self.test_percent} must be in [0, 100)")
        if self.on_bad_image not in ("skip", "error"):
            raise UsageError(f"data.on_bad_image={self.on_bad_image!r}: choose skip or error")
        if self.cache_mb < 0:
            raise UsageError(f"data.cache_mb={self.cache_mb} must not be negative")
