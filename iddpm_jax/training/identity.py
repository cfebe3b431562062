"""Identity of a run: which checkpoints and data are its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from iddpm_jax.errors import UsageError
from iddpm_jax.files.workdir import as_json, differences, flatten


class DataChangedError(UsageError):
    """The images are not those that the run was trained on so far."""


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What a run's checkpoints record, so that another run does not continue from them.

    Attributes:
      config: the resolved configuration, nested dicts of plain values.
      class_names: names of the classes in the order of their labels; None if unknown, as of
        imported weights: then they are not compared.
      fingerprint: differs between versions of the data; "" if unknown.
      may_change: dotted keys of the configuration in which a run that is continued may differ.
      data_may_change: whether to continue with other data than those of the checkpoint.
    """

    config: Mapping[str, Any]
    class_names: tuple[str, ...] | None = None
    fingerprint: str = ""
    may_change: frozenset[str] = frozenset()
    data_may_change: bool = False

    def as_meta(self) -> dict[str, Any]:
        """The identity as a checkpoint's meta item holds it."""
        names = None if self.class_names is None else list(self.class_names)
        return {"config": self.config, "class_names": names, "fingerprint": self.fingerprint}

    def difference(self, meta: Mapping[str, Any]) -> str:
        """How the run of a checkpoint differs from this one, in one line; "" if it is this one."""
        lines = differences(
            flatten(meta["config"]),
            flatten(as_json(self.config)),
            self.may_change,
            ("it has", "config.json has"),
        )
        if lines:
            more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
            return f"{'; '.join(lines[:3])}{more}"
        return self._difference_of_names(meta["class_names"])

    def _difference_of_names(self, saved: list[str] | None) -> str:
        if saved is None or self.class_names is None or tuple(saved) == self.class_names:
            return ""
        advice = "restore labels.json, or the names in the checkpoint's meta/metadata to it"
        if not self.class_names:
            return f"it has names of {len(saved)} classes, labels.json is missing; {advice}"
        pairs = zip(saved, self.class_names, strict=False)
        changed = [i for i, (before, now) in enumerate(pairs) if before != now]
        if changed:
            i = changed[0]
            return f"class {i} is {saved[i]!r}, labels.json has {self.class_names[i]!r}; {advice}"
        return f"it has {len(saved)} classes, labels.json {len(self.class_names)}; {advice}"

    def data_difference(self, meta: Mapping[str, Any]) -> str:
        """A message if the data are not those of a checkpoint; "" if they are."""
        before, now = meta["fingerprint"], self.fingerprint
        if not before or not now or before == now:
            return ""
        return (
            "the images are not those that the run was trained on so far: files were added, "
            f"removed or renamed (fingerprint {before} in the checkpoint, {now} now)"
        )
