"""Images as random-access sources of uint8, and the pipeline that turns them into batches."""

from iddpm_jax.data.description import describe, hints
from iddpm_jax.data.open import in_memory, load_source, open_source
from iddpm_jax.data.options import DataOptions
from iddpm_jax.data.pipeline import BatchIterator, make_batches
from iddpm_jax.data.sources import InMemorySource, Source, digits_source, facts_of

__all__ = [
    "BatchIterator",
    "DataOptions",
    "InMemorySource",
    "Source",
    "describe",
    "digits_source",
    "facts_of",
    "hints",
    "in_memory",
    "load_source",
    "make_batches",
    "open_source",
]
