package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// ParseGlobalOption reads the global option `keygate`. Every line is optional:
//
//	keygate {
//		store sqlite <path> {
//			wait <duration>
//		}
//		store postgres <dsn> {
//			listen        <dsn>
//			replica       <path>
//			max_staleness <duration>
//		}
//		node <name>
//		limits local
//		limits redis <url> {
//			mode    exact|leased
//			timeout <duration>
//		}
//		pepper <pepper> [<previous>...]
//		import_pepper <pepper>...
//		secret <secret> [optional]
//		leaks {
//			github_keys <file>
//		}
//
//		<keyspace options of the keyspace "default", see keyspaceOptions>
//		keyspace <name> {
//			<keyspace options>
//		}
//	}
//
// A second global option `keygate` is an error, because nothing states which of two settings wins.
func ParseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // This call skips the name of the option.
	if existing != nil {
		return nil, d.Err("the global option keygate is stated twice: put all options into one block")
	}
	app := new(Config)
	if err := parseApp(d, app); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: AppName, Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up c from the global option's block; see ParseGlobalOption.
func (c *Config) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return parseApp(d, c)
}

// option is one option of a block: a line that begins with the option's name.
type option struct {
	// parse reads the rest of the line, and the option's own block if it has one. The dispenser's
	// current token is the option's name.
	parse func(d *caddyfile.Dispenser) error
	// repeatable options may be stated more than once.
	repeatable bool
}

type options map[string]option

// block reads a block's lines with the options in opts. what names the block in error messages.
// The dispenser's current token is the last one before the block.
func block(d *caddyfile.Dispenser, what string, opts options) error {
	stated := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		o, ok := opts[name]
		switch {
		case ok:
		case name == "{":
			return d.Errf("unexpected '{' in %s: the option before it has no block", what)
		case len(opts) == 0:
			return d.Errf("%s has no options, but '%s' is stated", what, name)
		default:
			return d.Errf("unrecognized option '%s' in %s (available: %s)", name, what, strings.Join(slices.Sorted(maps.Keys(opts)), ", "))
		}
		if stated[name] && !o.repeatable {
			return d.Errf("'%s' is stated twice in %s", name, what)
		}
		stated[name] = true
		if err := o.parse(d); err != nil {
			return err
		}
	}
	return nil
}

// args returns the arguments in the rest of the line. It returns an error unless their number is at least low and at most
// high; a negative high sets no upper bound. usage is the syntax of the line for the error message.
func args(d *caddyfile.Dispenser, low, high int, usage string) ([]string, error) {
	// The error must name the line of the option, but RemainingArgs moves d past that line. So the copy keeps the position.
	at := *d
	out := d.RemainingArgs()
	if len(out) < low || high >= 0 && len(out) > high || slices.Contains(out[:min(low, len(out))], "") {
		return nil, at.Errf("'%s' has the wrong number of arguments; the syntax is '%s'", at.Val(), usage)
	}
	return out, nil
}

// parser reads the global option keygate.
type parser struct {
	app   *Config
	lines lines
	// named holds the names of the keyspaces that have a block.
	named map[string]bool
}

// parseApp reads the global option's block into app and checks the whole configuration, so that
// errors name file and line. The dispenser's current token is the option's name.
func parseApp(d *caddyfile.Dispenser, app *Config) error {
	if _, err := args(d, 0, 0, "keygate { … }"); err != nil {
		return err
	}
	p := &parser{app: app, lines: make(lines), named: make(map[string]bool)}
	own := new(KeyspaceConfig)
	opts := p.keyspaceOptions("keyspaces."+DefaultKeyspace, own)
	ownOptions := slices.Collect(maps.Keys(opts))
	ownStated := false
	for _, name := range ownOptions {
		o := opts[name]
		opts[name] = option{repeatable: o.repeatable, parse: func(d *caddyfile.Dispenser) error {
			if !ownStated {
				ownStated = true
				p.lines.note("keyspaces."+DefaultKeyspace, d)
			}
			return o.parse(d)
		}}
	}
	maps.Copy(opts, options{
		"store": {parse: p.store},
		"node": {parse: func(d *caddyfile.Dispenser) error {
			p.lines.note("node", d)
			return oneArg(d, "node <name>", &app.Node)
		}},
		"limits": {parse: p.limits},
		"pepper": {parse: func(d *caddyfile.Dispenser) error {
			return p.pepper(d, "peppers", "pepper <pepper> [<previous>...]", &app.Peppers)
		}},
		"import_pepper": {parse: func(d *caddyfile.Dispenser) error {
			return p.pepper(d, "import_peppers", "import_pepper <pepper>...", &app.ImportPeppers)
		}},
		"secret":   {parse: p.secret},
		"leaks":    {parse: p.leaks},
		"keyspace": {parse: p.keyspace, repeatable: true},
	})
	if err := block(d, "keygate", opts); err != nil {
		return err
	}
	if ownStated {
		if p.named[DefaultKeyspace] {
			return p.lines.locate(d, Errorf("keyspaces."+DefaultKeyspace,
				"the keyspace default is stated twice: in a keyspace block, and by options outside of any"))
		}
		p.put(DefaultKeyspace, own)
	}
	_, err := app.compile()
	LastAdapted.setGlobal(p.lines)
	return p.lines.locate(d, err)
}

// put adds a keyspace to the app.
func (p *parser) put(name string, ks *KeyspaceConfig) {
	if p.app.Keyspaces == nil {
		p.app.Keyspaces = make(map[string]*KeyspaceConfig)
	}
	p.app.Keyspaces[name] = ks
}

// keyspace reads `keyspace <name> { … }`.
func (p *parser) keyspace(d *caddyfile.Dispenser) error {
	at := d.Token()
	a, err := args(d, 1, 1, "keyspace <name> { … }")
	if err != nil {
		return err
	}
	name := a[0]
	path := "keyspaces." + name
	if p.named[name] {
		return d.Errf("keyspace '%s' is stated twice", name)
	}
	p.named[name] = true
	ks := new(KeyspaceConfig)
	opts := p.keyspaceOptions(path, ks)
	opts["keyspace"] = option{parse: func(d *caddyfile.Dispenser) error {
		return d.Err("a keyspace block can't be inside another")
	}}
	for _, global := range []string{"store", "node", "limits", "pepper", "import_pepper", "secret", "leaks"} {
		opts[global] = option{parse: func(d *caddyfile.Dispenser) error {
			return d.Errf("'%s' applies to all keyspaces: put it outside of keyspace blocks", global)
		}}
	}
	p.put(name, ks)
	if err := block(d, "keyspace "+name, opts); err != nil {
		return err
	}
	if _, ok := p.lines[path]; !ok {
		p.lines[path] = at
	}
	return nil
}

// store reads `store sqlite [<path>] { … }` and `store postgres <dsn> { … }`.
func (p *parser) store(d *caddyfile.Dispenser) error {
	p.lines.note("store", d)
	a, err := args(d, 1, 2, "store sqlite [<path>]' or 'store postgres <dsn>")
	if err != nil {
		return err
	}
	s := &StoreConfig{Type: a[0]}
	p.app.Store = s
	switch s.Type {
	case StoreSQLite:
		if len(a) == 2 {
			s.Path = a[1]
		}
		if len(a) == 2 && s.Path == "" {
			return d.Err("the path of the store is empty")
		}
		return block(d, "store sqlite", options{
			"wait": {parse: func(d *caddyfile.Dispenser) error {
				p.lines.note("store.wait", d)
				return duration(d, &s.Wait)
			}},
		})
	case StorePostgres:
		if len(a) == 2 {
			s.DSN = a[1]
		}
		return block(d, "store postgres", options{
			"listen": {parse: func(d *caddyfile.Dispenser) error {
				p.lines.note("store.listen", d)
				return oneArg(d, "listen <dsn>", &s.Listen)
			}},
			"replica": {parse: func(d *caddyfile.Dispenser) error {
				return oneArg(d, "replica <path>", &s.Replica)
			}},
			"max_staleness": {parse: func(d *caddyfile.Dispenser) error {
				p.lines.note("store.max_staleness", d)
				return duration(d, &s.MaxStaleness)
			}},
		})
	}
	return nil // checkStores rejects the unknown type later
}

// limits reads `limits local` and `limits redis <url> { … }`.
func (p *parser) limits(d *caddyfile.Dispenser) error {
	p.lines.note("limits", d)
	a, err := args(d, 1, 2, "limits local' or 'limits redis <url>")
	if err != nil {
		return err
	}
	l := &LimitsConfig{Type: a[0]}
	p.app.Limits = l
	if len(a) == 2 {
		l.Address = a[1]
	}
	if l.Type != LimitsRedis {
		return block(d, "limits "+l.Type, options{})
	}
	return block(d, "limits redis", options{
		"mode": {parse: func(d *caddyfile.Dispenser) error {
			p.lines.note("limits.mode", d)
			return oneArg(d, "mode exact|leased", &l.Mode)
		}},
		"timeout": {parse: func(d *caddyfile.Dispenser) error {
			p.lines.note("limits.timeout", d)
			return duration(d, &l.Timeout)
		}},
	})
}

// pepper reads `pepper <pepper> [<previous>...]` and `import_pepper <pepper>...`.
func (p *parser) pepper(d *caddyfile.Dispenser, field, usage string, to *[]string) error {
	p.lines.note(field, d)
	a, err := args(d, 1, -1, usage)
	if err != nil {
		return err
	}
	for i, pepper := range a {
		if slices.Contains(a[:i], pepper) {
			return d.Err("the same pepper is stated twice")
		}
	}
	*to = a
	return nil
}

// secret reads `secret <secret> [optional]`.
func (p *parser) secret(d *caddyfile.Dispenser) error {
	p.lines.note("secret", d)
	a, err := args(d, 1, 2, "secret <secret> [optional]")
	if err != nil {
		return err
	}
	if len(a) == 2 && a[1] != "optional" {
		return d.Errf("secret: only the word 'optional' may follow the secret, which allows an empty secret")
	}
	p.app.Secret, p.app.SecretOptional = a[0], len(a) == 2
	return nil
}

// oneArg reads a line that has exactly one argument into to.
func oneArg(d *caddyfile.Dispenser, usage string, to *string) error {
	a, err := args(d, 1, 1, usage)
	if err != nil {
		return err
	}
	*to = a[0]
	return nil
}

// bare reads a line without arguments and sets to.
func bare(d *caddyfile.Dispenser, to *bool) error {
	if _, err := args(d, 0, 0, d.Val()); err != nil {
		return err
	}
	*to = true
	return nil
}

// duration reads a line whose only argument is a positive duration, such as 5ms, 1h or 7d.
func duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	name := d.Val()
	var text string
	if err := oneArg(d, name+" <duration>", &text); err != nil {
		return err
	}
	v, err := caddy.ParseDuration(text)
	if err != nil || v <= 0 {
		return d.Errf("%s: '%s' is not a duration (examples: 5ms, 1h, 7d)", name, text)
	}
	*to = caddy.Duration(v)
	return nil
}

var _ caddyfile.Unmarshaler = (*Config)(nil)
