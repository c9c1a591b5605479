//go:build soak

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/pathlab"
)

// program is a real upstream from Debian or npm. Its handlers answer "RAN <name>".
type program struct {
	name string
	// models are the names of the models that describe the program.
	models []string
	// needs are the programs or files that must be installed. packages are the arguments with
	// which install.sh installs them.
	needs    []string
	packages string
	// command returns the command that starts the program on a port. dir is a directory for its files.
	command func(t *testing.T, dir, port string) *exec.Cmd
}

// nodeModules are the exact versions of the modules that the test installs from npm.
var nodeModules = []string{"express@5.3.0", "fastify@4.29.1", "restify@11.1.0"}

func testdata(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "internal", "pathlab", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// programs returns all programs. modules is a directory with the modules from npm.
func programs(t *testing.T, modules string) []program {
	var all []program
	for kind, models := range map[string][]string{
		"url": {"Node, new URL"}, "url-decoded": {"Node, new URL, decoded"}, "parse": {"Node, url.parse"}, "parse-decoded": {"Node, url.parse, decoded"},
		"express": {"Express", "Express, decoded"}, "fastify": {"Fastify"}, "restify": {"restify"},
	} {
		all = append(all, program{"Node, " + kind, models, []string{"node"}, "nodejs", func(_ *testing.T, _, port string) *exec.Cmd {
			return exec.Command("node", filepath.Join(modules, "node.js"), kind, port)
		}})
	}
	php := func(name, file, documents string, models []string, env ...string) program {
		return program{name, models, []string{"php", "/usr/share/php/Symfony/Component/HttpFoundation/Request.php"}, "php-cli php-symfony-http-foundation", func(t *testing.T, dir, port string) *exec.Cmd {
			args := []string{"-S", "127.0.0.1:" + port}
			if documents == "" {
				args = append(args, testdata(t, file))
			}
			for _, as := range strings.Fields(documents) {
				copyFile(t, testdata(t, file), filepath.Join(dir, as))
			}
			c := exec.Command("php", args...)
			c.Env = append(os.Environ(), append(env, "ROUTES="+testdata(t, "routes.php"))...)
			return c
		}}
	}
	all = append(all,
		php("PHP, parse_url", "parse_url.php", "", []string{"PHP, parse_url"}),
		php("PHP, parse_url, decoded", "parse_url.php", "", []string{"PHP, parse_url, decoded"}, "DECODE=1"),
		php("Symfony", "symfony.php", "", []string{"Symfony"}),
		php("Symfony in a directory", "symfony.php", "", []string{"Symfony in a directory", "Symfony"}, "SCRIPT=/cargo/index.php"),
		php("Laravel", "symfony.php", "", []string{"Laravel"}, "LARAVEL=1"),
		php("PHP, PATH_INFO", "path_info.php", "index.php x.php", []string{"PHP, PATH_INFO", "decodes, then resolves"}),
	)
	for kind, models := range map[string][]string{"puma": {"Rails"}, "webrick": {"Rails, WEBrick"}} {
		all = append(all, program{"Rails, " + kind, models, []string{"/usr/bin/ruby", "puma", "/usr/share/rubygems-integration/all/specifications/railties-*.gemspec"}, "ruby-railties ruby-webrick puma", func(t *testing.T, _, port string) *exec.Cmd {
			return exec.Command("/usr/bin/ruby", testdata(t, "rails.rb"), kind, port)
		}})
	}
	for kind, models := range map[string][]string{"flask": {"Flask"}, "wsgi": {"WSGI", "WSGI, slashes at the start ignored"}, "urlsplit": {"Python, urlsplit"}} {
		all = append(all, program{"Python, " + kind, models, []string{"/usr/bin/python3", "/usr/lib/python3/dist-packages/flask"}, "python3-flask", func(t *testing.T, _, port string) *exec.Cmd {
			return exec.Command("/usr/bin/python3", testdata(t, "python.py"), kind, port)
		}})
	}
	for merge, model := range map[string]string{"on": "nginx", "off": "nginx, merge_slashes off"} {
		all = append(all, program{model, []string{model}, []string{"/usr/sbin/nginx"}, "nginx-light", func(t *testing.T, dir, port string) *exec.Cmd {
			text, err := os.ReadFile(testdata(t, "nginx.conf"))
			if err != nil {
				t.Fatal(err)
			}
			conf := filepath.Join(dir, "nginx.conf")
			text = []byte(strings.NewReplacer("$PORT", port, "$DIR", dir, "$MERGE", merge).Replace(string(text)))
			if err := os.WriteFile(conf, text, 0o600); err != nil {
				t.Fatal(err)
			}
			return exec.Command("/usr/sbin/nginx", "-p", dir, "-c", conf)
		}})
	}
	return append(all, program{"Tomcat", []string{"Tomcat"}, []string{"tomcat10-instance-create", "/usr/share/tomcat10", "java"}, "tomcat10 tomcat10-user", tomcat})
}

var (
	controlPort = regexp.MustCompile(`<Server port="\d+"`)
	webPort     = regexp.MustCompile(`Connector port=`)
)

// tomcat prepares a Tomcat instance with a file for each route, and returns its command.
func tomcat(t *testing.T, dir, port string) *exec.Cmd {
	base := filepath.Join(dir, "tomcat")
	if out, err := exec.Command("tomcat10-instance-create", "-p", port, base).CombinedOutput(); err != nil {
		t.Fatalf("tomcat10-instance-create: %v %s", err, out)
	}
	conf := filepath.Join(base, "conf", "server.xml")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	text = controlPort.ReplaceAll(text, []byte(`<Server port="-1"`))
	text = webPort.ReplaceAll(text, []byte(`Connector address="127.0.0.1" maxKeepAliveRequests="-1" port=`))
	if err := os.WriteFile(conf, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(pathlab.Targets, "/docs/x", "/app/x", "/health") {
		file := filepath.Join(base, "webapps", "ROOT", path)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("RAN "+pathlab.Handler(path)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	java, err := exec.LookPath("java")
	if err == nil {
		java, err = filepath.EvalSymlinks(java)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/usr/share/tomcat10/bin/catalina.sh", "run")
	c.Env = append(os.Environ(), "CATALINA_BASE="+base, "CATALINA_HOME=/usr/share/tomcat10", "JAVA_HOME="+filepath.Dir(filepath.Dir(java)))
	return c
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run starts the program, waits until it serves, and returns its address.
func (p *program) run(t *testing.T) string {
	t.Helper()
	for _, need := range p.needs {
		found, _ := filepath.Glob(need)
		if _, err := exec.LookPath(need); err != nil && len(found) == 0 {
			t.Fatalf("%s needs %s, which is not installed: run internal/testserver/install.sh %s", p.name, need, p.packages)
		}
	}
	dir, port := t.TempDir(), freePort(t)
	c := p.command(t, dir, port)
	c.Dir = dir
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var log output
	c.Stderr = &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = c.Wait()
	})
	addr := "127.0.0.1:" + port
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(100 * time.Millisecond) {
		if askOne(addr, pathlab.Targets[0]) == "load" {
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not serve: %s", p.name, log.String())
		}
	}
}

// answerTime bounds the time of an answer. Some programs do not answer odd targets at all.
const answerTime = 3 * time.Second

var ranHandler = regexp.MustCompile(`^RAN (\w+)`)

// ask sends each target as raw bytes over a new connection. It returns the name of the handler
// that ran for each target; "" for none.
func ask(addr string, targets []string) []string {
	ran := make([]string, len(targets))
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				ran[i] = askOne(addr, targets[i])
			}
		})
	}
	for i := range targets {
		next <- i
	}
	close(next)
	wg.Wait()
	return ran
}

func askOne(addr, target string) string {
	conn, err := net.DialTimeout("tcp", addr, answerTime)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: lab.test\r\nConnection: close\r\n\r\n", target)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	body, _ := io.ReadAll(resp.Body)
	if m := ranHandler.FindSubmatch(body); m != nil {
		return string(m[1])
	}
	return ""
}

// TestPathsThoroughly sends more spellings than TestPaths, and asks real upstreams which handlers
// they run. They get the targets that arrived through the gateway, and all spellings unchanged. A
// model must run every handler that its program runs.
func TestPathsThoroughly(t *testing.T) {
	modules := t.TempDir()
	copyFile(t, testdata(t, "node.js"), filepath.Join(modules, "node.js"))
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatal("npm is not installed: run internal/testserver/install.sh npm")
	}
	npm := exec.Command("npm", append([]string{"install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", modules}, nodeModules...)...)
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm: %v %s", err, out)
	}
	up := newWireUpstream(t)
	arrived := runLab(t, up, true)
	byName := make(map[string]pathlab.Model)
	for _, m := range models {
		byName[m.Name] = m
	}
	var spellings []string
	for _, path := range pathlab.Targets {
		spellings = append(spellings, pathlab.Hostile(path, false)...)
	}
	// targets are the targets that arrived, each once.
	sites := make(map[string]labSite)
	var targets []string
	index := make(map[string]int)
	for _, s := range labSites {
		sites[s.name] = s
		for _, a := range arrived[s.name] {
			if _, ok := index[a.target]; !ok && a.reached {
				index[a.target] = len(targets)
				targets = append(targets, a.target)
			}
		}
	}
	t.Logf("%d different targets arrived", len(targets))
	for _, p := range programs(t, modules) {
		t.Run(p.name, func(t *testing.T) {
			addr := p.run(t)
			more := 0
			var missed []string
			for i, ran := range ask(addr, spellings) {
				var read []string
				same := false
				for _, name := range p.models {
					route, ok := byName[name].Route(spellings[i], "GET")
					handler := ""
					if ok {
						handler = pathlab.Handler(route)
					}
					same = same || handler == ran
					read = append(read, handler)
				}
				switch {
				case same:
				case ran == "":
					more++
				default:
					missed = append(missed, fmt.Sprintf("%.120q ran %q, the model says %q", spellings[i], ran, read))
				}
			}
			t.Logf("the model runs a handler for %d of %d spellings for which the upstream runs none", more, len(spellings))
			if len(missed) > 0 {
				t.Errorf("the model is wrong about %d spellings:\n\t%s", len(missed), strings.Join(missed[:min(len(missed), 20)], "\n\t"))
			}
			ran := ask(addr, targets)
			breaches := make(map[labBreach][]string)
			for name, s := range sites {
				for _, a := range arrived[name] {
					if !a.reached {
						continue
					}
					if handler := ran[index[a.target]]; handler != "" && s.closed(handler, a) && !slices.Contains(s.but, p.models[0]) {
						at := labBreach{name, p.name}
						breaches[at] = append(breaches[at], a.ran(handler))
					}
				}
			}
			report(t, breaches)
		})
	}
}
