package webhook

import (
	"context"
	"net/http"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// deliverLoop sends due deliveries until ctx ends.
func (s *Service) deliverLoop(ctx context.Context) {
	// A former process of this node may have left claims of deliveries. They are released first. No delivery can be claimed before
	// the store answers.
	for {
		err := s.release(ctx)
		if err == nil {
			break
		}
		s.logFailure(ctx, "releasing the deliveries of the former process", err)
		if !pause(ctx, s.Poll) {
			return
		}
	}
	for {
		wait, err := s.round(ctx)
		s.logFailure(ctx, "looking for due deliveries", err)
		t := time.NewTimer(wait)
		select {
		case <-s.Manager.Outbox().Due():
		case <-s.freed:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// round claims as many due deliveries as may be sent now, and starts to send them. It returns how
// long to wait for the next round, at most Poll.
func (s *Service) round(ctx context.Context) (wait time.Duration, err error) {
	var next time.Time
	var hooks []*events.WebhookRow
	now := s.now()
	err = s.Store.View(ctx, inRows(func(tx webhooks.Tx) error {
		var err error
		hooks = nil
		if next, err = tx.NextDelivery(); err != nil || next.IsZero() || next.After(now) {
			return err
		}
		hooks, err = tx.DueWebhooks(now)
		return err
	}))
	if err != nil {
		return s.Poll, err
	}
	room := make([]int, len(hooks))
	free := false
	for i, w := range hooks {
		room[i] = s.room(w.ID)
		free = free || room[i] > 0
	}
	if !free {
		wait = s.Poll
		if next.After(now) {
			wait = min(wait, next.Sub(now))
		}
		return wait, nil
	}
	taken := make([][]*webhooks.DeliveryRow, len(hooks))
	err = s.update(ctx, func(tx webhooks.Tx) error {
		for i, w := range hooks {
			taken[i] = nil
			if room[i] == 0 {
				continue
			}
			var err error
			if taken[i], err = tx.ClaimDeliveries(s.Node, w.ID, now, now.Add(s.Timeout+claimMargin), room[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return s.Poll, err
	}
	for i, list := range taken {
		for _, d := range list {
			s.begin(ctx, hooks[i], d)
		}
	}
	// More deliveries may be due. The next round begins when an attempt ends, which signals on
	// freed.
	return s.Poll, nil
}

// room returns how many more attempts a webhook may have now.
func (s *Service) room(webhook string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := maxPerEndpoint
	if s.slow[webhook] {
		most = maxPerSlowEndpoint
	}
	return max(0, min(most-s.running[webhook], maxAttempts-s.total))
}

// begin starts an attempt in the background.
func (s *Service) begin(ctx context.Context, w *events.WebhookRow, d *webhooks.DeliveryRow) {
	s.mu.Lock()
	s.running[w.ID]++
	s.total++
	s.mu.Unlock()
	s.attempts.Go(func() {
		status, err := s.attempt(ctx, w, d)
		s.mu.Lock()
		if s.running[w.ID]--; s.running[w.ID] == 0 {
			delete(s.running, w.ID)
		}
		s.total--
		if delete(s.slow, w.ID); status == 0 {
			s.slow[w.ID] = true
		}
		s.mu.Unlock()
		// An attempt that Close interrupted has no result to store. The next Service repeats the attempt.
		if status != 0 || ctx.Err() == nil {
			s.results <- result{w, s.outcome(d, status, err), status == http.StatusGone}
		}
	})
}

// result is the outcome of an attempt.
type result struct {
	webhook  *events.WebhookRow
	delivery *webhooks.DeliveryRow
	gone     bool
}

// outcome returns a copy of d with the outcome of an attempt: done, dead, or due again after the
// schedule's next pause.
func (s *Service) outcome(d *webhooks.DeliveryRow, status int, err error) *webhooks.DeliveryRow {
	after := *d
	after.LastAt, after.Response, after.Error, after.NextAt = s.now(), status, "", time.Time{}
	switch {
	case err == nil:
		after.Status = webhooks.DeliveryDone
		return &after
	case status == http.StatusGone, d.Attempts > len(s.Schedule):
		after.Status = webhooks.DeliveryDead
	default:
		after.NextAt = after.LastAt.Add(jitter(s.Schedule[max(d.Attempts, 1)-1]))
	}
	after.Error = err.Error()
	return &after
}

// resultLoop stores results, all that are waiting in one transaction, until the channel is closed.
func (s *Service) resultLoop() {
	for r := range s.results {
		list := []result{r}
		for len(s.results) > 0 && len(list) < maxAttempts {
			if r, ok := <-s.results; ok {
				list = append(list, r)
			}
		}
		s.finish(list)
		// deliverLoop may send more now. The store knows when the failed deliveries are due again.
		select {
		case s.freed <- struct{}{}:
		default:
		}
	}
}

// finishTimeout bounds the time to store results. A delivery whose result is not stored is repeated.
const finishTimeout = 5 * time.Second

func (s *Service) finish(list []result) {
	ctx, cancel := context.WithTimeout(context.Background(), finishTimeout)
	defer cancel()
	err := s.update(ctx, func(tx webhooks.Tx) error {
		for _, r := range list {
			if err := tx.FinishDelivery(s.Node, r.delivery); err != nil {
				return err
			}
		}
		return nil
	})
	s.logFailure(ctx, "storing the results of deliveries", err)
	for _, r := range list {
		switch {
		case r.gone:
			w := r.webhook
			s.Logger.Info("a webhook is disabled, since its endpoint answered 410 Gone", "webhook", w.ID, "keyspace", w.Keyspace)
			s.logFailure(ctx, "disabling a webhook", s.registry.DisableWebhook(ctx, w.Keyspace, w.ID, "the endpoint answered 410 Gone"))
		case r.delivery.Status == webhooks.DeliveryDead:
			s.Logger.Warn("an event could not be delivered to a webhook for a day: it is listed among the webhook's deliveries, and can be replayed",
				"webhook", r.webhook.ID, "keyspace", r.webhook.Keyspace, "event", r.delivery.Event.ID, "error", r.delivery.Error)
		}
	}
}
