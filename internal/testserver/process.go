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

// patience limits the time for steps that always succeed, such as a start. It is long, so that a
// busy machine fails no test.
const patience = time.Minute

// process is one server: its program, its directory, and the process while it runs.
type process struct {
	what, binary string
	// dir holds all files that the server writes, including its log.
	dir  string
	port int
	// arguments returns the command line for the given port.
	arguments func(port int) []string
	// ready returns nil when the server answers.
	ready func() error
	// user runs the server; nil for the user that runs the tests.
	user *syscall.Credential

	cmd    *exec.Cmd
	exited chan struct{}
	guard  *guard
}

// guardScript kills a server whose starter has died: the pipe that the script reads then closes,
// without the word "ended". So killed tests leave no servers behind. The server's children are
// killed before the server itself, since some may be stopped.
const guardScript = `
read -r word
[ "$word" = ended ] && exit
for stat in /proc/[0-9]*/stat; do
	read -r pid name state parent rest 2>/dev/null <"$stat" || continue
	[ "$parent" = "$1" ] && kill -KILL "$pid"
done
kill -KILL "$1"
[ -n "$2" ] || exit
# Processes that the server has started may write to the directory for a moment longer.
for try in 1 2 3 4 5 6 7 8 9; do
	sleep 0.2
	rm -rf "$2" 2>/dev/null && break
done
`

// guard is a process that kills a server when the tests have died.
type guard struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// watch starts a guard for the process pid. The guard also removes the directory removed; "" for
// none.
func watch(pid int, removed string) (*guard, error) {
	c := exec.Command("/bin/sh", "-c", guardScript, "guard", strconv.Itoa(pid), removed)
	// A process group of its own protects the guard from the signals that a terminal sends to the
	// tests.
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

// end stops the guard, once the server has ended.
func (g *guard) end() {
	_, _ = io.WriteString(g.pipe, "ended\n")
	_ = g.pipe.Close()
	_ = g.cmd.Wait()
}

// start runs the server on the data in its directory and returns when the server answers. A server
// without a port gets a free one, and up to four others where that one was taken meanwhile. shared
// marks a server that only its guard ends.
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
	defer log.Close() // The child process has its own descriptor of the log file, so this one can be closed.
	c := exec.Command(p.binary, p.arguments(p.port)...)
	c.Dir, c.Stdout, c.Stderr = p.dir, log, log
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "TMPDIR=" + p.dir, "LC_ALL=C", "TZ=UTC"}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: p.user}
	if err := c.Start(); err != nil {
		return err
	}
	g, err := watch(c.Process.Pid, removed)
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
			return fmt.Errorf("%s ended while it started:\n%s", p.what, p.tail())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = c.Process.Kill()
			<-exited
			return fmt.Errorf("%s does not answer after a minute: %w\n%s", p.what, err, p.tail())
		}
	}
}

func (p *process) logPath() string { return filepath.Join(p.dir, "server.log") }

// tail returns the last 4,000 bytes of the server's log.
func (p *process) tail() string {
	b, err := os.ReadFile(p.logPath())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// running reports whether the server's process runs.
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

// pids returns the id of the server's process, followed by those of its children.
func (p *process) pids() []int {
	own := p.cmd.Process.Pid
	all := []int{own}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // ended meanwhile
		}
		// The second field is the process name in parentheses. It may contain spaces, so parsing
		// begins after it.
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

// Server is a running server that a test may kill, pause and restart.
type Server struct {
	t testing.TB
	p *process
}

// Addr returns the server's address: 127.0.0.1 and a port, which stays the same over restarts.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.p.port) }

// Dir returns the server's directory.
func (s *Server) Dir() string { return s.p.dir }

// Log returns the last 4,000 bytes of the server's log.
func (s *Server) Log() string { return s.p.tail() }

// Kill ends the server at once, as a crash does, and returns when the process has ended.
func (s *Server) Kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	<-s.p.exited
}

// Pause freezes the server: its connections stay open, but it answers no request.
func (s *Server) Pause() { s.t.Helper(); s.signal(syscall.SIGSTOP) }

// Resume continues a paused server.
func (s *Server) Resume() { s.t.Helper(); s.signal(syscall.SIGCONT) }

// Start restarts a server that has ended, on the same port and data. It returns when the server
// answers.
func (s *Server) Start() {
	s.t.Helper()
	if s.p.running() {
		s.t.Fatalf("%s is already running", s.p.what)
	}
	err := s.p.start(false)
	// Child processes of a killed PostgreSQL may end a moment later than the server. Until then
	// its data is in use.
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
		s.t.Fatalf("%s is not running", s.p.what)
	}
	for _, pid := range s.p.pids() {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.t.Fatal(err)
		}
	}
}

// end stops the server when its test is over. If the test has failed, it logs the end of the
// server's log.
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
	// portLocks are open files. Their locks reserve ports for this process until it ends.
	portLocks   []*os.File
	portLocksMu sync.Mutex
)

// FreePort returns a port of 127.0.0.1 that stays free until this process uses it, and between
// restarts of a server. The system gives such ports to no outgoing connection, and a lock file
// reserves the port among processes that call FreePort.
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
	return 0, errors.New("no free port between 20000 and 32000")
}

// lockPort reserves the port for this process and reports whether it could. It also reports true
// where no lock file can be created.
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

// find returns the path of an installed program. It searches the PATH, then the patterns, where
// the last match wins.
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
