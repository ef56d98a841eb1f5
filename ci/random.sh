#!/usr/bin/env bash
# Runs the random tests with new seeds, for longer than for a change: the same seeds judge each change, these look for
# what nobody has seen. What fails prints its seed.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

step "sharing is earned" go test -count=1 -timeout=2h -run '^TestSharingIsEarned$' ./internal/stream -earned.seed 0 -earned.runs 1000000
step "the stream's model" go test -count=1 -timeout=2h -run '^TestModel$' ./internal/stream -model.seed 0 -model.steps 1000000
step "ownership between nodes" go test -count=1 -timeout=2h -run '^TestModelOfOwnership$' ./internal/cluster -cluster.seed 0 -cluster.runs 500
step "HTTP/2 frames" go test -count=1 -timeout=2h -run '^TestClientIsSentWhatItAllows$' ./internal/h2 -h2.seed 0 -h2.steps 1000000
for delivery in connection handler http2; do
	CADDY_SSE_DELIVERY=$delivery step "differences, $delivery" \
		go test -race -count=1 -timeout=2h -run '^TestDifferential$' . -differential.from 0 -differential.time 20m
done
