"""Images as random-access sources of uint8, and the pipeline that turns them into batches."""

from iddpm_jax.data.pipeline import BatchIterator, make_batches
from iddpm_jax.data.sources import InMemorySource, Source, load_source

__all__ = ["BatchIterator", "InMemorySource", "Source", "load_source", "make_batches"]
