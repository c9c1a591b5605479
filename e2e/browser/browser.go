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

// patience is how long the tests wait for an event that always comes. It only distinguishes a test
// that hangs from one on a busy machine.
const patience = time.Minute

// names are the names of the Chromium program on different systems. The headless shell comes first: it is the same
// browser without the desktop's parts, and uses half the CPU time of the full program in headless mode.
var names = []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"}

// process is the Chromium process that all tests of this process share.
type process struct {
	// ctx is the context of the browser, from which the contexts of tabs descend.
	ctx context.Context
	end func()
}

var shared struct {
	mu  sync.Mutex
	p   *process
	err error
}

// browser returns the browser. The first call starts it.
func browser() (*process, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.p == nil && shared.err == nil {
		shared.p, shared.err = start()
	}
	return shared.p, shared.err
}

// Close ends the browser, if one was started, and removes its profile. It blocks until the process
// has ended. No tab may be in use.
func Close() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.p != nil {
		shared.p.end()
	}
	shared.p, shared.err = nil, errors.New("the browser was closed")
}

// find returns the path of the Chromium program.
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
		// The browser opens only pages of the tests, so it needs no sandbox. Containers that run
		// as root can't have one.
		chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true),
		chromedp.Flag("no-pings", true),
		// These flags remove differences between machines.
		chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("font-render-hinting", "none"),
		chromedp.Flag("lang", "en-GB"),
		chromedp.Env("HOME="+profile, "LC_ALL=C.UTF-8"),
	)
	all, kill := chromedp.NewExecAllocator(context.Background(), options...)
	quiet := func(string, ...any) {} // chromedp reports events that are newer than the library; the tests discard these reports.
	ctx, _ := chromedp.NewContext(all, chromedp.WithErrorf(quiet), chromedp.WithLogf(quiet))
	if err := chromedp.Run(ctx); err != nil {
		kill()
		_ = os.RemoveAll(profile)
		return nil, fmt.Errorf("starting Chromium: %w", err)
	}
	end := func() {
		// The browser is first asked to close and then killed. In both cases chromedp waits for
		// its process.
		closing, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = chromedp.Cancel(closing)
		cancel()
		kill()
		// Child processes of the browser may still write to the profile for a moment.
		for range 100 {
			if os.RemoveAll(profile) == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return &process{ctx, end}, nil
}

// open opens an empty page in a new profile, which shares nothing with other profiles.
func (p *process) open() (cdp.BrowserContextID, target.ID, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	ctx = cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser)
	profile, err := target.CreateBrowserContext().WithDisposeOnDetach(true).Do(ctx)
	if err != nil {
		return "", "", err
	}
	// A new profile has no window, so the tab needs a new one.
	id, err := target.CreateTarget("about:blank").WithBrowserContextID(profile).WithNewWindow(true).Do(ctx)
	return profile, id, err
}

// dispose closes all pages of a profile and deletes the profile.
func (p *process) dispose(profile cdp.BrowserContextID) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	// The call fails only if the browser has ended, and the profile with it.
	_ = target.DisposeBrowserContext(profile).Do(cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser))
}
