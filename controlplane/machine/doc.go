// Package machine owns what comes and goes with a Machine: its ephemeral network interfaces, and
// the order in which a deleted machine lets go of them. It never touches interfaces of users.
package machine
