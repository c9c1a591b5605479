package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
	_ "modernc.org/sqlite" // The driver is needed to look at the stored data.

	"github.com/keygate-dev/keygate/internal/testkit"
)

const importConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
		pepper {env.PEPPER}
		import_pepper {env.THEIRS}
		accept legacy {
			prefix old_
			length 20-40
		}
		plan standard {
		}
	}
}
{$KEYGATE_LISTEN} {
	keygate
	reverse_proxy {$KEYGATE_UPSTREAM}
}
`

// imports runs `caddy keygate key import` with the keys on standard input.
func (g *gateway) imports(t testing.TB, keys string, args ...string) *result {
	t.Helper()
	return g.command(t, keys, append([]string{"keygate", "key", "import", "--address", g.adminAddr}, args...)...)
}

// Thousands of keys of another system are imported in every form. The import names the rows that
// it rejects and the reasons, can be repeated, and every imported key is accepted.
func TestImport(t *testing.T) {
	t.Parallel()
	const theirs = "the pepper of the other system"
	g := start(t, written(t, importConfig), newUpstream(t), "PEPPER=a pepper of our own, long enough", "THEIRS="+theirs)
	const bulk = 10_000
	var csv strings.Builder
	csv.WriteString("tenant,name,hash,algorithm,prefix,last_four\n")
	for i := range bulk {
		key := fmt.Sprintf("old_%022d", i)
		sum := sha256.Sum256([]byte(key))
		fmt.Fprintf(&csv, "t%d,key %d,%x,sha256,%s,%s\n", i%50, i, sum, key[:12], key[len(key)-4:])
	}
	r := g.imports(t, csv.String(), "-", "--create-tenants").exits(0)
	if want := fmt.Sprintf("%d rows: %d imported, 0 unchanged, 0 rejected; 50 tenants created.\n", bulk, bulk); !strings.HasPrefix(r.out, want) {
		t.Errorf("%q, want %q", r.out, want)
	}
	r = g.imports(t, csv.String()).exits(0)
	if want := fmt.Sprintf("%d rows: 0 imported, %d unchanged, 0 rejected; 0 tenants created.\n", bulk, bulk); !strings.HasPrefix(r.out, want) {
		t.Errorf("again: %q, want %q", r.out, want)
	}

	var lines strings.Builder
	forms := map[string]string{}
	for i, form := range []string{"plain", "sha256", "sha512", "hmac-sha256", "bcrypt"} {
		key := fmt.Sprintf("old_form%dabcdefghijklmnopq", i)
		forms[form] = key
		g.keep(key)
		switch form {
		case "plain":
			fmt.Fprintf(&lines, "{\"tenant\":\"t1\",\"key\":%q}\n", key)
			continue
		case "sha256":
			sum := sha256.Sum256([]byte(key))
			fmt.Fprintf(&lines, "{\"tenant\":\"t1\",\"hash\":%q", base64.StdEncoding.EncodeToString(sum[:]))
		case "sha512":
			sum := sha512.Sum512([]byte(key))
			fmt.Fprintf(&lines, "{\"tenant\":\"t1\",\"hash\":%q", hex.EncodeToString(sum[:]))
		case "hmac-sha256":
			mac := hmac.New(sha256.New, []byte(theirs))
			mac.Write([]byte(key))
			fmt.Fprintf(&lines, "{\"tenant\":\"t1\",\"hash\":%q", hex.EncodeToString(mac.Sum(nil)))
		case "bcrypt":
			hash, err := bcrypt.GenerateFromPassword([]byte(key), 6)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&lines, "{\"tenant\":\"t1\",\"hash\":%q", hash)
		}
		fmt.Fprintf(&lines, ",\"algorithm\":%q,\"prefix\":%q}\n", form, key[:12])
	}
	const wrong = "wrong_0123456789abcdefghijkl"
	g.keep(wrong)
	lines.WriteString("{\"tenant\":\"t1\",\"key\":\"" + wrong + "\"}\n" +
		"{\"tenant\":\"nobody\",\"key\":\"old_nobodyabcdefghijklmno\"}\n" +
		"not json\n" +
		"{\"tenant\":\"t1\",\"hash\":\"$2b$06$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"algorithm\":\"bcrypt\",\"prefix\":\"old_abc\"}\n" +
		"{\"tenant\":\"t1\",\"colour\":\"red\",\"key\":\"old_colourabcdefghijklmno\"}\n")
	r = g.imports(t, lines.String(), "--format", "jsonl").exits(1)
	if !strings.HasPrefix(r.out, "10 rows: 5 imported, 0 unchanged, 5 rejected; 0 tenants created.\nThe gateway accepts keys of kg_live_ and ") {
		t.Errorf("%q", r.out)
	}
	for _, want := range []string{
		"line 6: key: no prefix and no accept", "line 7: tenant: there is no such tenant", "line 8: it is not a JSON object",
		"line 9: hash: prefix must hold", "line 10: colour: is not a field", "5 of 10 rows were rejected",
	} {
		if !strings.Contains(r.err, want) {
			t.Errorf("standard error lacks %q:\n%s", want, r.err)
		}
	}
	if strings.Contains(r.err+r.out, wrong) {
		t.Error("a key is in the report")
	}

	for form, key := range forms {
		for range 2 {
			if a := g.send(t, "GET", "/x", "", "Authorization", "Bearer "+key); a.status != http.StatusOK {
				t.Errorf("%s: %d %s", form, a.status, a.body)
			}
		}
		if a := g.send(t, "GET", "/x", "", "Authorization", "Bearer "+key+"X"); a.status != http.StatusUnauthorized {
			t.Errorf("%s and a letter more: %d", form, a.status)
		}
	}
	g.send(t, "GET", "/x", "", "Authorization", fmt.Sprintf("Bearer old_%022d", bulk-1)).passed()

	// Soon after its first use, each imported key is stored under the gateway's own pepper.
	testkit.Eventually(t, "rehashing", func() bool {
		db, err := sql.Open("sqlite", "file:"+g.database+"?mode=ro")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var n int
		err = db.QueryRow(`SELECT count(*) FROM secrets WHERE last_used_at IS NOT NULL AND algorithm LIKE 'hmac-sha256:%'`).Scan(&n)
		return err == nil && n == len(forms)+1
	})
	for form, key := range forms {
		if strings.Contains(string(g.stored()), key) {
			t.Errorf("the full key of %s is in the store", form)
		}
	}
	r = g.imports(t, lines.String(), "--format", "jsonl").exits(1)
	if !strings.HasPrefix(r.out, "10 rows: 0 imported, 5 unchanged, 5 rejected; 0 tenants created.\n") {
		t.Errorf("after rehashing: %q", r.out)
	}
	g.keygate(t, "audit", "--verify").exits(0)

	out := g.keygate(t, "key", "export", "--tenant", "t1").exits(0).out
	if n := strings.Count(out, "\n"); n != 1+bulk/50+len(forms) {
		t.Errorf("%d lines exported", n)
	}
	g.keygate(t, "key", "export", "--tenant", "nobody").exits(1)
	g.keygate(t, "key", "import", "--format", "xml").exits(2)
}
