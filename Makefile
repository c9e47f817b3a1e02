# SPDX-License-Identifier: Apache-2.0
# Every task of this project is one target here. `make help` lists them.

PYTHON ?= python3
KEK ?= local
# TLS=1 has all parts of make run and make tour speak mutual TLS.
TLS ?= 0
STATE ?= .ownkey
SAMPLES ?= ../shared/samples
# Arguments handed to pytest: make test-only TESTS=tests/unit/ledger
TESTS ?= tests

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
COMMAND := $(BIN)/ownkey
DEV := $(VENV)/.dev-installed
STUBS := build/stubs/.generated
GOOGLEAPIS := build/googleapis/.copied
GO_EXAMPLE := build/examples/go/example
NODE_EXAMPLE := build/examples/node/.built

PROTOS := $(sort $(shell find protos -name '*.proto' 2>/dev/null))
# Folders of Python that are held to mypy's strict mode, as far as they exist.
TYPED := $(foreach folder,services simulator client deploy,\
	$(if $(shell find $(folder) -name '*.py' -print -quit 2>/dev/null),$(folder)))
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--require-hashes --no-deps

IMAGES := keyvault router ledger demo
BENCHES := keyvault ledger observe providers gateways

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run tour test test-only check format lint types protos samples requirements screenshots \
	bench bench-keyvault bench-ledger bench-resources bench-observe bench-providers bench-gateways profile \
	deploy-check metrics-reference previous-version stubs venv vault kustomize custom-resources \
	grpcurl chromium examples \
	reference lock clean

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUNTIME) $(STUBS) $(COMMAND) ## Starts the whole suite, walks through it once, serves until interrupted
	@$(BIN)/python -m deploy.local run --state $(STATE) --kek $(KEK) $(if $(filter 1,$(TLS)),--tls)

tour: $(RUNTIME) $(STUBS) $(COMMAND) ## Takes the same walk in a temporary folder, then stops
	@$(BIN)/python -m deploy.local tour --kek $(KEK) $(if $(filter 1,$(TLS)),--tls)

test: check vault kustomize custom-resources grpcurl chromium examples $(COMMAND) ## Runs everything that CI runs: the checks and all tests
	@$(BIN)/python -m pytest $(TESTS)

test-only: $(DEV) $(STUBS) $(COMMAND) ## Runs the tests named by TESTS, without the checks
	@$(BIN)/python -m pytest $(TESTS)

check: format lint types protos ## Runs format, lint, types, protos and import directions
	@$(BIN)/python -m pytest --quiet tests/architecture

format: $(DEV) ## Checks the layout of the Python code
	@$(BIN)/python -m ruff format --check --quiet . || \
		{ echo 'The files above are not formatted; run: $(BIN)/ruff format .' >&2; exit 1; }

lint: $(DEV) ## Checks the Python code with ruff
	@$(BIN)/python -m ruff check --quiet .

types: $(DEV) $(STUBS) ## Checks the types with mypy in strict mode
	@$(BIN)/python -m mypy $(TYPED)

protos: $(DEV) $(GOOGLEAPIS) ## Checks the protos with buf
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code protos

samples: $(DEV) $(STUBS) ## Decodes every recording listed under SAMPLES
	@$(BIN)/python -m tests.samples $(SAMPLES)

screenshots: $(DEV) $(STUBS) chromium ## Takes the README's pictures of the settings page anew
	@$(BIN)/python -m tests.screenshots

requirements: $(DEV) ## Prints each requirement id with its tests, or `missing`
	@$(BIN)/python -m tests.support.requirements

stubs: $(STUBS) ## Generates the Python stubs from protos/

venv: $(DEV) $(COMMAND) ## Makes the virtual environment with everything in it

reference: $(DEV) $(STUBS) ## Writes the settings and error reasons in docs/reference from the code
	@$(BIN)/python -m tests.support.reference

previous-version: $(DEV) ## Packs the newest commit as what the upgrade drill begins with; at a release
	@$(BIN)/python -m tests.support.previous_version

metrics-reference: $(DEV) ## Writes docs/reference/metrics.md from the code
	@$(BIN)/python -m tests.support.metrics_reference

deploy-check: $(DEV) $(STUBS) kustomize custom-resources ## Renders every overlay and holds it against Kubernetes and the code
	@$(BIN)/python -m pytest tests/deploy

vault: $(DEV) ## Finds HashiCorp Vault on PATH, or builds it once into a cache
	@$(BIN)/python -m deploy.programs vault

kustomize: $(DEV) ## Finds Kustomize on PATH, or builds it once into a cache
	@$(BIN)/python -m deploy.programs kustomize

custom-resources: $(DEV) ## Fetches the definitions of operators' objects once into a cache
	@$(BIN)/python -m deploy.programs custom-resources

grpcurl: $(DEV) ## Finds grpcurl on PATH, or builds it once into a cache
	@$(BIN)/python -m deploy.programs grpcurl

examples: $(GO_EXAMPLE) $(NODE_EXAMPLE) ## Builds the callers in Go and Node

chromium: $(DEV) ## Finds Chromium on PATH, or installs Debian's where root may
	@$(BIN)/python -m deploy.programs chromium

lock: $(DEV) ## Pins requirements*.in anew, with hashes
	@$(BIN)/python -m piptools compile $(PIN) --output-file requirements.txt requirements.in
	@$(BIN)/python -m piptools compile $(PIN) --output-file requirements-dev.txt requirements-dev.in
	@for image in $(IMAGES); do $(BIN)/python -m piptools compile $(PIN) \
		--output-file deploy/docker/requirements-$$image.txt \
		deploy/docker/requirements-$$image.in || exit 1; done

bench-keyvault: $(DEV) $(STUBS) ## Measures keyvault against gRPC and Vault; ARGS for more
	@$(BIN)/python -m bench.keyvault $(ARGS)

bench-resources: $(DEV) $(STUBS) ## Measures what the manifests' requests are held to; ARGS for more
	@$(BIN)/python -m bench.resources $(ARGS)

bench-observe: $(DEV) $(STUBS) ## Measures what metrics, log lines and traces cost; ARGS for more
	@$(BIN)/python -m bench.observe $(ARGS)

bench-ledger: $(DEV) $(STUBS) ## Measures the ledger against PostgreSQL and gRPC; ARGS for more
	@$(BIN)/python -m bench.ledger $(ARGS)

bench: ## Runs every benchmark in turn; a missed bar does not stop the next
	@failed=0; for part in $(BENCHES); do $(MAKE) --no-print-directory bench-$$part || failed=1; \
		done; exit $$failed

bench-gateways: $(DEV) $(STUBS) ## Measures the suite beside other gateways; ARGS for more
	@$(BIN)/python -m bench.gateways $(ARGS)

profile: $(DEV) $(STUBS) ## Draws a flame graph of the router under load; ARGS for more
	@$(BIN)/python -m bench.profile $(ARGS)

bench-providers: $(DEV) ## Measures the dialects beside the providers' own SDKs; ARGS for more
	@$(BIN)/python -m bench.providers $(ARGS)

clean: ## Removes what make made; the state of `make run` stays
	@rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

PIN := --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

# The environment is made anew when its Python is gone, and filled anew when a list changed.
# The .pth file puts the checkout and the generated stubs on the path, relative to itself.
$(RUNTIME): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Ownkey needs Python 3.11 or newer, this is " + \
		sys.version.split()[0] + "; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo 'Installing the packages of requirements.txt into $(VENV)'
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) --requirement requirements.txt
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
		printf '../../../..\n../../../../build/stubs\n' > "$$site/ownkey.pth"
	@touch $@

$(COMMAND): client/ownkey $(RUNTIME)
	@install -m 755 $< $@

$(DEV): requirements-dev.txt $(RUNTIME)
	@echo 'Installing the packages of requirements-dev.txt into $(VENV)'
	@$(PIP_INSTALL) --requirement requirements-dev.txt
	@touch $@

# The callers in Go and Node, built aside with stubs of their own. The Go stubs' import paths follow
# the protos' folders.
GO_STUBS := $(foreach proto,$(PROTOS:protos/%=%),$(foreach kind,go go-grpc,\
	--$(kind)_opt=M$(proto)=ownkey/example/stubs/$(patsubst %/,%,$(dir $(proto)))))

$(GO_EXAMPLE): $(wildcard client/examples/go/*) $(PROTOS) $(RUNTIME) $(GOOGLEAPIS)
	@command -v go >/dev/null || \
		{ echo 'The example in Go needs Go 1.25 or newer on PATH; install it from go.dev.' >&2; exit 1; }
	@echo 'Building the example in Go'
	@rm -rf $(@D) && mkdir -p $(@D) && cp client/examples/go/* $(@D)
	@cd $(@D) && GOBIN="$$PWD" go install google.golang.org/protobuf/cmd/protoc-gen-go \
		google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@PATH="$(@D):$$PATH" $(BIN)/python -m grpc_tools.protoc \
		--proto_path=protos --proto_path=build/googleapis --go_out=$(@D) --go-grpc_out=$(@D) \
		--go_opt=module=ownkey/example --go-grpc_opt=module=ownkey/example $(GO_STUBS) $(PROTOS)
	@cd $(@D) && CGO_ENABLED=0 go build -mod=readonly -o $(@F) .

$(NODE_EXAMPLE): $(wildcard client/examples/node/*) $(PROTOS) $(RUNTIME) $(GOOGLEAPIS)
	@command -v npm >/dev/null || \
		{ echo 'The example in Node needs Node 20 or newer with npm on PATH; install it from nodejs.org.' >&2; \
		exit 1; }
	@echo 'Building the example in Node'
	@rm -rf $(@D) && mkdir -p $(@D)/stubs && cp client/examples/node/* $(@D)
	@cd $(@D) && npm ci --silent --ignore-scripts --no-audit --no-fund
	@$(BIN)/python -m grpc_tools.protoc --plugin=$(@D)/node_modules/.bin/protoc-gen-es \
		--proto_path=protos --proto_path=build/googleapis \
		--es_out=$(@D)/stubs --es_opt=target=js,import_extension=js \
		$(PROTOS) google/rpc/status.proto google/rpc/error_details.proto
	@touch $@

# Generated aside and swapped in whole, so that no stub of a removed proto survives. The package
# that brings google.rpc has no type information that mypy accepts, so that is generated too.
$(STUBS): $(PROTOS) $(RUNTIME) $(GOOGLEAPIS)
	@rm -rf build/stubs.new && mkdir -p build/stubs.new
	@PATH="$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc \
		--proto_path=protos --proto_path=build/googleapis \
		--python_out=build/stubs.new --grpc_python_out=build/stubs.new \
		--mypy_out=quiet:build/stubs.new --mypy_grpc_out=quiet:build/stubs.new $(PROTOS)
	@PATH="$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=build/googleapis \
		--mypy_out=quiet:build/stubs.new google/rpc/status.proto google/rpc/error_details.proto
	@touch build/stubs.new/$(notdir $@)
	@rm -rf build/stubs && mv build/stubs.new build/stubs

$(GOOGLEAPIS): $(RUNTIME)
	@mkdir -p $(@D)/google/rpc
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
		cp "$$site"/google/rpc/status.proto "$$site"/google/rpc/error_details.proto $(@D)/google/rpc/
	@touch $@
