"""Trains what a gin file describes, and continues what was stopped.

  python -m alfish.bin.train --gin_file=muzero_cartpole.gin
  python -m alfish.bin.train --root_dir=RUN      continues a run

Ctrl-C saves, stops, and prints the command that continues; a second one leaves at once.
"""

import argparse
import datetime
import pathlib
import sys
from collections.abc import Sequence

import torch

from alfish import gin_config
from alfish.bin import command_line, devices, dry_run, interruption, run_folder, screens
from alfish.bin.command_flags import Flags, path, whole_number
from alfish.rollout import background_engine, multi_process_engine  # noqa: F401  what --gin_param may name
from alfish.summary.console_writer import ConsoleWriter
from alfish.summary.csv_writer import CsvWriter
from alfish.summary.tensorboard_writer import TensorBoardWriter
from alfish.summary.writers import Summaries
from alfish.trainers import evaluation_process, on_policy_batches, replay_batches  # noqa: F401  likewise
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer


def _flags() -> Flags:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--gin_file", metavar="FILE", action="append", default=[], help="a gin file; may be repeated")
    add("--gin_param", metavar="BINDING", action="append", default=[], help="overrides the files; may be repeated")
    add("--root_dir", metavar="RUN", type=path, help="the run's folder; a run that is there is continued")
    add("--seed", metavar="N", type=whole_number(0), help="decides every random number (Trainer.seed)")
    add("--device", metavar="DEVICE", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--dry_run", action="store_true", help="build everything, run a little, print shapes, keep nothing")
    add("--strict", action="store_true", help="refuse bindings that have no effect")
    add("--drop_replay", action="store_true", help="continue a run without the rows that its replay had stored")
    add("--stop_at_env_steps", metavar="N", type=whole_number(1), help="save and stop there; the run can go on later")
    return flags


def main(arguments: Sequence[str]) -> int:
    """Parses the config, builds the run and trains it; returns the exit code."""
    given = _flags().parse(arguments)
    device = devices.select(given.device)
    folder = _parse_config(given)
    trainer = Trainer(Experiment(), device)
    try:
        gin_config.report_unused(given.strict)
        if given.dry_run:
            dry_run.print_dry_run(trainer)
            return command_line.DONE
        with run_folder.locked(folder):
            return _train(trainer, folder, device, given)
    finally:
        trainer.close()


def _parse_config(given: argparse.Namespace) -> pathlib.Path:
    """Parses files and parameters; returns the run's folder."""
    files = given.gin_file
    if not files and given.root_dir is None:
        raise ValueError("no config: give --gin_file=FILE, for example muzero_cartpole.gin, or --root_dir=RUN")
    if not files:
        files = [run_folder.saved_config(given.root_dir)]
    seed = [] if given.seed is None else [f"Trainer.seed={given.seed}"]
    gin_config.parse(files, [*given.gin_param, *seed], strict=given.strict)
    name = f"{pathlib.Path(files[0]).stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    return given.root_dir or pathlib.Path("runs") / name


def _train(trainer: Trainer, folder: pathlib.Path, device: torch.device, given: argparse.Namespace) -> int:
    curves = CsvWriter(folder / run_folder.METRICS), TensorBoardWriter(folder / run_folder.TENSORBOARD)
    console = ConsoleWriter(trainer.total_env_steps, sys.stdout)
    resumed = trainer.open(folder, Summaries([*curves, console]), given.drop_replay)
    if trainer.finished:
        screens.print_complete(trainer, folder)
        return command_line.DONE
    changes = run_folder.save_config(folder, trainer.progress.env_steps)
    screens.print_first_screen(trainer, folder, device, resumed, changes, given.drop_replay)
    with interruption.stopping(trainer.request_stop) as stopped:
        run_folder.save_operative_config(folder)
        evaluation = trainer.train(given.stop_at_env_steps)
    console.close()
    run_folder.save_operative_config(folder)
    screens.print_end(trainer, folder, evaluation, given.device)
    if not trainer.finished and stopped.signal_number is not None:
        return 128 + stopped.signal_number
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(command_line.run(main))
