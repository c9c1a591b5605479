package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// portalPath is the path of portal links in a console. The secret follows as the fragment, which
// browsers send to no server. So a program that only fetches links, such as a mail scanner, does
// not use up a link.
const portalPath = "/portal#"

// portalLink is a link that signs one person of a tenant in to the console. It works only once.
type portalLink struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
	secretNote
}

var errNoConsole = &management.Error{
	Status: http.StatusUnprocessableEntity, Code: "console_unavailable",
	Detail: "There is no console for this keyspace: add keygate_console to a site of the Caddyfile, and reload.",
}

func (c *call) createPortalLink() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	in := auth.PortalFields{Actor: o.string("actor"), Role: o.string("role"), ReturnURL: o.string("return_url")}
	if s := o.numberOrText("expires_in"); s.Set {
		in.ExpiresIn = management.Optional[time.Duration]{Set: true, Null: s.Null}
		if seconds, err := strconv.ParseInt(s.Value, 10, 32); err == nil {
			in.ExpiresIn.Value = time.Duration(seconds) * time.Second
		} else if !s.Null && len(o.faults) == 0 {
			if in.ExpiresIn.Value, err = management.ParseDuration(s.Value); err != nil {
				o.fault("expires_in", "must be a duration such as 5m, or a number of seconds")
			}
		}
	}
	if err := o.done(); err != nil {
		return err
	}
	site := ""
	if c.h.opts.Console != nil {
		site = c.h.opts.Console(c.keyspace)
	}
	if site == "" {
		return errNoConsole
	}
	l, err := c.h.auth.CreatePortalLink(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), in)
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, portalLink{URL: site + portalPath + l.Secret, ExpiresAt: l.ExpiresAt})
}

var _ = document("POST /v1/tenants/{slug}/portal", doc{
	Summary: "Creates a link that signs one person of the tenant in to the console, once.",
	Description: "Send the person's browser to the url. The session is confined to the tenant and the role, and ends with the token that made the link. The audit log shows their name. " +
		"The token needs no scope but portal. " + secretOnlyHere,
	Body: fields{
		"actor":      aText("The person's name, as the audit log shows it.").with("maxLength", management.MaxKeyName),
		"role":       oneOf("A viewer reads keys, usage, webhooks and the audit log, and asks why a request was rejected; an editor also creates and changes keys and webhooks. Default: viewer.", string(auth.PortalViewer), string(auth.PortalEditor)).orNull(),
		"return_url": aText("The URL of the console's link back. Default and null: no link.").orNull(),
		"expires_in": aText("For how long the link can be used, such as 5m or 90s: 10s to 1h. Default and null: 5m.").orNull(),
	},
	Required: []string{"actor"},
	Answers:  map[int]any{http.StatusCreated: portalLink{}},
	Errors:   map[int][]string{http.StatusUnprocessableEntity: {"console_unavailable"}},
})
