"""What the benchmarks share: running the command lines, reading what they wrote, and reporting it."""

import argparse
import csv
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from alfish.trainers.checkpoint_store import CheckpointStore

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SUMMARY_LINE = re.compile(r"\s*[\d.]+ %  ([\d,]+) of [\d,]+ env steps  (evaluation: )?")
_VERSIONS = ("torch", "numpy", "gymnasium", "numba", "gin-config")


class Line(NamedTuple):
    """A line that a command printed.

    Attributes:
        seconds: since the command was started.
        cpu_seconds: that its threads have computed until then, which other programs hardly change; 0 without /proc.
        text: without the line's end.
    """

    seconds: float
    cpu_seconds: float
    text: str


class Finished(NamedTuple):
    """A command that is over.

    Attributes:
        lines: of standard output and standard error, in the order in which they were read.
        seconds: from its start to its end.
        return_code: negative for a signal.
    """

    lines: list[Line]
    seconds: float
    return_code: int


class Summary(NamedTuple):
    """A line of a run's console output.

    Attributes:
        seconds: since the command was started.
        cpu_seconds: likewise, of its threads.
        env_steps: as printed.
        is_evaluation: it tells the result of an evaluation.
    """

    seconds: float
    cpu_seconds: float
    env_steps: int
    is_evaluation: bool


def parser(description: str, runs_commands: bool = True) -> argparse.ArgumentParser:
    """A parser with the flags that every benchmark has, or every one that runs commands."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--out", type=pathlib.Path, help="also write the results to this JSON file")
    if runs_commands:
        result.add_argument("--verbose", action="store_true", help="show what the measured commands print")
    return result


def add_training_flags(flags: argparse.ArgumentParser, gin_file: str | None = None) -> None:
    """`--gin_file` (if `gin_file` names one), `--gin_param` and `--device`, which are handed to train."""
    if gin_file is not None:
        flags.add_argument("--gin_file", default=gin_file)
    flags.add_argument("--gin_param", action="append", default=[], help="a binding for train; may be repeated")
    flags.add_argument("--device", default="auto")


def train_command(
    gin_file: str, root_dir: pathlib.Path, params: Sequence[str], seed: int = 0, flags: Sequence[str] = ()
) -> list[str]:
    """The command line of `train`, as a user types it."""
    command = [sys.executable, "-m", "alfish.bin.train", f"--gin_file={gin_file}", f"--root_dir={root_dir.resolve()}"]
    return [*command, f"--seed={seed}", *(f"--gin_param={param}" for param in params), *flags]


def evaluate_command(root_dir: pathlib.Path, episodes: int, seed: int, device: str = "auto") -> list[str]:
    """The command line of `evaluate`."""
    command = [sys.executable, "-m", "alfish.bin.evaluate", f"--root_dir={root_dir.resolve()}"]
    return [*command, f"--episodes={episodes}", f"--seed={seed}", f"--device={device}"]


def run(
    command: Sequence[str],
    until: Callable[[Line], bool] | None = None,
    verbose: bool = False,
    check: bool = True,
    variables: Mapping[str, str] | None = None,
) -> Finished:
    """Runs a command from the repository's root and notes when each line was printed.

    Args:
        command: program and arguments.
        until: called with each line; True kills the process with SIGKILL.
        verbose: shows the lines on standard error.
        check: exits with the end of the output if the command fails.
        variables: of the environment, beside those of this process.
    """
    lines: list[Line] = []
    killed = False
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(variables or {})
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                lines.append(Line(time.perf_counter() - started, _cpu_seconds(process.pid), text.rstrip("\n")))
                if verbose:
                    print(f"{lines[-1].seconds:8.1f} s  {lines[-1].text}", file=sys.stderr)
                if not killed and until is not None and until(lines[-1]):
                    killed = True
                    process.kill()
            return_code = process.wait()
        except BaseException:
            process.kill()
            raise
    if check and not killed and return_code != 0:
        end = "\n".join(line.text for line in lines[-15:])
        sys.exit(f"{end}\n{' '.join(command)}\nexited with the code {return_code}")
    return Finished(lines, time.perf_counter() - started, return_code)


def summaries(lines: Sequence[Line]) -> Iterator[Summary]:
    """The console summaries among the lines that a training printed."""
    for line in lines:
        match = SUMMARY_LINE.match(line.text)
        if match:
            yield Summary(line.seconds, line.cpu_seconds, int(match[1].replace(",", "")), match[2] is not None)


def last_line_before_training(lines: Sequence[Line]) -> Line:
    """The last line before the first summary: the end of train's first screen."""
    first = next(index for index, line in enumerate(lines) if SUMMARY_LINE.match(line.text))
    return lines[first - 1]


def newest_checkpoint_step(root_dir: pathlib.Path) -> int | None:
    """Environment steps of a run's newest checkpoint; None if there is none."""
    return CheckpointStore(root_dir / "checkpoints").newest_step()


def read_metrics(root_dir: pathlib.Path, name: str = "metrics.csv") -> list[dict[str, Any]]:
    """The rows of a run's table of metrics, with numbers in place of texts."""
    with open(root_dir / name, newline="", encoding="utf-8") as file:
        return [
            {
                key: value if key == "metric" else float(value) if key == "value" else int(value)
                for key, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


def evaluations(root_dir: pathlib.Path) -> list[tuple[int, float]]:
    """Environment steps and mean return of each evaluation of a run."""
    rows = read_metrics(root_dir)
    return [(row["env_steps"], row["value"]) for row in rows if row["metric"] == "evaluation/return"]


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of what is left without the lowest and the highest quarter, both rounded down (Agarwal et al. 2021)."""
    ordered = np.sort(np.asarray(values, np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap_interval(values: Sequence[float], samples: int = 10_000) -> tuple[float, float]:
    """The 95 % percentile interval of the interquartile mean, by drawing runs with replacement."""
    drawn = np.random.default_rng(0).choice(np.asarray(values, np.float64), (samples, len(values)))
    means = np.sort(drawn, axis=1)
    cut = len(values) // 4
    low, high = np.quantile(means[:, cut : len(values) - cut].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def fresh_folder(root_dir: pathlib.Path) -> pathlib.Path:
    """The folder if nothing is in it; a run that is there would be continued, not measured."""
    if root_dir.exists() and any(root_dir.iterdir()):
        sys.exit(
            f"{root_dir} is not empty; give another --root_dir, so that the runs are measured from their beginning"
        )
    return root_dir


def version(package: str) -> str:
    """The installed version of a package."""
    return importlib.metadata.version(package)


def circumstances() -> dict[str, Any]:
    """Machine, versions, commit, date and load of a measurement."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        versions[name] = version(name)
    return {
        "machine": _machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "versions": versions,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_at_the_start": os.getloadavg()[0],
    }


class Rate(NamedTuple):
    """Environment steps per second of wall time, and per second that the process's threads computed."""

    per_second: float
    per_cpu_second: float


def rate(env_steps: int, first: Line | Summary, last: Line | Summary) -> Rate:
    """The rate between two lines; NaN per CPU second where these are unknown."""
    cpu_seconds = last.cpu_seconds - first.cpu_seconds
    return Rate(env_steps / (last.seconds - first.seconds), env_steps / cpu_seconds if cpu_seconds else math.nan)


class Report:
    """Prints a result as Markdown with the circumstances, and writes it as JSON.

    Make one before measuring: it notes the time and the load of the machine.

    Args:
        title: of the table.
        flags: of the benchmark; all are reported, so that nothing is hidden.
    """

    def __init__(self, title: str, flags: argparse.Namespace):
        self._title = title
        self._out: pathlib.Path | None = flags.out
        self._settings = {
            name: value for name, value in vars(flags).items() if name not in ("out", "verbose", "root_dir")
        }
        self._circumstances = circumstances()
        self._started = time.perf_counter()
        load = self._circumstances["load_at_the_start"]
        if load > 0.5:
            print(f"other programs keep {load:.1f} cores busy; times will be too long", file=sys.stderr)

    def finish(self, rows: Sequence[Mapping[str, Any]], notes: Sequence[str], details: Any = None) -> None:
        """Prints and writes.

        Args:
            rows: of the table, all with the same keys, which are its header.
            notes: lines below the table.
            details: more for the JSON file.
        """
        seconds = time.perf_counter() - self._started
        about = self._circumstances
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        where = f"{about['machine']}, {about['cores']} cores, {about['gpu'] or 'no GPU'}"
        settings = ", ".join(
            f"{name}={show(value)}" for name, value in self._settings.items() if value not in (None, [])
        )
        print(f"### {self._title}\n\n{markdown_table(rows)}\n")
        for note in notes:
            print(f"- {note}")
        print(f"- {where}; load before: {about['load_at_the_start']:.1f}; {versions}")
        print(f"- commit {about['commit']}, {about['date']}; wall time {seconds:,.0f} s")
        print(f"- settings: {settings}", flush=True)
        if self._out is not None:
            content = {
                "title": self._title,
                "rows": rows,
                "notes": notes,
                "details": details,
                "settings": self._settings,
            }
            content |= {"circumstances": about, "seconds": seconds}
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._out.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; numbers are aligned to the right."""
    if not rows:
        return "(no rows)"
    header = list(rows[0])
    numeric = [
        any(isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows) for name in header
    ]
    lines = [header, ["--:" if right else "---" for right in numeric]]
    lines += [[show(row[name]) for name in header] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def show(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if math.isfinite(value) and abs(value) >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cpu_seconds(process: int) -> float:
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    # The name, in parentheses, may hold blanks; after it, the times in user and kernel mode are fields 12 and 13.
    user, kernel = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(kernel)) / os.sysconf("SC_CLK_TCK")


def _machine() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.check_output(
            ["git", *arguments], cwd=REPOSITORY, text=True, stderr=subprocess.DEVNULL
        ).strip()

    try:
        commit, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes" if changed else commit
