# The production binary in a small image: built with the committed Cargo.lock, without the development commands, and run
# as an unprivileged user with nothing writable but mounted volumes. To reproduce an image later, pin both base images
# by digest:
#   docker build --build-arg RUST=rust:1.95-bookworm@sha256:… --build-arg BASE=debian:bookworm-slim@sha256:… .
ARG RUST=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

FROM ${RUST} AS build
WORKDIR /build
# The binary contains no path of the build machine.
ENV CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/build=warrengate --remap-path-prefix=/usr/local/cargo=cargo"
COPY Cargo.toml Cargo.lock ./
COPY proto proto
COPY clients/rust clients/rust
COPY crates crates
COPY examples/rust examples/rust
COPY src src
# The revision in warrengate_build_info. It is declared here so that a new one does not invalidate the layers above.
ARG REVISION=unknown
RUN WARRENGATE_REVISION="$REVISION" cargo build --release --locked --no-default-features --features jemalloc --bin warrengate \
 && strip --strip-debug target/release/warrengate

FROM ${BASE}
# No package is installed: the gateway trusts only the authorities that it is configured with.
RUN groupadd --system --gid 10001 warrengate \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin warrengate
COPY --from=build /build/target/release/warrengate /usr/local/bin/warrengate
COPY LICENSE /usr/share/doc/warrengate/LICENSE
USER 10001:10001
EXPOSE 8443
# Streams are drained and then closed after limits.drain_deadline (20 s): the stop timeout must be longer.
STOPSIGNAL SIGTERM
ENTRYPOINT ["warrengate"]
CMD ["serve"]
