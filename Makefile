# Everything starts from a clone, python3 and make: each target makes .venv when it is missing or out of date.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo todo test test-long test-ray serve lint bench bench-codec bench-ingest bench-idle bench-commits bench-flush bench-small bench-bucket bench-tables bench-events bench-flood bench-patterns bench-delivery soak

PYTHON ?= python3
PY := .venv/bin/python
# Three processes for two cores, for tests wait, too (PostgreSQL's part 264 s, with two 552 on a busy machine); whole files
# in one, for the services a file shares; SIDE_BY_SIDE= (empty) runs one after the other.
SIDE_BY_SIDE ?= -n 3 --dist loadfile --no-loadscope-reorder
# A clean tree is not worth 3 s at each start of a worker: without bytecode every process compiles all it imports.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
# 7 s of CPU for what takes pip 69; pip is asked where uv finds nothing.
UV := uv==0.13.8
# Touched last, so that a .venv made by half never counts as made.
READY := .venv/.ready
RAY_READY := .venv-ray/.ready

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## 16 edge databases, 336 776 flights, the parent killed on the way; FLIGHTS=20000 is the short form
	$(PY) examples/flights/demo.py

todo: $(READY) ## Events, undo by time travel and a subscription that survives an outage, on a todo app
	$(PY) examples/todo/demo.py

test: $(READY) ## The whole suite on SQLite, then what touches the database on PostgreSQL
	$(PY) -m pytest $(SIDE_BY_SIDE)
	EVODB_TEST_DATABASE=postgresql $(PY) -m pytest $(SIDE_BY_SIDE) tests/lakehouse tests/contracts tests/acceptance

test-long: $(READY) ## What the suite repeats little, repeated much: the simulation for 15 minutes, a backlog of a million ...
	EVODB_TEST_LONG=1 $(PY) -m pytest $(shell grep -rlwE 'LONG|at_length' tests --include=test_*.py)
	EVODB_TEST_LONG=1 EVODB_TEST_DATABASE=postgresql $(PY) -m pytest tests/acceptance

test-ray: $(RAY_READY) ## The rewriting on Ray, in .venv-ray: Daft wants an older PyArrow than ours (300 MB once, then 30 s)
	.venv-ray/bin/python -m pytest tests/lakehouse/test_upkeep_ray.py

serve: $(READY) ## A parent on this machine; prints its address and a key, Ctrl-C stops it cleanly
	.venv/bin/evodb up

lint: $(READY) ## ruff and mypy --strict
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

bench: $(READY) ## How much the street carries here: durable batches/s, entries/s into the table, memory
	$(PY) -m benchmarks.street

bench-ingest: $(READY) ## Batches/s one process makes durable, with 1 and 100 entries, on daphne and on uvicorn
	$(PY) -m benchmarks.ingest

bench-idle: $(READY) ## What a silent child costs: KiB, CPU, handshakes/s, beside stock Channels; then behind Pushpin
	$(PY) -m benchmarks.idle
	@if command -v pushpin >/dev/null; then $(PY) -m benchmarks.pushpin; \
	else echo 'Pushpin is not installed (apt-get install pushpin zurl), so nothing is measured behind it.'; fi

bench-commits: $(READY) ## 2000 small flushes into one table: do commits stay as fast as they were; with and without upkeep
	$(PY) -m benchmarks.commits

bench-flush: $(READY) ## Entries/s a core brings from the journal into a table, step by step, as JSON and as Arrow
	$(PY) -m benchmarks.flush

bench-small: $(READY) ## CPU of a flush of 20 entries into one table, into ten, by a hundred parents; of wide tables, of many days
	$(PY) -m benchmarks.small

bench-bucket: $(READY) ## A flush into S3 and upkeep there if each request takes LATENCY_MS=50: wall clock, and how often it asks
	$(PY) -m benchmarks.bucket

bench-tables: $(READY) ## A table of ROWS=1000000: merging, its table of now at 1 % and 100 % changed, queries
	$(PY) -m benchmarks.tables

bench-events: $(READY) ## Events/s that POST /ingest makes durable in batches of 100, on uvicorn and on daphne
	$(PY) -m benchmarks.events

bench-flood: $(READY) ## 4 GB against an object store of 5 MB/s: memory, what arrived, who held back (35 minutes)
	$(PY) -m benchmarks.flood

soak: $(READY) ## Half an hour of steady work: memory, files, database and commit time by thirds
	$(PY) -m benchmarks.soak

bench-codec: $(READY) ## Entries/s encoded and decoded per payload, and a child's CPU per 100 000 entries
	$(PY) -m benchmarks.codec

bench-patterns: $(READY) ## Microseconds to know for which of 10 000 subscriptions an event is
	$(PY) -m benchmarks.patterns

bench-delivery: $(READY) ## From commit to webhook at 1000 events/s and 50 subscriptions: p50 and p99
	$(PY) -m benchmarks.delivery

$(RAY_READY): pyproject.toml $(READY)
	@PATH="$$PATH:$(CURDIR)/.venv/bin"; \
	{ test -x .venv-ray/bin/python || uv venv --quiet --python $(PY) .venv-ray; } && \
	uv pip install --quiet --python .venv-ray/bin/python -e '.[server,query,torture,dev,ray]'
	@touch $@

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"EvoDB needs Python 3.11 or newer, $(PYTHON) is {sys.version.split()[0]}; say make PYTHON=python3.11 ...")'
	@test -e $@ || rm -rf .venv
	@echo 'Making .venv from requirements.lock, once; a minute or two.'
	@if command -v uv >/dev/null; then \
		test -x $(PY) || uv venv --quiet --python "$(PYTHON)" .venv; \
	else \
		{ test -x $(PY) || $(PYTHON) -m venv .venv; } && { $(PIP) $(UV) || true; }; \
	fi
	@PATH="$$PATH:$(CURDIR)/.venv/bin"; \
	{ command -v uv >/dev/null && \
		uv pip install --quiet --python $(PY) --no-deps -r requirements.lock && \
		uv pip install --quiet --python $(PY) --no-build-isolation --no-deps -e .; } || \
	{ $(PIP) --no-compile --no-deps -r requirements.lock && \
		$(PIP) --no-build-isolation --no-deps -e .; }
	@touch $@
