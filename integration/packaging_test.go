package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// No container can be run where these tests run: there is no engine. What the files say is read with the types of
// Kubernetes, and the services of compose.yaml are run as processes.

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name) //nolint:gosec // G304: a file of the repository
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// manifest is packaging/kubernetes/gateway.yaml.
type manifest struct {
	config     corev1.ConfigMap
	deployment appsv1.Deployment
	service    corev1.Service
	disruption policyv1.PodDisruptionBudget
}

// readManifest reads the manifest as strictly as the API server does with --validate=strict: a field that there is not, or
// one of another type, is an error.
func readManifest(t *testing.T) (m manifest) {
	t.Helper()
	kinds := map[string]any{
		"ConfigMap": &m.config, "Deployment": &m.deployment, "Service": &m.service, "PodDisruptionBudget": &m.disruption,
	}
	for document := range strings.SplitSeq(readFile(t, "../packaging/kubernetes/gateway.yaml"), "\n---\n") {
		var head struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatal(err)
		}
		into, ok := kinds[head.Kind]
		if !ok {
			t.Fatalf("there is no, or a second, %s", head.Kind)
		}
		delete(kinds, head.Kind)
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Fatalf("%s: %v", head.Kind, err)
		}
	}
	if len(kinds) > 0 {
		t.Errorf("missing: %v", kinds)
	}
	return m
}

func TestKubernetesManifestHoldsTogether(t *testing.T) {
	m := readManifest(t)
	pod := m.deployment.Spec.Template
	for what, selector := range map[string]map[string]string{
		"Deployment":          m.deployment.Spec.Selector.MatchLabels,
		"Service":             m.service.Spec.Selector,
		"PodDisruptionBudget": m.disruption.Spec.Selector.MatchLabels,
	} {
		for name, value := range selector {
			if pod.Labels[name] != value {
				t.Errorf("the %s selects %s: %s, which no pod has", what, name, value)
			}
		}
		if len(selector) == 0 {
			t.Errorf("the %s selects nothing", what)
		}
	}
	container := pod.Spec.Containers[0]
	var ports []string
	for _, port := range container.Ports {
		ports = append(ports, port.Name)
	}
	for what, port := range map[string]string{
		"Service":        m.service.Spec.Ports[0].TargetPort.StrVal,
		"readinessProbe": container.ReadinessProbe.HTTPGet.Port.StrVal,
		"startupProbe":   container.StartupProbe.HTTPGet.Port.StrVal,
	} {
		if !slices.Contains(ports, port) {
			t.Errorf("the %s goes to the port %q, which the container has not got", what, port)
		}
	}
	var volumes []string
	for _, volume := range pod.Spec.Volumes {
		volumes = append(volumes, volume.Name)
		if volume.ConfigMap != nil && volume.ConfigMap.Name != m.config.Name {
			t.Errorf("the volume %s is of a ConfigMap that there is not", volume.Name)
		}
	}
	for _, mount := range container.VolumeMounts {
		if !slices.Contains(volumes, mount.Name) {
			t.Errorf("%s is mounted, and is no volume", mount.Name)
		}
	}
	if probe := container.ReadinessProbe.HTTPGet.Path; !strings.Contains(m.config.Data["Caddyfile"], "\thandle "+probe+" {\n\t\trespond") {
		t.Errorf("the Caddyfile does not answer %s", probe)
	}
}

// limits are what the configuration of Caddy says of its end.
type limits struct{ drain, grace time.Duration }

// limitsOf adapts a Caddyfile.
func limitsOf(t *testing.T, caddyfile string) (l limits) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := command(plainPath, "adapt", "--config", file, "--adapter", "caddyfile").Output()
	if err != nil {
		t.Fatalf("adapting: %v\n%s", err, caddyfile)
	}
	var config struct {
		Apps struct {
			HTTP struct {
				Grace time.Duration `json:"grace_period"`
			}
		}
	}
	if err := json.Unmarshal(out, &config); err != nil {
		t.Fatal(err)
	}
	drain := regexp.MustCompile(`"drain":(\d+)`).FindSubmatch(out)
	if drain == nil {
		t.Fatalf("no drain in %s", out)
	}
	if err := json.Unmarshal(drain[1], &l.drain); err != nil {
		t.Fatal(err)
	}
	l.grace = config.Apps.HTTP.Grace
	return l
}

// Event streams end within drain, all other requests within grace_period, and only then does the supervisor kill.
func TestPackagesGiveClientsTheirTimeToLeave(t *testing.T) {
	m := readManifest(t)
	pod := m.deployment.Spec.Template.Spec
	kubernetes := time.Duration(*pod.TerminationGracePeriodSeconds-pod.Containers[0].Lifecycle.PreStop.Sleep.Seconds) * time.Second

	var unit time.Duration
	for line := range strings.Lines(readFile(t, "../packaging/systemd/caddy-sse.service")) {
		if value, ok := strings.CutPrefix(line, "TimeoutStopSec="); ok {
			unit = duration(t, value)
		}
	}
	for name, c := range map[string]struct {
		caddyfile  string
		supervisor time.Duration
	}{
		"kubernetes": {m.config.Data["Caddyfile"], kubernetes},
		"systemd":    {readFile(t, "../packaging/Caddyfile"), unit},
		"compose":    {readFile(t, "../packaging/compose.Caddyfile"), duration(t, readCompose(t).Services["gateway"].StopGracePeriod)},
	} {
		l := limitsOf(t, c.caddyfile)
		if 0 >= l.drain || l.drain >= l.grace || l.grace >= c.supervisor {
			t.Errorf("%s: drain %s, grace_period %s, supervisor %s: each should be longer than the one before", name, l.drain, l.grace, c.supervisor)
		}
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// compose is what compose.yaml may have in it: a word that is not here is an error.
type compose struct {
	Services map[string]struct {
		Build           string                     `json:"build"`
		Command         []string                   `json:"command"`
		Ports           []string                   `json:"ports"`
		Volumes         []string                   `json:"volumes"`
		DependsOn       []string                   `json:"depends_on"`
		Restart         string                     `json:"restart"`
		StopGracePeriod string                     `json:"stop_grace_period"`
		Ulimits         map[string]json.RawMessage `json:"ulimits"`
	} `json:"services"`
}

func readCompose(t *testing.T) (c compose) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(readFile(t, "../compose.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// The services of compose.yaml, as processes: the page, and the button that has the application exit, for Docker to start it
// again.
func TestComposeServices(t *testing.T) {
	c := readCompose(t)
	gateway, app := c.Services["gateway"], c.Services["app"]
	if app.Restart != "always" {
		t.Errorf("the application is restarted %q: nobody starts it again", app.Restart)
	}
	for _, port := range gateway.Ports {
		if !strings.HasPrefix(port, "127.0.0.1:") {
			t.Errorf("%s is not on the loopback interface", port)
		}
	}
	for _, volume := range gateway.Volumes {
		source, _, _ := strings.Cut(volume, ":")
		if _, err := os.Stat(filepath.Join("..", source)); err != nil {
			t.Error(err)
		}
	}

	ports := freePorts(t, "8080", "8081", "8082", "2019")
	replace := func(text string) string {
		for from, to := range ports {
			text = strings.ReplaceAll(text, ":"+from, ":"+to)
		}
		return text
	}
	dir := t.TempDir()
	run := func(name string, args []string) *process {
		args = slices.Clone(args)
		if args[0] != "caddy" {
			t.Fatalf("the service %s runs %s", name, args[0])
		}
		for i, arg := range args {
			switch {
			case strings.HasPrefix(arg, "/etc/caddy/"):
				args[i] = filepath.Join(dir, filepath.Base(arg))
			case strings.HasPrefix(arg, "/tmp/"):
				args[i] = filepath.Join(dir, filepath.Base(arg))
			default:
				args[i] = strings.Replace(replace(arg), ":"+ports["8081"], "127.0.0.1:"+ports["8081"], 1)
			}
		}
		cmd := command(plainPath, args[1:]...)
		cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "CADDY_ADMIN=localhost:"+ports["2019"])
		return start(t, name, cmd, syscall.SIGTERM)
	}
	caddyfile := strings.ReplaceAll(replace(readFile(t, "../packaging/compose.Caddyfile")), "app:", "127.0.0.1:")
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}

	first := run("app", app.Command)
	run("gateway", gateway.Command).awaitLog("serving initial configuration", 1)
	site := "http://localhost:" + ports["8080"]
	awaitStatus := func(part string) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			text := get(t, site+"/demo/status")
			if strings.Contains(text, part) {
				return
			}
			if time.Since(began) > testTimeout {
				t.Fatalf("the status is %s, want %q in it", text, part)
			}
		}
	}
	awaitStatus(`"pid":`)
	if page := get(t, site+"/"); !strings.Contains(page, "Through the gateway") {
		t.Errorf("the page is %q", page)
	}
	if live := get(t, "http://localhost:"+ports["8082"]+"/sse/"); !strings.Contains(live, "<html") {
		t.Errorf("the live page is %q", live)
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, site+"/demo/restart", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", site)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("the button answers %s", resp.Status)
	}
	first.awaitExit()
	awaitStatus("null")
	run("app", app.Command)
	awaitStatus(`"pid":`)
}

// get returns the body of a page.
func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The image has the Caddy of go.mod, so that what was tested is what runs.
func TestDockerfileHasTheCaddyOfTheModule(t *testing.T) {
	version := regexp.MustCompile(`caddyserver/caddy/v2 v(\S+)`).FindStringSubmatch(readFile(t, "../go.mod"))
	goVersion := regexp.MustCompile(`\ngo (\d+\.\d+)`).FindStringSubmatch(readFile(t, "../go.mod"))
	if version == nil || goVersion == nil {
		t.Fatal("no versions in go.mod")
	}
	dockerfile := readFile(t, "../Dockerfile")
	for _, want := range []string{"\nFROM caddy:" + version[1] + "-alpine\n", "\nFROM golang:" + goVersion[1] + "-alpine AS builder\n"} {
		if !strings.Contains(dockerfile, want) {
			t.Errorf("the Dockerfile has no line %q", strings.TrimSpace(want))
		}
	}
	for _, match := range regexp.MustCompile(`(?m)^COPY ([a-z]\S*) `).FindAllStringSubmatch(dockerfile, -1) {
		if _, err := os.Stat(filepath.Join("..", match[1])); err != nil {
			t.Error(err)
		}
	}
}

// The forms for issues are read as GitHub does, by the fields that it documents; and a report of a fault brings the doctor's.
func TestIssueForms(t *testing.T) {
	type form struct {
		Name        string   `json:"name"`
		Description string   `json:"description"`
		Labels      []string `json:"labels"`
		Body        []struct {
			Type       string `json:"type"`
			ID         string `json:"id"`
			Attributes struct {
				Label       string `json:"label"`
				Value       string `json:"value"`
				Description string `json:"description"`
				Placeholder string `json:"placeholder"`
				Render      string `json:"render"`
			} `json:"attributes"`
			Validations struct {
				Required bool `json:"required"`
			} `json:"validations"`
		} `json:"body"`
	}
	files, err := filepath.Glob("../.github/ISSUE_TEMPLATE/*.yml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		if filepath.Base(file) == "config.yml" {
			continue
		}
		var f form
		if err := yaml.UnmarshalStrict([]byte(readFile(t, file)), &f); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		ids := map[string]bool{}
		doctor := false
		for _, field := range f.Body {
			switch field.Type {
			case "markdown":
				if field.Attributes.Value == "" {
					t.Errorf("%s: a text without a value", file)
				}
			case "textarea", "input":
				if field.ID == "" || ids[field.ID] || field.Attributes.Label == "" {
					t.Errorf("%s: the field %q has no id of its own, or no label", file, field.ID)
				}
				ids[field.ID] = true
				doctor = doctor || strings.Contains(field.Attributes.Description, "caddy sse-doctor ")
			default:
				t.Errorf("%s: %q is no type of a field", file, field.Type)
			}
		}
		if f.Name == "" || f.Description == "" || !doctor {
			t.Errorf("%s: name %q, description %q, asks for the doctor's report: %t", file, f.Name, f.Description, doctor)
		}
	}
}

// The workflows are well formed; what they run is held by TestContributorsCommandsAreTrue.
func TestWorkflowsAreWellFormed(t *testing.T) {
	for _, name := range []string{"test", "release"} {
		var workflow struct {
			Name        string                     `json:"name"`
			On          map[string]json.RawMessage `json:"on"`
			Permissions map[string]string          `json:"permissions"`
			Concurrency map[string]json.RawMessage `json:"concurrency"`
			Jobs        map[string]struct {
				RunsOn      string                     `json:"runs-on"`
				Uses        string                     `json:"uses"`
				Needs       string                     `json:"needs"`
				Timeout     int                        `json:"timeout-minutes"`
				Container   map[string]string          `json:"container"`
				Strategy    map[string]json.RawMessage `json:"strategy"`
				Permissions map[string]string          `json:"permissions"`
				Env         map[string]string          `json:"env"`
				Steps       []struct {
					Uses string                     `json:"uses"`
					Run  string                     `json:"run"`
					If   string                     `json:"if"`
					With map[string]json.RawMessage `json:"with"`
				} `json:"steps"`
			} `json:"jobs"`
		}
		// In YAML 1.1 the key on is a truth value.
		text := strings.Replace(readFile(t, "../.github/workflows/"+name+".yml"), "\non:\n", "\n\"on\":\n", 1)
		if err := yaml.UnmarshalStrict([]byte(text), &workflow); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(workflow.On) == 0 || workflow.Permissions["contents"] != "read" {
			t.Errorf("%s: on %v, permissions %v", name, workflow.On, workflow.Permissions)
		}
		for id, job := range workflow.Jobs {
			if job.Needs != "" && workflow.Jobs[job.Needs].RunsOn == "" && workflow.Jobs[job.Needs].Uses == "" {
				t.Errorf("%s: the job %s needs %s, which there is not", name, id, job.Needs)
			}
			for _, step := range job.Steps {
				if (step.Uses == "") == (step.Run == "") {
					t.Errorf("%s: a step of %s uses %q and runs %q", name, id, step.Uses, step.Run)
				}
			}
		}
	}
}
