package gateway

import "github.com/keygate-dev/keygate/plugin/keytable"

// Live is a running request that is ended when its key stops being valid. Use a new one for each
// request: it may be read after Done.
type Live struct {
	keytable.Live
	end func(Reason)
}

// End implements keytable.Ender.
func (l *Live) End(v keytable.Validity) { l.end(reasonOf(v)) }

// Track calls end, at most once, if the request's key stops being valid before Done. end must not
// block, and may be called before Track returns. Unless the decision is Allowed, Track does
// nothing.
func (d *Decision) Track(end func(Reason)) { d.TrackIn(new(Live), end) }

// TrackIn is Track without an allocation: the caller provides the Live.
func (d *Decision) TrackIn(l *Live, end func(Reason)) {
	if d.entry == nil || d.Reason != Allowed {
		return
	}
	l.end = end
	d.live = l
	d.gw.keys.Track(&l.Live, d.entry, l)
}

// reasonOf returns the reason to reject a request whose key has the validity v.
func reasonOf(v keytable.Validity) Reason {
	switch v {
	case keytable.Valid:
		return Allowed
	case keytable.Revoked:
		return RevokedKey
	case keytable.Disabled:
		return DisabledKey
	case keytable.Expired:
		return ExpiredKey
	case keytable.TenantInactive:
		return TenantInactive
	case keytable.Deleted:
		return InvalidKey
	}
	return Unavailable
}
