"""Shows that resuming is exact and that the seed decides the run: compares files and tensors of real runs, bit for bit.

python benchmarks/resume.py [--env_steps 2000]

For each config: a run of 2n environment steps with a checkpoint at n; the same again; the same with another seed; and a
run that is stopped at n and continued by a new process. Everything runs on the CPU.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import common
import torch

from alfish.trainers.checkpoint_files import map_tensor, read_manifest, read_state, verify
from alfish.trainers.checkpoint_store import CheckpointStore
from alfish.trainers.state_nests import join

_CONFIGS = ("ppo_cartpole.gin", "muzero_cartpole.gin")


def main() -> None:
    flags = common.parser(__doc__)
    flags.add_argument("--gin_file", action="append", help=f"may be repeated; {' and '.join(_CONFIGS)} without it")
    flags.add_argument("--gin_param", action="append", default=[], help="a further binding for train; may be repeated")
    flags.add_argument("--env_steps", type=int, default=2_000, help="n, half of the run")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--root_dir", type=pathlib.Path, help="keeps the runs here")
    arguments = flags.parse_args()
    arguments.gin_file = arguments.gin_file or list(_CONFIGS)
    report = common.Report(f"Exact resume and determinism, n = {arguments.env_steps:,} env steps", arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root_dir = common.fresh_folder(arguments.root_dir or pathlib.Path(temporary))
        for gin_file in arguments.gin_file:
            rows += _compare(gin_file, root_dir / pathlib.Path(gin_file).stem, arguments)
    wrong = [row for row in rows if row["equal"] != row["expected"]]
    notes = [f"**{len(rows) - len(wrong)} of {len(rows)} parts as expected**: all are equal, except for another seed's"]
    notes += [f"not as expected: {row['config']}, {row['runs']}, {row['part']} ({row['size']})" for row in wrong]
    report.finish(_overview(rows), notes, rows)
    sys.exit(1 if wrong else 0)


def _overview(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each comparison of two runs, with the components of the checkpoint together."""
    overview: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["config"], row["runs"])
        empty = {"config": key[0], "runs": key[1], "metrics.csv": None, "checkpoint": None, "best/weights.pt": None}
        found = overview.setdefault(key, empty)
        if row["part"] in found:
            found[row["part"]] = _word(row["equal"]) + f" ({row['size']})"
    for key, found in overview.items():
        parts = [row for row in rows if (row["config"], row["runs"]) == key and row["component"]]
        if parts:
            tensors, num_bytes = sum(row["tensors"] for row in parts), sum(row["bytes"] for row in parts)
            word = _word(all(row["equal"] for row in parts))
            found["checkpoint"] = f"{word} ({len(parts)} components, {tensors} tensors, {num_bytes:,} bytes)"
    return list(overview.values())


def _word(is_equal: bool) -> str:
    return "equal" if is_equal else "different"


def _compare(gin_file: str, folder: pathlib.Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    half, seed = arguments.env_steps, arguments.seed
    straight, again, other, halves = (folder / name for name in ("straight", "again", "other_seed", "resumed"))
    params = [
        f"Trainer.total_env_steps={2 * half}",
        f"Trainer.checkpoint_interval={half}",
        f"Trainer.evaluation_interval={max(1, half // 2)}",
        f"Trainer.summary_interval={max(1, half // 8)}",
        *arguments.gin_param,
    ]

    def train(root_dir: pathlib.Path, seed: int, *flags: str) -> None:
        command = common.train_command(gin_file, root_dir, params, seed, ["--device=cpu", *flags])
        common.run(command, verbose=arguments.verbose)

    train(straight, seed)
    train(again, seed)
    train(other, seed + 1)
    train(halves, seed, f"--stop_at_env_steps={half}")
    stopped_at = common.read_metrics(halves)[-1]["env_steps"]
    train(halves, seed)
    if stopped_at >= common.read_metrics(halves)[-1]["env_steps"]:
        sys.exit(f"{gin_file}: the first half did not stop; give a larger --env_steps")
    config = pathlib.Path(gin_file).stem
    rows = [_metrics_row(config, "same seed twice", straight, again, True)]
    rows += _checkpoint_rows(config, "same seed twice", straight, again, True)
    rows.append(_metrics_row(config, "another seed", straight, other, False))
    rows.append(_metrics_row(config, "stopped and resumed", straight, halves, True))
    return [*rows, *_checkpoint_rows(config, "stopped and resumed", straight, halves, True)]


def _metrics_row(config: str, what: str, one: pathlib.Path, other: pathlib.Path, expected: bool) -> dict[str, Any]:
    contents = [(folder / "metrics.csv").read_bytes() for folder in (one, other)]
    size = f"{len(contents[0].splitlines()):,} lines"
    return _row(config, what, "metrics.csv", size, contents[0] == contents[1], expected)


def _checkpoint_rows(
    config: str, what: str, one: pathlib.Path, other: pathlib.Path, expected: bool
) -> Iterator[dict[str, Any]]:
    """One row for each component, and one for the weights that were kept as the best."""
    states = [read_checkpoint(folder / "checkpoints") for folder in (one, other)]
    for component in sorted(states[0] | states[1]):
        leaves = [dict(flat(state.get(component), ())) for state in states]
        tensors = [leaf for leaf in leaves[0].values() if isinstance(leaf, torch.Tensor)]
        num_bytes = sum(tensor.nbytes for tensor in tensors)
        size = f"{len(tensors):,} tensors, {num_bytes:,} bytes"
        row = _row(config, what, component, size, equal(*leaves), expected)
        yield row | {"component": True, "tensors": len(tensors), "bytes": num_bytes}
    best = [torch.load(folder / "best" / "weights.pt", weights_only=True) for folder in (one, other)]
    leaves = [dict(flat(content, ())) for content in best]
    yield _row(config, what, "best/weights.pt", f"{len(leaves[0]):,} leaves", equal(*leaves), expected)


def _row(config: str, what: str, part: str, size: str, is_equal: bool, expected: bool) -> dict[str, Any]:
    row = {"config": config, "runs": what, "part": part, "size": size}
    return row | {"equal": is_equal, "expected": expected, "component": False}


def read_checkpoint(folder: pathlib.Path) -> dict[str, Any]:
    """The states of all components in the newest checkpoint of a run, every file checked against its checksum."""
    newest = CheckpointStore(folder).step_folders()[-1]
    manifest = read_manifest(newest)
    states = read_state(newest)
    for component in manifest.components:
        files = [file for file in manifest.files if file.component == component]
        for file in files:
            verify(newest, file)
        states[component] = join(states[component], {file.path: map_tensor(newest, file).clone() for file in files})
    return states


def flat(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Paths and leaves of a nest of dicts, lists and tuples; an empty one is a leaf."""
    if isinstance(value, dict | list | tuple) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from flat(item, (*path, key))
    else:
        yield path, value


def equal(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    """True if paths, types and values are the same; tensors are compared by their bytes, so that NaN equals NaN."""
    return one.keys() == other.keys() and all(_same(one[path], other[path]) for path in one)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)))
    return type(one) is type(other) and repr(one) == repr(other)


if __name__ == "__main__":
    main()
