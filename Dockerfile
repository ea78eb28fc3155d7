# The gateway in a small image: built with the committed Cargo.lock, run as nobody in particular, with nothing writable but
# what is mounted. For the same image again later, pin both bases by digest:
#   docker build --build-arg RUST=rust:1.95-bookworm@sha256:… --build-arg BASE=debian:bookworm-slim@sha256:… .
ARG RUST=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

FROM ${RUST} AS build
WORKDIR /build
# Paths of the build do not reach the binary.
ENV CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/build=warrengate --remap-path-prefix=/usr/local/cargo=cargo"
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY .patches .patches
COPY proto proto
COPY broker-config broker-config
COPY src src
# What warrengate_build_info says; it is no part of the layers above, so a new one builds nothing but the gateway again.
ARG REVISION=unknown
RUN WARRENGATE_REVISION="$REVISION" cargo build --release --locked --bin warrengate \
 && strip --strip-debug target/release/warrengate

FROM ${BASE}
# No package is added: the gateway trusts the authorities it is given, never the system's.
RUN groupadd --system --gid 10001 warrengate \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin warrengate
COPY --from=build /build/target/release/warrengate /usr/local/bin/warrengate
COPY LICENSE /usr/share/doc/warrengate/LICENSE
USER 10001:10001
EXPOSE 8443
# Streams are told, then cut after limits.drain_deadline (20 s): give it longer than that.
STOPSIGNAL SIGTERM
ENTRYPOINT ["warrengate"]
CMD ["serve"]
