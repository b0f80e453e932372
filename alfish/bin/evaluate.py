"""Evaluates a run: `python -m alfish.bin.evaluate --root_dir=RUN`."""

import gin
from absl import flags

from alfish.bin import command_line
from alfish.trainers.checkpoint_store import load_weights
from alfish.trainers.experiment import Experiment

flags.DEFINE_string("root_dir", None, "The run's folder.", required=True)
flags.DEFINE_integer("episodes", 20, "How many episodes.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Decides the episodes.", lower_bound=0)
flags.DEFINE_string("device", "auto", "auto, cpu, cuda or cuda:N.")
FLAGS = flags.FLAGS


def main() -> int:
    """Plays episodes with the best weights of a run; prints every return, their mean and deviation."""
    device = command_line.select_device(FLAGS.device)
    folder = command_line.load_run_config(FLAGS.root_dir)
    weights = command_line.best_weights(folder)
    with gin.unlock_config():
        gin.bind_parameter("Evaluator.episodes", FLAGS.episodes)
    experiment = Experiment()
    built = experiment.build(1, device, for_evaluation=True)
    evaluator = experiment.evaluator(built, device)
    try:
        load_weights(weights, built.algorithm)
        evaluation = evaluator.evaluate(FLAGS.seed)
    finally:
        evaluator.close()
        built.environment.close()
    for number, (total, length) in enumerate(zip(evaluation.returns, evaluation.lengths, strict=True), 1):
        print(f"episode {number:3d}: return {total:.2f}, {length} steps")
    print(f"mean {evaluation.mean:.2f}, deviation {evaluation.deviation:.2f} over {len(evaluation.returns)} episodes")
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
