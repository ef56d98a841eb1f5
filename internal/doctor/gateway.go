package doctor

import (
	"strings"
)

// outcomes are how the gateway says, in the heads of the application's stream, what has become of each connection.
func (e *examination) outcomes() (all []string) {
	visits := []*visit{e.app}
	if e.resumed != nil {
		visits = append(visits, e.resumed.visit)
	}
	for _, v := range visits {
		if !v.answered() || v.refused() {
			continue
		}
		if told, _, _ := strings.Cut(clip(v.head.Header.Get("SSE-Resume")), ";"); told != "" {
			all = append(all, told)
		}
	}
	return all
}

// gateway tells whether the answer comes through an sse.
func (e *examination) gateway() Finding {
	switch all := e.outcomes(); {
	case len(all) > 0:
		return ok(Gateway, "the answer comes through an sse: SSE-Resume: %s", strings.Join(all, ", "))
	case e.flow.probed(ProbeFlow):
		return ok(Gateway, "an sse answered the probe")
	}
	return unknown(Gateway, "if there should be a gateway: see that the request comes to an sse (the live page lists what each has seen), and that nothing takes out SSE-Resume",
		"no field SSE-Resume, and no answer to the probe")
}

// shared tells whether clients have the upstream connection together.
func (e *examination) shared() Finding {
	all := e.outcomes()
	switch {
	case len(all) == 0:
		return unknown(Shared, "", "no field SSE-Resume")
	case strings.Contains(strings.Join(all, " "), "private"):
		return found(Shared, Advice, "each client has an upstream connection of its own: the application carries them all",
			"if it should be shared: the live page and private_reason in the access log say why it is not, and what to write",
			"no: SSE-Resume: %s", strings.Join(all, ", "))
	}
	return ok(Shared, "may be: the gateway takes it for a stream that clients of the same key have together")
}
