"""Trains what a gin file describes: `python -m alfish.bin.train --gin_file=muzero_cartpole.gin`."""

import datetime
import pathlib
import shlex
import signal
import sys

import torch
from absl import flags

from alfish import gin_config
from alfish.bin import command_line, screens
from alfish.summary.console_writer import ConsoleWriter
from alfish.summary.csv_writer import CsvWriter
from alfish.summary.tensorboard_writer import TensorBoardWriter
from alfish.summary.writers import Summaries
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer

flags.DEFINE_multi_string("gin_file", [], "A gin file: a path, or the name of one that comes with alfish.")
flags.DEFINE_multi_string("gin_param", [], "A binding that overrides the files, for example Trainer.num_envs=4.")
flags.DEFINE_string("root_dir", None, "The run's folder. A run that is there already is continued.")
flags.DEFINE_integer("seed", None, "Decides every random number of the run; short for --gin_param Trainer.seed=N.")
flags.DEFINE_string("device", "auto", "auto, cpu, cuda or cuda:N.")
flags.DEFINE_bool(
    "dry_run", False, "Build everything, run a few tiny iterations, print shapes and sizes, keep nothing."
)
flags.DEFINE_bool("strict", False, "Refuse bindings that nothing uses.")
flags.DEFINE_integer("stop_at_env_steps", None, "Save and stop here; the same command without this flag continues.")
FLAGS = flags.FLAGS


def main() -> int:
    """Parses the config, builds the run and trains it; returns the exit code."""
    torch.set_num_threads(1)
    device = command_line.select_device(FLAGS.device)
    stop_at = FLAGS.stop_at_env_steps
    if stop_at is not None and stop_at < 1:
        raise ValueError(f"--stop_at_env_steps={stop_at}; it must be at least 1")
    root_dir = _parse_config()
    trainer = Trainer(Experiment(), device)
    try:
        gin_config.report_unused(FLAGS.strict)
        if FLAGS.dry_run:
            screens.print_dry_run(trainer)
            return 0
        with command_line.locked(root_dir):
            return _train(trainer, root_dir, device, stop_at)
    finally:
        trainer.close()


def _parse_config() -> pathlib.Path:
    params = list(FLAGS.gin_param)
    if FLAGS.seed is not None:
        params.append(f"Trainer.seed={FLAGS.seed}")
    files = list(FLAGS.gin_file)
    if FLAGS.root_dir is not None and not files:
        files = [str(pathlib.Path(FLAGS.root_dir) / command_line.CONFIG_NAME)]
    if not files:
        raise ValueError(
            "no config: give --gin_file=FILE (for example muzero_cartpole.gin), or --root_dir=RUN to continue"
        )
    gin_config.parse(files, params, strict=FLAGS.strict)
    if FLAGS.root_dir is not None:
        return pathlib.Path(FLAGS.root_dir)
    return pathlib.Path("runs") / f"{pathlib.Path(files[0]).stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _train(trainer: Trainer, root_dir: pathlib.Path, device: torch.device, stop_at: int | None) -> int:
    writers = [CsvWriter(root_dir / "metrics.csv"), TensorBoardWriter(root_dir / "tensorboard")]
    resumed = trainer.open(root_dir, Summaries([*writers, ConsoleWriter(trainer.total_env_steps, sys.stdout)]))
    (root_dir / command_line.CONFIG_NAME).write_text(gin_config.config_text(), encoding="utf-8")
    screens.print_first_screen(trainer, root_dir, device, resumed)
    _stop_on_signals(trainer)
    evaluation = trainer.train(stop_at)
    (root_dir / "operative_config.gin").write_text(gin_config.operative_config_text(), encoding="utf-8")
    if evaluation is not None:
        print(
            f"done: {trainer.progress.env_steps:,} env steps; return {evaluation.mean:.1f} ± {evaluation.deviation:.1f}"
        )
        print(f"  python -m alfish.bin.evaluate --root_dir={root_dir}")
    elif trainer.progress.env_steps >= trainer.total_env_steps:
        print(f"this run is complete: {trainer.progress.env_steps:,} env steps")
    else:
        command = ["python", "-m", "alfish.bin.train", f"--root_dir={root_dir}"]
        print(f"saved at {trainer.progress.env_steps:,} env steps; continue with\n  {shlex.join(command)}")
    return 0


def _stop_on_signals(trainer: Trainer) -> None:
    def stop(number: int, frame: object) -> None:
        # A second one leaves at once: the default action does not wait for anything.
        signal.signal(number, signal.SIG_DFL)
        print("\nstopping: saving first; once more leaves at once", flush=True)
        trainer.request_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


if __name__ == "__main__":
    command_line.run_main(main)
