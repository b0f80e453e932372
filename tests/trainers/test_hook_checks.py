"""What hooks return is looked at on the first rows and the first batch, and named where it is wrong."""

import copy
import re

import pytest
import torch
from support import ScriptedEnvironment, TinyAlgorithm
from trainer_parts import bind_short_run, closed_after_test

from alfish.data_structures import AlgStep, RowsNeeded
from alfish.trainers.experiment import Experiment
from alfish.trainers.hook_checks import TRAINING, check_declared, check_first_answers
from alfish.trainers.trainer import Trainer

CPU = torch.device("cpu")
SPECS = ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec
ROLLOUT, PREDICT, PREPROCESS, TRAIN, LOSS = (
    "rollout_step",
    "predict_step",
    "preprocess_experience",
    "train_step",
    "calc_loss",
)


def with_hook(hook, change):
    """TinyAlgorithm's class, with `change` applied to what one hook returns."""
    own = getattr(TinyAlgorithm, hook)
    return type("Mistaken", (TinyAlgorithm,), {hook: lambda self, *arguments: change(own(self, *arguments))})


def make_trainer(algorithm, replay=True, **settings):
    own = {
        "ReplayBatches.segment_length": 2,
        "ReplayBatches.initial_env_steps": 8,
        "Evaluator.episodes": 2,
        "Trainer.total_env_steps": 40,
        "Trainer.evaluation_interval": None,
    }
    bind_short_run(replay, own | settings)
    return closed_after_test(Trainer(Experiment(ScriptedEnvironment, algorithm), CPU))


AT_CONSTRUCTION = [
    (ROLLOUT, lambda step: step.output, r"a torch.int64 tensor of shape \[2\]; expected AlgStep\(output="),
    (
        ROLLOUT,
        lambda step: step._replace(output=step.output[:, None]),
        r"the action as .* of shape \[2, 1\]; .* \[B, ...\] = \[2\]",
    ),
    (ROLLOUT, lambda step: step._replace(output=step.output.float()), "the action as a torch.float32 tensor"),
    (ROLLOUT, lambda step: step._replace(output=step.output + 2), r"the action \[.*\]; expected values in 0…1"),
    (ROLLOUT, lambda step: step._replace(info={"a": "hello"}), r"info.a as 'hello'; .* \[B, ...\] = \[2, ...\]"),
    (ROLLOUT, lambda step: step._replace(info={"a": 1.0}), "info.a as 1.0; expected"),
    (ROLLOUT, lambda step: step._replace(info=torch.zeros(())), r"info as .* of shape \[\]; expected"),
    (
        ROLLOUT,
        lambda step: step._replace(state=torch.zeros(2, 3)),
        r"the state .*\[\('', \(2, 3\).*define initial_state",
    ),
    (
        ROLLOUT,
        lambda step: step._replace(state={"count": 3}),
        r"state.count as 3; expected a tensor of shape \[B, ...\]",
    ),
    (PREDICT, lambda step: None, r"None; expected AlgStep\(output="),
    (PREDICT, lambda step: step._replace(output=step.output - 1), r"the action \[-1, -1\]; expected values in 0…1"),
    ("rows_needed", lambda needed: None, r"None; expected RowsNeeded\("),
    (
        "initial_state",
        lambda state: torch.zeros(3),
        r"a .* of shape \[3\]; expected .* \[batch_size, ...\] = \[2, ...\]",
    ),
]


@pytest.mark.parametrize(("hook", "change", "cause"), AT_CONSTRUCTION)
def test_before_anything_runs(hook, change, cause):
    with pytest.raises(ValueError, match=rf"^test_hook_checks\.Mistaken\.{hook} returned {cause}"):
        make_trainer(with_hook(hook, change))


def longer(answer):
    """The rows that follow the segment are left on."""
    inputs, info = answer
    return inputs._replace(reward=torch.cat([inputs.reward, inputs.reward[:, -1:]], dim=1)), info


def of_info(change):
    return lambda step: step._replace(info=(change(step.info[0]), step.info[1]))


IN_THE_FIRST_BATCH = [
    (PREPROCESS, lambda pair: pair[1], "a torch.float32 tensor .*; expected a pair, the rows"),
    (PREPROCESS, longer, r"inputs.reward as .* of shape \[{b}, {longer}\]; .* \[B, T, ...\] = \[{b}, {t}, ...\]"),
    (
        PREPROCESS,
        lambda pair: (pair[0], pair[1][:, :0]),
        r"rollout_info as .* = \[{b}, {t}, ...\], the rows of the seg",
    ),
    (PREPROCESS, lambda pair: (pair[0], pair[1].requires_grad_()), "rollout_info. with a gradient"),
    (TRAIN, lambda step: None, "None; expected AlgStep"),
    (TRAIN, lambda step: step.info, "a tuple of tensors; expected AlgStep"),
    (TRAIN, of_info(torch.sum), r"info.0 as .* of shape \[\]; .* = \[{n}, ...\]"),
    (LOSS, lambda info: None, r"None; expected LossInfo"),
    (LOSS, lambda info: info.loss, r"a torch.float32 tensor .*; expected LossInfo"),
    (
        LOSS,
        lambda info: info._replace(loss=info.loss.mean()),
        r"a loss .* of shape \[\]; expected \[B, T\] = \[{b}, {t}\]",
    ),
    (LOSS, lambda info: info._replace(loss=info.loss.detach()), "a loss without gradient"),
    (LOSS, lambda info: info._replace(extra={"x": torch.zeros(3)}), r"extra\['x'\] that is .* \[3\]; expected"),
    (LOSS, lambda info: info._replace(extra={"x": "hi"}), r"extra\['x'\] that is 'hi'"),
    (LOSS, lambda info: info._replace(extra=None), "an extra that is None"),
    (LOSS, lambda info: info._replace(priority=torch.zeros(9)), r"a priority .* \[9\]; expected \[B\] = \[{b}\]"),
]


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("hook", "change", "cause"), IN_THE_FIRST_BATCH)
def test_in_the_first_batch(hook, change, cause, replay, dry_run):
    # A fresh window is seen whole, [2, 4]; its rows are then mixed in batches [4, 1].
    batch_size, length = (4, 2) if replay else (2, 4) if hook == PREPROCESS else (4, 1)
    sizes = {"b": batch_size, "t": length, "longer": length + 1, "n": batch_size * length}
    for name, size in sizes.items():
        cause = cause.replace(f"{{{name}}}", str(size))
    trainer = make_trainer(with_hook(hook, change), replay)
    with pytest.raises(ValueError, match=rf"^test_hook_checks\.Mistaken\.{hook} returned {cause}"):
        trainer.dry_run() if dry_run else trainer.train()
    assert trainer.progress.updates == 0


def test_an_info_that_changes_its_form_between_rows():
    class Fickle(TinyAlgorithm):
        calls = 0

        def rollout_step(self, time_step, state):
            self.calls += 1
            name = "b" if self.calls == 4 else "a"
            return super().rollout_step(time_step, state)._replace(info={name: time_step.reward.clone()})

    with pytest.raises(ValueError, match=r"rollout_step returned an info of other leaves, .*'b'.*; expected .*'a'"):
        make_trainer(Fickle).train()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_fails_the_dry_run(value):
    trainer = make_trainer(with_hook(LOSS, lambda info: info._replace(loss=info.loss * value)))
    message = rf"Mistaken.calc_loss returned a loss that is not finite in the first update, .*\(loss {value}"
    with pytest.raises(ValueError, match=message):
        trainer.dry_run()


@pytest.mark.parametrize("replay", [False, True])
def test_later_calls_are_not_looked_at(replay):
    trainer = make_trainer(TinyAlgorithm, replay)
    algorithm = trainer.built.algorithm
    assert ROLLOUT in vars(algorithm)
    assert PREDICT not in vars(algorithm)
    trainer.train(stop_at_env_steps=16)
    assert trainer.progress.updates > 0
    assert {ROLLOUT, PREDICT, *TRAINING}.isdisjoint(vars(algorithm))


def test_a_hook_that_was_set_on_the_object_is_so_again():
    algorithm = TinyAlgorithm(*SPECS)
    algorithm.calc_loss = own = lambda info: TinyAlgorithm.calc_loss(algorithm, info)
    check_first_answers(algorithm, [LOSS])
    prediction = torch.zeros(4, 2, requires_grad=True)
    algorithm.calc_loss((prediction, torch.ones(4, 2)))
    assert algorithm.calc_loss is own


def test_a_deep_copy_calls_hooks_of_its_own():
    algorithm = TinyAlgorithm(*SPECS)
    check_first_answers(algorithm, TRAINING)
    twin = copy.deepcopy(algorithm)
    torch.nn.init.constant_(twin.layer.weight, 0.0)
    torch.nn.init.constant_(twin.layer.bias, 3.0)
    inputs = make_trainer(TinyAlgorithm).runners[0].batch_source.example().inputs
    rows = inputs._replace(reward=inputs.reward.flatten(), observation=inputs.observation.flatten(0, 1))
    assert (twin.train_step(rows, (), rows.reward).output == 3.0).all()
    assert TRAIN not in vars(twin)
    assert TRAIN in vars(algorithm)


def test_a_state_must_stay_as_it_began():
    class Remembering(TinyAlgorithm):
        def initial_state(self, batch_size):
            return {"sum": torch.zeros(batch_size, 2)}

        def predict_step(self, time_step, state):
            return AlgStep(torch.zeros_like(time_step.prev_action), {"sum": state["sum"][:, :1]})

    algorithm = Remembering(*SPECS)
    check_declared(algorithm)
    check_first_answers(algorithm, [PREDICT])
    rows = make_trainer(TinyAlgorithm).runners[0].batch_source.example().inputs
    rows = rows._replace(reward=rows.reward[:, 0], prev_action=rows.prev_action[:, 0])
    message = re.escape(
        "the state [('sum', (4, 1), torch.float32)]; expected one like that it was given, [('sum', (4, 2)"
        ", torch.float32)]: return, in AlgStep.state, the state after this row"
    )
    with pytest.raises(ValueError, match=message):
        algorithm.predict_step(rows, algorithm.initial_state(4))


def test_what_is_declared():
    assert check_declared(TinyAlgorithm(*SPECS)) is None
    algorithm = TinyAlgorithm(*SPECS)
    algorithm.rows_needed = lambda: RowsNeeded
    with pytest.raises(ValueError, match="rows_needed returned <class .*RowsNeeded'>; expected RowsNeeded"):
        check_declared(algorithm)


@pytest.mark.parametrize(("initial", "warned"), [(400, True), (8, False)])
def test_a_run_that_never_trains_is_warned_of(caplog, initial, warned):
    make_trainer(TinyAlgorithm, **{"ReplayBatches.initial_env_steps": initial}).train()
    messages = [record.getMessage() for record in caplog.records]
    assert any("TinyAlgorithm will not be trained: no update becomes due" in each for each in messages) == warned
