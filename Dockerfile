# pgvane's image: a builder with Rust, and a runtime image that holds the binary and the certificates it trusts.
#
#   docker build -t pgvane .
#   docker run --rm -v "$PWD/config/pgvane.toml:/etc/pgvane/pgvane.toml:ro" pgvane check /etc/pgvane/pgvane.toml
#   docker run -d --name pgvane --stop-timeout 40 -p 6432:6432 -p 6433:6433 -p 8404:8404 \
#       -v /etc/pgvane:/etc/pgvane:ro pgvane
#
# Works with BuildKit and with the classic builder alike. The base images can be replaced, by those of a mirror for
# example: --build-arg RUST_IMAGE=… --build-arg RUNTIME_IMAGE=…. The runtime image must be of the builder's Debian
# release or of a newer one: the binary needs a C library that is not older than the builder's.

ARG RUST_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# ---- what the dependencies are: all manifests, and an empty program in place of every source file -------------------
#
# What this stage makes changes only with the manifests (and with the names of files outside src), however much the code
# changes. So the layer below that builds the dependencies is taken from the cache until Cargo.lock changes.

FROM ${RUST_IMAGE} AS manifests
WORKDIR /build
COPY . .
RUN rm -rf src/*/ templates && find . -name '*.rs' | while read -r file; do echo 'fn main() {}' > "$file"; done

# ---- the binary -----------------------------------------------------------------------------------------------------

FROM ${RUST_IMAGE} AS builder
WORKDIR /build
COPY --from=manifests /build .
RUN cargo build --release --locked -p pgvane

COPY src src
COPY templates templates
# cargo goes by the time of a file, and the real files may well be older than what was made of the empty ones
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked -p pgvane \
    && strip target/release/pgvane \
    && target/release/pgvane --version

# ---- what runs ------------------------------------------------------------------------------------------------------

FROM ${RUNTIME_IMAGE}

LABEL org.opencontainers.image.title="pgvane" \
      org.opencontainers.image.description="A PostgreSQL-aware TCP proxy that follows the leader of a Patroni cluster" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"

# The public authorities, for REST APIs that speak HTTPS with a public certificate. The slim image has none.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=builder /build/target/release/pgvane /usr/local/bin/pgvane

# By number, so that orchestrators can see that it is not root. Needs no entry in /etc/passwd: pgvane writes no files.
# The configuration, and any certificates, must be readable by this user.
USER 65532:65532

# writes, reads, stats page and metrics
EXPOSE 6432 6433 8404

# Asks http://127.0.0.1:8404/healthz. Where [admin] listens elsewhere, add --admin URL; where it is switched off,
# run with --no-healthcheck.
HEALTHCHECK --interval=5s --timeout=5s --start-period=5s --retries=3 CMD ["pgvane", "healthcheck"]

# On SIGTERM pgvane closes its ports and lets sessions end by themselves for drain_timeout (30 s unless configured).
# Docker kills after 10 s: stop with `docker stop -t 40`, run with `--stop-timeout 40`, or in Compose set
# stop_grace_period.
STOPSIGNAL SIGTERM

ENTRYPOINT ["pgvane"]
CMD ["run", "--config", "/etc/pgvane/pgvane.toml"]
