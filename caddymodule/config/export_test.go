package config

// CheckWithoutPlaceholders checks what adapting a Caddyfile checks.
func (c *Config) CheckWithoutPlaceholders() error {
	_, err := c.compile()
	return err
}
