"""What a network has to be, whoever wrote it."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from iddpm_jax.models.shapes import KeyLike


@runtime_checkable
class Network(Protocol):
    """Something that is applied as a Flax module is; to draw with it takes no more."""

    @property
    def num_classes(self) -> int | None:
        """Classes that the labels are of; None for an unconditional network."""
        ...

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Computes the output of the network, `variables` being `{"params": …}`."""
        ...


@runtime_checkable
class TrainableNetwork(Network, Protocol):
    """A network that makes its parameters; docs/extending.md says what training asks of it."""

    @property
    def dtype(self) -> Any:
        """The dtype that it computes in; float16 needs a loss scale."""
        ...

    def init_params(self, key: KeyLike) -> dict[str, Any]:
        """New parameters, a tree of dicts."""
        ...
