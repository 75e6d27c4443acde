# make run    start the server with the examples of etc/services.json
# make test   everything that CI checks
# Both bring in what they need, and nothing twice.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# What the pages need: brought in, never committed.
NOVNC  := @novnc/novnc@1.7.0
XTERM  := @xterm/xterm@6.0.0 @xterm/addon-fit@0.11.0
STAMPS := build/stamps
# Of the editable kinds only this one puts the folder on the path, where twistd finds the plugin.
EDIT   := install -q --config-settings editable_mode=compat -e

# The programs that the examples and the tests start, and the Debian packages that hold them.
RUN_PROGRAMS  := Xvnc:tigervnc-standalone-server vncpasswd:tigervnc-tools openbox:openbox \
                 xterm:xterm x11vnc:x11vnc Xvfb:xvfb
TEST_PROGRAMS := $(RUN_PROGRAMS) chromium:chromium nginx:nginx haproxy:haproxy openssl:openssl socat:socat faketime:faketime ip:iproute2 \
                 ssh:openssh-client sshd:openssh-server slurmctld:slurm-wlm munged:munge

.PHONY: run screenshots setup bench test lint unit integration faults conformance fuzz soak coverage wheel clean

run: setup
	@tools/system-packages $(RUN_PROGRAMS) || echo "Going on without them: the Demo service needs none."
	@echo "Open http://localhost:9090/ in a browser; Ctrl-C stops the server."
	@$(BIN)/twistd -n --pidfile= wsserver -c etc/services.json $(ARGS)

setup: $(STAMPS)/package $(STAMPS)/novnc $(STAMPS)/xterm

test: $(STAMPS)/test setup
	tools/system-packages $(TEST_PROGRAMS)
	$(MAKE) --no-print-directory lint unit integration faults conformance fuzz coverage

lint: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(STAMPS)/test setup
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m twisted.trial --temp-directory=build/trial_unit $(patsubst %.py,%,$(wildcard tests/test_*.py))

integration: $(STAMPS)/test setup wheel
	$(BIN)/coverage run -m twisted.trial --temp-directory=build/trial_integration tests.integration

# Faults, COUNT of them: docs/quality.md.  SEED; ARGS: --rows 5,22, --report FILE
faults: COUNT = 2000
faults: $(STAMPS)/test setup
	$(BIN)/python -m tests.faults --count $(COUNT) --seed $(SEED) $(ARGS)

# The Autobahn test suite against the real server: docs/quality.md.
conformance: $(STAMPS)/test setup
	$(BIN)/python -m tests.conformance

# COUNT of each part, SEED; ARGS: --only PART, --rest_seconds N.
COUNT ?= 4000
SEED  ?= 1
fuzz: $(STAMPS)/test setup
	$(BIN)/python -m tests.fuzz --count $(COUNT) --seed $(SEED) $(ARGS)

# ARGS: --minutes N (5), --seed N
soak: $(STAMPS)/test setup
	$(BIN)/python -m tests.soak $(ARGS)

coverage:
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# ARGS: --quick, --rounds N, --only PART; results and plots go to benchmarks/results.
bench: $(STAMPS)/bench setup
	tools/system-packages haproxy:haproxy openssl:openssl
	$(BIN)/python -m benchmarks $(ARGS)

screenshots: $(STAMPS)/test setup
	$(BIN)/python -m twisted.trial --temp-directory=build/trial_screenshots tests.integration.test_browser
	cp build/screenshots/desktop.png docs/

wheel: $(STAMPS)/test setup
	rm -rf build/wheel build/lib build/bdist.* && mkdir -p build/wheel
	$(BIN)/pip wheel -q --no-deps --no-build-isolation -w build/wheel .

clean:
	rm -rf build $(VENV) wsserver/web/novnc wsserver/web/xterm tests/integration/node_modules *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV) 2>/dev/null || { tools/system-packages python3-venv: && $(PYTHON) -m venv --clear $(VENV); }

$(STAMPS)/package: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip $(EDIT) .
	@mkdir -p $(@D) && touch $@

$(STAMPS)/test: setup.cfg pyproject.toml tests/integration/package.json | $(BIN)/python
	$(BIN)/pip $(EDIT) ".[test]"
	npm install --silent --no-audit --no-fund --prefix tests/integration
	@mkdir -p $(@D) && touch $@ $(STAMPS)/package

$(STAMPS)/bench: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip $(EDIT) ".[bench]"
	@mkdir -p $(@D) && touch $@ $(STAMPS)/package

$(STAMPS)/novnc:
	npm install --silent --no-audit --no-fund --no-save --prefix build/npm $(NOVNC)
	rm -rf wsserver/web/novnc && mkdir -p wsserver/web/novnc
	cd build/npm/node_modules/@novnc/novnc && cp -R core vendor LICENSE.txt "$(CURDIR)/wsserver/web/novnc/"
	@mkdir -p $(@D) && touch $@

$(STAMPS)/xterm:
	npm install --silent --no-audit --no-fund --no-save --prefix build/npm_xterm $(XTERM)
	rm -rf wsserver/web/xterm && mkdir -p wsserver/web/xterm
	cd build/npm_xterm/node_modules/@xterm && cp xterm/lib/xterm.mjs xterm/css/xterm.css \
		xterm/LICENSE addon-fit/lib/addon-fit.mjs "$(CURDIR)/wsserver/web/xterm/"
	@mkdir -p $(@D) && touch $@
