package testserver

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP proxy on 127.0.0.1 that simulates network faults. Its methods are safe for
// concurrent use.
type Proxy struct {
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	pairs map[*pair]struct{}
	// open is a closed channel while bytes pass. While Hold is in effect, the channel is not
	// closed.
	open   chan struct{}
	refuse bool
	delay  time.Duration
	ended  bool
}

// pair holds a client's connection (near) and the proxy's connection to the target (far).
type pair struct {
	near, far net.Conn
	once      sync.Once
	done      chan struct{}
}

// chunk holds bytes in transit, and the time at which they may be delivered.
type chunk struct {
	bytes []byte
	due   time.Time
}

// NewProxy starts a proxy to target, a host:port that need not accept connections yet. It ends
// with the test.
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

// Addr returns the proxy's own host:port.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Cut resets all open connections. New connections are still accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.close()
	}
}

// Refuse resets all open connections, and each new one at once, until Restore. Clients see a
// server that is down.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.Cut()
}

// Hold stops delivering bytes in both directions without closing connections, as in a network
// partition. Restore delivers the held bytes.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

// Delay delays all bytes that are sent from now on by d, in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Restore ends the effects of Refuse, Hold and Delay.
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

// Connections returns the number of open connections through the proxy.
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
		refused := p.refuse || p.ended
		p.mu.Unlock()
		if refused {
			reset(near)
			continue
		}
		p.wg.Go(func() { p.serve(near) })
	}
}

// serve connects near to the target and copies bytes until both directions have ended.
func (p *Proxy) serve(near net.Conn) {
	far, err := net.DialTimeout("tcp", p.target, patience)
	if err != nil {
		reset(near)
		return
	}
	c := &pair{near: near, far: far, done: make(chan struct{})}
	p.mu.Lock()
	refused := p.refuse || p.ended
	if !refused {
		p.pairs[c] = struct{}{}
	}
	p.mu.Unlock()
	if refused {
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

// carry copies bytes from one connection to the other until the sender closes its side.
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
	// The end of the stream is passed on like bytes. The other direction may continue.
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	reading.Wait()
}

// pass waits until bytes may be delivered. It reports false where the connection was closed
// meanwhile.
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

// close resets both connections, so that both ends notice at once.
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
