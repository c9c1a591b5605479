package e2e

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/keygate-dev/keygate/internal/testkit"
)

const signedConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
		secret {env.SECRET}
		plan standard {
		}
	}
}
{$KEYGATE_LISTEN} {
	keygate_api
}
`

// A checkpoint (head) that is kept elsewhere shows that the audit log was cut short or rewritten,
// which the store alone can't show. Verification works with and without a running gateway.
func TestAuditHeads(t *testing.T) {
	t.Parallel()
	g := prepare(t, written(t, signedConfig), nil, "SECRET=a secret that is long enough")
	g.start()
	g.made(t, "acme")
	g.made(t, "acme")
	kept := g.keygate(t, "audit", "--head", "--json").exits(0).out
	if r := g.keygate(t, "audit", "--head").exits(0); !strings.Contains(r.out, "Signature:") || strings.Count(kept, "\n") != 1 {
		t.Errorf("the head is %q, for people %q", kept, r.out)
	}
	file := filepath.Join(g.dir, "heads.jsonl")
	if err := os.WriteFile(file, []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	g.restart() // The gateway logs its newest checkpoint at the start, as it does every hour.
	g.made(t, "bee")
	testkit.Eventually(t, "the head in the log", func() bool { return strings.Contains(g.log(), `"audit head"`) })
	var logged strings.Builder
	for line := range strings.Lines(g.log()) {
		if strings.Contains(line, `"audit head"`) {
			logged.WriteString(line)
		}
	}
	if r := g.keygate(t, "audit", "--verify", "--against", file).exits(0); !strings.Contains(r.out, "1 checkpoints, 1 of them signed") {
		t.Errorf("verified: %s", r.out)
	}
	against := []string{"keygate", "audit", "--verify", "--against", "-", "--address", g.adminAddr}
	g.command(t, kept+logged.String(), against...).exits(0)
	forged := strings.Replace(kept, `"seq":3`, `"seq":2`, 1)
	if r := g.command(t, forged, against...).exits(1); !strings.Contains(r.err, "don't belong together") {
		t.Errorf("a forged head: %s", r.err)
	}
	for name, in := range map[string]string{"nothing": "", "another thing": `{"a":1}`, "no JSON": "head"} {
		if r := g.command(t, in, against...).exits(1); !strings.Contains(r.err, "checkpoint") {
			t.Errorf("%s: %s", name, r.err)
		}
	}
	for _, wrong := range [][]string{
		{"--head", "--verify"}, {"--against", file}, {"--verify", "--public-key", "x"}, {"--verify", "--tenant", "acme"}, {"--head", "--limit", "5"},
	} {
		g.keygate(t, append([]string{"audit"}, wrong...)...).exits(2)
	}
	g.keygate(t, "audit", "--verify", "--against", filepath.Join(g.dir, "missing")).exits(1)
	g.stop()
	g.offline(t, "", "audit", "--verify", "--against", file).exits(0)

	intrude := func(statements ...string) {
		t.Helper()
		db, err := sql.Open("sqlite", "file:"+g.database+"?_pragma=busy_timeout(20000)")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, s := range statements {
			if _, err := db.Exec(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	intrude("DROP TRIGGER audit_delete", "DELETE FROM audit WHERE seq > 2")
	g.offline(t, "", "audit", "--verify").exits(0) // The shortened chain alone is still intact.
	if r := g.offline(t, "", "audit", "--verify", "--against", file, "--json").exits(1); !strings.Contains(r.err, "cut off") || !strings.Contains(r.out, `"intact": false`) {
		t.Errorf("cut short: %s%s", r.out, r.err)
	}
	env := g.env
	g.env = append(env[:len(env):len(env)], "SECRET=another secret, long enough too")
	if r := g.offline(t, "", "audit", "--verify", "--against", file).exits(1); !strings.Contains(r.err, "not this gateway's") {
		t.Errorf("under another secret: %s", r.err)
	}
	g.env = env
	g.start()
	g.made(t, "cee") // The new event continues the shortened chain.
	if r := g.command(t, kept, against...).exits(1); !strings.Contains(r.err, "rewritten") {
		t.Errorf("gone on after the cut: %s", r.err)
	}
}
