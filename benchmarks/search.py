"""The tree search beside its peers, beside its model, and by itself.

python benchmarks/search.py [--sections peers mlp …] [--sizes "8,50,6;64,200,9"] [--lightzero FOLDER]

Sections, each a table of its own:

  peers       a model that costs nothing: our search, LightZero's compiled trees and mctx, with the same numbers
  mlp         a model of two hidden layers: a search over as many bare calls of the model
  atari       the same with the residual network of muzero_atari.gin
  memory      what the record of the trees takes, as predicted and as measured
  growth      what a simulation costs as the trees grow, beside their depth
  cold_start  the first search of a process, without and with compiled kernels on the disk
  gpu         the trees on the GPU and on the host, with the residual network in bfloat16

All contestants of a row run in one process and in turns; times are medians over the rounds, ratios are taken round by
round. What is not installed is left out and said.
"""

import argparse
import os
import pathlib
from collections.abc import Callable

import common
import search_gpu
import search_sections
import search_starts
import torch
from search_models import Size
from search_peers import LIGHTZERO_HELP, LIGHTZERO_VARIABLE

SIZES = (Size(8, 50, 6), Size(256, 50, 6), Size(64, 50, 18), Size(64, 200, 9), Size(8, 800, 82))

SECTIONS: dict[str, Callable[[common.Report, argparse.Namespace], None]] = {
    "peers": search_sections.peers,
    "mlp": search_sections.mlp,
    "atari": search_sections.atari,
    "memory": search_starts.memory,
    "growth": search_sections.growth,
    "cold_start": search_starts.cold_start,
    "gpu": search_gpu.gpu,
}
TITLES = {
    "peers": "Tree search with a model that costs nothing",
    "mlp": "Tree search with an MLP",
    "atari": "Tree search with the residual network for Atari games",
    "memory": "Memory of a search",
    "growth": "Cost of a simulation as the trees grow",
    "cold_start": "The first search of a process",
    "gpu": "Tree search on the GPU",
}


def parse_sizes(text: str) -> list[Size]:
    try:
        return [Size(*(int(number) for number in size.split(","))) for size in text.split(";")]
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r}; expected B,simulations,A;… as in 8,50,6;64,200,9") from None


def parse_arguments() -> argparse.Namespace:
    parser = common.parser(__doc__, runs_commands=False)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--sizes", type=parse_sizes, default=list(SIZES), help="B,simulations,A;… of peers and mlp")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch and the search")
    parser.add_argument("--latent", type=int, default=64, help="numbers in a latent of the free model and of the MLP")
    parser.add_argument("--hidden", type=int, default=128, help="size of the MLP's two hidden layers")
    parser.add_argument("--seed", type=int, default=0)
    folder = os.environ.get(LIGHTZERO_VARIABLE)
    parser.add_argument(
        "--lightzero",
        type=pathlib.Path,
        default=pathlib.Path(folder) if folder else None,
        help=f"an unpacked wheel: {LIGHTZERO_HELP}; or set {LIGHTZERO_VARIABLE}",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    for name in arguments.sections:
        flags = argparse.Namespace(**vars(arguments))
        flags.sizes = ";".join(",".join(map(str, size)) for size in arguments.sizes)
        if arguments.out is not None and len(arguments.sections) > 1:
            flags.out = arguments.out.with_stem(f"{arguments.out.stem}_{name}")
        SECTIONS[name](common.Report(TITLES[name], flags), arguments)
        print(flush=True)


if __name__ == "__main__":
    main()
