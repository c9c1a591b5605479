package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

// The kinds of stores and limiters that a configuration may name.
const (
	StoreSQLite   = "sqlite"
	StorePostgres = "postgres"

	limitsLocal = "local"
	LimitsRedis = "redis"
	ModeExact   = "exact"
	ModeLeased  = "leased"
)

// defaultStorePath is the SQLite file of a configuration that names none.
const defaultStorePath = "keygate.db"

// checkStores checks what the store, the limits, the peppers and the secret say, as far as that
// can be told without expanding a placeholder.
func (a *Config) checkStores() error {
	if s := a.Store; s != nil {
		switch s.Type {
		case "", StoreSQLite:
			if s.DSN != "" || s.Listen != "" || s.Replica != "" || s.MaxStaleness != 0 {
				return Errorf("store", "store sqlite takes a path; dsn, listen, replica and max_staleness are for postgres")
			}
		case StorePostgres:
			if s.DSN == "" {
				return Errorf("store", "store postgres needs the address of the server, such as {env.DATABASE_URL}")
			}
			if s.Path != "" {
				return Errorf("store", "store postgres takes no path; its local copy is named by replica")
			}
			if s.MaxStaleness < 0 {
				return Errorf("store.max_staleness", "max_staleness can't be negative")
			}
			for field, address := range map[string]string{"store": s.DSN, "store.listen": s.Listen} {
				if address == "" || HasPlaceholder(address) {
					continue
				}
				if err := postgres.CheckAddress(address); err != nil {
					return Errorf(field, "%w", err)
				}
			}
		default:
			return Errorf("store", "unknown store '%s' (there is sqlite, postgres)", s.Type)
		}
	}
	if l := a.Limits; l != nil {
		switch l.Type {
		case "", limitsLocal:
			if l.Address != "" || l.Mode != "" || l.Timeout != 0 {
				return Errorf("limits", "limits local takes nothing further; an address, mode and timeout are for redis")
			}
		case LimitsRedis:
			if l.Address == "" {
				return Errorf("limits", "limits redis needs the address of the server, such as {env.REDIS_URL}")
			}
			if !HasPlaceholder(l.Address) {
				if _, err := redis.New(redis.Options{URL: l.Address}); err != nil {
					return Errorf("limits", "limits redis: %w", err)
				}
			}
			if l.Mode != "" && l.Mode != ModeExact && l.Mode != ModeLeased {
				return Errorf("limits.mode", "mode is 'exact' or 'leased', not '%s'", l.Mode)
			}
			if l.Timeout < 0 {
				return Errorf("limits.timeout", "timeout can't be negative")
			}
		default:
			return Errorf("limits", "unknown limits '%s' (there is local, redis)", l.Type)
		}
	}
	for name, ks := range a.Configured() {
		switch field := "keyspaces." + name + ".max_staleness"; {
		case ks == nil || ks.MaxStaleness == 0:
		case ks.MaxStaleness < 0:
			return Errorf(field, "max_staleness can't be negative")
		case a.Store == nil || a.Store.Type != StorePostgres:
			return Errorf(field, "max_staleness is for store postgres: a gateway is never cut off from an SQLite store, its own file")
		}
	}
	for i, p := range a.Peppers {
		if p == "" {
			return Errorf(fmt.Sprintf("peppers[%d]", i), "a pepper is empty")
		}
	}
	for i, p := range a.ImportPeppers {
		if p == "" {
			return Errorf(fmt.Sprintf("import_peppers[%d]", i), "an import_pepper is empty")
		}
	}
	return nil
}

// HasPlaceholder reports whether a value of the configuration is not known before it is loaded.
func HasPlaceholder(value string) bool { return strings.Contains(value, "{") }

// Secrets are the configuration's strings with their placeholders expanded. They stay
// out of App's exported fields, which are printed by logs and Caddy's /config/.
type Secrets struct {
	StorePath string
	// DSN and listen are addresses of PostgreSQL, replica is the file of the local copy; node
	// names this process.
	DSN, listen, Replica, node string
	peppers                    []string
	// importPeppers are of keys that were imported.
	importPeppers []string
	secret        string
	Limits        engine.Limits
}

// expand expands the placeholders. Where a value is needed an empty one is an error, which names
// the placeholder and never the value.
func (a *Config) expand(repl *caddy.Replacer) (s Secrets, err error) {
	s.StorePath = defaultStorePath
	if a.Store != nil && a.Store.Path != "" {
		if s.StorePath, err = expand(repl, "store", a.Store.Path); err != nil {
			return Secrets{}, err
		}
	}
	if err = a.expandShared(repl, &s); err != nil {
		return Secrets{}, err
	}
	if s.Limits, err = a.limitsOf(repl); err != nil {
		return Secrets{}, err
	}
	for i, p := range a.Peppers {
		v, err := expand(repl, fmt.Sprintf("peppers[%d]", i), p)
		if err != nil {
			return Secrets{}, err
		}
		s.peppers = append(s.peppers, v)
	}
	for i, p := range a.ImportPeppers {
		v, err := expand(repl, fmt.Sprintf("import_peppers[%d]", i), p)
		if err != nil {
			return Secrets{}, err
		}
		s.importPeppers = append(s.importPeppers, v)
	}
	if s.secret, err = a.expandSecret(repl); err != nil {
		return Secrets{}, err
	}
	return s, nil
}

// expandSecret returns the secret, "" where there is none.
func (a *Config) expandSecret(repl *caddy.Replacer) (string, error) {
	switch {
	case a.Secret == "" && a.SecretOptional:
		return "", Errorf("secret_optional", "no secret is stated that could be empty")
	case a.Secret == "":
		return "", nil
	case a.SecretOptional:
		if out, err := repl.ReplaceOrErr(a.Secret, false, true); err != nil || strings.TrimSpace(out) == "" {
			return "", err
		}
	}
	return expand(repl, "secret", a.Secret)
}

// expand replaces the placeholders of one field's value.
func expand(repl *caddy.Replacer, field, value string) (string, error) {
	out, err := repl.ReplaceOrErr(value, true, true)
	if err != nil {
		return "", Errorf(field, "%w: it needs a value", err)
	}
	if strings.TrimSpace(out) == "" {
		return "", Errorf(field, "it needs a value")
	}
	return out, nil
}

// storeIdentity names the resource an engine serves, so that configurations which mean the
// same store share one engine, and refuses stores that this build does not have.
func (a *Config) storeIdentity(s Secrets) (id, path string, err error) {
	if a.Store != nil && a.Store.Type == StorePostgres {
		return sharedIdentity(s)
	}
	if strings.ContainsAny(s.StorePath, "\x00?#") {
		return "", "", Errorf("store", "the path of the store holds a NUL, '?' or '#'")
	}
	// Where the directory does not exist the absolute path is used; opening the store returns the error.
	if path, err = sqlite.Identity(s.StorePath); err != nil {
		if path, err = filepath.Abs(s.StorePath); err != nil {
			return "", "", Errorf("store", "finding the working directory: %w", err)
		}
	}
	return StoreSQLite + ":" + path, path, nil
}

// limitsOf expands and checks the option limits. It does not connect.
func (a *Config) limitsOf(repl *caddy.Replacer) (k engine.Limits, err error) {
	l := a.Limits
	if l == nil || l.Type != LimitsRedis {
		return engine.Limits{}, nil
	}
	k = engine.Limits{Leased: l.Mode == ModeLeased, Timeout: time.Duration(l.Timeout)}
	if k.Redis, err = expand(repl, "limits", l.Address); err != nil {
		return engine.Limits{}, err
	}
	if _, err := redis.New(redis.Options{URL: k.Redis}); err != nil {
		return engine.Limits{}, Errorf("limits", "limits redis: %w", err)
	}
	return k, nil
}
