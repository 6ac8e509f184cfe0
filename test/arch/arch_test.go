package arch

import (
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layers says which parts of the module a part may import besides itself. Test files may import
// ingot/test too. A prefix covers the folders below it; the longest prefix decides.
var layers = map[string][]string{
	"ingot/runtime/version": {},
	"ingot/runtime":         {},
	"ingot/dataplane":       {"ingot/runtime"},
	"ingot/routing":         {"ingot/runtime"},
	"ingot/iri":             {"ingot/runtime", "ingot/runtime/version"},
	"ingot/controlplane":    {"ingot/runtime", "ingot/iri", "ingot/runtime/version"},
	"ingot/controlplane/api": {
		"ingot/runtime", "ingot/controlplane/pki",
	},
	"ingot/agent": {
		"ingot/runtime", "ingot/dataplane", "ingot/routing", "ingot/iri", "ingot/runtime/version",
		"ingot/controlplane/api", "ingot/controlplane/pki",
	},
	"ingot/cmd": {
		"ingot/runtime", "ingot/dataplane", "ingot/routing", "ingot/iri", "ingot/runtime/version",
		"ingot/controlplane", "ingot/agent",
	},
	"ingot/test": {"ingot"},
}

// doors names the only parts that may import a dangerous dependency. Tests and the lab are free.
var doors = map[string][]string{
	"libvirt.org/go/libvirt":         {"ingot/iri/machine"},
	"libvirt.org/go/libvirtxml":      {"ingot/iri/machine"},
	"github.com/digitalocean":        {"ingot/iri/machine"},
	"github.com/cilium/ebpf":         {"ingot/dataplane"},
	"github.com/vishvananda/netlink": {"ingot/dataplane"},
	"github.com/osrg/gobgp":          {"ingot/routing"},
	"go.etcd.io/bbolt":               {"ingot/runtime/store/bolt"},
	"oras.land/oras-go":              {"ingot/iri/machine/image"},
}

type pkg struct {
	ImportPath, Doc string
	GoFiles         []string
	Imports         []string
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range packages(t) {
		allowed, known := rule(p.ImportPath)
		if !known {
			t.Errorf("%s has no place in the architecture: add a rule to layers", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if isOf(imported, "ingot") && !slices.ContainsFunc(allowed, func(a string) bool { return isOf(imported, a) }) {
				t.Errorf("%s imports %s; it may import %v", p.ImportPath, imported, allowed)
			}
		}
	}
}

func TestDangerousDependenciesHaveOneDoor(t *testing.T) {
	for _, p := range packages(t) {
		if isOf(p.ImportPath, "ingot/test") {
			continue
		}
		for _, imported := range p.Imports {
			for dependency, owners := range doors {
				if isOf(imported, dependency) && !slices.ContainsFunc(owners, func(o string) bool { return isOf(p.ImportPath, o) }) {
					t.Errorf("%s imports %s, which belongs to %v", p.ImportPath, imported, owners)
				}
			}
		}
	}
}

func TestPackagesSayWhatTheyOwn(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// rule returns what a package may import: its own part of the module and that of its layer.
func rule(path string) (allowed []string, known bool) {
	longest := ""
	for prefix := range layers {
		if isOf(path, prefix) && len(prefix) > len(longest) {
			longest = prefix
		}
	}
	if longest == "" {
		return nil, false
	}
	return append([]string{longest}, layers[longest]...), true
}

// isOf says whether path is prefix or below it.
func isOf(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// packages lists the packages of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,GoFiles,Imports", "ingot/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := decoder.Decode(&p)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
