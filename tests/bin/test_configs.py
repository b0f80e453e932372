"""The configs that differ in their search only build, and nothing that they bind is unused."""

import pytest
from run_commands import run

from alfish.bin import train


@pytest.mark.parametrize("config", ["muzero_cartpole.gin", "gumbel_muzero_cartpole.gin"])
def test_it_builds_and_binds_nothing_in_vain(config):
    assert run(train, f"--gin_file={config}", "--dry_run", "--strict", "--device=cpu") == 0
