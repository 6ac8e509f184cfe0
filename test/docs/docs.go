// Package docs holds the rules on what the documentation says: its tests fail when a command, flag,
// field, metric or file that a page names does not exist, or when one that exists is not told.
package docs
