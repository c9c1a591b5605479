package cli_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const backedUp = `{
	admin ADMIN
	keygate {
		store sqlite DIR/keygate.db
		keyspace default {
			admin_api open
		}
	}
}
`

// The admin endpoint writes a backup only if it listens on a local address and the request can't
// come from a web page, because a backup creates a file on the gateway's machine.
func TestBackupOverAdmin(t *testing.T) {
	for _, listens := range []string{"", "127.0.0.1"} {
		address := fmt.Sprint(":", freePort(t))
		newShell(t, listens+address, backedUp)
		file := filepath.Join(t.TempDir(), "backup.db")
		good := fmt.Sprintf(`{"file": %q}`, file)
		for _, c := range []struct {
			name, method, kind, body string
			want                     int
		}{
			{"read", "GET", "application/json", good, http.StatusMethodNotAllowed},
			{"a form", "POST", "text/plain", good, http.StatusBadRequest},
			{"a relative path", "POST", "application/json", `{"file": "backup.db"}`, http.StatusBadRequest},
			{"no path", "POST", "application/json", `{}`, http.StatusBadRequest},
			{"no directory", "POST", "application/json", `{"file": "/no/such/directory/backup.db"}`, http.StatusConflict},
			{"made", "POST", "application/json", good, http.StatusOK},
			{"taken", "POST", "application/json", good, http.StatusConflict},
		} {
			want := c.want
			if listens == "" {
				want = http.StatusForbidden // admin_api open of a keyspace makes no difference
			}
			r, err := http.NewRequest(c.method, "http://127.0.0.1"+address+"/keygate/backup", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", c.kind)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s, listening on %q: %d, want %d", c.name, listens, resp.StatusCode, want)
			}
		}
		if _, err := os.Stat(file); (err == nil) != (listens != "") {
			t.Errorf("listening on %q, the backup: %v", listens, err)
		}
	}
}
