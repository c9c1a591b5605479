package testserver

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP proxy on 127.0.0.1 that does to connections what networks do to them.
// Its methods may be called from many goroutines.
type Proxy struct {
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	pairs map[*pair]struct{}
	// open is closed while bytes pass; an open channel holds them back.
	open   chan struct{}
	refuse bool
	delay  time.Duration
	ended  bool
}

// pair is one connection through the proxy, and the one beyond it.
type pair struct {
	near, far net.Conn
	once      sync.Once
	done      chan struct{}
}

// chunk is bytes on their way, and when they may arrive.
type chunk struct {
	bytes []byte
	due   time.Time
}

// NewProxy starts a proxy to target, host:port, which need not listen yet. It ends with
// the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, ln: ln, pairs: make(map[*pair]struct{}), open: make(chan struct{})}
	close(p.open)
	p.wg.Go(p.accept)
	t.Cleanup(p.end)
	return p
}

// Addr returns where the proxy listens.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Cut closes the connections there are; new ones are accepted as before.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.close()
	}
}

// Refuse cuts the connections there are and closes each new one at once, as where no
// server listens, until Restore.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.Cut()
}

// Hold keeps what is sent from arriving, in both directions, without closing anything,
// as a network does that loses everything. Restore delivers it.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

// Delay makes everything that is sent from now on arrive d later, in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Restore ends Refuse, Hold and Delay.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse, p.delay = false, 0
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// Connections returns how many connections there are.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pairs)
}

func (p *Proxy) end() {
	_ = p.ln.Close()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		near, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		away := p.refuse || p.ended
		p.mu.Unlock()
		if away {
			reset(near)
			continue
		}
		p.wg.Go(func() { p.serve(near) })
	}
}

// serve connects near with the target.
func (p *Proxy) serve(near net.Conn) {
	far, err := net.DialTimeout("tcp", p.target, patience)
	if err != nil {
		reset(near)
		return
	}
	c := &pair{near: near, far: far, done: make(chan struct{})}
	p.mu.Lock()
	away := p.refuse || p.ended
	if !away {
		p.pairs[c] = struct{}{}
	}
	p.mu.Unlock()
	if away {
		c.close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.carry(c, near, far) })
	both.Go(func() { p.carry(c, far, near) })
	both.Wait()
	_ = near.Close()
	_ = far.Close()
	p.mu.Lock()
	delete(p.pairs, c)
	p.mu.Unlock()
}

// carry takes bytes from one connection to the other until they end.
func (p *Proxy) carry(c *pair, from, to net.Conn) {
	chunks := make(chan chunk, 256)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(chunks)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				p.mu.Lock()
				due := time.Now().Add(p.delay)
				p.mu.Unlock()
				select {
				case chunks <- chunk{b[:n], due}:
				case <-c.done:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for next := range chunks {
		if !p.pass(c, next.due) {
			break
		}
		if _, err := to.Write(next.bytes); err != nil {
			c.close()
			break
		}
	}
	// The end of what is sent passes like the rest; the other direction may still go on.
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	reading.Wait()
}

// pass waits until bytes may arrive, and reports whether the connection is still there.
func (p *Proxy) pass(c *pair, due time.Time) bool {
	if wait := time.Until(due); wait > 0 {
		select {
		case <-time.After(wait):
		case <-c.done:
			return false
		}
	}
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return true
	case <-c.done:
		return false
	}
}

// close ends both connections, with a reset: whoever reads learns of it at once.
func (c *pair) close() {
	c.once.Do(func() {
		close(c.done)
		reset(c.near)
		reset(c.far)
	})
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
