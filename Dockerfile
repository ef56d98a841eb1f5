# An image of Caddy with the module, and with the demo of compose.yaml. Your own build with xcaddy: docs/deploy/docker.md.
FROM golang:1.26-alpine AS builder
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /caddy ./cmd/caddy

# The same Caddy as in go.mod. It brings certificates, the folders /config and /data, and the command that runs
# /etc/caddy/Caddyfile.
FROM caddy:2.11.9-alpine
COPY --from=builder /caddy /usr/bin/caddy
COPY packaging/Caddyfile /etc/caddy/Caddyfile
