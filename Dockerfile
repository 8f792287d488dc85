# pgvane's image: a builder with Rust, and an image from scratch with the binary, the C library that it needs and the
# public certificate authorities. Nothing else is in it: no shell, no package manager, nothing to patch but pgvane.
#
#   docker build -t pgvane .
#   docker run --rm -v "$PWD/config/pgvane.toml:/etc/pgvane/pgvane.toml:ro" pgvane check /etc/pgvane/pgvane.toml
#   docker run -d --name pgvane --stop-timeout 40 -p 6432:6432 -p 6433:6433 -p 8404:8404 \
#       -v /etc/pgvane:/etc/pgvane:ro pgvane
#
# Works with BuildKit and with the classic builder alike. The builder's image can be replaced, by one of a mirror for
# example: --build-arg RUST_IMAGE=…. It must be a Debian with Rust.

ARG RUST_IMAGE=rust:1.95-bookworm

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
    && strip target/release/pgvane

# The files of the image. glibc and not musl: pgvane is tuned and measured with glibc's allocator, and glibc looks up
# names as other programs on the host do. `ldd` names the libraries; since glibc 2.34 it needs no others for names.
RUN mkdir -p /image/etc/ssl/certs /image/usr/local/bin \
    && cp target/release/pgvane /image/usr/local/bin/ \
    && ldd target/release/pgvane | grep -o '/[^ ]*' | xargs cp --parents -L -t /image \
    && cp -L /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
    && echo 'pgvane:x:65532:65532:pgvane:/:/sbin/nologin' > /image/etc/passwd \
    && chroot /image /usr/local/bin/pgvane --version

# ---- what runs ------------------------------------------------------------------------------------------------------

FROM scratch

LABEL org.opencontainers.image.title="pgvane" \
      org.opencontainers.image.description="A PostgreSQL-aware TCP proxy that follows the leader of a Patroni cluster" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"

COPY --from=builder /image /

# By number, so that orchestrators can see that it is not root. pgvane writes no files, so the root file system can be
# read-only (docker run --read-only). The configuration, and any certificates, must be readable by this user.
USER 65532:65532

# writes, reads, stats page and metrics
EXPOSE 6432 6433 8404

# Asks http://127.0.0.1:8404/healthz. Where [admin] listens elsewhere, add --admin URL; where it is switched off,
# run with --no-healthcheck.
HEALTHCHECK --interval=5s --timeout=5s --start-period=5s --retries=3 CMD ["/usr/local/bin/pgvane", "healthcheck"]

# On SIGTERM pgvane closes its ports and lets sessions end by themselves for drain_timeout (30 s unless configured).
# Docker kills after 10 s: stop with `docker stop -t 40`, run with `--stop-timeout 40`, or in Compose set
# stop_grace_period.
STOPSIGNAL SIGTERM

ENTRYPOINT ["/usr/local/bin/pgvane"]
CMD ["run", "--config", "/etc/pgvane/pgvane.toml"]
