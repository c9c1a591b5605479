// Package browser lets tests use pages as people do: in a real Chromium, headless, with a
// profile of its own that is gone afterwards.
//
// A test opens a [Tab], which shares nothing with another: cookies, storage and cache are
// its own. All tabs of a package are in one browser, which starts with the first of them; the
// package's TestMain ends it by [Close].
//
// What a person would call broken fails the test without being asked for: an error in the
// console, a request that fails or goes to another site, anything that the
// Content-Security-Policy had to stop, a dialogue that nobody expected, a page that scrolls sideways.
//
// Elements are named as a person would name them:
//
//	button=Create key   a button, by what it says
//	link=Tenants        a link, by what it says
//	label=Name          a field, by its label
//	.notice             whatever a CSS selector finds
//
// of which the first that is visible counts. Nothing sleeps: what is waited for is looked
// for until it is there.
//
// internal/testserver/install.sh installs Chromium.
package browser
