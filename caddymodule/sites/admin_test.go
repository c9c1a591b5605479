package sites

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAdminWithoutApp(t *testing.T) {
	rec := httptest.NewRecorder()
	if err := new(AdminAPI).serve(rec, httptest.NewRequest("GET", "/keygate/v1/status", nil)); err != nil {
		t.Fatal(err)
	}
	if rec.Code != http.StatusServiceUnavailable || !strings.Contains(rec.Body.String(), "keygate") {
		t.Errorf("answered %d %s", rec.Code, rec.Body)
	}
}

func TestLocal(t *testing.T) {
	unix := &net.UnixAddr{Net: "unix", Name: "a.sock"}
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 2019} }
	for _, c := range []struct {
		listens string
		end     net.Addr
		want    bool
	}{
		{"localhost:2019", at("127.0.0.1"), true},
		{"localhost:2019", at("::1"), true},
		{"tcp/127.0.0.1:2019", at("127.0.0.1"), true},
		{"[::1]:2019", at("::1"), true},
		{"unix//run/a.sock", unix, true},
		{"unix//run/a.sock|0222", unix, true},
		{"fd/3", unix, true},
		{"localhost:2019", at("192.0.2.1"), false},
		{":2019", at("127.0.0.1"), false},
		{"0.0.0.0:2019", at("127.0.0.1"), false},
		{"[::]:2019", at("::1"), false},
		{"192.0.2.1:2019", at("192.0.2.1"), false},
		{"keys.example.com:2019", at("127.0.0.1"), false},
		{"fd/3", at("127.0.0.1"), false},
		{"", at("127.0.0.1"), false},
	} {
		ctx := context.WithValue(context.Background(), http.ServerContextKey, &http.Server{Addr: c.listens})
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, c.end)
		if got := isLocal(httptest.NewRequest("GET", "/", nil).WithContext(ctx)); got != c.want {
			t.Errorf("%s reached at %s is local: %v, want %v", c.listens, c.end, got, c.want)
		}
	}
	if isLocal(httptest.NewRequest("GET", "/", nil)) {
		t.Error("a request of no server is local")
	}
}
