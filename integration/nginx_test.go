package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nginxConfig is an nginx that writes only into its folder.
const nginxConfig = `daemon off;
worker_processes 1;
pid pid;
%s
events {}
http {
	access_log off;
	client_body_temp_path temp;
	proxy_temp_path temp;
	fastcgi_temp_path temp;
	uwsgi_temp_path temp;
	scgi_temp_path temp;
	server {
		listen %s;
		location / {
			proxy_pass http://%s;
			proxy_set_header Host $http_host;
			%s
		}
	}
}
`

// startNginx starts an nginx in front of an address, with directives for all that passes, and returns its own address.
func startNginx(t testing.TB, to string, directives ...string) string {
	t.Helper()
	file, address := listenerFile(t, "127.0.0.1:0")
	defer file.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the folder is its
	}
	text := fmt.Sprintf(nginxConfig, user, address, to, strings.Join(directives, "\n"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(nginxPath, "-e", "stderr", "-p", dir, "-c", config)
	// It is given the listener as by an nginx that it takes over from, so that no port has to be agreed on.
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = append(os.Environ(), "NGINX=3;")
	start(t, "nginx", cmd, syscall.SIGTERM)
	return address
}
