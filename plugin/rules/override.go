package rules

// And returns the verdict that is as strict as both v and w.
func (v Verdict) And(w Verdict) Verdict {
	v.Add(w)
	return v
}

// Methods returns the methods in the lines of c, each once, in the order of their first line.
func (c *Config) Methods() []string {
	var out []string
	seen := make(map[string]bool)
	note := func(p Pattern) {
		for _, m := range p.Methods {
			if !seen[m] {
				seen[m] = true
				out = append(out, m)
			}
		}
	}
	for _, list := range [][]Pattern{c.Only, c.Except, c.Public, c.Optional, c.Protect} {
		for _, p := range list {
			note(p)
		}
	}
	for _, r := range c.Scopes {
		note(r.Pattern)
	}
	for _, r := range c.Costs {
		note(r.Pattern)
	}
	return out
}
