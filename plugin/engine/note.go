package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A relative path of the SQLite file is resolved from the working directory. If an operator starts the
// gateway in another directory, the gateway would create a new database there and accept no key. So
// Config.Note keeps the path of the file that a configuration used last.

// storeIsNew reports whether Apply of the configuration c creates the SQLite file.
func (e *Engine) storeIsNew(c *Config) bool {
	if c.Note == "" {
		return false
	}
	info, err := os.Stat(e.target.Path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0
}

// noteStore writes the path of the SQLite file to the file c.Note. It warns if the SQLite file is new although the
// same configuration used one before.
func (e *Engine) noteStore(c *Config, isNew bool) {
	if c.Note == "" {
		return
	}
	path := e.target.Path
	b, _ := os.ReadFile(c.Note)
	before := strings.TrimSpace(string(b))
	if isNew {
		const remedy = "; the path in the configuration is relative to the working directory: state an absolute one"
		switch _, err := os.Stat(before); {
		case before == path:
			c.Log.Warn("a new, empty database was created, as the one that this configuration used before is gone: if it was not removed on purpose, restore it", "path", path)
		case before != "" && err == nil:
			c.Log.Warn("a new, empty database was created, although this configuration used another one before, whose keys are unknown here"+remedy, "path", path, "before", before)
		default:
			c.Log.Info("a new database was created"+remedy, "path", path)
		}
	}
	if before == path {
		return
	}
	err := os.MkdirAll(filepath.Dir(c.Note), 0o700)
	if err == nil {
		err = os.WriteFile(c.Note, []byte(path+"\n"), 0o600)
	}
	if err != nil {
		c.Log.Debug("the path of the database can't be remembered: a start in another directory will not be noticed", "file", c.Note, "error", err)
	}
}
