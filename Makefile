.DEFAULT_GOAL := help
.PHONY: help up down status demo test lint audit bench chaos schemas docs deploy clean
MALOTE := .venv/bin/malote

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: .venv/stamp ## Start everything and keep it in the foreground; DETACH=1 returns once all is ready
	@$(MALOTE) up $(if $(DETACH),--detach)

down: .venv/stamp ## Stop everything
	@$(MALOTE) down

status: .venv/stamp ## What runs, where, and whether it is ready
	@$(MALOTE) status

demo: .venv/stamp ## Place 50 orders and watch each one to its end
	@$(MALOTE) demo

# Where it is set, pytest compiles all tests anew in each of its processes.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(if $(ARGS),.venv/dev,lint) ## Lint, types, import rules and all tests, on real servers; ARGS="tests/unit -k stock" runs those alone
	.venv/bin/pytest -n 3 --dist loadgroup $(ARGS)

lint: .venv/dev ## Style, types and import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/bandit -q -c pyproject.toml -r contracts shared services deploy
	.venv/bin/mypy
	.venv/bin/lint-imports

audit: .venv/dev ## Ask whether anything we bring along is known to be vulnerable
	@.venv/bin/python -m tests.audit

bench: .venv/dev ## Measure; a table, and .data/bench.json; ARGS="--only whole --scale 0.1"
	@PYTHON="$(PYTHON)" sh deploy/local/bootstrap.sh --group bench
	@.venv/bin/python -m tests.bench $(ARGS)

chaos: .venv/dev ## Break a whole fleet in ways drawn from a seed, and check what is promised; ARGS="--seed 7 --runs 3"
	@.venv/bin/python -m tests.chaos $(ARGS)

schemas: .venv/stamp ## Write contracts/schemas and deploy/rabbitmq/definitions.json from the code
	@.venv/bin/python -m contracts.schema
	@$(MALOTE) topology export

docs: schemas ## Write contracts/openapi, contracts/asyncapi and the table in docs/security.md from the code
	@$(MALOTE) openapi --write
	@$(MALOTE) asyncapi --write
	@.venv/bin/python -m contracts.threats

deploy: docs ## Write docker-compose.yml, deploy/k8s, deploy/prometheus, .env.example and tables of docs/running.md from the code
	@.venv/bin/python -m deploy.render

clean: ## Stop everything, remove .venv and .data
	@if [ -x .venv/bin/malote ]; then $(MALOTE) down || true; fi
	rm -rf .venv .data tests/node/node_modules

# What running needs. What tests need as well stays where it is installed already: `--inexact`.
.venv/stamp: pyproject.toml uv.lock deploy/local/bootstrap.sh
	@PYTHON="$(PYTHON)" sh deploy/local/bootstrap.sh --no-dev --inexact
	@touch $@

.venv/dev: .venv/stamp
	@PYTHON="$(PYTHON)" sh deploy/local/bootstrap.sh
	@touch $@
