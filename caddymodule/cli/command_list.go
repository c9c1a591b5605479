package cli

import (
	"encoding/json"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/management"
)

// addListFlags adds the flags of commands that print lists. filters maps each query parameter to
// the help text of its flag.
func addListFlags(cmd *cobra.Command, filters map[string]string) {
	for name, help := range filters {
		cmd.Flags().String(name, "", help)
	}
	cmd.Flags().Int("limit", 0, "Print one page with this many entries, 1 to 100 (default: all entries)")
	cmd.Flags().String("cursor", "", "Print the next page: the next_cursor of the page before")
}

// listed fetches the list at path and calls row for each entry. With --limit or --cursor it fetches one page, otherwise all
// pages. With --json it prints the list as JSON instead and returns true.
func listed[T any](cmd *cobra.Command, path string, filters []string, row func(T)) (asked bool, err error) {
	c, err := clientOf(cmd)
	if err != nil {
		return false, err
	}
	query := url.Values{}
	for _, name := range filters {
		if v, _ := cmd.Flags().GetString(name); cmd.Flags().Changed(name) {
			query.Set(name, v)
		}
	}
	cursor, _ := cmd.Flags().GetString("cursor")
	limit, _ := cmd.Flags().GetInt("limit")
	onePage := cmd.Flags().Changed("limit") || cursor != ""
	if !onePage {
		limit = management.MaxPage
	}
	if limit != 0 || cmd.Flags().Changed("limit") {
		query.Set("limit", strconv.Itoa(limit))
	}
	all := []json.RawMessage{}
	for {
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		var page management.Page[json.RawMessage]
		body, err := c.call(cmd.Context(), "GET", path, query, nil, &page)
		if err != nil {
			return false, err
		}
		if onePage && asJSON(cmd) {
			return true, printJSON(cmd, body)
		}
		if asJSON(cmd) {
			all = append(all, page.Data...)
		} else {
			for _, raw := range page.Data {
				var entry T
				if err := json.Unmarshal(raw, &entry); err != nil {
					return false, err
				}
				row(entry)
			}
		}
		if page.NextCursor == nil || onePage {
			if page.NextCursor != nil {
				cmd.PrintErrln("More entries follow: --cursor", shown(*page.NextCursor))
			}
			break
		}
		cursor = *page.NextCursor
	}
	if !asJSON(cmd) {
		return false, nil
	}
	body, err := json.Marshal(management.Page[json.RawMessage]{Data: all})
	if err != nil {
		return true, err
	}
	return true, printJSON(cmd, body)
}
