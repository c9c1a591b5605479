package caddymodule

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/caddymodule/config"
)

// The log format removes keys from a request's method. Caddy itself answers a request with a long
// method, so it reaches no keygate directive.
func TestLogFormatCleansTheMethod(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t)
	logs := filepath.Join(dir, "log")
	text, err := adapt(fmt.Sprintf(`{
	admin off
	persist_config off
	log {
		output file %s
		level DEBUG
		format keygate
	}
	keygate {
		store sqlite %s
	}
}
http://127.0.0.1:%d {
	log
	keygate
	respond ok
}
`, logs, filepath.Join(dir, "keys.db"), port))
	if err != nil {
		t.Fatal(err)
	}
	if err := loadRaw(t, text); err != nil {
		t.Fatal(err)
	}
	key, err := current(t).compiled.Keyspaces[config.DefaultKeyspace].Grammar.Generate("live")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s /x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n", key, port)
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Fatal(err)
	}
	stop(t)
	written, err := os.ReadFile(logs)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(written); strings.Contains(text, key) || !strings.Contains(text, key[:12]+"…") {
		t.Errorf("the log holds the key, or not its beginning:\n%s", text)
	}
}
