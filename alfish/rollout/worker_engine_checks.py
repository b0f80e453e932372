"""What is refused before a worker process starts: settings, and checkpoints of other engines."""

from collections.abc import Mapping
from typing import Any

from alfish import nest, specs
from alfish.checks import check_at_least
from alfish.data_structures import Experience
from alfish.rollout.acting import Actor
from alfish.rollout.collector import check_collector_state
from alfish.rollout.device_names import device_named
from alfish.rollout.engine import EngineContext, check_pin_memory, other_engine
from alfish.rollout.turns import Turns


def check_settings(context: EngineContext, owner: str, turns: Turns, worker_device: str, pin_memory: bool) -> None:
    """Checks what a user may set.

    Args:
        context: see EngineContext.
        owner: the class, for messages.
        turns: see Turns.
        worker_device: where workers act.
        pin_memory: whether windows are pinned.

    Raises:
        ValueError: a setting is out of range, or they do not go together.
    """
    check_at_least("window_length", context.window_length, 1)
    check_at_least(f"{owner}.num_workers", turns.num_workers, 1)
    check_at_least(f"{owner}.max_staleness", turns.max_staleness, 0)
    check_at_least(f"{owner}.workers_per_batch", turns.workers_per_batch, 1)
    if turns.num_workers % turns.workers_per_batch:
        raise ValueError(
            f"{owner}.workers_per_batch is {turns.workers_per_batch}; it must divide the {turns.num_workers} of "
            f"{owner}.num_workers, so that all take turns"
        )
    if context.num_envs % turns.num_workers:
        raise ValueError(
            f"Trainer.num_envs is {context.num_envs}; it must be a multiple of the {turns.num_workers} of "
            f"{owner}.num_workers, which have as many environments each"
        )
    check_pin_memory(owner, pin_memory, context.device)
    device_named(f"{owner}.worker_device", worker_device)


def check_engine_state(
    state: dict[str, Any], sizes: Mapping[str, int], context: EngineContext, envs_of_worker: int, window: Experience
) -> None:
    """Checks whether a checkpoint is that of an engine with worker processes of the same settings.

    Args:
        state: what its `state_dict` returned.
        sizes: this engine's settings, by name.
        context: of this engine.
        envs_of_worker: environments of each worker.
        window: one of this engine's.

    Raises:
        ValueError: it is of another engine, or of other settings.
    """
    found = state.get("turns", {})
    if set(found) != set(sizes):
        raise other_engine(_engine_of(found), _engine_of(sizes))
    changes = [f"{name} {found[name]} -> {now}" for name, now in sizes.items() if found[name] != now]
    expected = [list(leaf.shape) for leaf in nest.leaves(window)]
    shapes = [[list(leaf.shape) for leaf in ahead["leaves"]] for ahead in state["ahead"]]
    if not changes and any(each != expected for each in shapes):
        changes = [f"windows collected ahead {shapes[0]} -> {expected}, as with another Trainer.window_length"]
    if changes:
        raise ValueError(
            f"the checkpoint's engine is not that of this run: {', '.join(changes)}; set that back, or begin a new run "
            "in another folder"
        )
    carried = specs.zeros(context.stored_specs.time_step, (context.transform.past_rows + 1, envs_of_worker))
    actor = Actor(context.algorithm, context.transform, envs_of_worker, context.device)
    for worker in state["workers"]:
        check_collector_state(worker, carried, actor)


def _engine_of(sizes: Mapping[str, int]) -> str:
    # Sizes are named by their settings; an engine in the same process has none.
    return next((name.partition(".")[0] for name in sizes if not name.startswith("Trainer.")), "SameProcessEngine")
