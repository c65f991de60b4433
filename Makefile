# One verb per habit. Every target installs its tools and prints them (build/scripts/setup.sh).
.DEFAULT_GOAL := help
.PHONY: help try demo agent builder install dist reproduce kernel initramfs image schemas lint test test-all test-loaders prove soak soak-device power-cuts fuzz qemu qemu-arm64 prove-uboot bench bench-delta large deny rollout
export PATH := $(PATH):/usr/sbin:/sbin:$(CURDIR)/target/tools/usr/bin:$(CURDIR)/target/tools/bin

# One target, one profile and one set of features for everything that is built and tried here, so that nothing is
# compiled twice. Static, because the device has no libraries: build-agent.sh builds the same, and alone for a release.
export CARGO_BUILD_TARGET := x86_64-unknown-linux-gnu
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS := -C target-feature=+crt-static
# Programs for the host are always for amd64; ARCH=arm64 adds the programs of the device.
arm64 := $(filter arm64,$(ARCH))
built := $(or $(CARGO_TARGET_DIR),target)/$(CARGO_BUILD_TARGET)/debug
released := $(built:debug=release)

help: ## List all targets
	@sed -n 's/^\([a-z0-9%-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

try: ## Run the agent on folders, with a real registry on loopback: 30 s, no root; ARCH=arm64 emulates arm64
	@build/scripts/setup.sh rust $(arm64) try
	@PROFILE=dev ARCH="amd64 $(arm64)" build/scripts/build-agent.sh
	@build/scripts/try.sh

demo: ## Show a virtual device that updates itself and returns from a bad release; ARCH=arm64 boots by U-Boot
	@build/scripts/setup.sh rust qemu$(addprefix -,$(arm64)) try
	@PROFILE=dev ARCH="amd64 $(arm64)" build/scripts/build-agent.sh
	@$(built)/qemu-tests demo $(if $(arm64),--firmware u-boot)

agent: ## Build static binaries for the device: target/dist/amd64; ARCH=arm64 or ARCH="amd64 arm64"
	@build/scripts/setup.sh rust $(arm64)
	@build/scripts/build-agent.sh

builder: ## Run make dist in build/Dockerfile.builder, by buildah on a base of Debian packages: target/builder/dist
	@build/scripts/setup.sh builder
	@build/scripts/builder.sh

install: ## Install what make agent built, with units, man pages and docs: DESTDIR=, PREFIX= (/usr), ARCH= (amd64)
	@[ -x target/dist/$(or $(ARCH),amd64)/kubesolo-release ] || $(MAKE) --no-print-directory agent
	@[ target/generated -nt target/dist/$(or $(ARCH),amd64)/kubesolo-update ] || \
	    cargo run --quiet --locked -p generate -- target/generated
	@DESTDIR='$(DESTDIR)' PREFIX='$(or $(PREFIX),/usr)' build/scripts/install.sh device initramfs release doc

dist: ## Make archives, Debian packages and SHA256SUMS for both architectures, judged by lintian: target/dist
	@build/scripts/setup.sh rust $(if $(ARCH),$(arm64),arm64) dist
	@build/scripts/dist.sh

reproduce: ## Run make dist twice, in two folders, and fail if any byte differs
	@build/scripts/setup.sh rust $(if $(ARCH),$(arm64),arm64)
	@build/scripts/reproduce.sh

kernel: ## Fetch a Debian kernel for the virtual device: target/kernels/cloud
	@build/scripts/fetch-kernel.sh cloud

initramfs: agent kernel ## Make an initramfs with the agent for the virtual device: target/image/kubesolo-os.gz
	@build/scripts/setup.sh qemu
	@build/scripts/build-initramfs.sh target/image/kubesolo-os.gz

image: ## Make a bootable disk from any KERNEL= and INITRAMFS=: OUTPUT= (target/image/disk.img)
	@build/scripts/setup.sh rust qemu
	@cargo build --quiet --locked -p kubesolo-release
	@build/scripts/build-image.sh

schemas: ## Write docs/schema, the JSON Schemas of all documents of --json, from the types
	@build/scripts/setup.sh rust
	@rm -rf docs/schema
	@cargo run --quiet --locked -p generate -- schemas docs/schema

lint: ## Check format, clippy, shellcheck, grub-script-check, pages, docs/schema, and that every mutation patch applies
	@build/scripts/setup.sh lint
	build/scripts/lint.sh

test: ## Run all fast tests, and the main stories on virtual devices
	@build/scripts/setup.sh test
	@PROFILE=dev build/scripts/build-agent.sh
	cargo test --workspace --locked --no-fail-fast
	$(built)/qemu-tests quick

test-all: ## Run make lint, make deny, all tests with the release build, and all stories
	@build/scripts/setup.sh test-all
	build/scripts/lint.sh
	@$(MAKE) --no-print-directory deny
	@ARCH=amd64 build/scripts/dist.sh
	cargo test --workspace --locked --no-fail-fast
	cargo test --locked -p bootenv --test model -- --ignored
	build/scripts/agent-0.1.sh
	cargo test --workspace --locked --test suite -- --ignored compat:: events:: fleet:: oci::cosign::
	build/scripts/build-ferro.sh
	cargo test --locked -p kubesolo-release --test release -- --ignored servers::
	build/scripts/cloud-init.sh
	@build/scripts/setup.sh arm64
	@PROFILE=dev ARCH=arm64 build/scripts/build-agent.sh
	build/scripts/same-encoder.sh
	@cargo build --quiet --locked --workspace --bins --examples
	$(built)/qemu-tests --firmware bios all
	$(built)/qemu-tests --firmware uefi all
	@$(MAKE) --no-print-directory test-loaders

test-loaders: ## Run the decision tables and one trial each on the bootloaders of the next Debian
	@build/scripts/setup.sh qemu-arm64
	@build/scripts/fetch-loaders.sh
	@PROFILE=dev ARCH='amd64 arm64' build/scripts/build-agent.sh
	LOADERS=target/next $(built)/qemu-tests table commit commit-bios arm64-table arm64-commit

prove: ## Test every power cut, every fault at every step, and all mutations: about an hour
	@build/scripts/setup.sh test
	@build/scripts/build-agent.sh
	cargo run --quiet --locked -p qemu-tests --bin prove
	cargo test --locked -p kubesolo-update --test faults -- --ignored --nocapture
	build/scripts/mutations.sh

prove-uboot: ## Test the same power cuts with U-Boot on arm64: every part of make prove that uses a disk
	@build/scripts/setup.sh qemu-arm64
	@ARCH='amd64 arm64' build/scripts/build-agent.sh
	cargo run --quiet --locked -p qemu-tests --bin prove -- --u-boot

soak: ## Run random cycles of the real programs beside a book of what must be true: CYCLES= (1000), SEED= (1)
	@build/scripts/setup.sh test
	SOAK_CYCLES=$(or $(CYCLES),1000) SOAK_SEED=$(or $(SEED),1) \
	    cargo test --locked -p kubesolo-update --test suite -- --ignored --nocapture soak::

soak-device: ## Run update cycles of one virtual device that stays in target/soak-device: CYCLES= (10) more, SEED= (1)
	@build/scripts/setup.sh rust qemu try $(arm64:%=qemu-%)
	@PROFILE=dev ARCH="amd64 $(arm64)" build/scripts/build-agent.sh
	cargo run --quiet --locked -p qemu-tests --bin prove -- --live $(or $(CYCLES),10) --seed $(or $(SEED),1) $(if $(arm64),--u-boot)

power-cuts: ## Cut the power of running devices at random moments: COUNT= (50), SEED= (1); ARCH=arm64 for U-Boot
	@build/scripts/setup.sh rust qemu try $(arm64:%=qemu-%)
	@PROFILE=dev ARCH="amd64 $(arm64)" build/scripts/build-agent.sh
	cargo run --quiet --locked -p qemu-tests --bin prove -- power-cuts --cuts $(or $(COUNT),50) --seed $(or $(SEED),1) $(if $(arm64),--u-boot)

fuzz: ## Run every parser of bytes from outside under libFuzzer, SECONDS= (10) or RUNS= each, PARSERS="a b" only these
	@build/scripts/setup.sh fuzz
	@RUNS=$(RUNS) build/scripts/fuzz.sh $(or $(SECONDS),$(if $(RUNS),7200,10)) $(PARSERS)

qemu-arm64: ## Run all stories of arm64 with U-Boot, and one with UEFI and GRUB
	@build/scripts/setup.sh qemu-arm64
	@PROFILE=dev ARCH='amd64 arm64' build/scripts/build-agent.sh
	$(built)/qemu-tests arm64

qemu-arm64-%: ## Run one story of arm64
	@build/scripts/setup.sh qemu-arm64
	@PROFILE=dev ARCH='amd64 arm64' build/scripts/build-agent.sh
	$(built)/qemu-tests arm64-$*

qemu-%: ## Run one story on a virtual device, by its name; make qemu lists them
	@build/scripts/setup.sh rust qemu try
	@PROFILE=dev build/scripts/build-agent.sh
	$(built)/qemu-tests $*

qemu: ## List the stories
	@build/scripts/setup.sh rust
	@PROFILE=dev build/scripts/build-agent.sh
	@$(built)/qemu-tests

bench: ## Measure the cost of an update and of other tools: 10 min; DOCS=1 writes docs/performance.md, BEFORE= adds an older agent
	@build/scripts/setup.sh rust bench
	@build/scripts/build-agent.sh
	@cargo build --quiet --locked --release -p bench
	$(released)/bench $(if $(DOCS),--docs) $(if $(SIZES),--sizes $(SIZES))

bench-delta: ## Measure updates to similar releases, beside casync, RAUC, zchunk and zsync; SIZE=full takes whole OS images, DOCS=1 writes docs/performance.md
	@build/scripts/setup.sh rust bench
	@build/scripts/build-agent.sh
	@cargo build --quiet --locked --release -p bench
	$(released)/bench delta $(if $(filter full,$(SIZE)),--full) $(if $(DOCS),--docs)

large: ## Update 5 GiB: compare every byte, and measure the peak of memory
	@build/scripts/setup.sh rust
	@build/scripts/build-agent.sh
	@cargo build --quiet --locked --release -p bench
	$(released)/bench large

rollout: ## Simulate 100,000 devices that install a release in waves; DOCS=1 writes docs/operating.md
	@build/scripts/setup.sh rust try
	$(if $(DOCS),DOCS=1) cargo test --locked -p kubesolo-update --test suite rollout::
	@sed -n '/<!-- simulation -->/,/<!-- end/p' docs/operating.md

deny: ## Check bans, licences and sources of all dependencies (CHECK=advisories: known flaws); builds cargo-deny if it is missing
	@command -v cargo-deny >/dev/null || cargo install --quiet --locked --root target/tools cargo-deny
	cargo deny --all-features check $(or $(CHECK),bans licenses sources)
