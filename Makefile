# Two commands on a fresh machine with Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Which faults to inject: the slow ones, and those that `make test` has too.
FAULTS ?= faults or fault
STAMP := $(VENV)/.installed
# The tests are run in three parts at once: those that compute, those that mostly wait for servers of L2, and the others.
COMPUTING := tests/model tests/history tests/fuzz tests/simulation tests/properties tests/benchmarks
WAITING := tests/l2 tests/faults

# What lands is what was tested: where a hash decides what falls together, it does so in each run. `make explore` differs.
test faults: export PYTHONHASHSEED := 1

.PHONY: demo test faults lint types imports template examples bench fuzz explore coverage clean constraints

demo: $(STAMP)  ## a real handler on local services: the latency of each tier
	$(BIN)/tiered-cache demo

test: $(STAMP)  ## all tests, with branch coverage and its gate
	mkdir -p build
	$(BIN)/coverage erase
	@echo "beside this: $(COMPUTING); $(WAITING)"
	@$(BIN)/coverage run -m pytest $(COMPUTING) >build/computing.log 2>&1 & computing=$$!; \
	$(BIN)/coverage run -m pytest $(WAITING) >build/waiting.log 2>&1 & waiting=$$!; \
	$(BIN)/coverage run -m pytest $(addprefix --ignore=,$(COMPUTING) $(WAITING)); failed=$$?; \
	wait $$computing || failed=$$?; \
	wait $$waiting || failed=$$?; \
	cat build/computing.log build/waiting.log; \
	exit $$failed
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

faults: $(STAMP)  ## the faults of L2, injected for real, the slow ones too; what was measured goes to build/faults.md
	mkdir -p build
	$(BIN)/python -m pytest -m "$(FAULTS)" --fault-report build/faults.md tests/faults tests

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy strict and pyright strict
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(STAMP)  ## who may import whom
	$(BIN)/lint-imports

template: $(STAMP)  ## the SAM template of examples/sam, by cfn-lint
	$(BIN)/cfn-lint examples/sam/template.yaml

examples: $(STAMP)  ## every example, on local services
	$(BIN)/python examples/run.py

bench: $(STAMP)  ## the tiers compared, and the peers; results, tables and a page with plots go to build/
	mkdir -p build
	$(BIN)/tiered-cache bench --json build/bench.json --report build/bench.html --markdown build/bench.md

fuzz: $(STAMP)  ## ten minutes of altered entries: each must be a miss
	$(BIN)/python tests/fuzz/run.py --minutes 10

explore: $(STAMP)  ## a thousand random histories other than those that `make test` always has
	TIERED_CACHE_SCHEDULES=1000 $(BIN)/python -m pytest --hypothesis-profile=others tests/history/test_state_machine.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tiered_cache needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local]' --group dev
	touch $(STAMP)

constraints: $(STAMP)  ## write down the versions that are installed, without where they came from
	$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools > constraints.txt

clean:
	rm -rf .venv* build dist *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
