"""Checkpoints of a run: the newest good one wins, and it is loaded whole or not at all."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from absl import logging

from alfish.checks import check_at_least
from alfish.trainers.checkpoint_files import (
    STATE,
    DamagedCheckpoint,
    StoredFile,
    map_tensor,
    read_manifest,
    read_state,
    sync_folder,
    verify,
    write_checkpoint,
)
from alfish.trainers.state_checks import (
    CheckpointMismatch,
    Difference,
    Stateful,
    differences,
    names_differ,
    raise_mismatch,
)
from alfish.trainers.state_nests import Path, join

TEMPORARY_PREFIX = ".tmp-"
_NAME = re.compile(r"(\d{12,})(?:-(\d+))?")
_BAD_NAME = re.compile(_NAME.pattern + r"\.bad(?:-\d+)?")


class _Content(NamedTuple):
    """A checkpoint that was read and verified.

    Attributes:
        step: the step that it was saved at.
        states: by component; None in place of each large tensor.
        large: by component and path; maps of the files.
    """

    step: int
    states: dict[str, Any]
    large: dict[str, dict[Path, torch.Tensor]]

    def state(self, component: str, copy: bool) -> Any:
        large = self.large[component]
        if copy:
            large = {path: tensor.clone() for path, tensor in large.items()}
        return join(self.states[component], large)


class CheckpointStore:
    """The checkpoints in one folder, each a folder named by its step.

    One process saves, any number may load at the same time. A checkpoint appears under its name only when all of it is
    on the disk; whatever happens before leaves the earlier ones as they are.

    Args:
        folder: made by the first `save`.
        keep: how many of the newest checkpoints stay; at least 1, and 2 to be safe from a damaged file.

    Raises:
        ValueError: `keep` is less than 1.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
        check_at_least("CheckpointStore.keep", keep, 1)
        self._folder = pathlib.Path(folder)
        self._keep = keep
        self._is_clean = False

    def save(self, step: int, components: Mapping[str, Stateful]) -> pathlib.Path:
        """Saves a checkpoint, waits until it is on the disk, and deletes those beyond `keep`.

        Args:
            step: not less than that of any other checkpoint in the folder.
            components: everything with state, by name.

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: it could not be written; the earlier ones are untouched.
            ValueError: the folder holds a newer checkpoint, or a state holds what cannot be loaded safely.
        """
        newest = self.newest_step()
        if step < 0 or (newest is not None and step < newest):
            raise ValueError(
                f"cannot save a checkpoint of step {step} in {self._folder}, which holds one of step {newest}: that "
                "would be loaded in its place. Load it first, or use another folder"
            )
        states = {name: component.state_dict() for name, component in components.items()}
        try:
            self._clean_up()
            target = self._next_name(step)
            self._write(target, step, states)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint of step {step} could not be saved in {self._folder}: {error.strerror or error}. The "
                "earlier checkpoints are untouched; make room, or free what blocks the folder, and resume",
            ) from error
        self._delete_old_ones()
        return target

    def load(
        self,
        components: Mapping[str, Stateful],
        on_missing: Literal["raise", "skip"] = "raise",
        leave_out: Collection[str] = (),
    ) -> int | None:
        """Loads the newest good checkpoint into the components, in their order.

        All files are verified and all states compared with their components before the first one is changed. A damaged
        checkpoint is renamed to `<name>.bad` with a warning, and the one before is tried.

        Args:
            components: by name; put the random streams last, since building and loading the others may draw from them.
            on_missing: "raise" if the checkpoint holds a component that is not in `components`; "skip" leaves it alone
                (to evaluate, the weights are enough) and does not read its large tensors. A component that is not in
                the checkpoint is always an error.
            leave_out: names of components that are skipped in any case, whether they are in the checkpoint or not.

        Returns:
            Its step; None if there is no checkpoint.

        Raises:
            CheckpointMismatch: it is whole, but of a run with other components, networks or spaces.
            ValueError: there are checkpoints, but all are damaged; or a newer version wrote it.
        """
        reasons: list[str] = []
        tried: set[pathlib.Path] = set()
        # Listed anew each time: a run that saves meanwhile deletes old ones.
        while folders := [folder for folder in self.step_folders() if folder not in tried]:
            tried.add(folders[-1])
            try:
                with _damage_of_the_disk():
                    content = self._read(folders[-1], components, on_missing, leave_out)
            except DamagedCheckpoint as error:
                if folders[-1].exists():
                    reasons.append(f"{folders[-1].name}: {error}")
                    self._set_aside(folders[-1], error)
                continue
            self._hand_over(content, components)
            return content.step
        reasons.extend(f"{path.name}: set aside earlier" for path in self._bad_folders() if path not in tried)
        if reasons:
            raise ValueError(
                f"no checkpoint in {self._folder} can be loaded:\n  " + "\n  ".join(reasons) + "\nPut a good copy in "
                "its place and remove .bad from its name, or begin a new run in another folder."
            )
        return None

    def step_folders(self) -> list[pathlib.Path]:
        """The folders of all checkpoints, oldest first."""
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=_step_and_number)

    def newest_step(self) -> int | None:
        """The step of the newest checkpoint, verified or not; None if there is none."""
        folders = self.step_folders()
        return _step_and_number(folders[-1])[0] if folders else None

    def _write(self, target: pathlib.Path, step: int, states: Mapping[str, Any]) -> None:
        temporary = self._folder / f"{TEMPORARY_PREFIX}{target.name}"
        try:
            temporary.mkdir()
            write_checkpoint(temporary, step, states)
            temporary.rename(target)
            sync_folder(self._folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _clean_up(self) -> None:
        """Once, before the first save: only who saves may remove what looks like the leftovers of a killed run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._is_clean:
            for path in self._folder.glob(f"{TEMPORARY_PREFIX}*"):
                shutil.rmtree(path)
            self._is_clean = True

    def _next_name(self, step: int) -> pathlib.Path:
        """Behind all that are there: saved twice at a step, the first one stays until the second, `-2`, is whole."""
        folders = [folder for folder in self.step_folders() if _step_and_number(folder)[0] == step]
        number = _step_and_number(folders[-1])[1] + 1 if folders else 1
        return self._folder / (f"{step:012d}" if number == 1 else f"{step:012d}-{number}")

    def _free_name(self, name: str) -> pathlib.Path:
        """`name`, or `name-2`, … if that is taken."""
        path, number = self._folder / name, 1
        while path.exists():
            number += 1
            path = self._folder / f"{name}-{number}"
        return path

    def _delete_old_ones(self) -> None:
        for path in self.step_folders()[: -self._keep]:
            doomed = self._folder / f"{TEMPORARY_PREFIX}deleted-{path.name}"
            try:
                # Renamed first, so that nobody takes a half deleted one for a damaged one.
                path.rename(doomed)
                shutil.rmtree(doomed)
            except OSError as error:
                logging.warning("the old checkpoint %s could not be deleted: %s", path, error)

    def _set_aside(self, folder: pathlib.Path, error: DamagedCheckpoint) -> None:
        bad = self._free_name(f"{folder.name}.bad")
        logging.warning("the checkpoint %s is damaged: %s. It is set aside as %s", folder, error, bad.name)
        try:
            folder.rename(bad)
        except OSError as problem:
            logging.warning("%s could not be renamed: %s", folder, problem)

    def _bad_folders(self) -> list[pathlib.Path]:
        if not self._folder.is_dir():
            return []
        tried = {path.name for path in self._folder.iterdir()}
        return sorted(self._folder / name for name in tried if _BAD_NAME.fullmatch(name))

    def _read(
        self, folder: pathlib.Path, components: Mapping[str, Stateful], on_missing: str, leave_out: Collection[str]
    ) -> _Content:
        manifest = read_manifest(folder)
        match = _NAME.fullmatch(folder.name)
        if match is None or int(match[1]) != manifest.step:
            raise DamagedCheckpoint(f"it is of step {manifest.step}, which is not what its name says")
        stored = set(manifest.components) - set(leave_out)
        _check_names(folder, components, stored & components.keys() if on_missing == "skip" else stored)
        wanted = [file for file in manifest.files if file.component is None or file.component in components]
        for file in wanted:
            _verify(folder, file, components)
        states = read_state(folder)
        content = _Content(manifest.step, states, {name: {} for name in components})
        for file in wanted:
            if file.component is not None:
                content.large[file.component][file.path] = map_tensor(folder, file)
        rows = [row for name, component in components.items() for row in self._differences(content, name, component)]
        raise_mismatch(f"the checkpoint {folder}", rows)
        return content

    def _differences(self, content: _Content, name: str, component: Stateful) -> list[Difference]:
        state = self._joined(content, name)
        try:
            found = differences(component, state)
        except ValueError as error:
            advice = f"; {component.way_out}" if hasattr(component, "way_out") else ""
            raise ValueError(f"{name}: {error}{advice}") from None
        return [Difference(f"{name}: {row.key}", row.expected, row.found) for row in found]

    @staticmethod
    def _joined(content: _Content, component: str) -> Any:
        if component not in content.states:
            raise DamagedCheckpoint(f"{STATE} does not hold the component {component!r}")
        try:
            return content.state(component, copy=False)
        except (ValueError, RecursionError) as error:
            raise DamagedCheckpoint(f"the state of {component!r} is not whole: {error}") from error

    @staticmethod
    def _hand_over(content: _Content, components: Mapping[str, Stateful]) -> None:
        for name, component in components.items():
            copies = getattr(component, "copies_on_load", isinstance(component, torch.nn.Module))
            try:
                component.load_state_dict(content.state(name, copy=not copies))
            except Exception as error:
                error.add_note(
                    f"The component {name!r} did not take its state from the checkpoint of step {content.step}. Others "
                    "may have taken theirs: this run cannot go on."
                )
                raise


@contextlib.contextmanager
def _damage_of_the_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # A bad sector, or deleted by the run that saves. Anything else (permissions, memory) says nothing about it.
        if error.errno in (errno.EIO, errno.ENOENT):
            raise DamagedCheckpoint(f"{error.filename or 'a file'}: {error.strerror}") from error
        raise


def _verify(folder: pathlib.Path, file: StoredFile, components: Mapping[str, Stateful]) -> None:
    try:
        verify(folder, file)
    except DamagedCheckpoint as error:
        way_out = getattr(components.get(file.component or ""), "way_out", None)
        if way_out is None:
            raise
        raise DamagedCheckpoint(f"{error}; {way_out} (and remove .bad from the name of {folder.name})") from error


def _check_names(folder: pathlib.Path, components: Mapping[str, Stateful], stored: Collection[str]) -> None:
    """Compares the names of the components with those in a checkpoint."""
    missing = [name for name in components if name not in stored]
    ways_out = {str(getattr(components[name], "way_out", "")) for name in missing}
    if missing and all(ways_out):
        names, advice = ", ".join(missing), ", ".join(sorted(ways_out))
        raise CheckpointMismatch(f"the checkpoint {folder} has no {names}, and nothing was loaded; {advice}")
    raise_mismatch(f"the checkpoint {folder}", names_differ(components, stored, "a component"))


def _step_and_number(folder: pathlib.Path) -> tuple[int, int]:
    """The step in a checkpoint's name, and which of those at that step it is, from 1."""
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[1]), int(match[2] or 1)
