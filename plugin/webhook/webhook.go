// Package webhook delivers events over HTTP, as the Standard Webhooks specification defines
// (https://www.standardwebhooks.com). It also publishes the events that no management request causes: expiries, unused
// keys, limits that are reached.
//
// Deliveries are rows of the store, written in the transaction that causes the event: see package management. A
// Service claims the deliveries that are due, makes a few attempts at a time for each endpoint, and stores
// their outcome. A claim without an outcome, as after a crash, is due again: so each event is delivered at
// least once, and may be delivered twice, with the same webhook-id.
//
//	service.go    the goroutines
//	deliver.go    claims of due deliveries, and their outcome
//	send.go       one attempt
//	guard.go      the addresses that may be dialled
//	listens.go    the addresses of this process
//	signature.go  signing
//	vault.go      encryption of secrets at rest
//	watch.go      events of limits, quotas and credits
//	scan.go       events that time causes, and pruning
package webhook

import (
	"log/slog"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// Options configures a Service. Store, Manager, Settings and Keyspaces must be set.
type Options struct {
	Store   management.Store
	Manager *management.Manager
	// Settings returns the running configuration's settings for the webhooks of a keyspace.
	// Keyspaces returns the names of its keyspaces.
	Settings  func(keyspace string) webhooks.Settings
	Keyspaces func() []string
	// Node names this process among those that share the store. Default: "local".
	Node string
	// Logger receives messages for operators. Default: none are logged.
	Logger *slog.Logger
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Schedule holds the pause after each failed attempt. A delivery that fails after the last one is dead. Default:
	// DefaultSchedule.
	Schedule []time.Duration
	// Timeout bounds one attempt. Default: 15s.
	Timeout time.Duration
	// Poll is how often the Service looks for deliveries that another process has stored. Default: 2s.
	Poll time.Duration
	// Scan is how often the Service looks for keys that expire. ScanUnused is how often it looks for unused keys. Defaults: one
	// minute, and six hours.
	Scan, ScanUnused time.Duration
	// Checkpoints is how often a checkpoint of the audit chain is published, if the chain has grown. Default: one hour.
	Checkpoints time.Duration
}

// DefaultSchedule allows a delivery eleven attempts within a day.
func DefaultSchedule() []time.Duration {
	return []time.Duration{
		5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour, 10 * time.Hour,
	}
}

const (
	defaultTimeout     = 15 * time.Second
	defaultPoll        = 2 * time.Second
	defaultScan        = time.Minute
	defaultUnused      = 6 * time.Hour
	defaultCheckpoints = time.Hour

	// maxPerEndpoint bounds the attempts for one webhook at the same time. maxPerSlowEndpoint is the bound for a webhook whose
	// last attempt got no response.
	maxPerEndpoint     = 4
	maxPerSlowEndpoint = 1
	// maxAttempts bounds all attempts at the same time. It is large enough that endpoints which never respond do not
	// delay the others.
	maxAttempts = 512
	// claimMargin is how much longer than Timeout a claim lasts, for the time to store the outcome.
	claimMargin = 15 * time.Second
	// eventRetention is how long events and their deliveries are kept.
	eventRetention = 30 * 24 * time.Hour
	// oneShotRetention is how long the store remembers which one-shot events were published. It is longer than the age of any
	// event that may still come: warnings come at most 366 days ahead, and events of the past for one week.
	oneShotRetention = 400 * 24 * time.Hour
	// pruneBatch is how many rows one transaction removes.
	pruneBatch = 500
)
