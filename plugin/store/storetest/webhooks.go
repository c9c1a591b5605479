package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/store"
)

func hook(id, tenant string) *events.WebhookRow {
	return &events.WebhookRow{ID: id, Keyspace: ks, Tenant: tenant, URL: "https://example.com/" + id, Events: []string{"key.*", "a.b"},
		Secret: []byte{1, 0, 255}, Active: true, CreatedAt: at, CreatedBy: "ada", UpdatedAt: at}
}

// writeEvent writes an event with its deliveries.
func writeEvent(tx store.Tx, id, tenant string, at time.Time, hooks ...string) error {
	e := &events.EventRow{Event: events.Event{ID: id, Keyspace: ks, Tenant: tenant, Type: "a.b", At: at, Data: json.RawMessage(`{"n": 1.0}`)}}
	if err := tx.InsertEvent(e); err != nil {
		return err
	}
	for _, h := range hooks {
		if err := tx.InsertDelivery("dlv_"+id+"_"+h, e.Seq, h, at); err != nil {
			return err
		}
	}
	return nil
}

func webhookRows(t *testing.T, s Store) {
	all, acme, off := hook("whk_1", ""), hook("whk_2", "acme"), hook("whk_3", "")
	off.Active = false
	update(t, s, func(tx store.Tx) error {
		return firstError(tx.InsertWebhook(all), tx.InsertWebhook(acme), tx.InsertWebhook(off))
	})
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Webhook(ks, "whk_2")
		if err != nil {
			t.Fatal(err)
		}
		same(t, "webhook", got, acme)
		if _, err := tx.Webhook("other", "whk_2"); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("of another keyspace: %v", err)
		}
		for _, tc := range []struct {
			q    events.WebhookQuery
			want string
		}{
			{events.WebhookQuery{}, "[whk_3 whk_2 whk_1]"},
			{events.WebhookQuery{Limit: 2}, "[whk_3 whk_2]"},
			{events.WebhookQuery{Before: "whk_2"}, "[whk_1]"},
			{events.WebhookQuery{Tenant: "acme"}, "[whk_2]"},
			{events.WebhookQuery{Tenant: "acme", OrAll: true, Active: true}, "[whk_2 whk_1]"},
			{events.WebhookQuery{Tenant: "b", OrAll: true, Active: true}, "[whk_1]"},
			{events.WebhookQuery{OrAll: true}, "[whk_3 whk_1]"},
		} {
			tc.q.Keyspace = ks
			list, err := tx.Webhooks(tc.q)
			ids := []string{}
			for _, w := range list {
				ids = append(ids, w.ID)
			}
			if err != nil || fmt.Sprint(ids) != tc.want {
				t.Errorf("%+v: %v, %v; want %s", tc.q, ids, err, tc.want)
			}
		}
		return nil
	})
	acme.Previous, acme.PreviousUntil, acme.Disabled, acme.Active, acme.Events = []byte{7}, at.Add(time.Hour), "gone", false, []string{"*"}
	update(t, s, func(tx store.Tx) error { return tx.UpdateWebhook(acme) })
	if acme.Version != 2 {
		t.Errorf("version %d after a change, want 2", acme.Version)
	}
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Webhook(ks, "whk_2")
		same(t, "changed webhook", got, acme)
		return err
	})
}

func deliveries(t *testing.T, s Store) {
	now := at.Add(time.Minute)
	update(t, s, func(tx store.Tx) error {
		if next, err := tx.NextDelivery(); err != nil || !next.IsZero() {
			t.Errorf("next of none: %v, %v", next, err)
		}
		return firstError(tx.InsertWebhook(hook("whk_1", "")), tx.InsertWebhook(hook("whk_2", "acme")),
			writeEvent(tx, "evt_1", "acme", at, "whk_1", "whk_2"), writeEvent(tx, "evt_2", "", at.Add(time.Second), "whk_1"),
			writeEvent(tx, "evt_3", "", at.Add(time.Hour), "whk_1"))
	})
	ids := func(list []*webhooks.DeliveryRow) (out []string) {
		for _, d := range list {
			out = append(out, d.Event.ID)
		}
		return out
	}
	var claimed []*webhooks.DeliveryRow
	update(t, s, func(tx store.Tx) (err error) {
		if next, err := tx.NextDelivery(); err != nil || !next.Equal(at) {
			t.Errorf("next %v, %v; want %v", next, err, at)
		}
		due, err := tx.DueWebhooks(now)
		if err != nil || len(due) != 2 {
			t.Errorf("%d webhooks are due, %v; want 2", len(due), err)
		}
		claimed, err = tx.ClaimDeliveries("n1", "whk_1", now, now.Add(time.Minute), 5)
		if fmt.Sprint(ids(claimed)) != "[evt_1 evt_2]" {
			t.Errorf("claimed %v", ids(claimed))
		}
		if again, err := tx.ClaimDeliveries("n2", "whk_1", now, now.Add(time.Minute), 5); err != nil || len(again) != 0 {
			t.Errorf("claimed twice: %v, %v", ids(again), err)
		}
		return err
	})
	first := claimed[0]
	if first.Attempts != 1 || first.Webhook != "whk_1" || string(first.Event.Data) != `{"n": 1.0}` || !first.Event.At.Equal(at) || first.Event.Tenant != "acme" {
		t.Errorf("claimed %+v", first)
	}
	first.Status, first.NextAt, first.LastAt, first.Response = webhooks.DeliveryDone, time.Time{}, now, 204
	update(t, s, func(tx store.Tx) error {
		// A call of FinishDelivery has no effect if the node has not claimed the delivery.
		stolen := *claimed[1]
		stolen.Status = webhooks.DeliveryDead
		return firstError(tx.FinishDelivery("n1", first), tx.FinishDelivery("n2", &stolen), tx.ReleaseDeliveries("n1", now))
	})
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Delivery(ks, "whk_1", first.ID)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "delivery", got, first)
		list, err := tx.Deliveries(webhooks.DeliveryQuery{Keyspace: ks, Webhook: "whk_1", Status: webhooks.DeliveryPending})
		if fmt.Sprint(ids(list)) != "[evt_3 evt_2]" || list[1].Attempts != 0 || !list[1].NextAt.Equal(now) {
			t.Errorf("pending %v, %+v", ids(list), list)
		}
		return err
	})
	update(t, s, func(tx store.Tx) error {
		return firstError(tx.ReplayDelivery(first.ID, now), tx.EndDeliveries("whk_2", "off"))
	})
	view(t, s, func(tx store.Tx) error {
		replayed, err := tx.Delivery(ks, "whk_1", first.ID)
		if err != nil || replayed.Status != webhooks.DeliveryPending || !replayed.NextAt.Equal(now) {
			t.Errorf("replayed %+v, %v", replayed, err)
		}
		ended, err := tx.Deliveries(webhooks.DeliveryQuery{Keyspace: ks, Webhook: "whk_2"})
		if err != nil || len(ended) != 1 || ended[0].Status != webhooks.DeliveryDead || ended[0].Error != "off" {
			t.Errorf("ended %+v, %v", ended, err)
		}
		return nil
	})
	update(t, s, func(tx store.Tx) error {
		if n, err := tx.PruneEvents(at.Add(time.Minute), 1); n != 1 || err != nil {
			t.Errorf("removed %d, %v; want 1", n, err)
		}
		if n, err := tx.PruneEvents(at.Add(time.Minute), 10); n != 1 || err != nil {
			t.Errorf("removed %d, %v; want 1", n, err)
		}
		if err := tx.DeleteWebhook(ks, "whk_1"); err != nil {
			t.Error(err)
		}
		if err := tx.DeleteWebhook(ks, "whk_1"); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		next, err := tx.NextDelivery()
		if !next.IsZero() {
			t.Errorf("a deleted webhook's delivery is due at %v", next)
		}
		return err
	})
}

// oneShots tests the queries that find one-shot events, which are sent once per period: marks, expiring
// and unused keys, and the last top-up.
func oneShots(t *testing.T, s Store) {
	update(t, s, func(tx store.Tx) error {
		for i, want := range []bool{true, false, true, true} {
			ref := []int64{1, 1, 2, 1}[i]
			if fresh, err := tx.RecordOneShot(ks, "key:k", "expired", ref, at); err != nil || fresh != want {
				t.Errorf("mark %d (%d): %v, %v; want %v", i, ref, fresh, err, want)
			}
		}
		if fresh, err := tx.RecordOneShot(ks, "key:k", "unused", 1, at); err != nil || !fresh {
			t.Errorf("another mark: %v, %v", fresh, err)
		}
		if err := tx.InsertTenant(tenant("acme")); err != nil {
			return err
		}
		for i := range 5 {
			k := key(fmt.Sprint("k", i), "acme")
			k.ExpiresAt = at.Add(time.Duration(i/2) * time.Hour) // Two keys expire at each hour.
			switch i {
			case 3:
				k.RevokedAt = at
			case 4:
				k.ExpiresAt = time.Time{}
			}
			if err := tx.InsertKey(k); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, s, func(tx store.Tx) error {
		first, err := tx.ExpiringKeys(ks, at.Add(-time.Hour), at.Add(time.Hour), nil, 1)
		if err != nil || len(first) != 1 || first[0].ID != "k0" {
			t.Fatalf("expiring %v, %v", first, err)
		}
		rest, err := tx.ExpiringKeys(ks, at.Add(-time.Hour), at.Add(time.Hour), first[0], 10)
		if err != nil || len(rest) != 2 || rest[0].ID != "k1" || rest[1].ID != "k2" || rest[0].Tenant != "acme" {
			t.Errorf("expiring after it %v, %v", rest, err)
		}
		if none, err := tx.ExpiringKeys(ks, at.Add(time.Hour), at.Add(2*time.Hour), nil, 10); err != nil || len(none) != 0 {
			t.Errorf("expiring later %v, %v", none, err)
		}
		unused, next, err := tx.UnusedKeys(ks, at, at.Add(30*time.Minute), 0)
		if err != nil || len(unused) != 2 || unused[0].ID != "k2" || unused[1].ID != "k4" || next == 0 {
			t.Errorf("unused %v, %d, %v", unused, next, err)
		}
		if more, next, err := tx.UnusedKeys(ks, at, at, next); err != nil || len(more) != 0 || next != 0 {
			t.Errorf("unused at the end %v, %d, %v", more, next, err)
		}
		return nil
	})
	update(t, s, func(tx store.Tx) error {
		if _, err := tx.TopUp(ks, "acme"); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("top-up of nothing: %v", err)
		}
		for _, e := range []management.LedgerEntry{{Kind: "add", Amount: 10}, {Kind: "add", Amount: 5}, {Kind: "spend", Amount: -3}, {Kind: "refund", Amount: 1}} {
			e.Keyspace, e.Tenant, e.At = ks, "acme", at
			if err := tx.AddCredits(&e); err != nil {
				return err
			}
		}
		top, err := tx.TopUp(ks, "ACME")
		if top.Amount != 5 || top.Balance != 15 {
			t.Errorf("top-up %+v", top)
		}
		return err
	})
}
