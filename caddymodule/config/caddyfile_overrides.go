package config

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keygate-dev/keygate/plugin/rules"
)

// CompileUpgrades compiles allow_upgrade; nil if the option is absent. Its patterns match like
// those of the option public.
func (c *HandlerConfig) CompileUpgrades() (*rules.Set, error) {
	var part rules.Config
	for i, p := range c.AllowUpgrade {
		path := fmt.Sprintf("allow_upgrade[%d]", i)
		if len(p.Methods) > 0 {
			return nil, Errorf(path, "allow_upgrade: '%s' names methods, but an upgrade is always a GET: write the path alone", p)
		}
		part.Public = c.AllowUpgrade[:i+1]
		if _, err := rules.New(part, nil); err != nil {
			_, what, _ := strings.Cut(err.Error(), ": ")
			return nil, Errorf(path, "allow_upgrade '%s': %s", p, what)
		}
	}
	if len(part.Public) == 0 {
		return nil, nil
	}
	return rules.New(part, nil)
}

// upgradeOption returns the option allow_upgrade.
func upgradeOption(l lines, c *HandlerConfig) option {
	return option{repeatable: true, parse: func(d *caddyfile.Dispenser) error {
		at := *d
		a, err := args(d, 1, -1, "allow_upgrade <path>...")
		if err != nil {
			return err
		}
		patterns, err := rules.ParsePatterns(a)
		if err != nil {
			return at.Errf("allow_upgrade: %w", err)
		}
		for _, p := range patterns {
			l.note(fmt.Sprintf("allow_upgrade[%d]", len(c.AllowUpgrade)), &at)
			c.AllowUpgrade = append(c.AllowUpgrade, p)
		}
		return nil
	}}
}

// Values of method_override.
const (
	OverrideCheck = "check"
	OverridePass  = "pass"
)

// checkOverrides checks the options method_override and keep_overrides.
func (c *HandlerConfig) checkOverrides() error {
	switch {
	case c.MethodOverride != "" && c.MethodOverride != OverrideCheck && c.MethodOverride != OverridePass:
		return Errorf("method_override", "method_override is 'check' or 'pass', not '%s'", c.MethodOverride)
	case c.MethodOverride != "" && c.KeepOverrides:
		return Errorf("method_override", "method_override replaces keep_overrides: remove keep_overrides")
	}
	return nil
}

// overrideOption returns the option method_override.
func overrideOption(l lines, c *HandlerConfig) option {
	return option{parse: func(d *caddyfile.Dispenser) error {
		l.note("method_override", d)
		return oneArg(d, "method_override check|pass", &c.MethodOverride)
	}}
}
