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

// Types of stores and limiters, and modes of the limiter redis.
const (
	StoreSQLite   = "sqlite"
	StorePostgres = "postgres"

	limitsLocal = "local"
	LimitsRedis = "redis"
	ModeExact   = "exact"
	ModeLeased  = "leased"
)

// defaultStorePath is the SQLite file of a configuration that sets none.
const defaultStorePath = "keygate.db"

// defaultStoreWait is how long a start waits for the SQLite file of a process that is about to stop.
const defaultStoreWait = time.Minute

// checkStores checks the store, the limits, the peppers and the secret without expanding
// placeholders.
func (a *Config) checkStores() error {
	if s := a.Store; s != nil {
		switch s.Type {
		case "", StoreSQLite:
			if s.DSN != "" || s.Listen != "" || s.Replica != "" || s.MaxStaleness != 0 {
				return Errorf("store", "store sqlite takes a path; dsn, listen, replica and max_staleness are for postgres")
			}
			if s.Wait < 0 {
				return Errorf("store.wait", "wait can't be negative")
			}
		case StorePostgres:
			if s.DSN == "" {
				return Errorf("store", "store postgres needs the address of the server, such as {env.DATABASE_URL}")
			}
			if s.Path != "" {
				return Errorf("store", "store postgres takes no path; the option replica names the file of its local copy")
			}
			if s.Wait != 0 {
				return Errorf("store", "store postgres takes no wait: several gateways may use the database at once")
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
			return Errorf("store", "unknown store '%s' (available: sqlite, postgres)", s.Type)
		}
	}
	if l := a.Limits; l != nil {
		switch l.Type {
		case "", limitsLocal:
			if l.Address != "" || l.Mode != "" || l.Timeout != 0 {
				return Errorf("limits", "limits local takes no options; address, mode and timeout are for redis")
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
			return Errorf("limits", "unknown limits '%s' (available: local, redis)", l.Type)
		}
	}
	for name, ks := range a.Configured() {
		switch field := "keyspaces." + name + ".max_staleness"; {
		case ks == nil || ks.MaxStaleness == 0:
		case ks.MaxStaleness < 0:
			return Errorf(field, "max_staleness can't be negative")
		case a.Store == nil || a.Store.Type != StorePostgres:
			return Errorf(field, "max_staleness is for store postgres: an SQLite store is a local file, so it never becomes unreachable")
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

// HasPlaceholder reports whether value holds a placeholder, so that its text is unknown until the
// configuration is loaded.
func HasPlaceholder(value string) bool { return strings.Contains(value, "{") }

// Secrets holds strings of the configuration with their placeholders expanded. They are kept apart
// from Config, which Caddy logs and serves at /config/.
type Secrets struct {
	StorePath string
	storeWait time.Duration
	// DSN and listen are connection strings of PostgreSQL, Replica is the file of the local copy,
	// and node is this process's name.
	DSN, listen, Replica, node string
	peppers                    []string
	// importPeppers are the peppers of imported keys.
	importPeppers []string
	secret        string
	Limits        engine.Limits
}

// expand expands the placeholders. An empty result is an error if the field needs a value. The
// error names the placeholder, never the value.
func (a *Config) expand(repl *caddy.Replacer) (s Secrets, err error) {
	s.StorePath, s.storeWait = defaultStorePath, defaultStoreWait
	if a.Store != nil && a.Store.Wait > 0 {
		s.storeWait = time.Duration(a.Store.Wait)
	}
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

// expandSecret returns the secret with its placeholders expanded, or "" if there is none.
func (a *Config) expandSecret(repl *caddy.Replacer) (string, error) {
	switch {
	case a.Secret == "" && a.SecretOptional:
		return "", Errorf("secret_optional", "secret_optional needs secret: state a secret, or remove secret_optional")
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
		return "", Errorf(field, "%w: a value is required", err)
	}
	if strings.TrimSpace(out) == "" {
		return "", Errorf(field, "a value is required")
	}
	return out, nil
}

// storeIdentity returns an id for the store, and its path. Configurations with the same id share
// one engine, so that a reload keeps the engine.
func (a *Config) storeIdentity(s Secrets) (id, path string, err error) {
	if a.Store != nil && a.Store.Type == StorePostgres {
		return sharedIdentity(s)
	}
	if strings.ContainsAny(s.StorePath, "\x00?#") {
		return "", "", Errorf("store", "the path of the store holds a NUL, '?' or '#'")
	}
	// If the directory does not exist, the absolute path identifies the store. The missing directory is reported when the store
	// is opened.
	if path, err = sqlite.Identity(s.StorePath); err != nil {
		if path, err = filepath.Abs(s.StorePath); err != nil {
			return "", "", Errorf("store", "finding the working directory: %w", err)
		}
	}
	return StoreSQLite + ":" + path, path, nil
}

// limitsOf expands and checks the option limits. It opens no connection.
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
