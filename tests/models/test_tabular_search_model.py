import torch
from muzero_parts import PlainModel

from alfish.environments.simulators.tabular import make_tabular_simulator
from alfish.mcts.search import search
from alfish.models.tabular_search_model import TabularSearchModel
from alfish.models.tabular_stochastic_model import TabularStochasticModel

STATES = torch.tensor([14, 13, 0, 10])


class LakeModel(PlainModel):
    """The state's number / 16 as the value."""

    def encode(self, observation):
        return observation.float().unsqueeze(1) / 16


def lake():
    return make_tabular_simulator("FrozenLake-v1")


def models():
    outcomes = lake().outcomes
    exact = TabularStochasticModel(
        outcomes.probability.float(),
        outcomes.next_state,
        outcomes.reward,
        torch.where(outcomes.ends, 0.0, 0.9),
        value=torch.arange(16) / 16,
    )
    return TabularSearchModel(LakeModel(logits=(0.0,) * 4), 0.9, lake), exact


def test_it_is_the_exact_model_with_the_networks_values():
    learned, exact = models()
    results = [search(model.root(STATES), model.step, 200) for model in (learned, exact)]
    assert results[0].visits.equal(results[1].visits)
    torch.testing.assert_close(results[0].q_values, results[1].q_values)
    torch.testing.assert_close(results[0].tree.raw_values, results[1].tree.raw_values)


def test_priors_and_masks():
    model = TabularSearchModel(LakeModel(logits=(0.0, 1.0, 2.0, 3.0)), 0.9, lake)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[:, 1] = False
    assert model.root(STATES, mask).prior_logits.tolist() == [[0.0, -torch.inf, 2.0, 3.0]] * 4
    result = search(model.root(STATES, mask), model.step, 20)
    assert (result.visits[:, 1] == 0).all()
    assert (result.visits.sum(1) == 20).all()
