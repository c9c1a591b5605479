package testserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take to do what it always does. It only tells a test
// that hangs from one on a busy machine.
const patience = time.Minute

// process is one server: its binary, its directory, and the process while it runs.
type process struct {
	what, binary string
	// dir holds all that it writes, its log included.
	dir  string
	port int
	// arguments returns the command line for a port.
	arguments func(port int) []string
	// ready returns nil when the server answers.
	ready func() error
	// user is who runs it; nil for whoever runs the tests.
	user *syscall.Credential

	cmd    *exec.Cmd
	exited chan struct{}
	guard  *guard
}

// guardScript ends a server when whoever started it has ended without doing so: then the
// pipe it reads from closes. Killed tests leave nothing behind that way. The server's own
// children, of whom some may be stopped, go first.
const guardScript = `
read -r word
[ "$word" = ended ] && exit
for stat in /proc/[0-9]*/stat; do
	read -r pid name state parent rest 2>/dev/null <"$stat" || continue
	[ "$parent" = "$1" ] && kill -KILL "$pid"
done
kill -KILL "$1"
[ -n "$2" ] || exit
# What it started may take a moment to notice, and write until then.
for try in 1 2 3 4 5 6 7 8 9; do
	sleep 0.2
	rm -rf "$2" 2>/dev/null && break
done
`

// guard is a process that watches over a server.
type guard struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// watchOver begins to watch over a process. removed is a directory to remove with it, ""
// for none.
func watchOver(pid int, removed string) (*guard, error) {
	c := exec.Command("/bin/sh", "-c", guardScript, "guard", strconv.Itoa(pid), removed)
	// What a terminal sends to the tests, it does not send to this one.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return &guard{c, pipe}, nil
}

// end ends the watch, the server having ended.
func (g *guard) end() {
	_, _ = io.WriteString(g.pipe, "ended\n")
	_ = g.pipe.Close()
	_ = g.cmd.Wait()
}

// start runs the server, on whatever data is there, and returns when it answers. Where it
// has no port yet it is given one, another if that was taken meanwhile. shared says that
// nobody will end it but the guard.
func (p *process) start(shared bool) error {
	removed := ""
	if shared {
		removed = p.dir
	}
	chosen := p.port != 0
	var err error
	for range 5 {
		if !chosen {
			if p.port, err = FreePort(); err != nil {
				return err
			}
		}
		if err = p.run(removed); err == nil || chosen {
			return err
		}
	}
	return err
}

func (p *process) run(removed string) error {
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	c := exec.Command(p.binary, p.arguments(p.port)...)
	c.Dir, c.Stdout, c.Stderr = p.dir, log, log
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "TMPDIR=" + p.dir, "LC_ALL=C", "TZ=UTC"}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: p.user}
	if err := c.Start(); err != nil {
		return err
	}
	g, err := watchOver(c.Process.Pid, removed)
	if err != nil {
		_ = c.Process.Kill()
		_ = c.Wait()
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = c.Wait()
		g.end()
		close(exited)
	}()
	p.cmd, p.exited, p.guard = c, exited, g
	for deadline := time.Now().Add(patience); ; {
		if err = p.ready(); err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s ended as it started:\n%s", p.what, p.tail())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = c.Process.Kill()
			<-exited
			return fmt.Errorf("%s does not answer: %w\n%s", p.what, err, p.tail())
		}
	}
}

func (p *process) logPath() string { return filepath.Join(p.dir, "server.log") }

// tail returns the end of the server's log.
func (p *process) tail() string {
	b, err := os.ReadFile(p.logPath())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// running reports whether the server's process is there.
func (p *process) running() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// pids returns the server's process and those it has started, the first first.
func (p *process) pids() []int {
	own := p.cmd.Process.Pid
	all := []int{own}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // ended meanwhile
		}
		// The second field is the name, in parentheses; it may hold spaces.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if parent, _ := strconv.Atoi(string(fields[1])); parent != own {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat))); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// Server is a running server that a test may treat as the world treats servers.
type Server struct {
	t testing.TB
	p *process
}

// Addr returns where the server listens: 127.0.0.1 and its port, which stays the same
// when it is started again.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.p.port) }

// Dir returns the server's directory.
func (s *Server) Dir() string { return s.p.dir }

// Log returns the end of what the server wrote to its log.
func (s *Server) Log() string { return s.p.tail() }

// Kill ends the server as a crash does, and returns when it has ended.
func (s *Server) Kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	<-s.p.exited
}

// Pause stops the server where it stands: its connections stay open, and nobody answers.
func (s *Server) Pause() { s.t.Helper(); s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() { s.t.Helper(); s.signal(syscall.SIGCONT) }

// Start starts a server that has ended, on the same port and data, and returns when it
// answers.
func (s *Server) Start() {
	s.t.Helper()
	if s.p.running() {
		s.t.Fatalf("%s runs already", s.p.what)
	}
	err := s.p.start(false)
	// The processes of a PostgreSQL that was killed may end a moment after it.
	for deadline := time.Now().Add(patience); err != nil && strings.Contains(err.Error(), "is still in use") && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
		_ = os.Truncate(s.p.logPath(), 0)
		err = s.p.start(false)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if !s.p.running() {
		s.t.Fatalf("%s does not run", s.p.what)
	}
	for _, pid := range s.p.pids() {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.t.Fatal(err)
		}
	}
}

// end stops the server when its test is over.
func (s *Server) end() {
	if s.p.running() {
		for _, pid := range s.p.pids() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-s.p.exited
	}
	if s.t.Failed() {
		s.t.Logf("the end of %s's log:\n%s", s.p.what, s.p.tail())
	}
}

var (
	portsGiven atomic.Uint32
	firstPort  = rand.Uint32N(12000)
	// portLocks are the files whose locks say that a port is this process's, as long as it runs.
	portLocks   []*os.File
	portLocksMu sync.Mutex
)

// FreePort returns a port of 127.0.0.1 that nobody listens on. It is below those that
// the system gives to outgoing connections, and no other process that asks here is given it, so it
// is still free when a server is started on it, also one that was killed meanwhile.
func FreePort() (int, error) {
	for range 1000 {
		port := 20000 + int((firstPort+portsGiven.Add(1))%12000)
		if !lockPort(port) {
			continue
		}
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		return port, ln.Close()
	}
	return 0, errors.New("no port is free")
}

// lockPort reports whether the port can be this process's. Where no lock file can be made, it reports true.
func lockPort(port int) bool {
	dir := filepath.Join(os.TempDir(), "keygate-test-ports")
	_ = os.Mkdir(dir, 0o755)
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return true
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return false
	}
	portLocksMu.Lock()
	defer portLocksMu.Unlock()
	portLocks = append(portLocks, f)
	return true
}

// find returns the path of an installed binary: one in the PATH, or one that the patterns
// match, the last of those.
func find(name string, patterns ...string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	return "", fmt.Errorf("%s is not installed: run internal/testserver/install.sh, or install it by hand", name)
}
