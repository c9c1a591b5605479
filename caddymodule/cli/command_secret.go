package cli

import (
	"net/url"
	"strings"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/management"
)

// Caddy's admin endpoint logs the URL and the headers of each call. So a command sends no key in them: it
// fails before the call; its error explains how to name the key.

// shownOfKey is how many characters of a key's beginning are shown at most.
const shownOfKey = 12

// defaultGrammar is the grammar of keyspaces that state no prefix. A command does not know any other.
var defaultGrammar = func() *apikey.Grammar {
	g, err := apikey.NewGrammar(nil, apikey.Format{}, nil)
	if err != nil {
		panic(err)
	}
	return g
}()

// checkSecrets refuses a call that would put a key or a token into its URL or its headers.
func (c *client) checkSecrets(path string, query url.Values) error {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		s, err := url.PathUnescape(s)
		if err != nil {
			return err
		}
		if err := checkSecret(s, i > 0 && segments[i-1] == "keys"); err != nil {
			return err
		}
	}
	for name, values := range query {
		for _, v := range values {
			if name == "prefix" && len(v) > shownOfKey {
				return usagef("--prefix takes at most the %d characters that are shown of a key", shownOfKey)
			}
			if err := checkSecret(v, name == "key"); err != nil {
				return err
			}
		}
	}
	actor, err := url.PathUnescape(c.header.Get(api.ActorHeader))
	if err != nil {
		return err
	}
	return checkSecret(actor, false)
}

// checkSecret refuses an argument that holds a key or a token. key reports whether the argument names a key: then
// the prefix need not be known, since all but an id is refused that may be random.
func checkSecret(s string, key bool) error {
	switch {
	case management.CleanTokens(s) != s:
		return usagef("an argument holds a management token, which does not belong there: name the token by its id, which 'caddy keygate token list' shows")
	case defaultGrammar.Clean(s) != s, key && !management.IsKeyID(s) && mayBeSecret(s):
		return usagef("an argument looks like an API key, which does not belong there: name the key by its id (key_…). 'caddy keygate explain --key-file -' reads the key from standard input and shows the id; 'caddy keygate key list' shows all ids")
	}
	return nil
}

// mayBeSecret reports whether s is longer than a name that is typed, or has digits or capitals as random
// characters do.
func mayBeSecret(s string) bool {
	return len(s) > 40 || len(s) >= 16 && strings.ContainsAny(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
}
