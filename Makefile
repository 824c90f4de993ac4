# On a fresh Debian machine with Go, as root, `make demo` and `make test` do everything.

# Releases before 1.26.11 lack fixes in net/http and crypto/x509 that the API and the peers need. If the
# machine has another release, the go command fetches this one.
export GOTOOLCHAIN := go1.26.11+auto

# The commands that the lab's hosts and the tests run, as command:package.
NEEDS = nmap:nmap ncat:ncat ip:iproute2 ping:iputils-ping curl:curl ssh:openssh-client sshd:openssh-server \
        nft:nftables iptables:iptables ipset:ipset iperf3:iperf3 ps:procps \
        nsenter:util-linux tcpdump:tcpdump perl:perl-base

# Further commands for the tests of real clients. Terraform is not installed, but used if it exists.
CLIENT_NEEDS = /usr/bin/aws:awscli /usr/lib/python3/dist-packages/boto3/__init__.py:python3-boto3 ansible-playbook:ansible node:nodejs npm:npm

# The rivals that the benchmark and its tests start, each in its own namespaces.
RIVALS = ovs-vswitchd:openvswitch-switch vde_switch:vde2 nebula:nebula

# install installs the missing packages of a list of command:package.
install = @missing=; for need in $(1); do command -v $${need%%:*} >/dev/null || test -e $${need%%:*} || missing="$$missing $${need\#\#*:}"; done; \
	test -z "$$missing" || { echo "installing:$$missing"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; }

.PHONY: build setup setup-clients setup-rivals demo test unit scenarios fuzz mutants mutate soak bench bench-scale bench-ablate bench-check bench-connections bench-micro bench-profile bench-nodes bench-api bench-docs config-docs lint clean

build: ## bin/palisade and its ec2-* names beside it
	go build -trimpath -o bin/palisade ./cmd/palisade
	@cd bin && for name in $$(./palisade ec2-tools); do ln -sf palisade $$name; done

setup: ## install what is missing; needs root, like the lab
	@test $$(id -u) = 0 || { echo "make: network namespaces need root; run it as: sudo -E env PATH=\"\$$PATH\" make $(MAKECMDGOALS)" >&2; exit 1; }
	$(call install,$(NEEDS))

JS = internal/clients/testdata/js/package.json
setup-clients: setup ## install the AWS command line, the SDKs and their runtimes, for the tests
	$(call install,$(CLIENT_NEEDS))
	@cmp -s $(JS) bin/clients/package.json || { echo "installing: SDKs for JavaScript"; mkdir -p bin/clients && cd bin/clients && npm install --silent --no-audit --no-fund --no-package-lock $$(node -p "Object.entries(require('../../$(JS)').dependencies).map(p => p.join('@')).join(' ')") && cp ../../$(JS) .; }

demo: setup build ## the stories of Albert and Mary on three nodes, with real packets
	@trap 'bin/palisade lab down --name demo' EXIT; bin/palisade lab up --name demo --port 8780 && bin/palisade scenario run albert mary --name demo

test: setup-clients setup-rivals build lint ## all tests that must pass
	CI=$${CI:-true} go test -count=1 -p 1 -timeout 20m ./...
	go test -count=1 -tags failpoints -run 'Panic' ./switch ./switch/overlay

unit: ## the tests that need no root
	go test ./ec2/... ./cluster/... ./conntrack/... ./firewall/... ./internal/packet/... ./internal/peer/... ./internal/secret/... ./internal/verdict/... ./internal/configdoc ./internal/deps/... ./internal/mutants/... ./internal/node/control ./internal/node/fleet ./internal/node/plane ./switch ./switch/overlay

scenarios: setup ## every scenario, each in a lab of its own
	CI=true go test -count=1 -v -timeout 20m ./scenarios

FUZZTIME ?= 60s
fuzz: ## every fuzz target for FUZZTIME
	@for target in $$(grep -rho 'func Fuzz[A-Za-z]*' --include='*_test.go' . | cut -c6-); do \
	  dir=$$(dirname $$(grep -rl "func $$target(" --include='*_test.go' .)); \
	  echo "$$target in $$dir"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$dir || exit 1; done

mutants: setup ## remove each check of the data path and require its test to fail; ONLY=switch/ for some
	CI=true go test -tags mutants -count=1 -timeout 60m -v -run 'EveryMutantIsKilled/$(ONLY)' ./internal/mutants

SEED ?= 1
N ?= 250
mutate: ## change PKG in N small ways, and list the changes that its tests do not notice; SEED chooses the sample, AT=compile.go the place
	@go run ./internal/mutants/auto -seed $(SEED) -n $(N) $(if $(AT),-at '$(AT)') $(or $(PKG),$(error PKG is missing, as in: make mutate PKG=conntrack SEED=1))

soak: setup-clients setup-rivals build ## the long tests: measurements across nodes, fuzz targets, all tests three times
	$(MAKE) bench-nodes
	$(MAKE) fuzz FUZZTIME=60s
	CI=true go test -count=3 -p 1 -timeout 60m ./...
	CI=true go test -tags soak -count=1 -timeout 60m -run 'SlowTracker|Netfilter|RealTime' -v ./switch
	CI=true go test -tags soak -count=1 -timeout 60m -run 'Soak|EverySize|TerraformLaunches' -v ./internal/clients

# Debian starts the services of new packages. Those that did not exist before are stopped and disabled.
setup-rivals: fresh := $(filter-out $(notdir $(wildcard /etc/init.d/*)),openvswitch-switch uuidd)
setup-rivals: setup
	$(call install,$(RIVALS))
	@for service in $(fresh); do ! test -e /etc/init.d/$$service || { service $$service stop; update-rc.d $$service disable; } >/dev/null 2>&1; done

bench: setup-rivals build ## the switch beside a bare relay and its rivals; QUICK=1 for a shorter run
	QUICK=$(QUICK) bin/palisade bench

bench-scale: setup-rivals build ## the cost of rules, members, flows and ports, by their number
	bin/palisade bench --scale

bench-ablate: setup build ## the cost of each part of the switch, by leaving it out
	bin/palisade bench --ablate

bench-check: setup build ## palisade beside the relay alone, against the bounds in internal/bench/testdata
	bin/palisade bench --check

bench-connections: ## a million connections: memory, look-ups, pauses of the garbage collector
	go test -count=1 -run TestMillion -bench LookupAmongMillion -benchtime 500000x -v ./conntrack
	go test -count=1 -run '^$$' -bench GCPauseWithMillion -benchtime 50x ./conntrack

bench-micro: ## one frame, one look-up, one checksum, without system calls
	go test -run '^$$' -bench . -benchtime 300ms -count 6 ./switch ./firewall ./conntrack ./internal/packet ./switch/overlay

bench-profile: setup build ## the programs and functions that use the processors while the switch is measured; needs perf
	-perf record -q -e cpu-clock -a -o bin/perf.data bin/palisade bench --quick --contestants palisade --output bin/bench-profile.json
	perf report -i bin/perf.data --stdio --percent-limit 0.5 --sort comm,symbol 2>/dev/null | grep -v '^#' | cut -c1-90

bench-nodes: setup build ## the measurements across nodes; ONLY=SoakIdle for one
	CI=true go test -tags soak -count=1 -timeout 75m -run '$(or $(ONLY),Soak)' -v ./scenarios

bench-api: ## the API of a node with 120,000 rules
	go test -count=1 -run TestManyGroupsSlowNoRequest -v ./ec2/query

bench-docs: build ## the tables and charts of docs/PERFORMANCE.md, from the last runs
	@for run in full scale ablate; do ! test -e bin/bench-$$run.json || bin/palisade bench --from bin/bench-$$run.json --markdown docs/PERFORMANCE.md --charts docs/charts >/dev/null || exit 1; done

config-docs: ## docs/CONFIG.md, from the comments of the configuration structs
	go run ./internal/configdoc docs/CONFIG.md

lint: ## gofmt, vet and staticcheck
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	go vet -tags soak,mutants ./...
	go tool staticcheck -tags soak,mutants ./...

clean:
	rm -rf bin
