package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// crashEnv is the environment variable that makes the test binary a child process. Its value names the
// database to which the child writes until the test kills the child.
const crashEnv = "SQLSTORE_CRASH_DB"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		err := writeForEver(path)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if path := os.Getenv(ownerEnv); path != "" {
		if err := ownUntilTold(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	for _, read := range unexpectedReads() {
		fmt.Fprintln(os.Stderr, "reads more the more keys there are:", read)
		code = 1
	}
	os.Exit(code)
}

// writeForEver commits one key at a time, with its audit event and its change, and prints the
// key's number once the commit is acknowledged.
func writeForEver(path string) error {
	s, err := Open(context.Background(), path, quiet)
	if err != nil {
		return err
	}
	first, err := s.LastSeq(context.Background())
	if err != nil {
		return err
	}
	for i := int(first); ; i++ {
		if err := s.Update(context.Background(), func(tx management.Tx) error {
			if err := addKey(tx, i); err != nil {
				return err
			}
			seq, _, err := tx.LockNewestAudit()
			if err != nil {
				return err
			}
			return tx.InsertAudit(&audit.Row{Seq: seq + 1, ID: fmt.Sprint("evt_", i), Keyspace: ks, Action: "key.created",
				Target: fmt.Sprint(i), At: time.Now(), Hash: []byte{1}})
		}); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// TestKill kills a writing process again and again. After each kill the database must hold every
// acknowledged commit completely, and must not be damaged.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	s := openTest(t, path)
	fillKeys(t, s, 0, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	acknowledged := 0
	for round := range 10 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashEnv+"="+path)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			// Each round kills the child at another moment of a write. Numbers that it printed
			// before still count.
			if n == 10+3*round {
				time.Sleep(time.Duration(round) * 300 * time.Microsecond)
				child.Process.Kill()
			}
		}
		child.Wait()

		s := openTest(t, path)
		checkIntegrity(t, s)
		for i := range acknowledged + 1 {
			if err := findSecret(t, s, i); err != nil {
				t.Fatalf("round %d: key %d of %d acknowledged: %v", round, i, acknowledged, err)
			}
		}
		seq, err := s.LastSeq(t.Context())
		if err != nil || seq < int64(acknowledged+1) {
			t.Fatalf("round %d: newest change %d, %v; acknowledged %d", round, seq, err, acknowledged)
		}
		if err := s.View(t.Context(), func(tx management.Tx) error {
			n, err := tx.ActiveKeys(ks, "acme", time.Now())
			head, _, err2 := tx.LockNewestAudit()
			if int64(n) != seq || head != seq-1 { // The first key has no audit event.
				t.Errorf("round %d: %d keys, %d events, %d changes: a commit was torn", round, n, head, seq)
			}
			if err == nil {
				err = err2
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acknowledged < 100 {
		t.Errorf("only %d commits", acknowledged)
	}
}
