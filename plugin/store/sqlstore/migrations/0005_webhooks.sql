-- Events, kept for as long as they may have to be delivered to webhooks.
CREATE TABLE events (
	seq      $SERIAL,
	id       TEXT   NOT NULL,
	keyspace TEXT   NOT NULL,
	tenant   TEXT   NOT NULL, -- slug; empty if it concerns no tenant
	type     TEXT   NOT NULL,
	at       BIGINT NOT NULL,
	data     TEXT   NOT NULL
);
CREATE UNIQUE INDEX events_id ON events (id);
CREATE INDEX events_at ON events (at);
CREATE INDEX events_tenant ON events (keyspace, tenant, seq);

-- Webhooks, to which events are delivered. Their secrets are encrypted.
CREATE TABLE webhooks (
	num            $SERIAL, -- rises in the order of creation
	id             TEXT    NOT NULL,
	keyspace       TEXT    NOT NULL,
	tenant         TEXT    NOT NULL, -- slug of the tenant whose events it receives; empty for all
	url            TEXT    NOT NULL,
	events         TEXT    NOT NULL, -- separated by spaces
	secret         $BYTES  NOT NULL,
	previous       $BYTES,
	previous_until BIGINT,
	active         INTEGER NOT NULL,
	disabled       TEXT    NOT NULL, -- reason why it is not active
	created_at     BIGINT  NOT NULL,
	created_by     TEXT    NOT NULL,
	updated_at     BIGINT  NOT NULL,
	version        BIGINT  NOT NULL
);
CREATE UNIQUE INDEX webhooks_id ON webhooks (id);
CREATE INDEX webhooks_keyspace ON webhooks (keyspace, tenant, num);

-- The delivery of one event to one webhook. A node that attempts a delivery first sets next_at to a
-- time after the attempt's timeout. If the node dies meanwhile, the delivery is due again then.
CREATE TABLE deliveries (
	num         $SERIAL,
	id          TEXT    NOT NULL,
	webhook_num BIGINT  NOT NULL REFERENCES webhooks (num),
	event_seq   BIGINT  NOT NULL REFERENCES events (seq),
	status      TEXT    NOT NULL, -- pending, delivered or dead
	attempts    INTEGER NOT NULL,
	created_at  BIGINT  NOT NULL,
	next_at     BIGINT,           -- NULL unless pending
	claimed_by  TEXT    NOT NULL, -- the node that attempts it now
	last_at     BIGINT,
	response    INTEGER NOT NULL, -- HTTP status of the last attempt; 0 if there was none
	error       TEXT    NOT NULL
);
CREATE UNIQUE INDEX deliveries_id ON deliveries (id);
CREATE INDEX deliveries_webhook ON deliveries (webhook_num, num);
CREATE INDEX deliveries_event ON deliveries (event_seq);
CREATE INDEX deliveries_next ON deliveries (next_at) WHERE status = 'pending';
CREATE INDEX deliveries_due ON deliveries (webhook_num, next_at) WHERE status = 'pending';

-- One-shot events that were already reported, such as an expiry. ref identifies the occurrence: the
-- time of the expiry, the period, or the top-up.
CREATE TABLE event_marks (
	keyspace TEXT   NOT NULL,
	subject  TEXT   NOT NULL,
	what     TEXT   NOT NULL,
	ref      BIGINT NOT NULL,
	at       BIGINT NOT NULL,
	PRIMARY KEY (keyspace, subject, what)
) $COMPACT;

CREATE INDEX keys_expires ON keys (keyspace, expires_at)
	WHERE expires_at IS NOT NULL AND disabled = 0 AND revoked_at IS NULL AND deleted_at IS NULL;
