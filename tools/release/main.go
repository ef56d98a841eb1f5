// Command release builds what a release consists of, into dist/ of the repository: an archive with a Caddy and the doctor for each system,
// a list of what is in each binary (an SBOM in CycloneDX's format), and the checksums of all.
//
//	go -C tools run ./release v0.1.0
//
// The same commit gives the same archives: nothing in them depends on where and when they are built.
package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// targets are the systems that there is a binary for.
var targets = []struct{ os, arch string }{
	{"linux", "amd64"}, {"linux", "arm64"},
	{"darwin", "amd64"}, {"darwin", "arm64"},
	{"windows", "amd64"}, {"windows", "arm64"},
}

// programs are in each archive, by their folders in cmd.
var programs = []string{"caddy", "sse-doctor"}

// documents are there beside them.
var documents = []string{"LICENSE", "README.md", "CHANGELOG.md", "Caddyfile.example"}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 || !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(os.Args[1]) {
		log.Fatal("usage: go -C tools run ./release v0.1.0")
	}
	if err := release(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func release(version string) error {
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := checkCluster(version); err != nil {
		return err
	}
	when, err := commitTime()
	if err != nil {
		return err
	}
	if err := os.RemoveAll("dist"); err != nil {
		return err
	}
	if err := os.Mkdir("dist", 0o750); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()

	for _, t := range targets {
		name := fmt.Sprintf("caddy-sse_%s_%s_%s", strings.TrimPrefix(version, "v"), t.os, t.arch)
		log.Print(name)
		binaries := make([]string, len(programs))
		for i, program := range programs {
			binaries[i] = filepath.Join(work, name, program)
			if t.os == "windows" {
				binaries[i] += ".exe"
			}
			// The tag, or the commit, is stamped into the binary: caddy build-info tells it.
			if err := run([]string{"CGO_ENABLED=0", "GOOS=" + t.os, "GOARCH=" + t.arch},
				"go", "build", "-trimpath", "-buildvcs=true", "-ldflags=-s -w", "-o", binaries[i], "./cmd/"+program); err != nil {
				return err
			}
		}
		// All that is in the other one is in the first.
		if err := run(nil, "go", "tool", "-modfile=tools/go.mod", "cyclonedx-gomod", "bin", "-json", "-noserial",
			"-version", version, "-output", filepath.Join("dist", name+".cdx.json"), binaries[0]); err != nil {
			return err
		}
		if err := pack(filepath.Join("dist", name), t.os == "windows", binaries, when); err != nil {
			return err
		}
	}
	return writeChecksums()
}

// checkCluster fails unless the module of the cluster requires the version that is released: who builds with it is given
// that one, and no other has what it imports.
func checkCluster(version string) error {
	out, err := exec.Command("go", "-C", "cluster/nats", "list", "-m", "-f", "{{.Version}}", "github.com/caddy-sse/caddy-sse").Output()
	if err != nil {
		return fmt.Errorf("asking what cluster/nats requires: %w", err)
	}
	if required := strings.TrimSpace(string(out)); required != version {
		return fmt.Errorf("cluster/nats requires caddy-sse %s, not %s: go -C cluster/nats mod edit -require=github.com/caddy-sse/caddy-sse@%[2]s", required, version)
	}
	return nil
}

// commitTime is what the files in the archives are dated with.
func commitTime() (time.Time, error) {
	out, err := exec.Command("git", "log", "-1", "--format=%ct").Output()
	if err != nil {
		return time.Time{}, fmt.Errorf("asking git for the commit's time: %w", err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return time.Unix(seconds, 0).UTC(), err
}

func run(env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

// pack writes an archive of the binaries, and the documents.
func pack(name string, asZip bool, binaries []string, when time.Time) (err error) {
	suffix := ".tar.gz"
	if asZip {
		suffix = ".zip"
	}
	out, err := os.Create(name + suffix) // a name made here
	if err != nil {
		return err
	}
	var add func(name string, mode, size int64) (io.Writer, error)
	var closers []io.Closer // from the innermost
	if asZip {
		z := zip.NewWriter(out)
		closers = []io.Closer{z, out}
		add = func(name string, mode, _ int64) (io.Writer, error) {
			h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: when}
			h.SetMode(os.FileMode(mode)) // one of two constants
			return z.CreateHeader(h)
		}
	} else {
		g := gzip.NewWriter(out)
		w := tar.NewWriter(g)
		closers = []io.Closer{w, g, out}
		add = func(name string, mode, size int64) (io.Writer, error) {
			return w, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: size, ModTime: when})
		}
	}
	for i, file := range append(slices.Clone(binaries), documents...) {
		text, err := os.ReadFile(file) // a name made here
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if i < len(binaries) {
			mode = 0o755
		}
		w, err := add(filepath.Base(file), mode, int64(len(text)))
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	for _, c := range closers {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// writeChecksums writes dist/SHA256SUMS, for sha256sum -c.
func writeChecksums() error {
	entries, err := os.ReadDir("dist") // sorted
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join("dist", entry.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(text), entry.Name())
	}
	return os.WriteFile("dist/SHA256SUMS", []byte(sums.String()), 0o644) // to be published
}
