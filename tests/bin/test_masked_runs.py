"""Whole runs in an environment of illegal actions, its observation nested and its frames stacked."""

import pytest
from run_commands import run

from alfish.bin import train

IMPORTS = """\
import alfish.algorithms.agent
import alfish.algorithms.dqn_algorithm
import alfish.algorithms.mcts_algorithm
import alfish.algorithms.muzero_reanalysis
import alfish.algorithms.muzero_representation_learner
import alfish.algorithms.ppo_algorithm
import alfish.algorithms.sac_algorithm
import alfish.environments.gymnasium_adapter
import alfish.models.simple_mcts_model
import alfish.networks.actor
import alfish.networks.actor_critic
import alfish.networks.critics
import alfish.networks.muzero_vector_networks
import alfish.networks.preprocessing
import alfish.networks.q_network
import alfish.trainers.evaluator
import alfish.trainers.experiment
import alfish.trainers.on_policy_batches
import alfish.trainers.replay_batches
import alfish.trainers.trainer
import alfish.trainers.updater
import masked_walk
"""

RUN = """
Experiment.environment = @make_gymnasium
make_gymnasium.name = "test/MaskedWalk-v0"
Evaluator.episodes = 2
Trainer.num_envs = 2
Trainer.window_length = 8
Trainer.total_env_steps = 48
Trainer.summary_interval = 24
Trainer.evaluation_interval = 24
Trainer.checkpoint_interval = 24
OnPolicyBatches.mini_batch_size = 8
OnPolicyBatches.num_epochs = 1
ReplayBuffer.capacity = 64
ReplayBatches.batch_size = 4
ReplayBatches.updates_per_env_step = 0.25
ReplayBatches.initial_env_steps = 16
TargetUpdate.tau = 0.1
Updater.optimizer = @torch.optim.Adam
Updater.learning_rate = 0.01
"""

DQN = """
Experiment.algorithm = @DQNAlgorithm
Trainer.batch_source = @ReplayBatches
DQNAlgorithm.q_network = @QNetwork
DQNAlgorithm.discount = 0.9
DQNAlgorithm.num_steps = 2
DQNAlgorithm.double = True
DQNAlgorithm.epsilon = 0.2
DQNAlgorithm.target_update = @TargetUpdate()
DQNAlgorithm.legal_mask_key = "mask"
QNetwork.hidden_sizes = (4,)
"""

PPO = """
Experiment.algorithm = @PPOAlgorithm
Trainer.batch_source = @OnPolicyBatches
PPOAlgorithm.actor_critic = @ActorCriticNetwork
PPOAlgorithm.discount = 0.9
PPOAlgorithm.gae_lambda = 0.9
PPOAlgorithm.clip_ratio = 0.2
PPOAlgorithm.value_loss_weight = 0.5
PPOAlgorithm.entropy_weight = 0.01
PPOAlgorithm.normalize_advantage = True
PPOAlgorithm.legal_mask_key = "mask"
ActorCriticNetwork.hidden_sizes = (4,)
ActorCriticNetwork.activation = "tanh"
"""

SAC = """
Experiment.algorithm = @SACAlgorithm
Trainer.batch_source = @ReplayBatches
SACAlgorithm.actor = @ActorNetwork
SACAlgorithm.critics = @CriticsNetwork
SACAlgorithm.discount = 0.9
SACAlgorithm.initial_temperature = 0.1
SACAlgorithm.random_env_steps = 16
SACAlgorithm.target_update = @TargetUpdate()
SACAlgorithm.legal_mask_key = "mask"
ActorNetwork.hidden_sizes = (4,)
CriticsNetwork.hidden_sizes = (4,)
CriticsNetwork.num_critics = 2
"""

STACK = """
Experiment.observation_transform = @FrameStack
FrameStack.num_frames = 3
FrameStack.keys = ("inner.place",)
"""


AGENT = """
Experiment.algorithm = @Agent
Agent.legal_mask_key = "mask"
Agent.representation = @MuzeroRepresentationLearner
MuzeroRepresentationLearner.representation = @MuzeroRepresentationImpl
MuzeroRepresentationLearner.training = @MuzeroRepresentationTrainingOptions()
MuzeroRepresentationImpl.model = @SimpleMCTSModel
MuzeroRepresentationImpl.num_unroll_steps = 2
MuzeroRepresentationImpl.td_steps = 2
MuzeroRepresentationImpl.discount = 0.9
MuzeroRepresentationImpl.value_loss_weight = 1.0
MuzeroRepresentationImpl.random_action_after_episode_end = True
MuzeroRepresentationImpl.train_policy = False
MuzeroRepresentationImpl.target_update = @TargetUpdate()
MuzeroRepresentationImpl.reanalysis = @Reanalysis()
Reanalysis.ratio = 1.0
Reanalysis.algorithm = None
SimpleMCTSModel.encoding_network = @VectorEncoding
SimpleMCTSModel.dynamics_network = @VectorDynamics
SimpleMCTSModel.prediction_network = @VectorPrediction
SimpleMCTSModel.value_support = @SquaredSupport
SimpleMCTSModel.reward_support = @SquaredSupport
SquaredSupport.transform = @SignedHyperbolicTransform()
VectorEncoding.latent_size = 4
VectorEncoding.hidden_sizes = (4,)
VectorDynamics.hidden_sizes = (4,)
VectorPrediction.hidden_sizes = (4,)
MuzeroRepresentationTrainingOptions.batch_source = @ReplayBatches
MuzeroRepresentationTrainingOptions.updater = @Updater
"""


def trained(folder, *parts):
    """Trains and evaluates; the exit code."""
    config = folder / "masked.gin"
    config.write_text(IMPORTS + RUN + "".join(parts))
    return run(train, f"--gin_file={config}", f"--root_dir={folder}/run", "--device=cpu")


@pytest.mark.parametrize("algorithm", [DQN, PPO, SAC], ids=["dqn", "ppo", "sac"])
@pytest.mark.parametrize("transform", ["", STACK], ids=["frame", "stack"])
def test_it_trains_where_actions_are_illegal(tmp_path, algorithm, transform):
    assert trained(tmp_path, algorithm, transform) == 0


def test_so_does_an_agent(tmp_path):
    ppo = PPO.replace("Experiment.algorithm", "Agent.algorithm")
    assert trained(tmp_path, ppo, AGENT, STACK) == 0
