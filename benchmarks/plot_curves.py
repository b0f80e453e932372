"""Draws learning curves: evaluation return against environment steps, a thin line per run and their mean.

python benchmarks/plot_curves.py runs/learning/seed* --out docs/images/muzero_cartpole.png --threshold 475

Runs in different folders, as the variants of `ablations.py` are, have a colour and a name each: that of the folder, or
what `--names` says.

Needs matplotlib: pip install "alfish[plot]".
"""

import argparse
import pathlib
import sys
from typing import Any

import common
import numpy as np

from alfish.environments.optional import MissingPackageError, require

_COLOURS = ("#1f5fa8", "#c2571a", "#2f8f4e", "#8a4fbf", "#777777")
_GREY = "#5c5c5c"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("runs", nargs="+", type=pathlib.Path, help="run folders")
    flags.add_argument("--out", type=pathlib.Path, required=True, help="a PNG or SVG file")
    flags.add_argument("--title")
    flags.add_argument("--threshold", type=float, help="draws a line there")
    flags.add_argument("--names", nargs="+", help="of the folders that the runs are in, in their order")
    arguments = flags.parse_args()
    groups: dict[pathlib.Path, list[np.ndarray]] = {}
    for run in arguments.runs:
        curve = np.array(common.evaluations(run), np.float64).reshape(-1, 2)
        if not len(curve):
            sys.exit(f"{run}: metrics.csv holds no evaluation")
        groups.setdefault(run.resolve().parent, []).append(curve)
    names = arguments.names or [folder.name for folder in groups]
    if len(names) != len(groups):
        sys.exit(f"--names has {len(names)} names; the runs are in {len(groups)} folders: give a name for each")
    if len(groups) > len(_COLOURS):
        sys.exit(f"the runs are in {len(groups)} folders; expected at most {len(_COLOURS)}, one for each colour")
    try:
        matplotlib, pyplot = require("matplotlib", "plot"), require("matplotlib.pyplot", "plot")
    except MissingPackageError as error:
        sys.exit(str(error))
    pyplot.switch_backend("agg")
    matplotlib.rcParams.update({"font.size": 10, "axes.edgecolor": _GREY, "text.color": "#222222"})
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), dpi=160, layout="constrained")
    _draw(axes, list(zip(names, groups.values(), strict=True)), arguments.threshold)
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    if arguments.title:
        axes.set_title(arguments.title, loc="left", fontsize=11)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out)
    print(f"{arguments.out}: {len(arguments.runs)} runs")


def _draw(axes: Any, groups: list[tuple[str, list[np.ndarray]]], threshold: float | None) -> None:
    if threshold is not None:
        axes.axhline(threshold, color=_GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        place = {"xytext": (4, -4), "textcoords": "offset points", "va": "top"}
        axes.annotate(f"{threshold:g}", (0, threshold), color=_GREY, fontsize=9, **place)
    for (name, curves), colour in zip(groups, _COLOURS, strict=False):
        if len(curves) == 1:
            axes.plot(*curves[0].T, color=colour, linewidth=2.4, label=name)
            continue
        for curve in curves:
            axes.plot(*curve.T, color=colour, alpha=0.4, linewidth=0.9)
        axes.plot(*mean_curve(curves), color=colour, linewidth=2.4, label=name)
    curves = [curve for _, group in groups for curve in group]
    if len(groups) > 1:
        axes.legend(frameon=False, fontsize=9)
    if len(curves) > len(groups):
        seeds = " or ".join(sorted({str(len(group)) for _, group in groups}))
        axes.set_title(f"{seeds} seeds and their mean", loc="right", fontsize=9, color=_GREY)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("evaluation return")
    axes.set_xlim(0, max(curve[-1, 0] for curve in curves))
    axes.set_ylim(bottom=min(0.0, *(curve[:, 1].min() for curve in curves)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def mean_curve(curves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over runs, from where the last of them begins to where the first of them ends.

    Args:
        curves: `[points, 2]` each. Runs do not evaluate at exactly the same steps: points in between are interpolated.
    """
    first, last = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    steps = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.mean([np.interp(steps, *curve.T) for curve in curves], axis=0)


if __name__ == "__main__":
    main()
