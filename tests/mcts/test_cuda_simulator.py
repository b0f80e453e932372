"""The search with its trees on a device, in numba's CUDA simulator: equal to the search on the CPU."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from device_search_cases import CASES, differences, run
from search_cases import RULES

from alfish.mcts.search import search

SCRIPT = pathlib.Path(__file__).with_name("cuda_simulator.py")


@pytest.fixture(scope="module")
def simulated():
    """The differences that the script found, by what it compared."""
    if importlib.util.find_spec("numba.cuda") is None:
        pytest.skip("this numba comes without a CUDA simulator, and numba-cuda is not installed")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


OTHERS = ["policies of roots", "retained trees", "faults"]
GRAPHS = ["graphs", "kinds of graphs", "faults of graphs", "retained trees in graphs"]


@pytest.mark.parametrize("what", [*CASES, *OTHERS, *GRAPHS])
def test_equals_the_search_on_the_cpu(simulated, what):
    assert simulated[what] == []


def test_differences_are_noticed():
    case = CASES["paper, one_player"]
    result = run(case, search)
    assert differences(result, run(case, search)) == []
    assert "visits" in differences(run(case._replace(rule=RULES["node_range"]), search), result)
    changed = result.tree.priors.clone()
    changed[1, 2, 3] += 0.1
    assert differences(result._replace(tree=result.tree._replace(priors=changed)), result) == ["tree.priors"]
