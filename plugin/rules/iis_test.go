package rules

import (
	"net/url"
	"testing"
)

// An exception does not apply to a path that IIS reads as one outside of the exception.
func TestExceptionsReadEscapesOfIIS(t *testing.T) {
	p, err := NewPaths(PathsConfig{AsSent: []string{"/m/*"}})
	if err != nil {
		t.Fatal(err)
	}
	for sent, rejected := range map[string]bool{
		"/m/..%25u002fcargo//load": true, "/m/%25u002e%25U002e/cargo//load": true, "/m/%25u0061//b": false,
	} {
		u, err := url.ParseRequestURI(sent)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Canonicalize(u, false); got.Rejected() != rejected || !rejected && !got.AsSent {
			t.Errorf("%s: rejected %v, want %v", sent, got.Rejected(), rejected)
		}
	}
}
