// Package arch holds the rules on the module's imports: its tests fail when a package reaches for
// one that its place in the architecture does not allow.
package arch
