"""What tests of windows share: an engine over given environments."""

import numpy as np
import torch

from alfish import nest
from alfish.data_structures import time_step_spec
from alfish.rollout.acting import experience_specs
from alfish.rollout.engine import EngineContext
from alfish.rollout.same_process_engine import SameProcessEngine
from alfish.summary.timers import Timers

CPU = torch.device("cpu")


def engine_context(environment, algorithm, transform, window_length, seed=0, timers=None, make_experiment=None):
    """What an engine of these environments is made from."""
    row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
    return EngineContext(
        make_experiment=make_experiment,
        environment=environment,
        algorithm=algorithm,
        transform=transform,
        stored_specs=experience_specs(algorithm, transform, row_specs, environment.num_envs, CPU),
        num_envs=environment.num_envs,
        window_length=window_length,
        streams=np.random.SeedSequence(seed),
        device=CPU,
        timers=Timers() if timers is None else timers,
    )


def same_process_engine(*arguments, **settings):
    """A SameProcessEngine; the arguments are those of `engine_context`."""
    return SameProcessEngine(engine_context(*arguments, **settings))


def collect(engine):
    """The engine's next window, in memory of its own."""
    return nest.map_structure(torch.clone, engine.collect({}).experience)
