// Command demo shows Keygate at work, as `make run`. It starts a small API and the gateway in
// front of it, configured by Caddyfile.example. At the first start it creates a tenant and a key.
// Then it prints a curl command to try.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/keygate-dev/keygate/internal/demoapi"
)

func main() {
	caddy := flag.String("caddy", "./caddy", "the gateway's binary")
	config := flag.String("config", "Caddyfile.example", "the gateway's configuration")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *caddy, *config); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, caddy, config string) error {
	listen := env("KEYGATE_LISTEN", "http://localhost:8080")
	upstream := env("KEYGATE_UPSTREAM", "localhost:9000")
	admin := env("KEYGATE_ADMIN", "localhost:2019")

	ln, err := net.Listen("tcp", upstream)
	if err != nil {
		return fmt.Errorf("starting the demo API: %w; set KEYGATE_UPSTREAM to another address", err)
	}
	api := &http.Server{Handler: demoapi.New(), ReadHeaderTimeout: 10 * time.Second}
	go api.Serve(ln)
	defer api.Close()

	gateway := exec.Command(caddy, "run", "--config", config, "--adapter", "caddyfile")
	gateway.Stdout, gateway.Stderr = os.Stdout, os.Stderr
	gateway.Env = append(os.Environ(), "KEYGATE_LISTEN="+listen, "KEYGATE_UPSTREAM="+upstream, "KEYGATE_ADMIN="+admin)
	if err := gateway.Start(); err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- gateway.Wait() }()

	if err := await(ctx, "http://"+admin+"/config/", exited); err != nil {
		return err
	}
	if err := welcome(ctx, caddy, admin, listen); err != nil {
		_ = gateway.Process.Signal(syscall.SIGTERM)
		<-exited
		return err
	}
	select {
	case err := <-exited:
		return fmt.Errorf("the gateway stopped: %w", err)
	case <-ctx.Done():
		_ = gateway.Process.Signal(syscall.SIGTERM)
		<-exited
		return nil
	}
}

// await waits until url answers. It returns an error where the gateway exits first.
func await(ctx context.Context, url string, exited <-chan error) error {
	for {
		select {
		case err := <-exited:
			return fmt.Errorf("the gateway did not start: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			return nil
		}
	}
}

// welcome creates the demo's tenant and key at the first start, and prints the commands to try.
func welcome(ctx context.Context, caddy, admin, listen string) error {
	keygate := func(args ...string) ([]byte, error) {
		var out, errs bytes.Buffer
		c := exec.CommandContext(ctx, caddy, append(append([]string{"keygate"}, args...), "--address", admin, "--json")...)
		c.Stdout, c.Stderr = &out, &errs
		if err := c.Run(); err != nil {
			return nil, fmt.Errorf("caddy keygate %s: %s", args, bytes.TrimSpace(errs.Bytes()))
		}
		return out.Bytes(), nil
	}
	if _, err := keygate("tenant", "get", "demo"); err == nil {
		fmt.Printf("\nThe key of the demo was shown at the first start. To create another one:\n\n  %s keygate key create --tenant demo --name another\n\n", caddy)
		return nil
	}
	if _, err := keygate("tenant", "create", "demo", "--name", "Demo"); err != nil {
		return err
	}
	out, err := keygate("key", "create", "--tenant", "demo", "--name", "demo")
	if err != nil {
		return err
	}
	var key struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(out, &key); err != nil || key.Key == "" {
		return errors.Join(errors.New("reading the new key"), err)
	}
	fmt.Printf(`
Keygate runs on %[1]s in front of a demo API. Copy the new key now: it is not shown again.

  curl -i %[1]s/v1/hello -H "Authorization: Bearer %[2]s"

Its plan allows 60 requests a minute: 60 at once, and then one per second. To see requests rejected:

  for i in $(seq 80); do curl -s -o /dev/null -w '%%{http_code}\n' %[1]s/v1/hello -H "Authorization: Bearer %[2]s"; done | sort | uniq -c

Press Ctrl-C to stop.

`, listen, key.Key)
	return nil
}

func env(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}
