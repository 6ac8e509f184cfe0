// Package ipam owns addresses: it hands out parts of prefixes and takes them back. A part is taken by
// one transaction that compares the parent's PrefixStatus, and given back only when its holder is gone.
package ipam
