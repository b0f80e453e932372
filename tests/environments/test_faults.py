"""What messages about environments say, and how long they may become."""

import gymnasium
import pytest
import torch
from environment_rows import empty_row

from alfish.environments.faults import MAX_TEXT, EnvironmentFault, locate, renumbered, without_middle
from alfish.environments.gymnasium_adapter import make_gymnasium


def test_a_worker_s_environment_gets_its_number_in_the_run():
    trace = "Traceback:\n  environment 1 of 0…3\n"
    last = f"{locate('Maze', 1, 4, episode=2, step=3)}: environment 0 of 0…9 is locked"
    message = renumbered(trace + last, first_env=4, num_envs=8)
    assert message == f"{trace}'Maze', environment 5 of 0…7, episode 2, step 3: environment 0 of 0…9 is locked"
    assert renumbered(locate("Maze", None, 4), 4, 8) == "'Maze', all 4 environments"


def test_the_middle_of_a_long_text_is_left_out():
    assert without_middle("abc", limit=3) == "abc"
    assert without_middle("abcdefgh", limit=4) == "ab … (4 characters) … gh"


class Verbose(gymnasium.Wrapper):
    def step(self, action):
        raise KeyError("no " * 1_000_000)


def test_an_environment_that_says_too_much_is_cut_short():
    environment = make_gymnasium("CartPole-v1", 1, wrappers=[Verbose])
    environment.reset(0, row := empty_row(environment))
    with pytest.raises(EnvironmentFault, match="step 1: step raised KeyError: 'no no .* characters") as raised:
        environment.step(torch.tensor([0]), row)
    assert len(str(raised.value)) < 1.2 * MAX_TEXT
