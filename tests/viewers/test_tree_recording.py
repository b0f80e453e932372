"""What is recorded beside the trees; tests/bin/test_tree_command.py plays whole episodes."""

import numpy as np
import torch

from alfish.viewers.observations import png
from alfish.viewers.tree_recording import _Drawing, proposal_label


class Rendering:
    """An environment that renders, or cannot."""

    def __init__(self, frame=None):
        self.frame, self.asked = frame, 0

    def render(self):
        self.asked += 1
        if self.frame is None:
            raise ValueError("it cannot be rendered")
        return self.frame


def test_an_image_that_is_observed_is_the_picture():
    image = torch.arange(20, dtype=torch.uint8).reshape(1, 4, 5)
    environment = Rendering(np.zeros((2, 2, 3), np.uint8))
    draw = _Drawing(environment, "")
    assert draw({"view": image, "speed": torch.zeros(2)}) == png(image[0].numpy())
    assert environment.asked == 0
    assert draw(torch.zeros(2)) == png(environment.frame)


def test_what_cannot_be_rendered_is_asked_for_once(capsys):
    environment = Rendering()
    draw = _Drawing(environment, "")
    assert draw(torch.zeros(2)) is None
    assert draw(torch.zeros(2)) is None
    assert environment.asked == 1
    assert capsys.readouterr().err == "no pictures: it cannot be rendered\n"


def test_proposed_actions_are_named_by_their_numbers():
    candidates = torch.tensor([[[[0.25, -1.0], [3.0, 0.0]]], [[[0.123456, 7.0], [0.0, 0.0]]]])  # [N, B, K, 2]
    label = proposal_label(candidates)
    assert [label(0, 0), label(0, 1), label(1, 0)] == ["0.25, -1", "3, 0", "0.123, 7"]
