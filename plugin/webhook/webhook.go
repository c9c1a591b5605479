// Package webhook carries events to those who want to hear of them, over HTTP, as the
// Standard Webhooks specification has it (https://www.standardwebhooks.com), and sees to the events
// that nobody causes: expiries, keys that are not used, limits that are reached.
//
// What is to be delivered stands in the store, written in the transaction that made it
// happen: see package management. A Service takes what is due, gives each endpoint a few attempts
// at a time, and writes down how they ended. What was taken and not ended, as after a
// crash, is due again: every event is delivered at least once, and may be delivered twice, with the
// same webhook-id.
//
//	service.go    what runs, and when
//	deliver.go    taking what is due, and writing down how it ended
//	send.go       one attempt
//	guard.go      which addresses are dialled
//	listens.go    which addresses are this process's own
//	signature.go  signing
//	vault.go      encryption of secrets at rest
//	watch.go      limits, quotas and credits
//	scan.go       what happens with time
package webhook

import (
	"log/slog"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
)

// Options is what a Service works with. Store, Manager and Settings must be set.
type Options struct {
	Store   management.Store
	Manager *management.Manager
	// Settings says what the running configuration says of a keyspace's webhooks, and Keyspaces
	// which keyspaces it has.
	Settings  func(keyspace string) management.WebhookSettings
	Keyspaces func() []string
	// Node names this process among those that share the store. Default: "local".
	Node string
	// Logger hears what operators should know. Default: nothing is logged.
	Logger *slog.Logger
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Schedule is how long to wait after each attempt that failed; after the last one a delivery is
	// dead. Default: DefaultSchedule.
	Schedule []time.Duration
	// Timeout is how long one attempt may take. Default: 15s.
	Timeout time.Duration
	// Poll is how often it is looked for deliveries that another process wrote. Default: 2s.
	Poll time.Duration
	// Scan is how often it is looked for keys that expire, and ScanUnused for those not used.
	// Default: a minute, and six hours.
	Scan, ScanUnused time.Duration
	// Heads is how often the head of the audit chain is given out, where it moved. Default: an hour.
	Heads time.Duration
}

// DefaultSchedule gives a delivery eleven attempts within a day.
func DefaultSchedule() []time.Duration {
	return []time.Duration{
		5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour, 10 * time.Hour,
	}
}

const (
	defaultTimeout = 15 * time.Second
	defaultPoll    = 2 * time.Second
	defaultScan    = time.Minute
	defaultUnused  = 6 * time.Hour
	defaultHeads   = time.Hour

	// perEndpoint is how many attempts a webhook has at a time, and one whose last attempt
	// got no answer has only slowEndpoint.
	perEndpoint  = 4
	slowEndpoint = 1
	// inAll is how many attempts there are at a time: so many that endpoints which never
	// answer do not hold up the others.
	inAll = 512
	// claimSlack is how much longer than an attempt may take it is taken for: writing down how it ended takes
	// time too.
	claimSlack = 15 * time.Second
	// keep is for how long events and their deliveries are kept.
	keep = 30 * 24 * time.Hour
	// keepMarks is for how long it is remembered what was told of that happens by itself. Whatever can still
	// be told of is younger: warnings are given at most 366 days ahead, and what is past is told of for a week.
	keepMarks = 400 * 24 * time.Hour
	// pruneAtOnce is how many rows one transaction removes.
	pruneAtOnce = 500
)
