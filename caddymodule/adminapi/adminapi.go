// Package adminapi holds names and types that the admin endpoint and the commands which call it
// share.
package adminapi

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/management"
)

const (
	// Prefix is the path of the management API on Caddy's admin endpoint.
	Prefix = "/keygate"
	// BackupPath is the path of backup requests under Prefix. It is not part of the management
	// API, because a backup writes a file on the gateway's machine. Only a user who may configure
	// the server may do that.
	BackupPath = "/backup"
	// ViaHeader is the header in which a client names its program; the commands send "cli".
	ViaHeader = "Keygate-Via"
	// CodeNotRunning is the error code of responses while no keygate app runs.
	CodeNotRunning = "not_running"
)

// Backup is the body of a backup request and of its response.
type Backup struct {
	// File is the absolute path of the backup on the gateway's machine.
	File string `json:"file"`
	// Bytes is the size of the backup; only the response has it.
	Bytes int64 `json:"bytes,omitempty"`
}

// Backuper is a store that can write a backup of itself.
type Backuper interface {
	// Backup writes the whole store to a new file and returns its size in bytes.
	Backup(ctx context.Context, file string) (int64, error)
}

// Access returns full access, because Caddy's admin endpoint has authenticated the caller. The
// audit records the actor that the request names.
func Access(r *http.Request) (api.Access, error) {
	name, ip, err := api.RequestedActor(r)
	if err != nil {
		return api.Access{}, err
	}
	actor := management.Actor{Name: name, IP: ip, Via: "admin"}
	if actor.Name == "" {
		actor.Name = "admin"
	}
	if r.Header.Get(ViaHeader) == "cli" {
		actor.Via = "cli"
	}
	if actor.IP == "" {
		// A connection over a Unix socket has no address.
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			actor.IP = from.Addr().Unmap().String()
		}
	}
	return api.Access{Actor: actor}, nil
}
