package keytable

import (
	"testing"
	"testing/synctest"
)

// slowEnder ends a request only when release is closed.
type slowEnder struct {
	release chan struct{}
	ended   *bool
}

func (s slowEnder) End(Validity) {
	<-s.release
	*s.ended = true
}

// A change is applied twice when this process and the loop that follows the store both see it. The
// second call, which finds no request left to end, waits until the first has ended them.
func TestRecheckWaitsForConcurrentEnd(t *testing.T) {
	for name, second := range map[string]func(*liveList, *Entry){
		"recheck": func(ll *liveList, e *Entry) { ll.recheck(e, nil, Revoked) },
		"end all": func(ll *liveList, _ *Entry) { ll.endAll(Stale) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, ended, release := new(Entry), false, make(chan struct{})
				ll := new(liveList)
				ll.link(&Live{entry: e, end: slowEnder{release, &ended}})
				go ll.recheck(e, nil, Revoked)
				synctest.Wait() // the first call is in End
				returned := make(chan bool, 1)
				go func() {
					second(ll, e)
					returned <- ended
				}()
				synctest.Wait()
				select {
				case <-returned:
					t.Error("the second call returned before the request had ended")
				default:
				}
				close(release)
				synctest.Wait()
				if !<-returned {
					t.Error("the request has not ended")
				}
			})
		})
	}
}
