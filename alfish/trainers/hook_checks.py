"""What the hooks of an algorithm return: looked at on the first rows and the first batch of a run, and not again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.hook_errors import class_name
from alfish.data_structures import AlgStep, BatchInfo, LossInfo, RowsNeeded, TimeStep
from alfish.environments.faults import shorten
from alfish.specs import BoundedTensorSpec

ACTING = ("rollout_step", "predict_step")
TRAINING = ("preprocess_experience", "train_step", "calc_loss")


class HookFault(ValueError):
    """A hook returned what it should not. The message names its class, what it returned and what was expected."""


def check_declared(algorithm: Algorithm) -> None:
    """Checks what an algorithm says of itself before any row: `rows_needed` and `initial_state`.

    Raises:
        HookFault: one of them returns something else than it should.
    """
    needed = algorithm.rows_needed()
    if not isinstance(needed, RowsNeeded):
        raise _fault(
            algorithm, "rows_needed", "", needed, "RowsNeeded(future=…), or leave this hook out if it reads no others"
        )
    for batch_size in (2, 3):  # two sizes: one alone might be met by chance
        state = algorithm.initial_state(batch_size)
        _check_leaves(algorithm, "initial_state", "", state, (batch_size,), "batch_size")


def check_first_answers(algorithm: Algorithm, hooks: Sequence[str], num_calls: int = 1) -> None:
    """Has what the hooks return in their first calls checked, within these calls; later ones cost nothing.

    Args:
        algorithm: its hooks are replaced on the object, until then. A deep copy has checks of its own.
        hooks: names of ACTING and TRAINING.
        num_calls: how many calls of each are looked at, at least 1.
    """
    for hook in hooks:
        vars(algorithm)[hook] = _Checked(algorithm, hook, num_calls)


def check_finite(algorithm: Algorithm, metrics: Mapping[str, torch.Tensor | float], prefix: str) -> None:
    """Checks that no update of a run that is tried out was skipped.

    Args:
        algorithm: what was trained.
        metrics: means over the updates.
        prefix: before their names.

    Raises:
        HookFault: a loss or its gradient was not finite. In a run, the updater skips such updates and counts them.
    """
    if metrics.get(f"{prefix}skipped", 0.0) > 0:
        values = [f"{name} {float(metrics[prefix + name]):.4g}" for name in ("loss", "gradient_norm")]
        raise HookFault(
            f"{class_name(algorithm)}.calc_loss returned a loss that is not finite in the first update, or that has "
            f"such a gradient ({', '.join(values)}); expected finite numbers: look at the observations and rewards, at "
            "logarithms and divisions, and at Updater.learning_rate"
        )


class _Checked:
    """Stands in the place of a hook for its first calls.

    Args:
        algorithm: see `check_first_answers`.
        hook: its name.
        num_calls: after so many calls that returned what they should, the hook is itself again.
    """

    def __init__(self, algorithm: Algorithm, hook: str, num_calls: int):
        self._algorithm = algorithm
        self._name = hook
        self._own = vars(algorithm).get(hook)
        self._hook: Callable[..., Any] = getattr(algorithm, hook)
        self._check: Callable[..., None] = _CHECKS[hook]
        self._calls_left = num_calls
        self._form: list[tuple[str, Any, Any]] | None = None

    def __call__(self, *arguments: Any) -> Any:
        answer = self._hook(*arguments)
        self._check(self._algorithm, self._name, answer, *arguments)
        if self._name in ACTING:
            self._check_form(answer.info)
        self._calls_left -= 1
        if not self._calls_left:
            self._remove()
        return answer

    def _check_form(self, info: nest.Nest) -> None:
        form = [(path, tuple(leaf.shape[1:]), leaf.dtype) for path, leaf in nest.leaves_with_paths(info)]
        if self._form is None:
            self._form = form
        elif form != self._form:
            expected = f"{self._form}, as in the first call: what is stored has one form throughout a run"
            raise _fault(self._algorithm, self._name, "an info of other leaves, ", form, expected)

    def _remove(self) -> None:
        if self._own is None:
            del vars(self._algorithm)[self._name]
        else:
            vars(self._algorithm)[self._name] = self._own


def _check_acted(algorithm: Algorithm, hook: str, step: Any, time_step: TimeStep, state: nest.Nest) -> None:
    outer = tuple(time_step.reward.shape)
    if not isinstance(step, AlgStep):
        raise _fault(algorithm, hook, "", step, "AlgStep(output=the actions [B, ...], state=…, info=what is stored)")
    _check_action(algorithm, hook, step.output, outer)
    _check_leaves(algorithm, hook, "info", step.info, outer, "B")
    _check_leaves(algorithm, hook, "state", step.state, outer, "B")
    given = _form(state)
    if nest.leaves(state) and _form(step.state) != given:
        expected = f"one like that it was given, {given}: return, in AlgStep.state, the state after this row"
        raise _fault(algorithm, hook, "the state ", _form(step.state), expected)
    if nest.leaves(step.state) and not nest.leaves(algorithm.initial_state(1)):
        expected = "none: define initial_state(batch_size), what it begins with, if the algorithm has a memory"
        raise _fault(algorithm, hook, "the state ", _form(step.state), expected)


def _check_action(algorithm: Algorithm, hook: str, action: nest.Nest, outer: tuple[int, ...]) -> None:
    where = f"{class_name(algorithm)}.{hook} returned"
    if nest.structure(action) != nest.structure(algorithm.action_spec):
        expected = f"a nest like action_spec, {shorten(algorithm.action_spec)}"
        raise _fault(algorithm, hook, "the action (AlgStep.output) ", action, expected)
    pairs = zip(nest.leaves_with_paths(action), nest.leaves(algorithm.action_spec), strict=True)
    for (path, leaf), spec in pairs:
        name = f"the action {path}".rstrip()
        shape = (*outer, *spec.shape)
        if not isinstance(leaf, torch.Tensor) or (tuple(leaf.shape), leaf.dtype) != (shape, spec.dtype):
            raise HookFault(
                f"{where} {name} as {_described(leaf)}; expected a {spec.dtype} tensor of shape [B, ...] = "
                f"{list(shape)}"
            )
        if not _is_allowed(leaf, spec):
            raise HookFault(
                f"{where} {name} {shorten(leaf.tolist())}; expected values in {spec.minimum}…{spec.maximum}, as "
                "action_spec says"
            )


def _is_allowed(action: torch.Tensor, spec: BoundedTensorSpec) -> bool:
    if not spec.is_discrete:  # an algorithm may leave the bounds of a box to the environment
        return bool(action.isfinite().all())
    low, high = spec.bounds(action.device)
    return bool(((action >= low) & (action <= high)).all())


def _check_preprocessed(
    algorithm: Algorithm, hook: str, answer: Any, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
) -> None:
    del root_inputs, rollout_info
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], TimeStep)):
        expected = "a pair, the rows [B, T] as a TimeStep and what train_step gets as rollout_info"
        raise _fault(algorithm, hook, "", answer, expected)
    batch_size, length = batch_info.position.shape
    is_replay = bool(nest.leaves(batch_info.age))
    if is_replay:  # positions reach as far as the rows, and the first rows may only be burnt in
        length -= algorithm.rows_needed().future + algorithm.burn_in
    # Of sequences of a replay, which are folded and mixed by no one, the info may also hold what belongs to each whole.
    of_info = (batch_size,) if is_replay and nest.leaves(batch_info.state) else (batch_size, length)
    advice = ", the rows of the segment without those after it"
    for name, part, outer in zip(("inputs", "rollout_info"), answer, ((batch_size, length), of_info), strict=True):
        letters = "B, T" if len(outer) == 2 else "B"
        _check_leaves(algorithm, hook, name, part, outer, letters, advice if len(outer) == 2 else "")
        for path, leaf in nest.leaves_with_paths(part):
            if leaf.requires_grad:
                raise HookFault(
                    f"{class_name(algorithm)}.{hook} returned {name}.{path} with a gradient; expected one without, "
                    "which may be used in several updates: detach() it"
                )


def _check_trained(
    algorithm: Algorithm, hook: str, step: Any, inputs: TimeStep, state: nest.Nest, rollout_info: nest.Nest
) -> None:
    del state, rollout_info
    if not isinstance(step, AlgStep):
        raise _fault(algorithm, hook, "", step, "AlgStep(output=…, info=what calc_loss needs)")
    letters = "B * T" if inputs.reward.ndim == 1 else "B, T"
    _check_leaves(algorithm, hook, "info", step.info, tuple(inputs.reward.shape), letters)


def _check_loss(algorithm: Algorithm, hook: str, answer: Any, info: nest.Nest) -> None:
    if not isinstance(answer, LossInfo):
        raise _fault(algorithm, hook, "", answer, "LossInfo(loss=a tensor [B, T], extra=a dict of what is reported)")
    outer = tuple(nest.leaves(info)[0].shape[:2]) if nest.leaves(info) else tuple(answer.loss.shape)
    loss, where = answer.loss, f"{class_name(algorithm)}.{hook} returned"
    if not isinstance(loss, torch.Tensor) or tuple(loss.shape) != outer:
        raise HookFault(
            f"{where} a loss that is {_described(loss)}; expected [B, T] = {list(outer)}, without a mean: which rows "
            "count, and how much, is for the Updater to say"
        )
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise HookFault(
            f"{where} a loss without gradient; expected one that depends on the parameters by what train_step "
            "computed: is there a detach(), or a torch.no_grad(), too many?"
        )
    _check_extra(where, answer.extra, outer)
    priority = answer.priority
    is_priority = isinstance(priority, torch.Tensor) and tuple(priority.shape) == outer[:1]
    if not is_priority and priority != ():
        raise HookFault(f"{where} a priority that is {_described(priority)}; expected [B] = {list(outer[:1])}")


def _check_extra(where: str, extra: Any, outer: tuple[int, ...]) -> None:
    if not isinstance(extra, dict):
        raise HookFault(
            f"{where} an extra that is {_described(extra)}; expected a dict of what is reported, maybe empty"
        )
    for name, value in extra.items():
        if not isinstance(value, torch.Tensor) or tuple(value.shape) not in ((), outer):
            raise HookFault(
                f"{where} extra[{name!r}] that is {_described(value)}; expected a tensor, a scalar or [B, T] = "
                f"{list(outer)}"
            )


def _check_leaves(
    algorithm: Algorithm, hook: str, name: str, value: nest.Nest, outer: tuple[int, ...], letters: str, advice: str = ""
) -> None:
    """Checks that all leaves of a nest are tensors whose leading axes, of these letters, have the sizes `outer`."""
    for path, leaf in nest.leaves_with_paths(value):
        if not isinstance(leaf, torch.Tensor) or tuple(leaf.shape[: len(outer)]) != outer:
            what = ".".join(filter(None, (name, path)))
            sizes = ", ".join(map(str, outer))
            raise HookFault(
                f"{class_name(algorithm)}.{hook} returned {what and f'{what} as '}{_described(leaf)}; expected a "
                f"tensor of shape [{letters}, ...] = [{sizes}, ...]{advice}"
            )


def _form(value: nest.Nest) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """Paths, shapes and dtypes of the tensors in a nest."""
    return [(path, tuple(leaf.shape), leaf.dtype) for path, leaf in nest.leaves_with_paths(value)]


def _fault(algorithm: Algorithm, hook: str, what: str, value: Any, expected: str) -> HookFault:
    return HookFault(f"{class_name(algorithm)}.{hook} returned {what}{_described(value)}; expected {expected}")


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)}"
    is_nest = isinstance(value, tuple | dict) and nest.leaves(value)
    if is_nest and all(isinstance(leaf, torch.Tensor) for leaf in nest.leaves(value)):
        return f"a {type(value).__name__} of tensors"
    return shorten(value)


_CHECKS: dict[str, Callable[..., None]] = {
    "rollout_step": _check_acted,
    "predict_step": _check_acted,
    "preprocess_experience": _check_preprocessed,
    "train_step": _check_trained,
    "calc_loss": _check_loss,
}
