# docker build -t breakwater .
# docker run -p 8420:8420 -v breakwater:/data -e STRIPE_SIGNING_SECRET -e BACKEND_URL breakwater
#
# Bound it, as compose.yaml does:  --memory 1g --ulimit core=0 --ulimit nofile=65536 --log-opt max-size=20m --log-opt max-file=5
#
# The journal is in /data: keep it on a volume, or a new container forgets what it has promised to deliver. Give it more
# time to stop than drain_timeout: docker stop -t 30.
#
# The admin listener is on the container's own loopback. To reach it from outside, give it a token and publish it to
# where only you are:  -e BREAKWATER_ADMIN_LISTEN=:8421 -e BREAKWATER_ADMIN_TOKEN=... -p 127.0.0.1:8421:8421

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w" -o /out/breakwater ./cmd/breakwater \
 && mkdir /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/breakwater /breakwater
# Owned by the user: a new named volume takes the owner over.
COPY --from=build --chown=65532:65532 --chmod=0700 /out/data /data
COPY deploy/routes.container.yaml /etc/breakwater/routes.yaml
USER 65532:65532
WORKDIR /data
VOLUME /data
# There is no /tmp here: what SQLite spills goes beside the journal.
ENV BREAKWATER_CONFIG=/etc/breakwater/routes.yaml SQLITE_TMPDIR=/data
EXPOSE 8420
# A starting gateway waits up to 30s for one that still holds the journal.
HEALTHCHECK --interval=10s --timeout=5s --start-period=40s CMD ["/breakwater", "serve", "--probe"]
ENTRYPOINT ["/breakwater"]
CMD ["serve"]
