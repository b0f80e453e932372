# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

PY ?= python3
GIN ?= muzero_atari.gin
ARGS ?=
EXTRAS ?= atari,dev,test,video
# Without atari, whose settings depend on the machine: make bench BENCH=atari ARGS="--help".
BENCH ?= search planning replay engines ppo_speed sac_speed time_to_threshold resume steps_as_replay_fills learning

VENV := .venv
BENCH_VENV := .venv-bench
# One stamp per set of extras, touched only after an installation that succeeded.
STAMP = $(VENV)/.stamp-$(EXTRAS)
BENCH_STAMP := $(BENCH_VENV)/.stamp
INSTALLS_FROM := setup.py constraints.txt

.PHONY: help train test learn check lint format bench clean
.DEFAULT_GOAL := help

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'PY=python3.12 chooses the Python that makes $(VENV); EXTRAS=atari,box2d,mujoco what is installed with it.'

train: $(STAMP) ## Train MuZero on Atari. GIN=muzero_cartpole.gin another config; ARGS="..." further flags.
	$(VENV)/bin/python -m alfish.bin.train --gin_file=$(GIN) $(ARGS)

test: $(STAMP) ## Run the fast tests. ARGS="..." further pytest arguments.
	$(VENV)/bin/python -m pytest -q $(ARGS)

learn: $(STAMP) ## Run the slow tests that train until a task is solved.
	$(VENV)/bin/python -m pytest -m learn --timeout=0 -v $(ARGS)

check: lint test ## Check formatting, lint, types and the fast tests.

lint: $(STAMP) ## Check formatting, lint and types.
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(STAMP) ## Format the code and mend what lint can mend.
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(BENCH_STAMP) ## Run the benchmarks, an hour in all. BENCH=learning only that one; ARGS="..." its flags.
	@set -e; for name in $(BENCH); do echo "== $$name"; $(BENCH_VENV)/bin/python benchmarks/$$name.py $(ARGS); done

clean: ## Remove the environments and caches. Leaves runs/ alone.
	rm -rf $(VENV) $(BENCH_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find alfish tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): $(INSTALLS_FROM)
	$(call make_venv,$(VENV))
	@echo 'Installing alfish[$(EXTRAS)] into $(VENV); the first time takes a few minutes.'
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

$(BENCH_STAMP): $(INSTALLS_FROM)
	$(call make_venv,$(BENCH_VENV))
	@echo 'Installing alfish[atari,bench] into $(BENCH_VENV); the first time takes a few minutes.'
	$(BENCH_VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[atari,bench]"
	@touch $@

# Checks before anything is created. An environment without a working pip is the rest of an interrupted run.
define make_venv
@fail() { echo "alfish: $$1" >&2; exit 1; }; \
if ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then \
	command -v $(PY) >/dev/null || fail "there is no $(PY) here; name a Python of 3.11 or newer: make PY=/path/to/python"; \
	$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		fail "Python 3.11 or newer is needed and $(PY) is $$($(PY) -c 'import platform; print(platform.python_version())'); name another: make PY=/path/to/python"; \
	$(PY) -c 'import ensurepip, venv' 2>/dev/null || \
		fail "$(PY) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv"; \
	$(PY) -m venv $(1) || exit 1; \
	$(1)/bin/python -m pip --version >/dev/null 2>&1 || fail "$(1) is damaged; remove it with: make clean"; \
fi
endef
