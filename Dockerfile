# docker build -t kafka-backup .
# docker run --rm kafka-backup demo --path /data/demo-archive
# docker run -v "$PWD/agent.toml:/agent.toml:ro" -v kafka-backup:/data -p 8083:8083 kafka-backup run --config /agent.toml
#
# The agent listens on 127.0.0.1 unless it is told otherwise: set `listen = "0.0.0.0:8083"` in [agent] to reach it from
# outside of the container.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY agent agent
COPY wit wit
# The plugins that are part of the program; the rest of their folder is not needed.
COPY plugins/header-injector/header-injector.wasm plugins/header-injector/
COPY plugins/pitr-filter/pitr-filter.wasm plugins/pitr-filter/
COPY plugins/restore-fanout/restore-fanout.wasm plugins/restore-fanout/
# Cargo wants the files that Cargo.toml names to be there; only the binary is built.
COPY benches benches
COPY tests tests
RUN cargo build --release --locked --bin kafka-backup

FROM debian:bookworm-slim
RUN useradd --uid 10001 --create-home --home-dir /data kafka-backup
COPY --from=build /src/target/release/kafka-backup /usr/local/bin/
COPY LICENSE /usr/share/doc/kafka-backup/
USER kafka-backup
WORKDIR /data
VOLUME /data
EXPOSE 8083
# For `run`; debian-slim has bash, but no HTTP client.
HEALTHCHECK --start-period=10s --interval=30s --timeout=5s CMD ["bash", "-c", \
  "exec 3<>/dev/tcp/127.0.0.1/8083 && printf 'GET /livez HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["kafka-backup"]
CMD ["--help"]
