// Package version tells which build runs.
package version

import (
	"runtime/debug"
	"strings"
)

// String is the module version, or the commit of a build from a checkout, "+dirty" when it had changes.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+dirty"
			}
		}
	}
	return commit + dirty
}

// Semantic is String as a semantic version without the leading v: 0.0.0+<commit> for builds of no version.
func Semantic() string {
	if v, ok := strings.CutPrefix(String(), "v"); ok {
		return v
	}
	return "0.0.0+" + strings.ReplaceAll(String(), "+", ".")
}
