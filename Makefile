# `make demo` and `make test` are all a newcomer needs; both set up what they use, as root, on Debian 12.

VENV := .venv
BIN := $(VENV)/bin
GUEST := /var/cache/microagent/guest
# Debian's own interpreter: the nftables and seccomp bindings are Debian packages built for it.
SYSTEM_PYTHON := /usr/bin/python3

APT := python3-venv python3-nftables python3-seccomp nftables iproute2 qemu-system-x86 e2fsprogs umoci skopeo \
       mmdebstrap busybox-static musl-tools cpio zstd lz4 ca-certificates
APT_BENCH := nginx-light libnginx-mod-stream haproxy sslsplit squid-openssl wrk curl dnsmasq-base openssl \
             dnsperf unbound netsniff-ng
APT_TEST := tcpdump openssl curl bind9-dnsutils netcat-openbsd iputils-ping nginx-light openssh-server openssh-client unbound chrony \
            redis-server redis-tools prometheus rsyslog systemd git gpg gpg-agent gcc libc6-dev haproxy \
            apache2-bin docker-registry fcgiwrap pgbouncer postgresql-client

# Tests wait as much as they work, so there are more of them at once than cores; each has up to 1 GiB of guests, and one
# a machine of 2.5 GiB.
TESTERS := $(shell echo $$(( $$(nproc) < 7 ? $$(nproc) + 1 : 8 )))

export DEBIAN_FRONTEND := noninteractive

.PHONY: help setup demo test bench mutants pages lint format clean install uninstall screenshots

help:
	@echo "make demo     set everything up and show it at work, without any internet"
	@echo "make test     set everything up and run every check and test"
	@echo "make bench    measure against peers, which it installs; writes docs/performance.md"
	@echo "make mutants  mutate what decides, and count the mutants that no test notices"
	@echo "make screenshots  draw the README's pictures anew, from a real run"
	@echo "make pages    write anew what in docs/ is made from the source"
	@echo "make setup    set everything up; the command is then $(BIN)/microagent"
	@echo "make install  install for this machine: the command, the agent as a systemd unit, the guest's files"
	@echo "make uninstall  stop all workspaces and remove that; PURGE=1 removes /var/lib/microagent as well"
	@echo "make lint     formatting, lint, types, import contracts"
	@echo "make clean    remove the virtual environment and caches of this checkout"

setup: $(VENV)/.done guest

# Installs what dpkg does not know as installed, and asks the mirrors only then.
define apt_install
	@missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "apt-get install" $$missing; \
	  apt-get -qq update && apt-get -qq install --no-install-recommends -y $$missing >/dev/null; fi
endef

$(VENV)/.done: pyproject.toml
	$(call apt_install,$(APT))
	$(SYSTEM_PYTHON) -m venv --system-site-packages --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: guest
guest: $(VENV)/.done
	@vm_fixtures/build --out $(GUEST)

demo: setup
	$(BIN)/microagent demo

test: setup
	$(call apt_install,$(APT_TEST))
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile

bench: setup
	$(call apt_install,$(APT_BENCH))
	PYTHONPATH=. $(BIN)/python -m tests.bench

# How much of what decides could be changed without a test that notices; a quarter of an hour.
mutants: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,mutation]'
	$(BIN)/mutmut run
	$(BIN)/mutmut export-cicd-stats && cat mutants/mutmut-cicd-stats.json

# The pictures in the README, from a real run.
screenshots: setup
	$(BIN)/python -m microagent.demo.screenshots docs/images

# What is made from the source: docs/records.md's tables, docs/records.schema.json, docs/openapi.json.
pages: $(VENV)/.done
	$(BIN)/python -m tests.house.record_pages
	$(BIN)/python -m microagent.api.openapi > docs/openapi.json

lint: $(VENV)/.done
	$(BIN)/ruff format --check src tests vm_fixtures
	$(BIN)/ruff check src tests vm_fixtures
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.done
	$(BIN)/ruff format src tests vm_fixtures
	$(BIN)/ruff check --fix src tests vm_fixtures

# Into /usr/local/lib/microagent, linked at /usr/local/bin/microagent.
install:
	$(call apt_install,$(APT))
	@packaging/install $(SYSTEM_PYTHON) $(GUEST)

PURGE :=
uninstall:
	@packaging/uninstall $(GUEST) $(if $(PURGE),purge)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build
