package cli

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/management"
)

// fieldKind is how the text of a flag becomes a JSON field of a request.
type fieldKind uint8

const (
	textField fieldKind = iota
	// clearable is the kind of a text field that can be removed: an empty text is sent as null.
	clearable
	boolField
	numberField
	// limitField is a number; an empty value is sent as null.
	limitField
	listField
	objectField
	momentField
)

// fieldFlag is a flag that sets a field of an API request.
type fieldFlag struct {
	flag, field string
	kind        fieldKind
	help        string
}

var overrideFlags = []fieldFlag{
	{"rate", "rate", clearable, `Rate limit, such as 500/m or "500/m burst 50"; an empty value clears it`},
	{"quota", "quota", clearable, "Quota, such as 100000/month; an empty value clears it"},
	{"concurrency", "concurrency", clearable, `Concurrent requests, such as 5 or "5 per tenant"; an empty value clears it`},
	{"metadata", "metadata", objectField, "JSON object with your own data; an empty value clears it"},
}

var tenantFlags = append([]fieldFlag{
	{"name", "name", textField, "Name for people (default: the slug)"},
	{"plan", "plan", textField, "Plan (default: the keyspace's default plan)"},
	{"active", "active", boolField, "Whether the tenant's keys are accepted"},
	{"credits", "credits", numberField, "Credit balance"},
}, overrideFlags...)

var keyFlags = append([]fieldFlag{
	{"name", "name", textField, "Name for people"},
	{"description", "description", textField, "What the key is for"},
	{"scope", "scopes", listField, "Scope; may be repeated (default: all that the plan allows)"},
	{"expires", "expires_at", momentField, "Expiry of the key: a duration such as 90d or 24h, an RFC 3339 time, or never"},
	{"allow-ip", "allowed_ips", listField, "Address or CIDR block that the key is accepted from; may be repeated; an empty value clears the list"},
	{"credits-limit", "credits_limit", limitField, "Greatest total of its tenant's credits that the key may spend; an empty value clears it"},
}, overrideFlags...)

func addFields(cmd *cobra.Command, fields []fieldFlag) {
	for _, f := range fields {
		switch f.kind {
		case boolField:
			cmd.Flags().Bool(f.flag, true, f.help+" (--"+f.flag+"=false)")
		case numberField:
			cmd.Flags().Int64(f.flag, 0, f.help)
		case listField:
			cmd.Flags().StringArray(f.flag, nil, f.help)
		default:
			cmd.Flags().String(f.flag, "", f.help)
		}
	}
}

// fieldsOf returns the request fields of all flags that the user set.
func fieldsOf(cmd *cobra.Command, fields []fieldFlag) (map[string]any, error) {
	body := map[string]any{}
	for _, f := range fields {
		if !cmd.Flags().Changed(f.flag) {
			continue
		}
		var err error
		if body[f.field], err = f.value(cmd); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// update returns the action of a command that changes a record. It changes only the fields whose
// flags are set. path returns the record's path for the command's argument.
func update(fields []fieldFlag, call recordCall, path func(id string) string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		body, err := fieldsOf(cmd, fields)
		if err != nil {
			return err
		}
		if len(body) == 0 {
			return usagef("there is nothing to change: set a field, such as --name")
		}
		return call(cmd, http.MethodPatch, path(args[0]), body)
	}
}

func (f fieldFlag) value(cmd *cobra.Command) (any, error) {
	flags := cmd.Flags()
	switch f.kind {
	case boolField:
		return flags.GetBool(f.flag)
	case numberField:
		return flags.GetInt64(f.flag)
	case listField:
		list, err := flags.GetStringArray(f.flag)
		if len(list) == 1 && list[0] == "" {
			list = []string{}
		}
		return list, err
	}
	s, err := flags.GetString(f.flag)
	if err != nil || f.kind == textField {
		return s, err
	}
	if s == "" {
		return nil, nil
	}
	switch f.kind {
	case limitField:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, usagef("--%s must be a number", f.flag)
		}
		return n, nil
	case objectField:
		if !json.Valid([]byte(s)) {
			return nil, usagef("--%s must be a JSON object", f.flag)
		}
		return json.RawMessage(s), nil
	case momentField:
		return expiry(f.flag, s)
	}
	return s, nil
}

// expiry parses a time in the future: a duration from now, an RFC 3339 time, or never, which is
// nil.
func expiry(flag, s string) (any, error) {
	if s == "never" {
		return nil, nil
	}
	if d, err := management.ParseDuration(s); err == nil {
		return time.Now().Add(d).UTC().Format(time.RFC3339Nano), nil
	}
	if _, err := time.Parse(time.RFC3339, s); err != nil {
		return nil, usagef("--%s must be a duration such as 90d or 24h, an RFC 3339 time such as 2027-01-31T12:00:00Z, or never", flag)
	}
	return s, nil
}
