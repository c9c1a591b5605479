package caddymodule

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// A relative path of the SQLite file counts from the working directory. Started in another one, a gateway
// would create a new database there and know no key. So the file that a configuration used last is noted in
// Caddy's data directory.

// storeIsNew reports whether the start of a creates the SQLite file, whose path is relative.
func (a *App) storeIsNew() bool {
	if a.engine.where.shared() || filepath.IsAbs(a.secrets.storePath) {
		return false
	}
	info, err := os.Stat(a.engine.where.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0
}

// noteStore notes the SQLite file of a, where its path is relative, and warns where it is new although the same
// configuration had one before.
func (a *App) noteStore(isNew bool) {
	path := a.engine.where.path
	if a.engine.where.shared() || filepath.IsAbs(a.secrets.storePath) {
		return
	}
	note := filepath.Join(caddy.AppDataDir(), appName, "store-"+a.hash())
	b, _ := os.ReadFile(note)
	before := strings.TrimSpace(string(b))
	if isNew {
		const remedy = "; the path in the configuration is relative to the working directory: state an absolute one"
		switch _, err := os.Stat(before); {
		case before == path:
			a.log.Warn("a new, empty database was created where this configuration had one before, which is gone: if it was not removed on purpose, restore it", "path", path)
		case before != "" && err == nil:
			a.log.Warn("a new, empty database was created, although this configuration has one elsewhere, whose keys are not known here"+remedy, "path", path, "before", before)
		default:
			a.log.Info("a new database was created"+remedy, "path", path)
		}
	}
	if before == path {
		return
	}
	err := os.MkdirAll(filepath.Dir(note), 0o700)
	if err == nil {
		err = os.WriteFile(note, []byte(path+"\n"), 0o600)
	}
	if err != nil {
		a.log.Debug("the path of the database can't be noted", "error", err)
	}
}
