import functools

import pytest
import torch
from muzero_parts import PlainModel, small_model

from alfish import gin_config, specs
from alfish.algorithms.mcts_algorithm import MCTSAlgorithm
from alfish.data_structures import time_step_spec
from alfish.environments.gymnasium_simulator import make_gymnasium_simulator
from alfish.environments.simulators.tabular import make_tabular_simulator
from alfish.environments.simulators.tic_tac_toe import TicTacToe
from alfish.environments.simulators.time_limited import TimedState, TimeLimited
from alfish.mcts.cuda_graphs import SearchGraphs
from alfish.mcts.hindsight import HindsightPolicy
from alfish.mcts.open_loop_policy import OpenLoopPolicy
from alfish.mcts.proposals import ProposalSettings
from alfish.mcts.search_policies import PuctPolicy
from alfish.mcts.settings import SearchSettings
from alfish.models.random_rollout import RandomRollout
from alfish.models.search_model import SearchModel
from alfish.models.simulator_search_model import SimulatorSearchModel
from alfish.models.tabular_search_model import TabularSearchModel
from alfish.specs import BoundedTensorSpec

INF = torch.inf
STATE = BoundedTensorSpec((), torch.int64, 0, 15)
ACTION = BoundedTensorSpec((), torch.int64, 0, 3)


class LakeModel(PlainModel):
    """The state's number as the value, and logits that count from 0."""

    def __init__(self):
        super().__init__(logits=(0.0, 1.0, 2.0, 3.0))

    def encode(self, observation):
        return observation.float().unsqueeze(1)


def lake(slippery=True):
    return make_tabular_simulator("FrozenLake-v1", {"is_slippery": slippery})


def make(slippery=False, **options):
    return SimulatorSearchModel(LakeModel(), 0.5, functools.partial(lake, slippery), **options)


def noughts(**options):
    """Tic-tac-toe, whose observations are two planes."""

    def board(planes):
        return (planes[:, 0] - planes[:, 1]).flatten(1).to(torch.int8)

    return SimulatorSearchModel(PlainModel(logits=(0.0,) * 9), 1.0, TicTacToe, board, **({"leaves": "zero"} | options))


def actions(*numbers):
    return torch.tensor(numbers)


def test_roots_and_steps_are_the_simulators_and_leaves_the_models():
    model = make()
    root = model.root(actions(14, 13))
    assert root.latent.state.tolist() == [14, 13]
    assert root.value.tolist() == [14.0, 13.0]
    assert root.prior_logits.tolist() == [[0, 1, 2, 3]] * 2
    step = model.step(root.latent, actions(2, 2))
    assert step.latent.state.tolist() == [15, 14]
    assert step.reward.tolist() == [1.0, 0.0]
    assert step.discount.tolist() == [0.0, 0.5]
    assert step.value.tolist() == [0.0, 14.0]
    assert step.prior_logits[1].tolist() == [0, 1, 2, 3]


def test_leaves_without_the_model():
    model = make(leaves="zero")
    root = model.root(actions(14))
    assert (root.value.item(), root.prior_logits.tolist()) == (0.0, [[0.0] * 4])
    assert model.leaf_value is None
    model = make(leaves=RandomRollout(20, 64))
    root = model.root(actions(14, 13))
    assert root.value[0] > root.value[1] > 0
    step, drawn = model.step(root.latent, actions(0, 0)), model.draw(root.latent, actions(0, 0))
    assert (step.value > 0).any()
    assert drawn.value.tolist() == [0.0, 0.0]
    assert model.leaf_value(drawn.latent).equal(step.value)


def test_futures_follow_the_seed_of_the_run():
    model = make(slippery=True)
    states = torch.full((200,), 14)

    def after():
        latent = model.root(states).latent
        return model.step(latent, torch.full((200,), 1)).latent.state

    torch.manual_seed(3)
    first, second = after(), after()
    torch.manual_seed(3)
    assert after().equal(first)
    assert not first.equal(second)
    assert first.unique().tolist() == second.unique().tolist() == [13, 14, 15]
    for drawn in (first, second):
        assert (torch.bincount(drawn)[13:] / 200).tolist() == pytest.approx([1 / 3] * 3, abs=0.12)


def test_masks_and_games_that_have_ended():
    model = noughts()
    planes = torch.zeros(2, 2, 3, 3)
    planes[0, 0, 0, 0] = planes[0, 1, 2, 2] = 1.0
    planes[1, 0] = 1.0
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 4] = False
    logits = model.root(planes, mask).prior_logits
    assert logits.tolist() == [[-INF, 0, 0, 0, -INF, 0, 0, 0, -INF], [0.0] * 9]
    step = model.step(model.root(planes).latent, actions(1, 1))
    assert step.discount.tolist() == [-1.0, 0.0]
    assert step.prior_logits[0].isinf().tolist() == [True, True] + [False] * 6 + [True]


def test_states_that_are_not_the_observation():
    limited = functools.partial(TimeLimited, lake(slippery=False), 2)
    model = SimulatorSearchModel(LakeModel(), 0.5, limited, lambda seen: TimedState(seen, torch.zeros_like(seen)))
    latent = model.root(actions(0)).latent
    steps = [model.step(latent, actions(0))]
    steps.append(model.step(steps[0].latent, actions(0)))
    assert [step.discount.item() for step in steps] == [0.5, 0.0]


def test_trees_go_on_where_nothing_is_random():
    assert make(slippery=False).trees_can_go_on
    assert not make(slippery=True).trees_can_go_on


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: make(leaves="network"), 'leaves is \'network\'; expected "model", "zero" or a RandomRollout'),
        (lambda: SimulatorSearchModel(LakeModel(), 0.5, TicTacToe), "TicTacToe with 9 actions; expected 4"),
        (
            lambda: SimulatorSearchModel(LakeModel(), 0.5, lambda: make_gymnasium_simulator("FrozenLake-v1")),
            "GymnasiumSimulator, whose states are copies of environments; expected one whose states follow",
        ),
        (lambda: SimulatorSearchModel(LakeModel(), 0.0, lake), "discount is 0.0"),
        (lambda: TabularSearchModel(LakeModel(), 0.5, TicTacToe), "TicTacToe; expected a TabularSimulator"),
        (
            lambda: TabularSearchModel(PlainModel(), 0.5, lake),
            "TabularSimulator with 4 actions; expected 2, as the model has",
        ),
    ],
)
def test_arguments_are_checked(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


def test_wrong_states_and_observations_are_named():
    with pytest.raises(ValueError, match="the observation, taken as the state, is .*float32.*check .*state_of"):
        make().root(torch.zeros(2))
    with pytest.raises(ValueError, match=r"what state_of returned is .*check SimulatorSearchModel\.state_of"):
        make(state_of=lambda seen: seen.unsqueeze(1)).root(actions(0))
    with pytest.raises(ValueError, match="the simulator's observation is .* an observation_transform does not fit"):
        make(state_of=lambda seen: seen[:, 0]).root(torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(
        ValueError, match="TabularSearchModel got observations of .*float32.* expected the numbers of states, int64"
    ):
        TabularSearchModel(LakeModel(), 0.5, lake).root(torch.zeros(2))


# In an algorithm


def algorithm(search_model=SimulatorSearchModel, slippery=True, **options):
    if search_model is SimulatorSearchModel:
        search_model = functools.partial(SimulatorSearchModel, simulator=functools.partial(lake, slippery))
    model = small_model(STATE, ACTION)
    return MCTSAlgorithm(STATE, ACTION, model, 0.9, **({"num_simulations": 8} | options), search_model=search_model)


def rows(states):
    return specs.zeros(time_step_spec(STATE, ACTION), (len(states),))._replace(observation=torch.tensor(states))


TABULAR = functools.partial(TabularSearchModel, simulator=lake)
PLANNERS = {
    "closed loop": {"search_model": TABULAR},
    "one future": {"slippery": False, "reuse_trees": True},
    "hindsight": {"search_policy": HindsightPolicy(4)},
    "open loop": {"search_policy": OpenLoopPolicy()},
    "candidates": {"slippery": False, "proposals": ProposalSettings(num_candidates=3)},
    "graphs": {"search_policy": HindsightPolicy(4), "search_graphs": SearchGraphs()},
}


@pytest.mark.parametrize("options", PLANNERS.values(), ids=PLANNERS.keys())
def test_planners_act(options):
    acting = algorithm(**({"num_simulations": 150} | options))
    for explore in (True, False):
        with torch.inference_mode():
            step = (acting.rollout_step if explore else acting.predict_step)(rows([14, 15, 0]), ())
        assert step.info.policy.shape == (3, 4)
        assert step.info.policy.isfinite().all()
        # Beside the goal with a chance of a third per step, and behind it.
        assert step.info.value[0] > 0.2
        assert step.info.value[1] == pytest.approx(0.0, abs=1e-3)
        assert ((step.output >= 0) & (step.output < 4)).all()


def test_open_loop_search_asks_rollouts_at_the_ends_only():
    count = 0

    class Counted(RandomRollout):
        def __call__(self, *arguments):
            nonlocal count
            count += 1
            return super().__call__(*arguments)

    make_it = functools.partial(SimulatorSearchModel, simulator=lake, leaves=Counted(4))
    acting = algorithm(make_it, num_simulations=20, search_policy=OpenLoopPolicy())
    acting.predict_step(rows([10]), ())
    assert count == 1 + 20  # the root, and each simulation's end


REFUSED = [
    (
        {"search_model": SearchModel, "search_policy": HindsightPolicy(2)},
        "search model is a SearchModel, .* hold no future",
    ),
    (
        {"search_model": SearchModel, "search_policy": OpenLoopPolicy()},
        "search model is a SearchModel, .* hold no future",
    ),
    ({"search_model": TABULAR, "search_policy": HindsightPolicy(2)}, "is a TabularSearchModel, .* hold no future"),
    ({"proposals": ProposalSettings(2), "search_policy": OpenLoopPolicy()}, "is a SampledModel, .* hold no future"),
    ({"reuse_trees": True, "search_policy": HindsightPolicy(2)}, "which begins each search anew"),
    ({"reuse_trees": True, "search_policy": OpenLoopPolicy()}, "which begins each search anew"),
    ({"reuse_trees": True, "search_policy": PuctPolicy()}, "SimulatorSearchModel, whose trees go on behind outcomes"),
    ({"reuse_trees": True, "search_model": TABULAR}, "TabularSearchModel, whose trees go on behind outcomes"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_makes_no_sense_together_is_refused_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        algorithm(**options)


def test_what_is_refused_by_the_first_search():
    acting = algorithm(search_policy=OpenLoopPolicy(), search_graphs=SearchGraphs())
    with pytest.raises(ValueError, match=r"expected MCTSAlgorithm\.search_graphs = None"):
        acting.predict_step(rows([0]), ())
    root = make().root(actions(0))
    with pytest.raises(ValueError, match="HindsightPolicy.split is None"):
        HindsightPolicy(2)(root, make().step, 2)
    with pytest.raises(ValueError, match="OpenLoopPolicy.resample is None"):
        OpenLoopPolicy()(root, make().step, 2)
    with pytest.raises(ValueError, match="OpenLoopPolicy.draw is .* expected None where resample is None"):
        OpenLoopPolicy(draw=make().step)


def test_policies_with_functions_of_their_own_keep_them():
    model, split = make(), make().split
    policy = HindsightPolicy(2, split)
    assert policy.for_model(model) is policy
    policy = OpenLoopPolicy(resample=model.resample, settings=SearchSettings(max_depth=2))
    assert policy.for_model(make()) is policy
    fitted = OpenLoopPolicy(settings=SearchSettings(max_depth=2)).for_model(model)
    assert (fitted.resample, fitted.draw, fitted.settings.max_depth) == (model.resample, model.draw, 2)


def test_is_made_by_gin():
    bindings = [
        "MCTSAlgorithm.search_model=@SimulatorSearchModel",
        "MCTSAlgorithm.search_policy=@OpenLoopPolicy()",
        "MCTSAlgorithm.num_simulations=4",
        "SimulatorSearchModel.simulator=@make_tabular_simulator",
        "SimulatorSearchModel.leaves=@RandomRollout()",
        "RandomRollout.num_steps=5",
        "make_tabular_simulator.name='FrozenLake-v1'",
    ]
    for policy in ("Hindsight", "OpenLoop"):
        bindings[1] = f"MCTSAlgorithm.search_policy=@{policy}Policy()"
        extra = ["HindsightPolicy.num_futures=3"] if policy == "Hindsight" else []
        gin_config.parse([], bindings + extra)
        acting = MCTSAlgorithm(STATE, ACTION, small_model(STATE, ACTION), 0.9)
        assert acting.predict_step(rows([14, 13]), ()).output.shape == (2,)
