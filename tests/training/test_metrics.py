import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.training import metrics as mt


def _measure(loss, t, weights, keep=True):
    return mt.loss_metrics(
        {"loss": jnp.array(loss)}, jnp.array(t), jnp.array(weights), 8, jnp.array(keep)
    )


def test_loss_metrics_split_by_quartile_weighted_and_not():
    first = _measure([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 7], [1.0, 0.5, 2.0, 1.0])
    second = _measure([10.0], [7], [0.1])
    values = mt.compute(mt.merge(first, second))
    assert values["loss"] == pytest.approx((1 + 1 + 6 + 4 + 1) / 5)
    assert values["unweighted/loss"] == pytest.approx(20 / 5)
    assert values["loss_q0"] == pytest.approx(1.0)
    assert values["unweighted/loss_q0"] == pytest.approx(1.5)
    assert values["loss_q1"] == pytest.approx(6.0)
    assert values["loss_q3"] == pytest.approx(2.5)
    # Nothing fell into the third quartile.
    assert "loss_q2" not in values


def test_loss_metrics_leave_out_skipped_steps():
    good, bad = _measure([2.0], [0], [1.0]), _measure([np.nan], [0], [1.0], keep=False)
    assert mt.compute(mt.merge(good, bad))["loss"] == 2.0


def test_metric_writer_drops_rows_of_steps_that_will_be_taken_again(tmp_path):
    writer = mt.MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": step / 2}, {"timing/steps_per_second": 1.0})
    writer.image(3, "samples", np.zeros((4, 4, 3), np.uint8))
    writer.close()
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 4, "lo')
    mt.MetricWriter(tmp_path, 2).close()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/full")])
def test_metric_writer_writes_a_regular_file_only(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(UsageError, match=r"the log .*metrics.jsonl cannot be read: .*regular file"):
        mt.MetricWriter(tmp_path, 0)


def test_read_rows_passes_over_what_is_no_row(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert list(mt.read_rows(file)) == []
    file.write_bytes(b'{"step": 1}\n[]\n\xff\n{"step": "2"}\n' + b"[" * 9000 + b'\n{"step": 3}')
    assert [step for _, step in mt.read_rows(file)] == [1, None, None, None, None, 3]
    mt.MetricWriter(tmp_path, 3).close()
    assert file.read_bytes() == b'{"step": 1}\n{"step": 3}\n'
