package webhook

import (
	"net"
	"net/url"
	"strings"
	"testing"
)

// The owner of a webhook does not learn to which address the host's name leads, as it may be
// private.
func TestUnansweredNamesNoAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, err = net.Dial("tcp", address)
	if err == nil {
		t.Fatal("a closed port answers")
	}
	text := new(Service).unanswered(&url.Error{Op: "Post", URL: "http://hooks.example.com/token", Err: err}).Error()
	if strings.Contains(text, "127.0.0.1") || strings.Contains(text, "token") || !strings.Contains(text, "connection refused") {
		t.Errorf("the owner reads %q", text)
	}
}
