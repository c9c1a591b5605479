package cli

import (
	"net/url"
	"strings"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/management"
)

// Caddy's admin endpoint logs the URL and the headers of each call, so a command puts no key
// there. If an argument holds a key, the command fails before the call, with an error that
// explains how to name the key.

// shownOfKey is the greatest number of characters of a key's beginning that lists show.
const shownOfKey = 12

// defaultGrammar is the grammar of keyspaces with default prefixes. A command does not know the
// grammars of other keyspaces.
var defaultGrammar = func() *apikey.Grammar {
	g, err := apikey.NewGrammar(nil, apikey.Format{}, nil)
	if err != nil {
		panic(err)
	}
	return g
}()

// checkSecrets returns an error if the call's URL or headers hold a key or a token.
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

// checkSecret returns an error if the argument s holds a key or a token. If key is true, s should
// be a key's id. Then every other text that looks random is also an error, because the keyspace's
// prefix is unknown here.
func checkSecret(s string, key bool) error {
	switch {
	case management.CleanTokens(s) != s:
		return usagef("an argument holds a management token: name the token by its id instead, which 'caddy keygate token list' shows")
	case defaultGrammar.Clean(s) != s, key && !management.IsKeyID(s) && mayBeSecret(s):
		return usagef("an argument looks like an API key: name the key by its id (key_…) instead. 'caddy keygate explain --key-file -' reads the key from standard input and shows the id; 'caddy keygate key list' shows all ids")
	}
	return nil
}

// mayBeSecret reports whether s may be a random secret: it is longer than 40 bytes, or at least 16
// bytes long with a digit or capital.
func mayBeSecret(s string) bool {
	return len(s) > 40 || len(s) >= 16 && strings.ContainsAny(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
}
