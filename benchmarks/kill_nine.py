"""Kills a training run with SIGKILL at random moments, and compares what comes of it.

    python -m benchmarks.kill_nine --kills=100

A run that saves every few steps is killed and started again until it has been killed that often;
its last state, its log and its averages must be those of an undisturbed run, bit for bit. Where it
completes before, another one begins.
"""

import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from iddpm_jax.training import checksums

_KILLS = flags.DEFINE_integer("kills", 100, "How often to kill.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 300, "Steps of a run.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.")
_OUT = flags.DEFINE_string("out", "", "Directory of the runs; default: one that is removed.")

ROOT = pathlib.Path(__file__).resolve().parent.parent
_SETTINGS = [
    "--config.model.channel_mult=(1,)",
    "--config.model.attention_resolutions=()",
    "--config.diffusion.steps=10",
    "--config.train.batch_size=16",
    "--config.train.log_every=7",
    "--config.train.checkpoint_every=3",
    "--config.train.sample_every=50",
    "--config.train.sample_respacing=ddim5",
    "--config.train.num_samples=20",
]
_COMPILED = "compiling the train step"


def command(workdir: pathlib.Path, steps: int) -> list[str]:
    """The command that trains, and that continues."""
    flags_ = [f"--workdir={workdir}", *_SETTINGS, f"--config.train.num_steps={steps}"]
    return [sys.executable, "main.py", "--config=configs/digits.py", *flags_]


def run_until(workdir: pathlib.Path, steps: int, seconds: float | None, early: bool) -> bool:
    """Runs the command, killing it `seconds` after it starts to train, or to start with `early`.

    Returns:
      Whether it completed before.
    """
    process = subprocess.Popen(
        command(workdir, steps),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = []
    if seconds is not None and not early:
        for line in process.stdout:
            output.append(line)
            if _COMPILED in line:
                break
    try:
        rest, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        sys.exit(f"the run failed by itself:\n{''.join(output)}{rest}")
    return True


def fingerprint(workdir: pathlib.Path) -> dict:
    """Checksums of everything in the last checkpoint, and the log."""
    last = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    meta = json.loads((last / "meta" / "metadata").read_text())
    data = json.loads((last / "data" / "metadata").read_text())
    log = (workdir / "metrics.jsonl").read_text()
    return {**meta["checksums"], "step": meta["step"], "data": data, "log": checksums.of_json(log)}


def torture(root: pathlib.Path, kills: int, steps: int, seed: int, note=print) -> dict[str, int]:
    """Kills runs under `root` that often; RuntimeError if one ends otherwise than undisturbed."""
    moments = random.Random(seed)
    run_until(root / "undisturbed", steps, None, early=False)
    expected = fingerprint(root / "undisturbed")
    killed = completed = 0
    while killed < kills:
        workdir = root / f"run{completed}"
        early = moments.random() < 0.2  # While it starts, restores or compiles.
        seconds = moments.uniform(0, 8 if early else 3)
        if not run_until(workdir, steps, seconds, early):
            killed += 1
            note(f"{killed}: killed after {seconds:.2f} s{' of the start' * early}")
            if killed < kills:
                continue
            run_until(workdir, steps, None, early=False)
        completed += 1
        if fingerprint(workdir) != expected:
            raise RuntimeError(f"{workdir} ended otherwise than {root / 'undisturbed'}")
        note(f"{workdir.name} completed, equal to the undisturbed one")
    return {"kills": killed, "completed_runs": completed}


def main(_) -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(_OUT.value or scratch).absolute()
        root.mkdir(parents=True, exist_ok=True)
        result = torture(root, _KILLS.value, _STEPS.value, _SEED.value)
    print(json.dumps({**result, "seconds": round(time.monotonic() - start)}))


if __name__ == "__main__":
    app.run(main)
