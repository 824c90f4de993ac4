# Two commands do everything on a fresh Debian machine with Go: `make demo`, `make test`.

.PHONY: build setup test unit scenarios fuzz soak bench lint demo clean

build: ## bin/palisade and its ec2-* names beside it
	go build -trimpath -o bin/palisade ./cmd/palisade
	@cd bin && for name in $$(./palisade ec2-tools); do ln -sf palisade $$name; done
