"""The checks find each way in which a simulator can break its promises."""

import pytest
import torch

from alfish.environments.simulator import SimulatorStep, check_simulator, check_simulator_step
from alfish.environments.simulators.twenty_forty_eight import TwentyFortyEight


class Counting:
    """Counts to 3; the second action is illegal at 1. What is wrong is changed by a keyword."""

    num_actions = 2
    num_random = 1

    def __init__(self, **changes):
        for name, value in changes.items():
            setattr(self, name, value)

    def initial_state(self, num, seed=0):
        return {"count": torch.zeros(num)}

    def legal_mask(self, state):
        return torch.stack((state["count"] > -1, state["count"] != 1), dim=1)

    def observation(self, state):
        return state["count"]

    def reward(self, state, random):
        return state["count"] + random[:, 0]

    def discount(self, count):
        return (count < 3).float()

    def write(self, state):
        return {"count": state["count"] + 1}

    def step(self, state, action, random):
        after = self.write(state)
        reward, discount = self.reward(state, random), self.discount(after["count"])
        return SimulatorStep(after, reward, discount, self.mask_after(after))

    def mask_after(self, state):
        return Counting.legal_mask(self, state)


def test_a_right_one_passes():
    check_simulator(Counting())


def change_input(state):
    state["count"] += 1
    return {"count": state["count"].clone()}


BREAKS = [
    ({"initial_state": lambda num, seed: torch.zeros(num + 1)}, r"initial state .* expected a tensor \[16, \.\.\.\]"),
    (
        {"legal_mask": lambda state: torch.ones(16)},
        r"legal_mask is torch\.float32 \[16\]; expected torch\.bool \[16, 2\]",
    ),
    ({"legal_mask": lambda state: torch.zeros(16, 2).bool()}, r"legal_mask in step 0 is \[False, False\] in row 0"),
    ({"write": change_input}, r"step 0 changed what it was given \(state\.count\)"),
    (
        {"reward": lambda state, random: state["count"] / 0},
        r"reward in step 0 is nan in row 0; expected a finite number",
    ),
    (
        {"reward": lambda state, random: state["count"].double()},
        r"reward is torch\.float64 \[16\]; expected torch\.float32",
    ),
    ({"discount": lambda count: 0.9 * (count < 3)}, r"discount in step 0 is 0\.899.* in row 0; expected 1, -1 or 0"),
    ({"reward": lambda state, random: torch.rand(16)}, r"in step 0 is not what comes of the same step again \(reward"),
    ({"reward": lambda state, random: random[:1, 0].expand(16)}, r"comes of the same rows in another order \(reward"),
    (
        {"mask_after": lambda state: torch.ones(16, 2).bool()},
        r"legal_mask that step 0 returned is not what comes of legal",
    ),
    ({"write": lambda state: state | {"more": state["count"]}}, r"state after a step: .* not expected \['more'\]"),
    (
        {"write": lambda state: {"count": state["count"].long()}},
        r"state count is torch\.int64 \[16\]; expected torch\.float32",
    ),
    ({"step": lambda *arguments: None}, r"step returned a NoneType; expected a SimulatorStep"),
]


@pytest.mark.parametrize(("change", "message"), BREAKS)
def test_a_wrong_one_is_found(change, message):
    with pytest.raises(ValueError, match=message):
        check_simulator(Counting(**change))


def test_a_hidden_memory_is_found():
    simulator = TwentyFortyEight()
    seen, wrong = simulator.observation, []

    def observation(state):
        wrong.append(state)
        return seen(state) + len(wrong)

    simulator.observation = observation
    with pytest.raises(ValueError, match="the observation of the state before step 0 is not what comes of that step"):
        check_simulator(simulator)


def test_no_games():
    with pytest.raises(ValueError, match="num_games"):
        check_simulator(Counting(), num_games=0)


def test_an_answer_is_checked_without_reading_it():
    simulator = Counting()
    state, action = simulator.initial_state(2), torch.tensor([0, 1])
    step = simulator.step(state, action, torch.rand(2, 1))
    check_simulator_step(step, state, action, 2)
    with pytest.raises(ValueError, match=r"discount is torch\.float32 \[2, 1\]; expected torch\.float32 \[2\]"):
        check_simulator_step(step._replace(discount=step.discount.unsqueeze(1)), state, action, 2)
