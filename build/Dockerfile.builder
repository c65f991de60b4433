# All that the binaries of a device are built with, for both architectures, every version pinned.
#
#   docker build --file build/Dockerfile.builder --tag kubesolo-update-builder build
#   docker run --rm --volume "$PWD:/src" kubesolo-update-builder
#
# leaves them in target/dist/{amd64,arm64}, and their packages beside; podman and buildah take it as well. BASE is any Debian 12: a digest of the
# public image pins it, `make builder` makes one from packages.
#
# Debian's archive holds the newest version of a package alone. When it has gone on, either take over its versions here,
# or build with an archive that keeps old ones: --build-arg SOURCES='deb [check-valid-until=no] URI bookworm main'.
ARG BASE=docker.io/library/debian:bookworm-slim
FROM ${BASE}

ARG SOURCES=
RUN [ -z "$SOURCES" ] || { rm -f /etc/apt/sources.list.d/* && printf '%s\n' "$SOURCES" >/etc/apt/sources.list; }

# What has a part in the bytes: compilers, linkers, and the libraries that are linked in.
ARG RUST=1.96.0+dfsg1-1~deb12u2
ARG LIBC=2.36-9+deb12u14
ARG GCC=12.2.0-14+deb12u1
ARG GCC_CROSS=12.2.0-14cross1
ARG BINUTILS=2.40-2
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        "binutils=$BINUTILS" "gcc-12=$GCC" "libgcc-12-dev=$GCC" "libc6-dev=$LIBC" gcc \
        "binutils-aarch64-linux-gnu=$BINUTILS" "gcc-12-aarch64-linux-gnu=$GCC_CROSS" \
        "libgcc-12-dev-arm64-cross=$GCC_CROSS" libc6-dev-arm64-cross=2.36-8cross1 gcc-aarch64-linux-gnu \
        "rustc-web=$RUST" "cargo-web=$RUST" "libstd-rust-web-dev=$RUST" \
        ca-certificates git make \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*

# As build/scripts/setup.sh does: of arm64, only what is linked in.
ENV ARM64_LIBRARIES=/opt/arm64
RUN apt="apt-get -o APT::Architectures::=arm64 -o APT::Sandbox::User=root" && cd /tmp && $apt update \
    && $apt download "libc6-dev:arm64=$LIBC" "libstd-rust-web-dev:arm64=$RUST" \
    && mkdir -p "$ARM64_LIBRARIES/libc6-dev" \
    && dpkg -x libc6-dev_*_arm64.deb "$ARM64_LIBRARIES/libc6-dev" \
    && dpkg -x libstd-rust-web-dev_*_arm64.deb / \
    && rm -rf ./*.deb /var/lib/apt/lists/*

# The sources may belong to somebody else than who builds here.
RUN git config --system safe.directory /src
WORKDIR /src
CMD ["build/scripts/dist.sh"]
