# Builds the image with Docker. `cargo xtask image` builds a smaller image of the same programs without Docker, and adds
# a bill of materials.
#
#   docker build --tag dolibarr-backup .
#
# POSTGRES lists the PostgreSQL major versions to include. Debian 12 has 15; others come from PostgreSQL's own packages:
#   docker build --build-arg POSTGRES="14 15 16 17" --tag dolibarr-backup .

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
RUN rustup target add wasm32-unknown-unknown \
 && cargo build --release --locked --package dolibarr-backup \
 && CARGO_TARGET_DIR=/source/target cargo xtask plugins

FROM debian:bookworm-slim
ARG POSTGRES="15"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates postgresql-common tzdata \
 && if [ "$POSTGRES" != 15 ]; then /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y; fi \
 && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
 && for major in $POSTGRES; do \
      apt-get install --yes --no-install-recommends "postgresql-client-$major" "postgresql-$major" || exit 1; \
    done \
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql \
 && useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin dolibarr-backup
COPY --from=build /source/target/release/dolibarr-backup /usr/lib/dolibarr-backup/dolibarr-backup
COPY --from=build /source/target/release/plugins/*.wasm /usr/lib/dolibarr-backup/plugins/
COPY LICENSE /usr/share/doc/dolibarr-backup/copyright
RUN ln -s ../lib/dolibarr-backup/dolibarr-backup /usr/bin/dolibarr-backup
ENV HOME=/tmp
WORKDIR /etc/dolibarr-backup
USER 10001:10001
ENTRYPOINT ["/usr/bin/dolibarr-backup"]
