// Package adminapi holds what the admin endpoint and the commands that call it agree on.
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
	// BackupPath is where, under Prefix, a backup is requested. It is not a part of the management API: it writes
	// a file on the gateway's machine, as only a user who may configure the server can.
	BackupPath = "/backup"
	// ViaHeader names the program that sends a request: "cli" for the commands.
	ViaHeader = "Keygate-Via"
	// CodeNotRunning is the code of the response while no keygate app runs.
	CodeNotRunning = "not_running"
)

// Backup is the body of a request for a backup, and of its response.
type Backup struct {
	// File is the absolute path of the backup on the gateway's machine.
	File string `json:"file"`
	// Bytes is the size of the backup.
	Bytes int64 `json:"bytes,omitempty"`
}

// Backuper is a store that writes backups of itself.
type Backuper interface {
	// Backup writes the whole store to a new file and returns its size in bytes.
	Backup(ctx context.Context, file string) (int64, error)
}

// Access allows everything: Caddy's admin endpoint has authenticated the caller. The name that the audit records
// is the one that the caller states.
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
		// A Unix socket has none.
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			actor.IP = from.Addr().Unmap().String()
		}
	}
	return api.Access{Actor: actor}, nil
}
