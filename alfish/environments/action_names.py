"""What the actions of an environment are called, for those who look at it."""

from typing import Any

import gymnasium


def action_names(env: gymnasium.vector.VectorEnv) -> tuple[str, ...]:
    """The names of a discrete action's values, from 0; empty if the environment tells none.

    Atari games tell them, and so does every environment with a method `get_action_meanings`, as Gymnasium's Atari
    environments have it. Environments in worker processes are not asked.
    """
    count = getattr(env.single_action_space, "n", 0)
    names = tuple(str(name) for name in _told(env.unwrapped))
    return names if len(names) == count else ()


def _told(env: Any) -> Any:
    if hasattr(env, "ale"):  # ale-py's own vector environment
        return [action.name for action in env.ale.get_action_set()]
    single = getattr(env, "envs", None)
    meanings = getattr(single[0].unwrapped, "get_action_meanings", None) if single else None
    return meanings() if callable(meanings) else ()
