package config

// CheckWithoutPlaceholders runs the checks that also run when a Caddyfile is adapted, before
// placeholders are expanded.
func (c *Config) CheckWithoutPlaceholders() error {
	_, err := c.compile()
	return err
}
