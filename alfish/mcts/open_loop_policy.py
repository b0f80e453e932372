"""Acting by open-loop search."""

import dataclasses
from typing import Any

import gin
import torch

from alfish.mcts.open_loop import LeafValue, Resample, open_loop_search
from alfish.mcts.records import Model, RetainedTrees, RootNode
from alfish.mcts.root_policies import root_policy
from alfish.mcts.search import search
from alfish.mcts.search_policies import (
    PolicyOutput,
    SearchFunction,
    check_root_noise,
    draw_seed,
    sample_action,
    with_root_noise,
)
from alfish.mcts.settings import SearchSettings, SequentialHalving, check_setting


@gin.configurable
@dataclasses.dataclass(frozen=True)
class OpenLoopPolicy:
    """Acts by the visits of an open-loop search, and learns their shares; the next move plans anew.

    Args:
        resample: gives each simulation its random numbers; for a SimulatorModel its `resample`. None takes `resample`,
            `leaf_value` and `draw` of `MCTSAlgorithm.search_model`.
        settings: how the search chooses; at its root any rule but SequentialHalving.
        leaf_value: gives the value of the states at the simulations' ends, such as the `value` of a SimulatorModel with
            rollouts, while one without them draws the steps; None takes the value of the model's last step.
        dirichlet_alpha: concentration of the root's noise, above 0. Read when `noise_fraction` > 0.
        noise_fraction: share of the noise in the root's prior while exploring, in [0, 1].
        draw: gives the steps, without their values where `leaf_value` gives those; None takes the model of the call.

    Raises:
        ValueError: a choice is out of its range, or does not go with the others.
    """

    resample: Resample | None = None
    settings: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    leaf_value: LeafValue | None = None
    dirichlet_alpha: float = 0.3
    noise_fraction: float = 0.25
    draw: Model | None = None

    def __post_init__(self) -> None:
        valid = self.resample is None or callable(self.resample)
        check_setting(self, "resample", valid, "a function that draws anew, such as SimulatorModel.resample, or None")
        for name in ("leaf_value", "draw"):
            alone = getattr(self, name) is None or self.resample is not None
            check_setting(self, name, alone, "None where resample is None, since the search model gives all of them")
        check_setting(self, "settings", not isinstance(self.settings.root, SequentialHalving), "another root")
        check_setting(self, "settings", self.settings.leaves_per_round == 1, "leaves_per_round = 1")
        check_root_noise(self)

    @property
    def retains_trees(self) -> bool:
        return False

    def for_model(self, search_model: Any) -> "OpenLoopPolicy":
        """The policy for a search of this model, whose `resample`, `leaf_value` and `draw` it takes if it has none.

        Raises:
            ValueError: the model has none either.
        """
        if self.resample is not None:
            return self
        if not hasattr(search_model, "resample"):
            raise ValueError(
                f"OpenLoopPolicy.resample is None and the search model is a {type(search_model).__name__}, whose"
                " latents hold no future; expected a SimulatorSearchModel, or a function that draws anew"
            )
        return dataclasses.replace(
            self, resample=search_model.resample, leaf_value=search_model.leaf_value, draw=search_model.draw
        )

    def __call__(
        self,
        root: RootNode,
        model: Model,
        num_simulations: int,
        legal_mask: torch.Tensor | None = None,
        temperature: float | torch.Tensor = 0.0,
        explore: bool = False,
        retained: RetainedTrees | None = None,
        run: SearchFunction = search,
    ) -> PolicyOutput:
        """See `SearchPolicy`. The output's search has no `latents`, and `run` must be `search.search`."""
        if self.resample is None:
            raise ValueError("OpenLoopPolicy.resample is None; expected a function that draws anew, or for_model(...)")
        if run is not search:
            raise ValueError(
                "OpenLoopPolicy keeps its trees in host memory; expected MCTSAlgorithm.search_graphs = None"
            )
        if retained is not None:
            raise ValueError("OpenLoopPolicy was given retained trees; expected None: its nodes are not states")
        if explore:
            root = with_root_noise(root, legal_mask, self)
        result = open_loop_search(
            root,
            model if self.draw is None else self.draw,
            num_simulations,
            self.resample,
            self.settings,
            legal_mask,
            self.leaf_value,
            seed=draw_seed(self.settings),
        )
        policy = root_policy(result, "visits")
        return PolicyOutput(sample_action(policy, temperature), policy, result.value, result)
