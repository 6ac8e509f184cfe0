# Ingot on Debian 12. `make help` lists what there is to do.

# Everything from apt that building, testing and the demo need: the only list.
PACKAGES := \
	gcc libc6-dev pkg-config libvirt-dev clang llvm libbpf-dev linux-libc-dev bpftool \
	protobuf-compiler libprotobuf-dev binutils \
	qemu-system-x86 qemu-utils libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients \
	frr iproute2 procps ethtool iputils-ping iperf3 tcpdump busybox-static e2fsprogs ca-certificates

GO_NEEDED := 1.26
GO        ?= go
APT       := DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600
# Two test binaries at a time: guests and packet tests of more would only wait for each other.
TESTFLAGS ?= -count=1 -p 2 -timeout 20m

# git tells nothing about the clone of another user; that is no reason not to build it.
ifneq ($(shell git rev-parse HEAD >/dev/null 2>&1; echo $$?),0)
export GOFLAGS += -buildvcs=false
endif

.DEFAULT_GOAL := help
.PHONY: help demo test bench build generate lint setup clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## two hosts, two machines, one network, from nothing; KEEP=1 leaves it up
	@$(GO) build -o bin/demo ./test/demo
	@bin/demo -bin bin -keep="$(KEEP)"

test: build ## all tests, those with real guests, BPF and FRR included
	$(GO) test $(TESTFLAGS) ./...

bench: build ## measure against baselines of the same run; ONLY=dataplane/ runs a part
	$(GO) run ./test/bench -only "$(ONLY)"

build: setup ## the binaries, into bin/
	$(GO) build -o bin/ ./cmd/...

generate: setup ## rebuild generated code: protobuf and BPF
	GOBIN=$(CURDIR)/bin $(GO) install tool
	$(GO) generate ./...

lint: setup ## formatting, vet, and the rules on imports
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) test -count=1 ./test/arch

setup: ## install the packages that are missing; needs root only if there are any
	@version=$$($(GO) env GOVERSION 2>/dev/null | sed 's/^go//'); \
	if [ "$$(printf '%s\n' $(GO_NEEDED) "$${version:-0}" | sort -V | head -1)" != $(GO_NEEDED) ]; then \
		echo "Go $(GO_NEEDED) or newer is needed, found $${version:-none}. Get it from https://go.dev/dl:"; \
		echo "  curl -fsSL https://go.dev/dl/go$(GO_NEEDED).0.linux-amd64.tar.gz | tar -C /usr/local -xz"; \
		echo "  export PATH=/usr/local/go/bin:\$$PATH"; exit 1; fi
	@missing=; for p in $(PACKAGES); do \
		[ "$$(dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; \
		install() { $(APT) update && $(APT) install -y --no-install-recommends $$missing; }; \
		install || { echo "trying once more"; sleep 5; install; }; fi
	@# the user that QEMU runs as and libvirtd's log folder come with a package a lab has no use for
	@for g in kvm libvirt-qemu; do getent group $$g >/dev/null || groupadd --system $$g; done
	@getent passwd libvirt-qemu >/dev/null || useradd --system --gid libvirt-qemu --groups kvm --no-create-home \
		--home-dir /var/lib/libvirt --shell /usr/sbin/nologin libvirt-qemu
	@[ -d /var/log/libvirt ] || install -d -m 0755 /var/log/libvirt

clean: ## end a demo that was left up, remove what was built
	@[ ! -x bin/demo ] || bin/demo stop
	rm -rf bin .demo bench.json
