"""A hook of a user's own that raises: the traceback, and a last line that names class and hook."""

import pytest
from run_commands import CONFIG, run

from alfish.bin import train

RAISES = [
    ("misspells", "rollout_step", "AttributeError: 'TimeStep' object has no attribute 'reword'"),
    ("unpacks", "predict_step", "ValueError: too many values to unpack (expected 2"),
    ("multiplies", "train_step", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ("divides", "after_update", "ZeroDivisionError: division by zero"),
]


@pytest.fixture
def errors_of(tmp_path, capsys):
    """Trains with an algorithm whose hook raises; the lines of standard error."""

    def train_broken(where, *flags):
        config = tmp_path / "broken.gin"
        ppo = {"actor_critic": "@ActorCriticNetwork", "discount": 0.9, "gae_lambda": 0.9, "clip_ratio": 0.2}
        ppo |= {"value_loss_weight": 0.5, "entropy_weight": 0.0, "normalize_advantage": True, "where": f"'{where}'"}
        lines = [f"Broken.{name} = {value}" for name, value in ppo.items()]
        imports = [f'include "{CONFIG}"', "import broken_regression"]
        config.write_text("\n".join([*imports, "Experiment.algorithm = @Broken", *lines]) + "\n")
        assert run(train, f"--gin_file={config}", f"--root_dir={tmp_path}/run", "--device=cpu", *flags) == 1
        return capsys.readouterr().err.strip().splitlines()

    return train_broken


@pytest.mark.parametrize(("where", "hook", "cause"), RAISES)
def test_class_and_hook_are_named(errors_of, where, hook, cause):
    first, *trace, last = errors_of(where)
    assert first.startswith("Traceback")
    assert any("broken_regression.py" in line and f"in {hook}" in line for line in trace)
    assert last.startswith(f"error: broken_regression.Broken.{hook} raised {cause}")


def test_in_a_worker_process_too(errors_of):
    *trace, last = errors_of("misspells later", "--gin_file=background_engine.gin")
    assert any("broken_regression.py" in line and "in rollout_step" in line for line in trace)
    assert "raised AttributeError: broken_regression.Broken.rollout_step: 'TimeStep' object has no attribute" in last
