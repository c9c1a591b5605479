package rules

import (
	"reflect"
	"testing"
)

func TestParsePattern(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want Pattern
		rest []string
	}{
		{[]string{"/health"}, Pattern{Path: "/health"}, []string{}},
		{[]string{"*"}, Pattern{Path: "*"}, []string{}},
		{[]string{"POST", "/v1/deploy*", "deployment"}, Pattern{Methods: []string{"POST"}, Path: "/v1/deploy*"}, []string{"deployment"}},
		{[]string{"GET,POST", "*", "5"}, Pattern{Methods: []string{"GET", "POST"}, Path: "*"}, []string{"5"}},
		{[]string{"*", "/a", "5"}, Pattern{Path: "/a"}, []string{"5"}},
		{[]string{"*", "5"}, Pattern{Path: "*"}, []string{"5"}},
		{[]string{"*.png", "/x"}, Pattern{Path: "*.png"}, []string{"/x"}},
		{[]string{"M-SEARCH", "/x"}, Pattern{Methods: []string{"M-SEARCH"}, Path: "/x"}, []string{}},
	} {
		got, rest, err := ParsePattern(tt.args)
		if err != nil || !reflect.DeepEqual(got, tt.want) || !reflect.DeepEqual(rest, tt.rest) {
			t.Errorf("%q: %v %q %v", tt.args, got, rest, err)
		}
	}
	for _, args := range [][]string{
		nil, {""}, {"get", "/x"}, {"GET"}, {"GET,", "/x"}, {",GET", "/x"}, {"GET", "x"}, {"G3T", "/x"}, {"-", "/x"}, {"GET POST", "/x"}, {"health"},
	} {
		if got, rest, err := ParsePattern(args); err == nil {
			t.Errorf("%q: accepted as %v %q", args, got, rest)
		}
	}
}

func TestParsePatterns(t *testing.T) {
	got, err := ParsePatterns([]string{"GET,HEAD", "/a", "/b/*"})
	want := []Pattern{{[]string{"GET", "HEAD"}, "/a"}, {[]string{"GET", "HEAD"}, "/b/*"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := ParsePatterns([]string{"/a", "GET", "/b"}); err == nil {
		t.Error("a method among the paths is accepted")
	}
	if s := want[0].String(); s != "GET,HEAD /a" {
		t.Error(s)
	}
}
