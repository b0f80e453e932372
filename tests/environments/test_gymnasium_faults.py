"""What is refused at the boundary of Gymnasium environments, and what the messages say."""

import logging
import re
import sys
import time

import gymnasium
import numpy as np
import pytest
import torch
from environment_rows import collect, empty_row
from gymnasium import spaces
from toy_environments import Counter

from alfish.environments import optional
from alfish.environments.atari import make_atari
from alfish.environments.environment import BoundaryChecks
from alfish.environments.faults import EnvironmentFault
from alfish.environments.gymnasium_adapter import make_gymnasium
from alfish.environments.optional import MissingPackageError

FAULTS = [
    ("shape", "observation has the shape (3,); expected (2,)"),
    ("dtype", "observation has the dtype float64; expected float32"),
    ("not an array", "observation is [0.0, 0.0]; expected a NumPy array of shape (2,)"),
    ("nan", "observation[1] is nan; expected a finite float32"),
    ("infinite reward", "reward is inf; expected a finite float32"),
    ("large reward", "reward is 1e+300; expected a finite float32"),
    ("no number", "reward is None; expected one number"),
    ("no bool", "terminated is 'yes'"),
    ("four values", "expected (observation, reward, terminated, truncated, info)"),
    ("raises", "step raised KeyError: 'the motor is off'"),
]


class OnlyLastBreaks(gymnasium.Wrapper):
    """Lets only every third environment made have its fault."""

    made = 0

    def __init__(self, env):
        super().__init__(env)
        OnlyLastBreaks.made += 1
        if OnlyLastBreaks.made % 3:
            env.unwrapped.fault = ""


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_fault_names_environment_episode_and_step(fault, message):
    OnlyLastBreaks.made = 0
    environment = make_gymnasium("toy/Counter-v0", 3, wrappers=[OnlyLastBreaks], env_kwargs={"fault": fault})
    environment._env.envs[2].unwrapped.fault_step = 99
    rows = collect(environment, seed=0, steps=4)
    assert rows[-1].is_first().all()  # of the second episode
    environment._env.envs[2].unwrapped.fault_step = 2
    environment.step(torch.tensor([0, 0, 0]), rows[0])
    with pytest.raises(EnvironmentFault) as caught:
        environment.step(torch.tensor([0, 0, 0]), rows[0])
    assert "'toy/Counter-v0', environment 2 of 0…2, episode 2, step 2: " in str(caught.value)
    assert message in str(caught.value)
    if fault == "raises":
        assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing key", "expected a dict with the keys ['bits', 'camera', 'dials', 'place']"),
        ("deep dtype", "observation.place.1 has the dtype float32; expected float64"),
        ("out of range", "observation.dials[1] is 4; expected 0…[2, 3]"),
    ],
)
def test_nested_fault_names_the_path(fault, message):
    environment = make_gymnasium("toy/Tree-v0", 2, env_kwargs={"fault": fault})
    with pytest.raises(EnvironmentFault, match=re.escape(message)):
        collect(environment, 0, 1)


@pytest.mark.parametrize(
    ("fault", "message"), [("dtype", "observation has the dtype float64"), ("raises", "raised KeyError: 'no reset'")]
)
def test_native_fault(fault, message):
    environment = make_gymnasium("toy/BadNative-v0", 2, "native", env_kwargs={"fault": fault})
    with pytest.raises(EnvironmentFault, match=f"'toy/BadNative-v0', all 2 environments, row 0: {message}"):
        environment.reset(0, empty_row(environment))


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (spaces.Text(5), "Text"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
        (spaces.Graph(spaces.Discrete(2), None), "Graph"),
    ],
)
def test_space_without_tensor_form_is_refused_by_name(space, kind):
    broken = spaces.Dict({"deep": spaces.Tuple((spaces.Discrete(2), space))})
    with pytest.raises(ValueError, match=rf"observation\.deep\.1 is of the space {kind}.*wrapper"):
        make_gymnasium("toy/Tree-v0", 1, env_kwargs={"broken_space": broken})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "CartPole-v9"}, "did you mean 'CartPole-v1'"),
        ({"name": "cartpole-v1"}, "did you mean 'CartPole-v1'"),
        ({"name": "Xyzzy"}, "no name is like it"),
        ({"name": "no_such_module:CartPole-v1"}, "'no_such_module' .* PYTHONPATH"),
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"time_limit": 0}, "time_limit is 0; it must be at least 1"),
        ({"vectorization": "fast"}, "'fast'; expected 'sync', 'async' or 'native'"),
        ({"env_kwargs": {"lenght": 3}}, "'lenght'.*did you mean 'length'"),
        ({"env_kwargs": {"max_episode_steps": 3}}, "use time_limit"),
        ({"vectorization": "native"}, "has no native vector environment; use 'sync' or 'async'"),
        ({"name": "toy/SameStep-v0", "vectorization": "native"}, "SAME_STEP.*expected.*NEXT_STEP"),
        ({"name": "CartPole-v1", "vectorization": "native", "wrappers": [Counter]}, "wrappers cannot be applied"),
        ({"env_kwargs": {"length": 3}, "wrappers": [lambda env: 1 // 0]}, "could not be made: ZeroDivisionError"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_gymnasium(**{"name": "toy/Counter-v0", "num_envs": 2, **arguments})


def test_undeclared_autoreset_mode_is_refused(monkeypatch):
    # What ale-py does to the base class's dictionary must not speak for other classes.
    monkeypatch.setitem(gymnasium.vector.VectorEnv.metadata, "autoreset_mode", gymnasium.vector.AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="autoreset mode None"):
        make_gymnasium("toy/Silent-v0", 2, "native")


@pytest.mark.parametrize(
    ("name", "missing", "pip"),
    [
        ("ALE/Pong-v5", "ale_py", 'pip install "alfish[atari]"'),
        ("MinAtar/Breakout-v1", "minatar.gym", 'pip install "alfish[minatar]"'),
    ],
)
def test_missing_package_names_the_extra(name, missing, pip, monkeypatch):
    def absent(module):
        assert module == missing
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.partition(".")[0])

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    with pytest.raises(MissingPackageError, match=re.escape(pip)):
        make_gymnasium(name, 1)


def test_missing_ale_py_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.delitem(sys.modules, "ale_py.vector_env", raising=False)
    with pytest.raises(MissingPackageError, match=re.escape('pip install "alfish[atari]"')):
        make_atari("pong", 1)


@pytest.mark.parametrize(("name", "extra"), [("LunarLander-v3", "box2d"), ("Ant-v5", "mujoco")])
def test_missing_extra_of_gymnasium(name, extra, monkeypatch):
    def absent(entry_point):
        raise gymnasium.error.DependencyNotInstalled("not here")

    monkeypatch.setattr("alfish.environments.gymnasium_adapter.load_env_creator", absent)
    with pytest.raises(MissingPackageError, match=re.escape(f'pip install "alfish[{extra}]"')):
        make_gymnasium(name, 1)


def test_a_broken_dependency_of_an_installed_package_speaks_for_itself(monkeypatch):
    def broken(module):
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(optional.importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        optional.require("ale_py", "atari")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.tensor([0, 3]), "action given to 'toy/Counter-v0' is .0, 3.; expected values in 0…2"),
        (torch.tensor([-1, 0]), "expected values in 0…2"),
        (torch.tensor([0, 1, 2]), r"int64 \[3\]; expected torch.int64 \[2\]"),
        (torch.tensor([0.0, 1.0]), r"float32 \[2\]; expected torch.int64"),
        ({"a": torch.tensor([0, 1])}, "nested structure"),
    ],
)
def test_action_that_does_not_fit(action, message):
    environment = make_gymnasium("toy/Counter-v0", 2)
    environment.reset(0, row := empty_row(environment))
    with pytest.raises(ValueError, match=message):
        environment.step(action, row)


def test_continuous_action_must_be_finite():
    environment = make_gymnasium("Pendulum-v1", 2)
    environment.reset(0, row := empty_row(environment))
    with pytest.raises(ValueError, match="action given to 'Pendulum-v1' is .*nan.*finite"):
        environment.step(torch.tensor([[0.0], [float("nan")]]), row)


def test_order_of_calls():
    environment = make_gymnasium("toy/Counter-v0", 1)
    row = empty_row(environment)
    with pytest.raises(ValueError, match="stepped before its first reset"):
        environment.step(torch.tensor([0]), row)
    with pytest.raises(ValueError, match="seed of 'toy/Counter-v0' is -1"):
        environment.reset(-1, row)
    environment.close()
    environment.close()
    with pytest.raises(ValueError, match="is closed"):
        environment.reset(0, row)


def test_slow_call_is_warned_of_once(caplog):
    checks = BoundaryChecks("slow", 2, None, [], slow_call_seconds=0.001)
    checks.call(time.sleep, 0.005)
    checks.call(time.sleep, 0.01)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("'slow', all 2 environments, row 0: took 0.0 s; ")
    assert checks.slowest_call_seconds >= 0.005
    assert checks.steps().dtype == np.int64
