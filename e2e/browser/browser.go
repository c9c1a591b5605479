package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// patience is how long something may take that always happens. It only tells a test that
// hangs from one on a busy machine.
const patience = time.Minute

// names are what Chromium's program is called.
var names = []string{"chromium", "chromium-browser", "google-chrome"}

// process is the browser of this process's tests.
type process struct {
	// ctx is the browser's, from which tabs descend.
	ctx context.Context
	end func()
}

var shared struct {
	mu  sync.Mutex
	p   *process
	err error
}

// browser returns the browser, which it starts where it does not run.
func browser() (*process, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.p == nil && shared.err == nil {
		shared.p, shared.err = start()
	}
	return shared.p, shared.err
}

// Close ends the browser, if one was started, and removes its profile. No tab may be in
// use. It blocks until the process has ended.
func Close() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.p != nil {
		shared.p.end()
	}
	shared.p, shared.err = nil, errors.New("the browser was closed")
}

// find returns the path of Chromium.
func find() (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no Chromium is installed: run internal/testserver/install.sh, or install it by hand")
}

func start() (*process, error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	profile, err := os.MkdirTemp("", "keygate-browser-")
	if err != nil {
		return nil, err
	}
	options := append([]chromedp.ExecAllocatorOption{}, chromedp.DefaultExecAllocatorOptions[:]...)
	options = append(options,
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.WSURLReadTimeout(patience),
		// It opens nothing but pages of ours; containers that run as root have no sandbox.
		chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true),
		chromedp.Flag("no-pings", true),
		// What a person sees, without what differs between machines.
		chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("font-render-hinting", "none"),
		chromedp.Flag("lang", "en-GB"),
		chromedp.Env("HOME="+profile, "LC_ALL=C.UTF-8"),
	)
	all, kill := chromedp.NewExecAllocator(context.Background(), options...)
	quiet := func(string, ...any) {} // of events that are newer than the library
	ctx, _ := chromedp.NewContext(all, chromedp.WithErrorf(quiet), chromedp.WithLogf(quiet))
	if err := chromedp.Run(ctx); err != nil {
		kill()
		_ = os.RemoveAll(profile)
		return nil, fmt.Errorf("starting Chromium: %w", err)
	}
	end := func() {
		// It is asked to close, then made to; either way its process is waited for.
		closing, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = chromedp.Cancel(closing)
		cancel()
		kill()
		// Its own children may still be writing for a moment.
		for range 100 {
			if os.RemoveAll(profile) == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return &process{ctx, end}, nil
}

// open makes an empty page that shares nothing with others.
func (p *process) open() (cdp.BrowserContextID, target.ID, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	ctx = cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser)
	profile, err := target.CreateBrowserContext().WithDisposeOnDetach(true).Do(ctx)
	if err != nil {
		return "", "", err
	}
	// A profile without a window has no place for a tab.
	id, err := target.CreateTarget("about:blank").WithBrowserContextID(profile).WithNewWindow(true).Do(ctx)
	return profile, id, err
}

// dispose closes what is open in a profile, and forgets it.
func (p *process) dispose(profile cdp.BrowserContextID) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	// It fails only where the browser is gone, and the profile with it.
	_ = target.DisposeBrowserContext(profile).Do(cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser))
}
