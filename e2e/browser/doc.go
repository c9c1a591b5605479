// Package browser lets tests use pages as people do: in a real headless Chromium with a temporary
// profile.
//
// A test opens a [Tab]. Cookies, storage and cache belong to that tab alone. All tabs of a test
// process share one browser, which starts with the first tab; the package's TestMain ends it with
// [Close].
//
// Everything that a person would call broken fails the test: an error in the console, a request
// that fails or goes to another site, a violation of the Content-Security-Policy, an unexpected
// dialogue, a page that scrolls sideways.
//
// Elements are named as a person would name them:
//
//	button=Create key   a button, by its text
//	link=Tenants        a link, by its text
//	label=Name          a field, by its label
//	.notice             any element, by a CSS selector
//
// If several elements match, the first visible one counts. Nothing sleeps for a fixed time:
// methods poll until the element is there.
//
// internal/testserver/install.sh installs Chromium.
package browser
