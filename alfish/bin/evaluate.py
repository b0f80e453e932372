"""Evaluates a run with its best weights: every episode's return, their mean and deviation.

  python -m alfish.bin.evaluate --root_dir=RUN

The run is left as it is; it may still be training.
"""

import sys
from collections.abc import Sequence

from alfish.bin import command_line, devices, loading
from alfish.bin.command_flags import Flags, path, whole_number


def _flags() -> Flags:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--root_dir", metavar="RUN", type=path, required=True, help="the run's folder")
    add("--episodes", metavar="N", type=whole_number(1), default=20, help="how many episodes (20)")
    add("--seed", metavar="N", type=whole_number(0), default=0, help="decides the episodes (0)")
    add("--device", metavar="DEVICE", default="auto", help="auto, cpu, cuda or cuda:N")
    return flags


def main(arguments: Sequence[str]) -> int:
    """Plays episodes with the best weights of a run; prints every return, their mean and deviation."""
    given = _flags().parse(arguments)
    device = devices.select(given.device)
    experiment, built = loading.build(given.root_dir, device, [f"Evaluator.episodes={given.episodes}"])
    evaluator = experiment.evaluator(built, device)
    try:
        evaluation = evaluator.evaluate(given.seed)
    finally:
        evaluator.close()
        built.environment.close()
    for number, (total, length) in enumerate(zip(evaluation.returns, evaluation.lengths, strict=True), 1):
        print(f"episode {number:3d}: return {total:.2f}, {length} steps")
    print(f"mean {evaluation.mean:.2f}, deviation {evaluation.deviation:.2f} over {len(evaluation.returns)} episodes")
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(command_line.run(main))
