package integration

import (
	"strings"
	"testing"
)

const wholeAnswer = `{"events":2000,"inOrder":true}`

// responsesAnswer lets the SDK of OpenAI ask a model's server through a gateway with options, and returns what it tells,
// and how often the server was asked with each method, if that was with GET as often as is expected.
func responsesAnswer(t *testing.T, options, keeps, providerCuts, clientCuts string, expected int) (told string, posts, gets int) {
	t.Helper()
	model := startUpstream(t, "responses", command(nodePath, "upstreams/responses.mjs", keeps, providerCuts))
	g := startGateway(t, unlogged+"sse {\n"+options+"\n}\nreverse_proxy "+model.address)
	g.expectHint("detach", "all requests of the site are for answers of the model")
	told = startNode(t, "clients/responses.mjs", g.url(""), clientCuts).awaitEvent("answer", 1).Data
	// What the server tells comes another way than the answer, and may come later.
	model.awaitEvent("POST", 1)
	if expected > 0 {
		model.awaitEvent("GET", expected)
	}
	return told, len(model.all("POST")), len(model.all("GET"))
}

// Issue 20: a provider that cuts its connection 50 times, and keeps its answers, is asked once, and the SDK has each event
// once; one that has forgotten the answer breaks off, as does one without the option.
func TestAnswersSurviveTheirProvider(t *testing.T) {
	t.Parallel()
	for _, options := range []string{"resume_upstream openai_responses", "resume_upstream openai_responses\ndetach 1m\nbuffer 5000"} {
		told, posts, gets := responsesAnswer(t, options, "keeps", "50", "0", 50)
		if told != wholeAnswer || posts != 1 || gets != 50 {
			t.Errorf("%s: %s, %d POSTs, %d GETs", options, told, posts, gets)
		}
	}
	for options, asked := range map[string]int{"resume_upstream openai_responses": 1, "share off": 0} {
		told, posts, gets := responsesAnswer(t, options, "forgets", "1", "0", asked)
		if !strings.Contains(told, `"failure":{`) || strings.Contains(told, `"events":2000`) || posts != 1 || gets != asked {
			t.Errorf("%s: %s, %d POSTs, %d GETs", options, told, posts, gets)
		}
	}
}

// Issue 20: the SDK leaves an answer 50 times and comes back with starting_after. It has each event once, of a provider
// that knows nothing of that, and is asked once.
func TestAnswersSurviveTheirClient(t *testing.T) {
	t.Parallel()
	told, posts, gets := responsesAnswer(t, "detach 1m\nbuffer 5000", "forgets", "0", "50", 0)
	if told != wholeAnswer || posts != 1 || gets != 0 {
		t.Errorf("%s, %d POSTs, %d GETs", told, posts, gets)
	}
}
