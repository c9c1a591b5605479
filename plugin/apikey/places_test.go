package apikey

import (
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func newPlaces(t testing.TB, places ...Place) *Places {
	t.Helper()
	p, err := NewPlaces(places...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// everywhere returns a place of each kind, and a second header.
func everywhere(t testing.TB) *Places {
	return newPlaces(t, Place{InAuthorization, "bearer"}, Place{InHeader, "x-api-key"}, Place{InHeader, "Api-Token"},
		Place{InQuery, "api_key"}, Place{InCookie, "key"})
}

// request holds the parts of an HTTP request that Places reads.
type request struct {
	h http.Header
	u *url.URL
}

// newRequest builds a request from "Name: value" lines. A line that begins with ? is the raw
// query.
func newRequest(lines ...string) request {
	r := request{http.Header{}, &url.URL{Path: "/v1"}}
	for _, line := range lines {
		if query, ok := strings.CutPrefix(line, "?"); ok {
			r.u.RawQuery = query
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		r.h.Add(name, strings.TrimPrefix(value, " "))
	}
	return r
}

// lines is the inverse of newRequest, in a fixed order.
func (r request) lines() (lines []string) {
	for _, name := range []string{"Authorization", "X-Api-Key", "Api-Token", "Cookie", "X-Other"} {
		for _, v := range r.h[name] {
			lines = append(lines, name+": "+v)
		}
	}
	if r.u.RawQuery != "" {
		lines = append(lines, "?"+r.u.RawQuery)
	}
	return lines
}

const (
	keyA = "sk_live_00000000000000000000000000" + "3vSKjy"
	keyB = "sk_test_00000000000000000000000000" + "3vSKjy"
	keyL = "old_0123456789abcdef0123456789abcdef"
)

// Find returns a request's credential, and Empty removes it and nothing else. Each case runs
// twice: for a route that needs a key, and for a public or optional route, on which only values
// with a prefix are credentials.
func TestFindAndEmpty(t *testing.T) {
	g, p := testGrammar(t), everywhere(t)
	enc := percentEncode(keyA, true, all)
	long := strings.Repeat("a", 16<<10)
	type result struct {
		value string
		err   error
		left  []string
	}
	missing := func(left ...string) result { return result{"", ErrMissing, left} }
	malformed := func(left ...string) result { return result{"", ErrMalformed, left} }
	ambiguous := func(left ...string) result { return result{"", ErrAmbiguous, left} }
	found := func(v string, left ...string) result { return result{v, nil, left} }
	for name, tc := range map[string]struct {
		in           []string
		needed, open result
	}{
		"nothing":          {nil, missing(), missing()},
		"Bearer":           {[]string{"Authorization: Bearer " + keyA}, found(keyA), found(keyA)},
		"X-API-Key":        {[]string{"X-Api-Key: " + keyA}, found(keyA), found(keyA)},
		"second header":    {[]string{"Api-Token: " + keyA}, found(keyA), found(keyA)},
		"query":            {[]string{"?a=1&api_key=" + keyA + "&b=%2F+&&c"}, found(keyA, "?a=1&b=%2F+&&c"), found(keyA, "?a=1&b=%2F+&&c")},
		"cookie":           {[]string{"Cookie: a=1; key=" + keyA + ";b=\"2\""}, found(keyA, "Cookie: a=1;b=\"2\""), found(keyA, "Cookie: a=1;b=\"2\"")},
		"accepted":         {[]string{"X-Api-Key: " + keyL}, found(keyL), found(keyL)},
		"all places":       {[]string{"Authorization: Bearer " + keyA, "X-Api-Key: " + keyA, "Api-Token: " + keyA, "?api_key=" + keyA, "Cookie: key=" + keyA}, found(keyA), found(keyA)},
		"two differ":       {[]string{"Authorization: Bearer " + keyA, "X-Api-Key: " + keyB}, ambiguous(), ambiguous()},
		"query differs":    {[]string{"X-Api-Key: " + keyA, "?api_key=" + keyB + "&x"}, ambiguous("?x"), ambiguous("?x")},
		"cookie differs":   {[]string{"X-Api-Key: " + keyA, "Cookie: key=" + keyB}, ambiguous(), ambiguous()},
		"not looked at":    {[]string{"X-Other: " + keyA, "?key=" + keyA, "Cookie: api_key=" + keyA}, missing("Cookie: api_key="+keyA, "X-Other: "+keyA, "?key="+keyA), missing("Cookie: api_key="+keyA, "X-Other: "+keyA, "?key="+keyA)},
		"path is no place": {[]string{"X-Other: a"}, missing("X-Other: a"), missing("X-Other: a")},

		// The following cases use the Authorization header.
		"bearer":          {[]string{"Authorization: bearer " + keyA}, found(keyA), found(keyA)},
		"BEARER":          {[]string{"Authorization: BEARER " + keyA}, found(keyA), found(keyA)},
		"odd spacing":     {[]string{"Authorization:  \t Bearer \t  " + keyA + " \t"}, found(keyA), found(keyA)},
		"tab":             {[]string{"Authorization: Bearer\t" + keyA}, found(keyA), found(keyA)},
		"no space":        {[]string{"Authorization: Bearer" + keyA}, missing("Authorization: Bearer" + keyA), missing("Authorization: Bearer" + keyA)},
		"colon":           {[]string{"Authorization: Bearer: " + keyA}, missing("Authorization: Bearer: " + keyA), missing("Authorization: Bearer: " + keyA)},
		"empty Bearer":    {[]string{"Authorization: Bearer"}, missing("Authorization: Bearer"), missing("Authorization: Bearer")},
		"blank Bearer":    {[]string{"Authorization: Bearer  \t"}, missing("Authorization: Bearer  \t"), missing("Authorization: Bearer  \t")},
		"no scheme":       {[]string{"Authorization: " + keyA}, missing("Authorization: " + keyA), missing("Authorization: " + keyA)},
		"Basic":           {[]string{"Authorization: Basic dTpw"}, missing("Authorization: Basic dTpw"), missing("Authorization: Basic dTpw")},
		"Digest":          {[]string{`Authorization: Digest username="u", realm="r"`}, missing(`Authorization: Digest username="u", realm="r"`), missing(`Authorization: Digest username="u", realm="r"`)},
		"Basic and key":   {[]string{"Authorization: Basic dTpw", "X-Api-Key: " + keyA}, found(keyA, "Authorization: Basic dTpw"), found(keyA, "Authorization: Basic dTpw")},
		"Bearer twice":    {[]string{"Authorization: Bearer " + keyA, "Authorization: Bearer " + keyA}, found(keyA), found(keyA)},
		"Bearer differs":  {[]string{"Authorization: Bearer " + keyA, "Authorization: Bearer " + keyB}, ambiguous(), ambiguous()},
		"Basic, Bearer":   {[]string{"Authorization: Basic dTpw", "Authorization: Bearer " + keyA}, found(keyA, "Authorization: Basic dTpw"), found(keyA, "Authorization: Basic dTpw")},
		"Bearer, comma":   {[]string{"Authorization: Bearer " + keyA + ", Bearer " + keyA}, malformed(), malformed()},
		"own":             {[]string{"Authorization: Bearer eyJ.x"}, found("eyJ.x"), missing("Authorization: Bearer eyJ.x")},
		"own beside":      {[]string{"Authorization: Bearer eyJ.x", "X-Api-Key: " + keyA}, found(keyA, "Authorization: Bearer eyJ.x"), found(keyA, "Authorization: Bearer eyJ.x")},
		"own with comma":  {[]string{"Authorization: Bearer a,b", "X-Api-Key: " + keyA}, found(keyA, "Authorization: Bearer a,b"), found(keyA, "Authorization: Bearer a,b")},
		"own, long":       {[]string{"Authorization: Bearer " + long, "?api_key=" + keyA}, found(keyA, "Authorization: Bearer "+long), found(keyA, "Authorization: Bearer "+long)},
		"own, cookie":     {[]string{"Authorization: Bearer eyJ.x", "Cookie: key=" + keyA}, found(keyA, "Authorization: Bearer eyJ.x"), found(keyA, "Authorization: Bearer eyJ.x")},
		"own, accepted":   {[]string{"Authorization: Bearer eyJ.x", "X-Api-Key: " + keyL}, found(keyL, "Authorization: Bearer eyJ.x"), found(keyL, "Authorization: Bearer eyJ.x")},
		"own beside none": {[]string{"Authorization: Bearer eyJ.x", "X-Api-Key: nope"}, ambiguous(), missing("Authorization: Bearer eyJ.x", "X-Api-Key: nope")},
		"own, two keys":   {[]string{"Authorization: Bearer eyJ.x", "X-Api-Key: " + keyA, "?api_key=" + keyB}, ambiguous("Authorization: Bearer eyJ.x"), ambiguous("Authorization: Bearer eyJ.x")},
		"own and a key":   {[]string{"Authorization: Bearer eyJ.x", "Authorization: Bearer " + keyA}, ambiguous(), found(keyA, "Authorization: Bearer eyJ.x")},
		"own, key, key":   {[]string{"Authorization: Bearer eyJ.x", "Authorization: Bearer " + keyA, "X-Api-Key: " + keyA}, found(keyA, "Authorization: Bearer eyJ.x"), found(keyA, "Authorization: Bearer eyJ.x")},

		// The following cases test headers other than Authorization.
		"X-API-Key twice":     {[]string{"X-Api-Key: " + keyA, "X-Api-Key: " + keyA}, found(keyA), found(keyA)},
		"X-API-Key differs":   {[]string{"X-Api-Key: " + keyA, "X-Api-Key: " + keyB}, ambiguous(), ambiguous()},
		"comma-joined":        {[]string{"X-Api-Key: " + keyA + "," + keyA}, malformed(), malformed()},
		"comma and space":     {[]string{"X-Api-Key: " + keyA + ", " + keyB}, malformed(), malformed()},
		"comma in other":      {[]string{"X-Api-Key: a, b"}, malformed(), missing("X-Api-Key: a, b")},
		"surrounding space":   {[]string{"X-Api-Key: \t " + keyA + " "}, found(keyA), found(keyA)},
		"empty header":        {[]string{"X-Api-Key: "}, missing("X-Api-Key: "), missing("X-Api-Key: ")},
		"empty, then key":     {[]string{"X-Api-Key: ", "X-Api-Key: " + keyA}, found(keyA, "X-Api-Key: "), found(keyA, "X-Api-Key: ")},
		"Bearer in X-API-Key": {[]string{"X-Api-Key: Bearer " + keyA}, found("Bearer " + keyA), missing("X-Api-Key: Bearer " + keyA)},
		"16 KiB":              {[]string{"X-Api-Key: " + long}, malformed(), missing("X-Api-Key: " + long)},
		"16 KiB with prefix":  {[]string{"X-Api-Key: sk_live_" + long}, malformed(), malformed()},
		"NUL":                 {[]string{"X-Api-Key: " + keyA + "\x00"}, found(keyA + "\x00"), found(keyA + "\x00")},
		"CR LF":               {[]string{"X-Api-Key: " + keyA + "\r\nX: y"}, found(keyA + "\r\nX: y"), found(keyA + "\r\nX: y")},
		"UTF-8":               {[]string{"X-Api-Key: sk_live_é"}, found("sk_live_é"), found("sk_live_é")},

		// The following cases use the query.
		"encoded":            {[]string{"?api_key=" + enc}, found(keyA), found(keyA)},
		"encoded name":       {[]string{"?%61pi%5Fkey=" + keyA + "&b"}, found(keyA, "?b"), found(keyA, "?b")},
		"name in other case": {[]string{"?API_KEY=" + keyA}, missing("?API_KEY=" + keyA), missing("?API_KEY=" + keyA)},
		"longer name":        {[]string{"?api_key2=" + keyA}, missing("?api_key2=" + keyA), missing("?api_key2=" + keyA)},
		"shorter name":       {[]string{"?api_ke=" + keyA}, missing("?api_ke=" + keyA), missing("?api_ke=" + keyA)},
		"plus":               {[]string{"?api_key=+" + keyA}, found(" " + keyA), missing("?api_key=+" + keyA)},
		"plus behind":        {[]string{"?api_key=" + keyA + "+"}, found(keyA + " "), found(keyA + " ")},
		"query twice":        {[]string{"?api_key=" + keyA + "&x=1&api_key=" + enc}, found(keyA, "?x=1"), found(keyA, "?x=1")},
		"query two differ":   {[]string{"?api_key=" + keyA + "&x=1&api_key=" + keyB}, ambiguous("?x=1"), ambiguous("?x=1")},
		"second differs":     {[]string{"?api_key=" + keyA + "&api_key=nope"}, ambiguous(), found(keyA, "?api_key=nope")},
		"no value":           {[]string{"?api_key&x"}, missing("?api_key&x"), missing("?api_key&x")},
		"empty value":        {[]string{"?api_key=&x"}, missing("?api_key=&x"), missing("?api_key=&x")},
		"equals in value":    {[]string{"?api_key=" + keyA + "=x"}, found(keyA + "=x"), found(keyA + "=x")},
		"semicolon":          {[]string{"?api_key=" + keyA + ";x=1"}, found(keyA + ";x=1"), found(keyA + ";x=1")},
		"broken escape":      {[]string{"?api_key=" + keyA + "%zz%4"}, found(keyA + "%zz%4"), found(keyA + "%zz%4")},
		"encoded comma":      {[]string{"?api_key=" + keyA + "%2C" + keyA}, malformed(), malformed()},
		"16 KiB of escapes":  {[]string{"?api_key=" + strings.Repeat("%61", 5<<10) + "&x"}, malformed("?x"), missing("?api_key=" + strings.Repeat("%61", 5<<10) + "&x")},
		"key and escapes":    {[]string{"?api_key=" + enc + strings.Repeat("%61", 5<<10)}, malformed(), malformed()},

		// The following cases use cookies.
		"quoted cookie":      {[]string{`Cookie: key="` + keyA + `"`}, found(keyA), found(keyA)},
		"half-quoted cookie": {[]string{`Cookie: key="` + keyA}, found(`"` + keyA), missing(`Cookie: key="` + keyA)},
		"cookie twice":       {[]string{"Cookie: key=" + keyA + "; a=b", "Cookie: c=d;key=" + keyA}, found(keyA, "Cookie: a=b", "Cookie: c=d"), found(keyA, "Cookie: a=b", "Cookie: c=d")},
		"cookies differ":     {[]string{"Cookie: key=" + keyA + "; a=b; key=" + keyB}, ambiguous("Cookie: a=b"), ambiguous("Cookie: a=b")},
		"cookie in the middle": {[]string{"Cookie: a=1;  key = " + keyA + " ;b=2; ;c"}, found(" "+keyA, "Cookie: a=1;b=2; ;c"),
			missing("Cookie: a=1;  key = " + keyA + " ;b=2; ;c")},
		"cookie, other case": {[]string{"Cookie: Key=" + keyA}, missing("Cookie: Key=" + keyA), missing("Cookie: Key=" + keyA)},
		"empty cookie":       {[]string{`Cookie: key=; key=""; a=b`}, missing(`Cookie: key=; key=""; a=b`), missing(`Cookie: key=; key=""; a=b`)},
		"bad byte in cookie": {[]string{"Cookie: key=" + keyA + "\\; a=b"}, found(keyA+"\\", "Cookie: a=b"), found(keyA+"\\", "Cookie: a=b")},
		"app's own cookie":   {[]string{"Cookie: key=theirs"}, found("theirs"), missing("Cookie: key=theirs")},
	} {
		t.Run(name, func(t *testing.T) {
			for prefixedOnly, want := range map[bool]result{false: tc.needed, true: tc.open} {
				r := newRequest(tc.in...)
				before := newRequest(tc.in...)
				value, err := p.Find(r.h, r.u, g, prefixedOnly)
				if value != want.value || !errors.Is(err, want.err) {
					t.Errorf("prefixedOnly %v: Find = %.80q, %v, want %.80q, %v", prefixedOnly, value, err, want.value, want.err)
				}
				if !reflect.DeepEqual(r, before) {
					t.Errorf("prefixedOnly %v: Find changed the request", prefixedOnly)
				}
				shared := r.h.Clone()
				old := http.Header{}
				for k, v := range shared {
					old[k] = append([]string(nil), v...)
					r.h[k] = v
				}
				p.Empty(r.h, r.u, g, prefixedOnly)
				if left := r.lines(); !reflect.DeepEqual(left, want.left) {
					t.Errorf("prefixedOnly %v: Empty left %.200q, want %.200q", prefixedOnly, left, want.left)
				}
				if !reflect.DeepEqual(shared, old) {
					t.Errorf("prefixedOnly %v: Empty changed a slice of the header in place", prefixedOnly)
				}
			}
		})
	}
}

// Some credentials that Find returns are malformed; Match rejects them.
func TestMatchRejectsWhatFindReturns(t *testing.T) {
	g, p := testGrammar(t), everywhere(t)
	for _, line := range []string{
		"X-Api-Key: Bearer " + keyA, "Authorization: Bearer eyJ.x", "?api_key=+" + keyA, "?api_key=" + keyA + ";x=1",
		"?api_key=" + keyA + "%zz", "?api_key=" + keyA + "%00", "Cookie: key= " + keyA, "X-Api-Key: " + keyA + "\x00",
		"X-Api-Key: " + keyA + "\r\n", `Authorization: Bearer "` + keyA + `"`, "Authorization: Bearer " + keyA + " x",
	} {
		r := newRequest(line)
		value, err := p.Find(r.h, r.u, g, false)
		if err != nil || value == "" || g.Match(value) != nil {
			t.Errorf("%q: found %q, %v, of shape %v", line, value, err, g.Match(value))
		}
	}
}

func TestDefaultPlaces(t *testing.T) {
	g, p := testGrammar(t), newPlaces(t)
	if want := []Place{{InAuthorization, "Bearer"}, {InHeader, "X-Api-Key"}}; !reflect.DeepEqual(p.List(), want) {
		t.Errorf("List = %v, want %v", p.List(), want)
	}
	r := newRequest("?api_key="+keyA, "Cookie: key="+keyA)
	if _, err := p.Find(r.h, r.u, g, false); err != ErrMissing {
		t.Errorf("found in a place that is not configured: %v", err)
	}
	for _, line := range []string{"authorization: Bearer " + keyA, "x-api-key: " + keyA, "X-API-KEY: " + keyA} {
		r := newRequest(line)
		if v, err := p.Find(r.h, nil, g, false); v != keyA || err != nil {
			t.Errorf("%q: %q, %v", line, v, err)
		}
		p.Empty(r.h, nil, g, false)
		if len(r.h) != 0 {
			t.Errorf("%q: left %v", line, r.h)
		}
	}
}

func TestOtherScheme(t *testing.T) {
	g := testGrammar(t)
	p := newPlaces(t, Place{InAuthorization, "ApiKey"}, Place{InAuthorization, "Bearer"})
	for _, tc := range []struct {
		in    []string
		value string
		err   error
		left  []string
	}{
		{[]string{"Authorization: apikey " + keyA}, keyA, nil, nil},
		{[]string{"Authorization: Token " + keyA}, "", ErrMissing, []string{"Authorization: Token " + keyA}},
		{[]string{"Authorization: ApiKey " + keyA, "Authorization: Bearer own"}, keyA, nil, []string{"Authorization: Bearer own"}},
		{[]string{"Authorization: ApiKey own", "Authorization: Bearer own"}, "own", nil, nil},
		{[]string{"Authorization: ApiKey own", "Authorization: Bearer other"}, "", ErrAmbiguous, nil},
	} {
		r := newRequest(tc.in...)
		if v, err := p.Find(r.h, r.u, g, false); v != tc.value || err != tc.err {
			t.Errorf("%q: %q, %v", tc.in, v, err)
		}
		p.Empty(r.h, r.u, g, false)
		if !reflect.DeepEqual(r.lines(), tc.left) {
			t.Errorf("%q: left %q", tc.in, r.lines())
		}
	}
	whole := newPlaces(t, Place{InHeader, "authorization"})
	r := newRequest("Authorization: " + keyA)
	if v, err := whole.Find(r.h, r.u, g, false); v != keyA || err != nil {
		t.Errorf("without a scheme: %q, %v", v, err)
	}
}

func TestNewPlacesRejects(t *testing.T) {
	for name, tc := range map[string]struct {
		places []Place
		want   string
	}{
		"kind":              {[]Place{{"body", "key"}}, `"body"`},
		"no name":           {[]Place{{InHeader, ""}}, "needs a name"},
		"odd header":        {[]Place{{InHeader, "X Api"}}, `"X Api"`},
		"odd cookie":        {[]Place{{InCookie, "a=b"}}, `"a=b"`},
		"odd scheme":        {[]Place{{InAuthorization, "Bearer:"}}, `"Bearer:"`},
		"odd parameter":     {[]Place{{InQuery, "a b"}}, `"a b"`},
		"twice":             {[]Place{{InHeader, "X-API-Key"}, {InHeader, "x-api-key"}}, "given twice"},
		"scheme twice":      {[]Place{{InAuthorization, "Bearer"}, {InAuthorization, "bearer"}}, "given twice"},
		"Basic":             {[]Place{{InAuthorization, "basic"}}, "basic"},
		"Cookie header":     {[]Place{{InHeader, "cookie"}}, "cookie <name>"},
		"Host":              {[]Place{{InHeader, "host"}}, "Host"},
		"our header":        {[]Place{{InHeader, "x-key-secret"}}, "X-Key-Secret"},
		"Authorization":     {[]Place{{InHeader, "Authorization"}, {InAuthorization, "Bearer"}}, "not both"},
		"Authorization too": {[]Place{{InAuthorization, "Bearer"}, {InHeader, "Authorization"}}, "not both"},
		"too many":          {make([]Place, 17), "17 places"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewPlaces(tc.places...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	g, p := testGrammar(t), everywhere(t)
	for name, lines := range map[string][]string{
		"nothing":    nil,
		"Bearer":     {"Authorization: Bearer " + keyA},
		"X-API-Key":  {"X-Api-Key: " + keyA},
		"both":       {"Authorization: Bearer own", "X-Api-Key: " + keyA},
		"ambiguous":  {"Authorization: Bearer " + keyB, "X-Api-Key: " + keyA},
		"cookie":     {"Cookie: a=b; key=" + keyA},
		"query":      {"?a=%20b&api_key=" + keyA},
		"16 KiB own": {"Authorization: Bearer " + strings.Repeat("a", 16<<10)},
	} {
		r := newRequest(lines...)
		var v string
		if n := testing.AllocsPerRun(100, func() { v, _ = p.Find(r.h, r.u, g, false) }); n != 0 {
			t.Errorf("%s: Find allocates %v times (%q)", name, n, v)
		}
	}
	// Empty runs for every allowed request, so the test checks that it does not allocate.
	r := newRequest()
	value := []string{"Bearer " + keyA}
	if n := testing.AllocsPerRun(100, func() {
		r.h["Authorization"] = value
		p.Empty(r.h, r.u, g, false)
	}); n != 0 || len(r.h) != 0 {
		t.Errorf("Empty allocates %v times, left %v", n, r.h)
	}
}

// A request with more than maxValues credentials is ambiguous, and Empty removes all of them.
func TestManyCredentials(t *testing.T) {
	g := testGrammar(t)
	p := everywhere(t)
	for name, unit := range map[string]string{"Cookie: ": "key=a;", "?": "api_key=a&"} {
		r := newRequest(name + strings.Repeat(unit, maxValues))
		if v, err := p.Find(r.h, r.u, g, false); v != "a" || err != nil {
			t.Errorf("%s%d times: %q, %v", unit, maxValues, v, err)
		}
		r = newRequest(name+strings.Repeat(unit, maxValues+1), "X-Api-Key: a", "X-Other: b")
		if _, err := p.Find(r.h, r.u, g, false); err != ErrAmbiguous {
			t.Errorf("%s%d times: %v", unit, maxValues+1, err)
		}
		p.Empty(r.h, r.u, g, false)
		if got := r.lines(); !reflect.DeepEqual(got, []string{"X-Other: b"}) {
			t.Errorf("left is %q", got)
		}
	}
}
